//! What is to be done, decided from what was seen. Pure: Kubernetes types yes, a client no.
//!
//! A plan is data: writes in the order in which they must happen, the status to show, when to look again. Nothing is
//! left to choose when it is applied, so every rule about credentials and refusals can be tested with a table.

pub mod adoption;
pub mod alert;
pub mod api_key;
pub mod availability;
pub mod cost;
pub mod credit_policy;
pub mod endpoint;
pub mod figures;
pub mod gauge;
pub mod key_observed;
pub mod key_removal;
pub mod key_status;
pub mod meta;
pub mod orphans;
pub mod places;
pub mod present;
pub mod relay_fleet;
pub mod relay_state;
pub mod secret;
pub mod secret_patch;
pub mod sending;
pub mod sub_account;
#[cfg(test)]
mod tests;
pub mod usage;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use crate::crd::{ConditionType, Conditions, Reason, find_condition};
use crate::domain::credential::Password;
use crate::domain::directory::Entry;

/// What to do about one object.
#[derive(Debug)]
pub struct Plan<S> {
    /// Writes, in order. Each is safe to stop after.
    pub steps: Vec<Step>,
    /// The status to show; `None` leaves it alone.
    pub status: Option<S>,
    /// What people should hear of besides the conditions.
    pub notices: Vec<Notice>,
    /// When to look again although nothing changed.
    pub look_at: Option<Timestamp>,
    /// A Secret of somebody else's that this object waits for.
    pub awaited_secret: Option<String>,
    /// The steps change the figures that the status would show: look again when they are done. Not of an object that is
    /// held from now on: it has another version then, and its figures are judged in a moment anyway.
    pub look_again: bool,
    /// The policy among whose counted places this account has one when the steps are done, and had none before.
    pub arrives_at: Option<String>,
}

impl<S> Plan<S> {
    /// Nothing to do, nothing to say.
    pub fn nothing() -> Self {
        Self {
            steps: Vec::new(),
            status: None,
            notices: Vec::new(),
            look_at: None,
            awaited_secret: None,
            look_again: false,
            arrives_at: None,
        }
    }

    /// Looks again at `at` or when it was going to, whichever is first.
    pub fn look_by(&mut self, at: Option<Timestamp>) {
        self.look_at = [self.look_at, at].into_iter().flatten().min();
    }
}

/// One write.
#[derive(Debug)]
pub enum Step {
    /// Before anything is written elsewhere about the object.
    AddFinalizer,
    /// To the directory.
    Put(Box<Entry>),
    /// Only where there is none: a racing creator wins, and we look again.
    CreateSecret(Box<Secret>),
    /// Only the version that was judged: a change in between makes us look again.
    PatchSecret { name: String, patch: Value },
    /// The Secret must hold this password now, read live.
    ReadBack { name: String, password: Password },
    /// Only this very object in this version.
    DeleteSecret { name: String, uid: String, resource_version: String },
    /// The ledger has taken note; the object may go.
    RemoveFinalizer,
}

/// Something that happened, for an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub warning: bool,
    pub reason: Reason,
    pub note: String,
}

/// What became of an object. Expected outcomes are values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as the spec says; the reason is `Ready` or what the spec asked for (`RotationWaiting`).
    Ready { reason: Reason, message: String },
    /// All is as the spec says, and settings or a suspension, here or up the chain, keep mail from being sent.
    Held { reason: Reason, message: String },
    /// Something else must happen first, and it will wake us.
    Waiting { reason: Reason, message: String },
    /// Nothing changes until somebody edits something.
    Refused { reason: Reason, message: String },
}

impl Outcome {
    pub fn ready(message: impl Into<String>) -> Self {
        Self::Ready { reason: Reason::Ready, message: message.into() }
    }

    pub fn held(reason: Reason, message: impl Into<String>) -> Self {
        Self::Held { reason, message: message.into() }
    }

    /// Adds what keeps mail from going out although all is ready.
    #[must_use]
    pub fn beside(self, aside: Option<String>) -> Self {
        match (self, aside) {
            (Self::Ready { reason, message }, Some(aside)) => {
                Self::Ready { reason, message: format!("{message}; {aside}") }
            }
            (outcome, _) => outcome,
        }
    }

    pub fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        Self::Waiting { reason, message: message.into() }
    }

    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into() }
    }

    /// The conditions that say so. `accepted` is about the spec and what it refers to, `programmed` about the
    /// directory.
    pub fn conditions(
        &self,
        standing: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
        (accepted, programmed): (bool, bool),
    ) -> Vec<Condition> {
        self.stated(standing, generation, now, (accepted, programmed), None).build()
    }

    /// The same, to be added to, where the directory is not all that mail hangs on: `lacking` is what else is missing,
    /// and why.
    pub fn stated<'a>(
        &self,
        standing: &'a [Condition],
        generation: Option<i64>,
        now: Timestamp,
        (accepted, programmed): (bool, bool),
        lacking: Option<(Reason, String)>,
    ) -> Conditions<'a> {
        let (holds, reason, message) = match self {
            Self::Ready { reason, message } => (true, *reason, message),
            Self::Held { reason, message } | Self::Waiting { reason, message } | Self::Refused { reason, message } => {
                (false, *reason, message)
            }
        };
        let accepted_reason = if accepted { Reason::Accepted } else { reason };
        let say = |holds: bool, kind: &'static str| if holds { kind.to_owned() } else { message.clone() };
        let (programmed, programmed_reason, why) = match (programmed, lacking) {
            (true, None) => (true, Reason::Programmed, say(true, "the relay knows it")),
            (true, Some((reason, sentence))) => (false, reason, sentence),
            (false, _) => (false, reason, say(false, "")),
        };
        Conditions::new(standing, generation, now)
            .set(ConditionType::Ready, holds, reason, message)
            .set(ConditionType::Accepted, accepted, accepted_reason, say(accepted, "the spec is accepted"))
            .set(ConditionType::Programmed, programmed, programmed_reason, why)
            .set(ConditionType::Reconciling, matches!(self, Self::Waiting { .. }), reason, message)
            .set(ConditionType::Stalled, matches!(self, Self::Refused { .. }), reason, message)
    }
}

/// Whether a condition stands with the status True.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    find_condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// What a change of conditions is worth telling: that an object came to a stop, and that it went on after one. A first
/// success is not news, and neither is waiting.
pub fn transition(before: &[Condition], after: &[Condition]) -> Option<Notice> {
    let stalled = find_condition(after, ConditionType::Stalled);
    let was_stalled = find_condition(before, ConditionType::Stalled);
    match (was_stalled, stalled) {
        (was, Some(is)) if was.is_none_or(|was| was.reason != is.reason) => {
            Some(Notice { warning: true, reason: reason_of(is)?, note: is.message.clone() })
        }
        (Some(_), None) if is_true(after, ConditionType::Ready) => {
            let note = find_condition(after, ConditionType::Ready)?.message.clone();
            Some(Notice { warning: false, reason: Reason::Ready, note })
        }
        (None, None) if was_interrupted(before) && is_true(after, ConditionType::Ready) => {
            let note = find_condition(after, ConditionType::Ready)?.message.clone();
            Some(Notice { warning: false, reason: Reason::Ready, note })
        }
        (Some(_), Some(_) | None) | (None, None) | (None, Some(_)) => held(before, after),
    }
}

/// Reasons of objects that are held, though nothing is refused, that are worth an Event.
const HOLDS: [Reason; 5] =
    [Reason::Suspended, Reason::ParentSuspended, Reason::InUse, Reason::RequiredByPolicy, Reason::SendersNotPermitted];

/// Returns the Event of an object that begins to be held, or is held no longer.
fn held(before: &[Condition], after: &[Condition]) -> Option<Notice> {
    let hold = |condition: &Condition| HOLDS.into_iter().find(|reason| reason.as_str() == condition.reason);
    let is = find_condition(after, ConditionType::Ready)?;
    let was = find_condition(before, ConditionType::Ready);
    match (was.and_then(hold), hold(is)) {
        (was, Some(reason)) if was != Some(reason) => Some(Notice { warning: true, reason, note: is.message.clone() }),
        (Some(_), None) if is.status == "True" => {
            Some(Notice { warning: false, reason: Reason::Ready, note: is.message.clone() })
        }
        (Some(_) | None, Some(_) | None) => None,
    }
}

/// The reasons of passes that failed.
const INTERRUPTIONS: [Reason; 2] = [Reason::ApplyFailed, Reason::LedgerUnavailable];

/// True if what stands says that a pass failed.
pub fn was_interrupted(conditions: &[Condition]) -> bool {
    let ready = find_condition(conditions, ConditionType::Ready).filter(|ready| ready.status == "False");
    ready.is_some_and(|ready| INTERRUPTIONS.iter().any(|reason| reason.as_str() == ready.reason))
}

/// The reasons that an object can come to a stop for.
const STOPS: [Reason; 20] = [
    Reason::Invalid,
    Reason::PolicyNotFound,
    Reason::PolicyNotReady,
    Reason::NotAllowedByPolicy,
    Reason::CapAboveCeiling,
    Reason::CapPeriodMismatch,
    Reason::PricingMissing,
    Reason::CurrencyChanged,
    Reason::TooManyAccounts,
    Reason::DuplicateExternalId,
    Reason::AccountNotFound,
    Reason::AccountNotReady,
    Reason::NoSenderDomains,
    Reason::SendersNotPermitted,
    Reason::SecretNotFound,
    Reason::SecretNotLabelled,
    Reason::SecretInvalid,
    Reason::SecretConflict,
    Reason::Revoked,
    Reason::Expired,
];

fn reason_of(condition: &Condition) -> Option<Reason> {
    STOPS.into_iter().find(|reason| reason.as_str() == condition.reason)
}

/// A pass that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    pub reason: Reason,
    pub message: String,
    /// The API server refused a request, in its own words: nothing says that the next try fares better.
    pub refused: bool,
    /// It is tried again because another writer was faster, which is no trouble unless it goes on.
    pub contended: bool,
    /// The object's latest spec, or its deletion, waits for a pass that succeeds.
    pub outstanding: bool,
    /// Passes that failed in a row, this one included.
    pub failures: u32,
}

/// Failures in a row from which on a fault that may pass by itself is shown: a ledger that fails over within the first
/// two delays shall not turn `Ready` of what has converged.
const SHOWN_FROM: u32 = 3;

impl Interruption {
    /// Says whether the object's status shows it. `standing` are its conditions.
    pub fn is_shown(&self, standing: &[Condition]) -> bool {
        if self.refused {
            return true;
        }
        let enough = if self.outstanding && !self.contended { 1 } else { SHOWN_FROM };
        // What is not ready for a reason of its own, such as a revocation, stays so whether or not the ledger answers.
        let hidden = !self.outstanding && !is_true(standing, ConditionType::Ready) && !was_interrupted(standing);
        self.failures >= enough && !hidden
    }

    /// Says whether mail rests with it: the relays forward nothing without the ledger.
    pub fn stops_mail(&self) -> bool {
        self.reason == Reason::LedgerUnavailable
    }

    /// The Event, where `standing` does not say so already.
    pub fn notice(&self, standing: &[Condition]) -> Option<Notice> {
        let ready = find_condition(standing, ConditionType::Ready).filter(|ready| ready.status == "False");
        let news = ready.is_none_or(|ready| ready.reason != self.reason.as_str());
        news.then(|| Notice { warning: true, reason: self.reason, note: self.message.clone() })
    }
}

/// The conditions that stand while passes fail. What the directory holds of an object that has converged it holds still.
pub fn interrupted(
    standing: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
    interruption: &Interruption,
) -> Vec<Condition> {
    let accepted = is_true(standing, ConditionType::Accepted);
    let programmed = !interruption.outstanding && is_true(standing, ConditionType::Programmed);
    let outcome = Outcome::waiting(interruption.reason, interruption.message.as_str());
    let stated = outcome.stated(standing, generation, now, (accepted, programmed), None);
    let kept = [
        ConditionType::UpstreamAvailable,
        ConditionType::SelfServiceUnbounded,
        ConditionType::SweepStopped,
        ConditionType::LedgerAhead,
    ];
    kept.into_iter().fold(stated, Conditions::keep).build()
}
