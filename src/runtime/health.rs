//! Readiness: one gate per long-lived task. `/readyz` reports the closed gates with their reasons, and anything that is
//! wrong although a gate is open.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// All gates of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    gates: Arc<Mutex<BTreeMap<&'static str, GateState>>>,
}

/// The state of one gate.
enum GateState {
    Open,
    /// Open, but with a fault that an administrator should know of.
    Noted(String),
    Closed(String),
}

/// The gate of one task. It is closed when it is made.
#[derive(Clone)]
pub struct Gate {
    name: &'static str,
    health: Health,
}

impl Health {
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { name, health: self.clone() };
        gate.close("starting");
        gate
    }

    /// Returns each closed gate with its reason; empty = ready.
    pub fn closed(&self) -> Vec<(&'static str, String)> {
        self.said(|state| match state {
            GateState::Closed(reason) => Some(reason),
            GateState::Noted(_) | GateState::Open => None,
        })
    }

    /// Returns each open gate with a fault, and the fault.
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        self.said(|state| match state {
            GateState::Noted(note) => Some(note),
            GateState::Closed(_) | GateState::Open => None,
        })
    }

    fn said(&self, word: fn(&GateState) -> Option<&String>) -> Vec<(&'static str, String)> {
        self.gates().iter().filter_map(|(name, state)| Some((*name, word(state)?.clone()))).collect()
    }

    fn gates(&self) -> MutexGuard<'_, BTreeMap<&'static str, GateState>> {
        self.gates.lock()
    }
}

impl Gate {
    pub fn open(&self) {
        self.set(GateState::Open);
    }

    /// Opens the gate with a note on a fault: not being ready would make nothing better.
    pub fn note(&self, note: impl Into<String>) {
        self.set(GateState::Noted(note.into()));
    }

    pub fn close(&self, reason: impl Into<String>) {
        self.set(GateState::Closed(reason.into()));
    }

    fn set(&self, state: GateState) {
        self.health.gates().insert(self.name, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_gate_is_open() {
        let health = Health::default();
        let (relay, operator) = (health.gate("relay"), health.gate("operator"));
        relay.open();
        assert_eq!(health.closed(), [("operator", "starting".to_owned())]);
        operator.note("an administrator should know");
        assert_eq!(
            (health.closed(), health.notes()),
            (vec![], vec![("operator", "an administrator should know".to_owned())])
        );
        operator.open();
        assert_eq!((health.closed(), health.notes()), (vec![], vec![]));
        relay.close("draining");
        assert_eq!(health.closed(), [("relay", "draining".to_owned())]);
    }
}
