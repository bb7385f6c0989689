//! Readiness: one gate per long-lived task, and `/readyz` says which is closed and why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// All gates of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    gates: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

/// One task's gate. It is closed from the moment it is made.
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

    /// Each closed gate with its reason; empty = ready.
    pub fn closed(&self) -> Vec<(&'static str, String)> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(|(name, reason)| reason.clone().map(|reason| (*name, reason))).collect()
    }

    fn set(&self, name: &'static str, reason: Option<String>) {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).insert(name, reason);
    }
}

impl Gate {
    pub fn open(&self) {
        self.health.set(self.name, None);
    }

    pub fn close(&self, reason: impl Into<String>) {
        self.health.set(self.name, Some(reason.into()));
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
        operator.open();
        assert!(health.closed().is_empty());
        relay.close("draining");
        assert_eq!(health.closed(), [("relay", "draining".to_owned())]);
    }
}
