//! The last reports of messages refused for their sender.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use crate::domain::denied_sender::DeniedReport;
use crate::domain::id::KeyId;
/// Keys whose last report is kept until their status shows it.
const REMEMBERED_MAX: usize = 10_000;

/// The last report of each key, since this process leads.
#[derive(Default)]
pub struct Denied(Mutex<HashMap<KeyId, DeniedReport>>);

impl Denied {
    pub fn of(&self, key: KeyId) -> Option<DeniedReport> {
        self.reports().get(&key).cloned()
    }

    pub fn remember(&self, report: DeniedReport) {
        let mut reports = self.reports();
        // A status keeps the figures that it shows, so only the most recent reports are lost.
        if reports.len() >= REMEMBERED_MAX {
            reports.clear();
        }
        reports.insert(report.key, report);
    }

    fn reports(&self) -> MutexGuard<'_, HashMap<KeyId, DeniedReport>> {
        self.0.lock()
    }
}
