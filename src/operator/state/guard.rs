//! The guard, which says whether the ledger may be used.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::domain::relay_config::LedgerAddress;
use crate::ledger::identity::Identity;
use crate::ledger::incarnation::Known;
use crate::operator::fleet::installation::Installation;
use crate::operator::object_ref::Ref;
use crate::runtime::metrics::{IntGauge, Registry, register};
/// Time for which a pass waits for the first identification: an available ledger replies at once.
const JUDGED_WITHIN: Duration = Duration::from_secs(5);

/// The known standing of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
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
    pub standing: watch::Sender<Standing>,
    /// Objects that were put back since the rebuild began.
    passed: Mutex<HashSet<Ref>>,
    pub replaced: IntGauge,
}

impl Guard {
    pub fn new(place: Option<(Installation, LedgerAddress)>, registry: &Registry) -> Self {
        let gauge = IntGauge::new(
            "franking_ledger_replaced",
            "1 while the ledger is not the one that this installation knows: nothing is sent until somebody accepts it.",
        );
        let known = place.as_ref().map(|(installation, _)| installation.known());
        Self {
            place,
            known: Mutex::new(known),
            standing: watch::Sender::new(Standing::Unknown),
            passed: Mutex::default(),
            replaced: register(registry, gauge.expect("a metric's name is a valid constant")),
        }
    }

    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Returns the standing once it is known, or `Unknown` if the ledger does not reply in time.
    pub async fn judged(&self) -> Standing {
        let mut standing = self.standing.subscribe();
        // The sender is our own, so only the timeout can end it.
        let _ = tokio::time::timeout(JUDGED_WITHIN, standing.wait_for(|standing| *standing != Standing::Unknown)).await;
        self.standing()
    }

    /// Waits until the ledger is open: periodic tasks must not run earlier.
    pub async fn opened(&self) {
        // The sender is our own, so it exists as long as we do.
        let _ = self.standing.subscribe().wait_for(|standing| *standing == Standing::Open).await;
    }

    /// Returns the ledger incarnation in use.
    pub fn incarnation(&self) -> Option<Uuid> {
        self.known().as_ref().map(|known| known.incarnation)
    }

    pub fn passed(&self, what: Ref) {
        if *self.standing.borrow() == Standing::Rebuilding {
            self.passed.lock().insert(what);
        }
    }

    pub fn has_passed(&self, what: &Ref) -> bool {
        self.passed.lock().contains(what)
    }

    /// Starts the rebuild: from now on passes put objects back.
    pub fn begin_rebuilding(&self) {
        self.passed.lock().clear();
        self.standing.send_replace(Standing::Rebuilding);
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
