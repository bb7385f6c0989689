//! What a key's status shows besides its credential.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::api_key::Observed;
use super::gauge::Gauge;
use super::{Outcome, sending, usage};
use crate::crd::{DeniedSendersStatus, SubAccountApiKey, SubAccountApiKeyStatus};

pub fn base_status(
    key: &SubAccountApiKey,
    observed: &Observed,
    outcome: &Outcome,
    said: (bool, bool),
    (gauge, open): (Option<Gauge>, bool),
    now: Timestamp,
) -> SubAccountApiKeyStatus {
    let standing = key.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let above = observed.account.as_ref().and_then(|account| account.sending.as_deref());
    SubAccountApiKeyStatus {
        key_id: Some(observed.id.to_string()),
        username: None,
        sending: Some(sending::column(open, gauge.as_ref(), above)),
        observed_generation: key.metadata.generation,
        conditions: outcome.conditions(standing, key.metadata.generation, now, said),
        binding: None,
        credential: None,
        usage: gauge.as_ref().map(Gauge::usage),
        credits: gauge.as_ref().map(Gauge::credits),
        denied_senders: denied(key, observed),
        last_used_at: gauge.as_ref().and_then(Gauge::last_sent_at).map(|at| Time(hour(at))),
        observed_at: Some(Time(usage::second(now))),
    }
}

/// What is shown of messages that were refused for their sender: the last report, or what stands.
fn denied(key: &SubAccountApiKey, observed: &Observed) -> Option<DeniedSendersStatus> {
    let reported = observed.denied.as_ref().map(|report| DeniedSendersStatus {
        messages: report.total,
        last_at: Time(usage::second(report.last_at)),
        last_domain: report.domain.as_ref().map(ToString::to_string),
    });
    reported.or_else(|| key.status.as_ref()?.denied_senders.clone())
}

/// When somebody last sent is kept to the hour: it is written, and it is about people.
fn hour(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second() - at.as_second().rem_euclid(3600)).unwrap_or(at)
}
