//! Decides what to do from the observed state. Pure: Kubernetes types yes, a client no.
//!
//! A plan is data: writes in their required order, the status to show, and when to reconcile again. Applying it takes
//! no further decision, so every rule about credentials and refusals can be tested with a table.

pub mod adoption;
pub mod alert;
pub mod api_key;
pub mod availability;
pub mod cost;
pub mod credit_policy;
pub mod endpoint;
pub mod existing;
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

/// The plan for one object.
#[derive(Debug)]
pub struct Plan<S> {
    /// Writes, in order. Stopping after any of them is safe.
    pub steps: Vec<Step>,
    /// The status to show; `None` leaves it unchanged.
    pub status: Option<S>,
    /// Events to publish besides the conditions.
    pub events: Vec<EventNote>,
    /// When to reconcile again although nothing changed.
    pub requeue_at: Option<Timestamp>,
    /// A foreign Secret that this object waits for.
    pub awaited_secret: Option<String>,
    /// True if the steps change the figures that the status would show: reconcile again after them. Not set for an
    /// object that is just getting its finalizer: that changes its version, and its figures are read in a moment
    /// anyway.
    pub repeat_pass: bool,
    /// The policy in which this account takes a counted place by these steps, if it had none before.
    pub arrives_at: Option<String>,
}

impl<S> Plan<S> {
    /// Returns the empty plan: no writes, no status.
    pub fn nothing() -> Self {
        Self {
            steps: Vec::new(),
            status: None,
            events: Vec::new(),
            requeue_at: None,
            awaited_secret: None,
            repeat_pass: false,
            arrives_at: None,
        }
    }

    /// Schedules the next pass for `at`, or earlier if it was going to be.
    pub fn requeue_by(&mut self, at: Option<Timestamp>) {
        self.requeue_at = [self.requeue_at, at].into_iter().flatten().min();
    }
}

/// One write.
#[derive(Debug)]
pub enum Step {
    /// Added before anything is written elsewhere about the object.
    AddFinalizer,
    /// Writes an entry to the directory.
    Put(Box<Entry>),
    /// Creates the Secret only if there is none: a concurrent creator wins, and the pass is repeated.
    CreateSecret(Box<Secret>),
    /// Patches only the version that was judged: a change in between repeats the pass.
    PatchSecret { name: String, patch: Value },
    /// Checks by a live read that the Secret now holds this password.
    ReadBack { name: String, password: Password },
    /// Deletes only this object in this version.
    DeleteSecret { name: String, uid: String, resource_version: String },
    /// The ledger has recorded the end; the object may go.
    RemoveFinalizer,
}

/// The content of an Event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    pub warning: bool,
    pub reason: Reason,
    pub note: String,
}

/// Says whether an object is ready, and if not, what it needs. Expected results are values, not errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The spec is in force; the reason is `Ready` or a state that the spec asked for (`RotationWaiting`).
    Ready { reason: Reason, message: String },
    /// The spec is in force, but settings or a suspension, here or up the chain, block mail.
    Held { reason: Reason, message: String },
    /// Another object must change first, and its change will wake this one.
    Waiting { reason: Reason, message: String },
    /// Nothing changes until a user edits something.
    Refused { reason: Reason, message: String },
}

impl Readiness {
    pub fn ready(message: impl Into<String>) -> Self {
        Self::Ready { reason: Reason::Ready, message: message.into() }
    }

    pub fn held(reason: Reason, message: impl Into<String>) -> Self {
        Self::Held { reason, message: message.into() }
    }

    /// Adds a note on what stops mail although the object is ready.
    #[must_use]
    pub fn beside(self, aside: Option<String>) -> Self {
        match (self, aside) {
            (Self::Ready { reason, message }, Some(aside)) => {
                Self::Ready { reason, message: format!("{message}; {aside}") }
            }
            (readiness, _) => readiness,
        }
    }

    pub fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        Self::Waiting { reason, message: message.into() }
    }

    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into() }
    }

    /// Returns the conditions for this readiness. `accepted` concerns the spec and the objects that it refers to,
    /// `programmed` the directory.
    pub fn conditions(
        &self,
        standing: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
        (accepted, programmed): (bool, bool),
    ) -> Vec<Condition> {
        self.stated(standing, generation, now, (accepted, programmed), None).build()
    }

    /// Returns the same to be extended, for objects whose mail depends on more than the directory: `lacking` is what
    /// else is missing, and why.
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

/// True if the condition has the status True.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    find_condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Returns the Event for a change of conditions: an object has stalled, or goes on after that. A first success or a
/// wait is not worth one.
pub fn transition(before: &[Condition], after: &[Condition]) -> Option<EventNote> {
    let stalled = find_condition(after, ConditionType::Stalled);
    let was_stalled = find_condition(before, ConditionType::Stalled);
    match (was_stalled, stalled) {
        (was, Some(is)) if was.is_none_or(|was| was.reason != is.reason) => {
            Some(EventNote { warning: true, reason: reason_of(is)?, note: is.message.clone() })
        }
        (Some(_), None) if is_true(after, ConditionType::Ready) => {
            let note = find_condition(after, ConditionType::Ready)?.message.clone();
            Some(EventNote { warning: false, reason: Reason::Ready, note })
        }
        (None, None) if was_interrupted(before) && is_true(after, ConditionType::Ready) => {
            let note = find_condition(after, ConditionType::Ready)?.message.clone();
            Some(EventNote { warning: false, reason: Reason::Ready, note })
        }
        (Some(_), Some(_) | None) | (None, None) | (None, Some(_)) => held(before, after),
    }
}

/// Reasons for which an object is held, without being refused, that are worth an Event.
const HOLDS: [Reason; 5] =
    [Reason::Suspended, Reason::ParentSuspended, Reason::InUse, Reason::RequiredByPolicy, Reason::SendersNotPermitted];

/// Returns the Event for an object that begins to be held, or is no longer held.
fn held(before: &[Condition], after: &[Condition]) -> Option<EventNote> {
    let hold = |condition: &Condition| HOLDS.into_iter().find(|reason| reason.as_str() == condition.reason);
    let is = find_condition(after, ConditionType::Ready)?;
    let was = find_condition(before, ConditionType::Ready);
    match (was.and_then(hold), hold(is)) {
        (was, Some(reason)) if was != Some(reason) => {
            Some(EventNote { warning: true, reason, note: is.message.clone() })
        }
        (Some(_), None) if is.status == "True" => {
            Some(EventNote { warning: false, reason: Reason::Ready, note: is.message.clone() })
        }
        (Some(_) | None, Some(_) | None) => None,
    }
}

/// The reasons of failed passes.
const INTERRUPTIONS: [Reason; 2] = [Reason::ApplyFailed, Reason::LedgerUnavailable];

/// True if the conditions say that a pass failed.
pub fn was_interrupted(conditions: &[Condition]) -> bool {
    let ready = find_condition(conditions, ConditionType::Ready).filter(|ready| ready.status == "False");
    ready.is_some_and(|ready| INTERRUPTIONS.iter().any(|reason| reason.as_str() == ready.reason))
}

/// The reasons for which an object can stall.
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

/// A failed pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    pub reason: Reason,
    pub message: String,
    /// The API server refused a request with a message of its own: the next try may well fail too.
    pub refused: bool,
    /// The pass is retried because another writer was faster, which is harmless unless it continues.
    pub contended: bool,
    /// The object's latest spec, or its deletion, still waits for a successful pass.
    pub outstanding: bool,
    /// Failed passes in a row, this one included.
    pub failures: u32,
}

/// Failures in a row from which a possibly temporary fault is shown: a ledger that fails over within the first two
/// delays must not change `Ready` on converged objects.
const SHOWN_FROM: u32 = 3;

impl Interruption {
    /// True if the object's status should show it. `standing` are its conditions.
    pub fn is_shown(&self, standing: &[Condition]) -> bool {
        if self.refused {
            return true;
        }
        let enough = if self.outstanding && !self.contended { 1 } else { SHOWN_FROM };
        // An object that is not ready for another reason, such as a revocation, stays so whether or not the ledger
        // replies.
        let hidden = !self.outstanding && !is_true(standing, ConditionType::Ready) && !was_interrupted(standing);
        self.failures >= enough && !hidden
    }

    /// True if the failure stops mail: the relays forward nothing without the ledger.
    pub fn stops_mail(&self) -> bool {
        self.reason == Reason::LedgerUnavailable
    }

    /// Returns the Event, unless `standing` already shows the failure.
    pub fn event(&self, standing: &[Condition]) -> Option<EventNote> {
        let ready = find_condition(standing, ConditionType::Ready).filter(|ready| ready.status == "False");
        let news = ready.is_none_or(|ready| ready.reason != self.reason.as_str());
        news.then(|| EventNote { warning: true, reason: self.reason, note: self.message.clone() })
    }
}

/// Returns the conditions while passes fail. The directory still holds the entry of a converged object.
pub fn interrupted(
    standing: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
    interruption: &Interruption,
) -> Vec<Condition> {
    let accepted = is_true(standing, ConditionType::Accepted);
    let programmed = !interruption.outstanding && is_true(standing, ConditionType::Programmed);
    let readiness = Readiness::waiting(interruption.reason, interruption.message.as_str());
    let stated = readiness.stated(standing, generation, now, (accepted, programmed), None);
    let kept = [
        ConditionType::UpstreamAvailable,
        ConditionType::SelfServiceUnbounded,
        ConditionType::SweepStopped,
        ConditionType::LedgerAhead,
    ];
    kept.into_iter().fold(stated, Conditions::keep).build()
}
