//! The status of a key, except for the fields that only its Secret determines.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::figures;
use super::gauge::Gauge;
use super::{Readiness, sending};
use crate::crd::{CredentialStatus, DeniedSendersStatus, SubAccountApiKey, SubAccountApiKeyStatus};
use crate::operator::plan::key_observed::Observed;

pub fn base_status(
    key: &SubAccountApiKey,
    observed: &Observed,
    readiness: &Readiness,
    said: (bool, bool),
    (gauge, open, credential): (Option<Gauge>, bool, Option<CredentialStatus>),
    now: Timestamp,
) -> SubAccountApiKeyStatus {
    let standing = key.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let account = observed.account.as_ref();
    let above = account.and_then(|account| account.sending.as_deref());
    let serves = account.is_some_and(|account| account.programmed);
    let gauge = if serves { gauge } else { gauge.map(Gauge::with_nothing_left) };
    let issued_at = credential.as_ref().map(|credential| credential.issued_at.0);
    SubAccountApiKeyStatus {
        key_id: Some(observed.id.to_string()),
        username: None,
        policy: account.map(|account| account.policy.clone()),
        networks: Some(key.spec.allow_from.len() as i64),
        sending: Some(sending::column(open, gauge.as_ref(), above)),
        observed_generation: key.metadata.generation,
        conditions: readiness.conditions(standing, key.metadata.generation, now, said),
        binding: None,
        credential,
        usage: gauge.as_ref().map(Gauge::usage),
        credits: gauge.as_ref().map(Gauge::credits),
        denied_senders: denied(key, observed),
        last_used_at: gauge.as_ref().and_then(Gauge::last_sent_at).map(|at| Time(last_used_at(at, issued_at))),
        observed_at: Some(Time(figures::second(now))),
    }
}

/// Returns the figures of messages refused for their sender: the last report, or the existing status.
fn denied(key: &SubAccountApiKey, observed: &Observed) -> Option<DeniedSendersStatus> {
    let reported = observed.denied.as_ref().map(|report| DeniedSendersStatus {
        messages: report.total,
        last_at: Time(figures::second(report.last_at)),
        last_domain: report.domain.as_ref().map(ToString::to_string),
    });
    reported.or_else(|| key.status.as_ref()?.denied_senders.clone())
}

/// Returns when the key was last used, rounded down to the hour, because the time is stored and concerns people. A use
/// of the current password is never shown as earlier than its issue, because users check this to see that a program has
/// read a new password.
fn last_used_at(at: Timestamp, issued_at: Option<Timestamp>) -> Timestamp {
    let hour = Timestamp::from_second(at.as_second() - at.as_second().rem_euclid(3600)).unwrap_or(at);
    issued_at.filter(|issued_at| *issued_at <= at).map_or(hour, |issued_at| hour.max(issued_at))
}
