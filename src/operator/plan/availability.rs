//! Judges whether a policy's upstream accepts mail, from the relays' reports.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::EventNote;
use crate::crd::{ConditionType, Conditions, Reason, find_condition};
use crate::domain::directory::UpstreamEntry;
use crate::domain::id::PolicyId;
use crate::domain::trouble::{Fault, Sightings, Trouble};

const KIND: ConditionType = ConditionType::UpstreamAvailable;

/// The state that the condition reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The relays have not been asked yet: the condition is kept.
    NotAsked,
    /// The policy has no upstream in force.
    NoUpstream,
    /// No relay runs that could report.
    NoRelay,
    /// No relay reports it unavailable. Upstreams are not probed, so it need not have been used yet.
    Available,
    Unavailable(Fault, String),
}

impl Availability {
    pub fn of(policy: PolicyId, upstream: Option<&UpstreamEntry>, sightings: Option<&Sightings>) -> Self {
        let Some(upstream) = upstream else { return Self::NoUpstream };
        let Some(sightings) = sightings else { return Self::NotAsked };
        let place = upstream.place();
        let seen: Vec<&Trouble> = sightings.of(policy, &place).collect();
        // Where relays differ, a refusal by the upstream itself outweighs another relay's failure to reach it.
        match seen.iter().map(|trouble| trouble.fault).min() {
            Some(fault) => Self::Unavailable(fault, sentence(fault, &place, &seen, sightings.relays)),
            None if sightings.relays == 0 => Self::NoRelay,
            None => Self::Available,
        }
    }

    /// Sets the condition.
    pub fn state<'a>(&self, conditions: Conditions<'a>) -> Conditions<'a> {
        match self {
            Self::NotAsked => conditions.keep(KIND),
            Self::NoUpstream => conditions,
            Self::NoRelay => conditions.unknown(
                KIND,
                Reason::RelayNotReady,
                "no relay is running, so the upstream's state is unknown",
            ),
            Self::Available => {
                conditions.set(KIND, true, Reason::UpstreamAvailable, "no relay finds the upstream unavailable")
            }
            Self::Unavailable(fault, sentence) => conditions.set(KIND, false, reason(*fault), sentence),
        }
    }
}

fn reason(fault: Fault) -> Reason {
    match fault {
        Fault::RefusesUs => Reason::UpstreamRefusesUs,
        Fault::Unreachable => Reason::UpstreamUnreachable,
    }
}

fn sentence(fault: Fault, place: &str, seen: &[&Trouble], relays: u32) -> String {
    let what = match fault {
        Fault::RefusesUs => "refuses us",
        Fault::Unreachable => "cannot be used",
    };
    let since = seen.iter().map(|trouble| trouble.since).min().unwrap_or_default();
    let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
    // As a set, so that the order of the relays' reports does not change the text.
    let why: BTreeSet<&str> = seen.iter().map(|trouble| trouble.why.as_str()).collect();
    let why = why.into_iter().collect::<Vec<_>>().join(", ");
    // A relay that is not counted yet may have reported already.
    let relays = (relays as usize).max(seen.len());
    let fix = match fault {
        Fault::RefusesUs => "correct the credentials or the quota there, or name another upstream",
        Fault::Unreachable => "check that it runs and that spec.upstream names it correctly",
    };
    format!(
        "{place} {what} since {since}: {why}; {} of {relays} relays try it only now and then, and mail is deferred with 451; \
         {fix}",
        seen.len()
    )
}

/// Returns an Event note if the change is worth an Event: mail waits, waits for another reason, or flows again.
pub fn news(before: &[Condition], after: &[Condition]) -> Option<EventNote> {
    let (was, is) = (find_condition(before, KIND), find_condition(after, KIND)?);
    let failed = |condition: &Condition| condition.status == "False";
    let note = is.message.clone();
    let worse = [Reason::UpstreamRefusesUs, Reason::UpstreamUnreachable].into_iter();
    let worse = worse.filter(|_| failed(is)).find(|reason| reason.as_str() == is.reason);
    match worse {
        Some(_) if was.is_some_and(|was| failed(was) && was.reason == is.reason) => None,
        Some(reason) => Some(EventNote { warning: true, reason, note }),
        None if is.status == "True" && was.is_some_and(failed) => {
            let note = "the upstream accepts mail again".to_owned();
            Some(EventNote { warning: false, reason: Reason::UpstreamAvailable, note })
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::directory::UpstreamTls;

    const POLICY: PolicyId = PolicyId(Uuid::from_u128(1));

    fn upstream() -> UpstreamEntry {
        let host = "smtp.example.com".to_owned();
        UpstreamEntry { host, port: 465, tls: UpstreamTls::Implicit, secret: None, max_recipients: 100 }
    }

    fn trouble(fault: Fault, why: &str, since: &str) -> Trouble {
        let since = since.parse().expect("a time");
        Trouble { policy: POLICY, upstream: upstream().place(), fault, why: why.to_owned(), since }
    }

    fn seen(relays: u32, troubles: &[Trouble]) -> Availability {
        let sightings = Sightings { relays, troubles: troubles.to_vec() };
        Availability::of(POLICY, Some(&upstream()), Some(&sightings))
    }

    fn conditions(standing: &[Condition], availability: &Availability) -> Vec<Condition> {
        availability.state(Conditions::new(standing, Some(1), Timestamp::UNIX_EPOCH)).build()
    }

    fn said(standing: &[Condition], availability: &Availability) -> Option<(String, String)> {
        let conditions = conditions(standing, availability);
        find_condition(&conditions, KIND).map(|found| (found.status.clone(), found.reason.clone()))
    }

    #[test]
    fn the_condition_says_what_the_relays_say() {
        let refuses = trouble(Fault::RefusesUs, "it refuses our login (535)", "2026-11-20T10:00:05.7Z");
        let gone = trouble(Fault::Unreachable, "no connection can be made to it", "2026-11-20T10:00:02.5Z");
        let moved = Trouble { upstream: "old.example.com:465".to_owned(), ..refuses.clone() };
        let theirs = Trouble { policy: PolicyId(Uuid::from_u128(2)), ..refuses.clone() };
        let word = |status: &str, reason: &str| Some((status.to_owned(), reason.to_owned()));
        let cases = [
            (seen(2, &[]), word("True", "UpstreamAvailable")),
            (seen(2, &[moved, theirs]), word("True", "UpstreamAvailable")),
            (seen(0, &[]), word("Unknown", "RelayNotReady")),
            (seen(2, std::slice::from_ref(&gone)), word("False", "UpstreamUnreachable")),
            (seen(2, &[gone.clone(), refuses.clone()]), word("False", "UpstreamRefusesUs")),
            (Availability::of(POLICY, None, Some(&Sightings::default())), None),
            (Availability::of(POLICY, Some(&upstream()), None), None),
        ];
        for (availability, expected) in cases {
            assert_eq!(said(&[], &availability), expected, "{availability:?}");
        }
        let standing = conditions(&[], &seen(2, std::slice::from_ref(&gone)));
        let kept = conditions(&standing, &Availability::of(POLICY, Some(&upstream()), None));
        assert_eq!(kept, standing, "before anybody was asked, what stands is not touched");
        let Availability::Unavailable(_, sentence) = seen(3, &[gone, refuses]) else { panic!("not said") };
        assert_eq!(
            sentence,
            "smtp.example.com:465 refuses us since 2026-11-20T10:00:02Z: it refuses our login (535), no connection can \
             be made to it; 2 of 3 relays try it only now and then, and mail is deferred with 451; correct the credentials or \
             the quota there, or name another upstream"
        );
    }

    #[test]
    fn a_change_is_told_once() {
        let none = conditions(&[], &seen(1, &[]));
        let gone = conditions(&none, &seen(1, &[trouble(Fault::Unreachable, "", "2026-11-20T10:00:05Z")]));
        let refused = conditions(&gone, &seen(1, &[trouble(Fault::RefusesUs, "", "2026-11-20T10:00:05Z")]));
        let unknown = conditions(&gone, &seen(0, &[]));
        let told =
            |before: &[Condition], after: &[Condition]| news(before, after).map(|event| (event.warning, event.reason));
        for (before, after, expected) in [
            (&[][..], &none[..], None),
            (&none, &none, None),
            (&[], &gone, Some((true, Reason::UpstreamUnreachable))),
            (&none, &gone, Some((true, Reason::UpstreamUnreachable))),
            (&gone, &gone, None),
            (&gone, &refused, Some((true, Reason::UpstreamRefusesUs))),
            (&refused, &none, Some((false, Reason::UpstreamAvailable))),
            (&gone, &unknown, None),
            (&gone, &[], None),
        ] {
            assert_eq!(told(before, after), expected, "{before:?} → {after:?}");
        }
    }
}
