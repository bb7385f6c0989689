//! Caches each policy's upstream with its secret opened, until the policy changes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::domain::directory::{PolicyEntry, Sealed, UpstreamSecret};
use crate::domain::id::PolicyId;
use crate::ledger::seal::{Sealer, upstream_context};
use crate::upstream::Target;

/// The opened upstreams, as many as there are policies in the directory.
#[derive(Default)]
pub struct Targets(RwLock<HashMap<PolicyId, Opened>>);

struct Opened {
    policy: Arc<PolicyEntry>,
    target: Option<Arc<Target>>,
}

impl Targets {
    /// Returns the policy's upstream. `None` if it has none at present, or its secret does not open with the
    /// installation's key.
    pub fn of(&self, policy: &Arc<PolicyEntry>, sealer: &Sealer) -> Option<Arc<Target>> {
        let known = self.0.read();
        if let Some(opened) = known.get(&policy.id).filter(|opened| Arc::ptr_eq(&opened.policy, policy)) {
            return opened.target.clone();
        }
        drop(known);
        let target = open(policy, sealer).map(Arc::new);
        let opened = Opened { policy: policy.clone(), target: target.clone() };
        self.0.write().insert(policy.id, opened);
        target
    }

    /// Forgets everything, after the installation's keys changed.
    pub fn clear(&self) {
        self.0.write().clear();
    }
}

fn open(policy: &PolicyEntry, sealer: &Sealer) -> Option<Target> {
    let entry = policy.upstream.clone()?;
    let secret = match &entry.secret {
        None => None,
        Some(sealed) => Some(unseal(policy.id, sealed, sealer).or_else(|| {
            tracing::error!(policy = policy.name, "the upstream's secret does not open with this installation's key");
            None
        })?),
    };
    Some(Target { policy: policy.id, entry, secret })
}

fn unseal(policy: PolicyId, sealed: &Sealed, sealer: &Sealer) -> Option<UpstreamSecret> {
    let plain = sealer.open(&upstream_context(policy), sealed)?;
    serde_json::from_slice(&plain).ok()
}
