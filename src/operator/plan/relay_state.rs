//! The state of the relays, as policies show it.

use std::sync::Arc;

use serde::Serialize;

use crate::domain::relay_config::{Limits, Listener};

/// What is known of the relays, for the policies' status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Why what the settings say is not in force: the relays go on with what was good last.
    pub refused: Option<String>,
    /// `None` where nobody can say from here.
    pub replicas: Option<Replicas>,
    /// What they run with besides the directory; `None` until it is known.
    pub in_force: Option<Arc<RelayInForce>>,
}

/// The relays' settings that are in force, without what is secret in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayInForce {
    pub hostname: String,
    pub listeners: Vec<Listener>,
    pub limits: Limits,
}

/// The relays of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub ready: i32,
    pub wanted: i32,
}
