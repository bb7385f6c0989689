//! The guard: whether the ledger may be worked with.

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
/// How long a pass waits for the first answer: a ledger that is there gives it at once.
const JUDGED_WITHIN: Duration = Duration::from_secs(5);

/// What is known of the ledger's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not answered yet.
    Unknown,
    Open,
    /// Accepted; the resources are being put back into it.
    Rebuilding,
    /// Why nothing is written, and what to do.
    Held(Arc<str>),
}

pub struct Guard {
    /// Where the word of acceptance is looked for. `None` for an operator without an installation of its own, in tests:
    /// what the ledger says of itself counts then, and nothing else.
    pub place: Option<(Installation, LedgerAddress)>,
    known: Mutex<Option<Known>>,
    pub standing: watch::Sender<Standing>,
    /// Objects that were put back since the rebuilding began.
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

    /// The same, once it is known; unknown where the ledger does not answer in time.
    pub async fn judged(&self) -> Standing {
        let mut standing = self.standing.subscribe();
        // The sender is our own, so only the time can end.
        let _ = tokio::time::timeout(JUDGED_WITHIN, standing.wait_for(|standing| *standing != Standing::Unknown)).await;
        self.standing()
    }

    /// Waits until the ledger is open: periodic work has nothing to do before.
    pub async fn opened(&self) {
        // The sender is our own, so it is there as long as we are.
        let _ = self.standing.subscribe().wait_for(|standing| *standing == Standing::Open).await;
    }

    /// The incarnation that is worked with.
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

    /// From here on passes put objects back.
    pub fn begin_rebuilding(&self) {
        self.passed.lock().clear();
        self.standing.send_replace(Standing::Rebuilding);
    }

    pub fn known(&self) -> parking_lot::MutexGuard<'_, Option<Known>> {
        self.known.lock()
    }

    /// What is known; of an operator without an installation, what was found first.
    pub fn known_or(&self, identity: &Identity) -> Known {
        let Identity { installation, incarnation, mark, .. } = *identity;
        let first = || Known { installation, cluster: identity.cluster.clone(), incarnation, mark };
        self.known().get_or_insert_with(first).clone()
    }

    pub fn serve(&self, incarnation: Uuid) {
        if let Some((installation, _)) = &self.place {
            installation.serving.set(incarnation);
        }
    }
}
