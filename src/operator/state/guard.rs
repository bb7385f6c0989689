//! The guard, which says whether the ledger may be used.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::ledger::identity::Identity;
use crate::ledger::incarnation::Known;
use crate::operator::fleet::installation::Installation;
use crate::operator::object_ref::Ref;
use crate::runtime::metrics::{IntGauge, Registry, register};
use crate::runtime::relay_config::LedgerAddress;
/// Time for which a pass waits for the first identification: an available ledger replies at once.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// The known state of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerState {
    /// It has not identified itself yet.
    Unknown,
    Open,
    /// Accepted; the resources are being put back into it.
    Rebuilding,
    /// Held; the message says why nothing is written, and what to do.
    Held(Arc<str>),
}

pub struct Guard {
    /// The installation whose ConfigMap records acceptance. `None` for an operator without an installation of its own,
    /// in tests: then only the ledger's own identity counts.
    pub place: Option<(Installation, LedgerAddress)>,
    known: Mutex<Option<Known>>,
    pub state: watch::Sender<LedgerState>,
    /// Objects that were put back since the rebuild began.
    restored: Mutex<HashSet<Ref>>,
    pub replaced: IntGauge,
}

impl Guard {
    pub fn new(place: Option<(Installation, LedgerAddress)>, registry: &Registry) -> Self {
        let gauge = IntGauge::new(
            "franking_ledger_replaced",
            "1 while the ledger is not the one that this installation knows: no mail is sent until an administrator accepts it.",
        );
        let known = place.as_ref().map(|(installation, _)| installation.known());
        Self {
            place,
            known: Mutex::new(known),
            state: watch::Sender::new(LedgerState::Unknown),
            restored: Mutex::default(),
            replaced: register(registry, gauge.expect("a metric's name is a valid constant")),
        }
    }

    pub fn state(&self) -> LedgerState {
        self.state.borrow().clone()
    }

    /// Returns the state once it is known, or `Unknown` if the ledger does not reply in time.
    pub async fn wait_until_known(&self) -> LedgerState {
        let mut state = self.state.subscribe();
        // The sender is our own, so only the timeout can end it.
        let _ = tokio::time::timeout(KNOWN_WITHIN, state.wait_for(|state| *state != LedgerState::Unknown)).await;
        self.state()
    }

    /// Waits until the ledger is open: periodic tasks must not run earlier.
    pub async fn opened(&self) {
        // The sender is our own, so it exists as long as we do.
        let _ = self.state.subscribe().wait_for(|state| *state == LedgerState::Open).await;
    }

    /// Returns the ledger incarnation in use.
    pub fn incarnation(&self) -> Option<Uuid> {
        self.known().as_ref().map(|known| known.incarnation)
    }

    pub fn restored(&self, what: Ref) {
        if *self.state.borrow() == LedgerState::Rebuilding {
            self.restored.lock().insert(what);
        }
    }

    pub fn is_restored(&self, what: &Ref) -> bool {
        self.restored.lock().contains(what)
    }

    /// Starts the rebuild: from now on passes put objects back.
    pub fn begin_rebuilding(&self) {
        self.restored.lock().clear();
        self.state.send_replace(LedgerState::Rebuilding);
    }

    pub fn known(&self) -> parking_lot::MutexGuard<'_, Option<Known>> {
        self.known.lock()
    }

    /// Returns the known ledger. An operator without an installation takes the first one that it finds.
    pub fn known_or(&self, identity: &Identity) -> Known {
        let Identity { installation, incarnation, progress, .. } = *identity;
        let first = || Known { installation, cluster: identity.cluster.clone(), incarnation, progress };
        self.known().get_or_insert_with(first).clone()
    }

    pub fn serve(&self, incarnation: Uuid) {
        if let Some((installation, _)) = &self.place {
            installation.serving.set(incarnation);
        }
    }
}
