//! The ledger's time compared with the clock, as last read.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::ledger::store::LedgerTime;
use crate::runtime::health::{Gate, Health};
use crate::runtime::metrics::{IntGauge, Registry, register};
/// The result of the last comparison.
pub struct LedgerClock {
    gate: Gate,
    ahead_seconds: IntGauge,
    sentence: Mutex<Option<Arc<str>>>,
}

impl LedgerClock {
    pub fn new(registry: &Registry, health: &Health) -> Self {
        let gate = health.gate("ledger time");
        gate.open();
        let gauge = IntGauge::new(
            "franking_ledger_ahead_seconds",
            "Seconds that the ledger's time is ahead of the clock, where that is more than a minute; else 0.",
        );
        Self {
            gate,
            ahead_seconds: register(registry, gauge.expect("a metric's name is a valid constant")),
            sentence: Mutex::default(),
        }
    }

    /// Returns the message for policies, if there is one.
    pub fn sentence(&self) -> Option<String> {
        self.sentence.lock().as_deref().map(str::to_owned)
    }

    /// Records a comparison. Returns true if the message changed.
    pub fn found(&self, time: LedgerTime) -> bool {
        let ahead = time.ahead();
        self.ahead_seconds.set(ahead.map_or(0, |ahead| ahead.as_secs()));
        let sentence: Option<Arc<str>> = ahead.map(|_| sentence(time).into());
        let mut said = self.sentence.lock();
        if *said == sentence {
            return false;
        }
        match &sentence {
            Some(sentence) => {
                tracing::warn!(ledger = %time.ledger, clock = %time.clock, "{sentence}");
                self.gate.note(&**sentence);
            }
            None => {
                tracing::info!("the clock has caught up with the ledger's time");
                self.gate.open();
            }
        }
        *said = sentence;
        true
    }
}

/// Builds the message. It omits the clock's time, so that it stays the same while the ledger's time stands.
fn sentence(time: LedgerTime) -> String {
    format!(
        "the ledger's time is {}, ahead of the clock: a clock ran ahead. Until the clock has caught up periods stand where \
         they are, and rates and expiries go by the clock; see \"The ledger is ahead of the clock\" in the runbook",
        time.ledger
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::metrics::render;

    #[test]
    fn a_ledger_that_is_ahead_is_told_once_and_until_the_clock_has_caught_up() {
        let (registry, health) = (Registry::new(), Health::default());
        let watch = LedgerClock::new(&registry, &health);
        let time = |ledger: &str, clock: &str| LedgerTime {
            ledger: ledger.parse().expect("a time"),
            clock: clock.parse().expect("a time"),
        };
        assert!(!watch.found(time("2026-11-20T10:01:00Z", "2026-11-20T10:00:00Z")), "a minute is no news");
        assert_eq!((health.closed(), health.notes(), watch.sentence()), (vec![], vec![], None));
        assert!(watch.found(time("2026-11-23T10:00:00Z", "2026-11-20T10:00:00Z")));
        assert!(!watch.found(time("2026-11-23T10:00:00Z", "2026-11-20T10:00:05Z")), "said once");
        let sentence = watch.sentence().expect("a sentence");
        assert!(sentence.starts_with("the ledger's time is 2026-11-23T10:00:00Z, ahead of the clock"), "{sentence}");
        assert_eq!((health.closed(), health.notes()), (vec![], vec![("ledger time", sentence)]));
        assert!(render(&registry).contains("franking_ledger_ahead_seconds 259195\n"));
        assert!(watch.found(time("2026-11-23T10:00:00Z", "2026-11-23T09:59:30Z")));
        assert_eq!((health.notes(), watch.sentence()), (vec![], None));
        assert!(render(&registry).contains("franking_ledger_ahead_seconds 0\n"));
    }
}
