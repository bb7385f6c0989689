//! State shared by the detection and the dispatch of notices.

use std::sync::Arc;

use tokio::sync::watch;

use crate::runtime::metrics::{IntCounterVec, Opts, Registry, register};
use crate::runtime::notifier::Notifier;
/// The notifier, the announcement signal and the counters.
pub struct Notices {
    pub notifier: Arc<dyn Notifier>,
    pub announced: watch::Sender<u64>,
    pub crossed: IntCounterVec,
    pub deliveries: IntCounterVec,
}

impl Notices {
    pub fn new(notifier: Arc<dyn Notifier>, registry: &Registry) -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels);
            let made = made.unwrap_or_else(|error| panic!("a metric of the operator is malformed: {error}"));
            register(registry, made)
        };
        Self {
            notifier,
            announced: watch::Sender::default(),
            crossed: counter(
                "franking_notices_total",
                "Thresholds of limits that were crossed, each once in its period.",
                &["meter", "threshold"],
            ),
            deliveries: counter(
                "franking_notice_deliveries_total",
                "Tries to tell of a crossed threshold.",
                &["channel", "result"],
            ),
        }
    }
}
