//! The state of the relays, as shown by policies.

use std::sync::Arc;

use serde::Serialize;

use crate::runtime::relay_config::{Limits, Listener};

/// The known state of the relays, for the policies' status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Reason why the settings are not in force: the relays keep the last good ones.
    pub refused: Option<String>,
    /// `None` if it cannot be known in this deployment.
    pub replicas: Option<Replicas>,
    /// The settings in force besides the directory; `None` until they are known.
    pub in_force: Option<Arc<RelayInForce>>,
}

/// The relays' settings in force, without secrets.
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
