//! The registry. Each room describes its own metrics with these types, under its prefix, and registers them here.

use std::collections::HashMap;

use prometheus::core::Collector as _;
use prometheus::{Encoder as _, TextEncoder};
pub use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use serde::Deserialize;

/// Registers a collector. Two with the same name are a mistake of ours, found by any test that builds the room.
pub fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    if let Err(error) = registry.register(Box::new(collector.clone())) {
        panic!("registering a metric: {error}");
    }
    collector
}

/// Removes the counters whose value of `label` is one to `remove`.
pub fn remove_where(counters: &IntCounterVec, label: &str, remove: impl Fn(&str) -> bool) {
    for family in counters.collect() {
        for counter in family.get_metric() {
            let labels: HashMap<&str, &str> =
                counter.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label).is_some_and(|value| remove(value)) {
                // A counter that has gone meanwhile cannot be removed; that is no fault.
                let _ = counters.remove(&labels);
            }
        }
    }
}

/// Returns the metrics in the Prometheus text format, version 0.0.4.
pub fn render(registry: &Registry) -> String {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => String::from_utf8(text).unwrap_or_default(),
        Err(error) => format!("# rendering the metrics: {error}\n"),
    }
}

/// Number of accounts with metrics of their own, as a user writes it: `All`, `None`, or a number.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "write All, None, or a number of accounts")]
pub enum MetricAccounts {
    Top(u32),
    Word(Word),
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub enum Word {
    All,
    None,
}

impl Default for MetricAccounts {
    /// Returns a number that any Prometheus can bear.
    fn default() -> Self {
        Self::Top(1_000)
    }
}

impl MetricAccounts {
    /// Returns the number; `None` = all.
    pub fn most(self) -> Option<u32> {
        match self {
            Self::Top(most) => Some(most),
            Self::Word(Word::All) => None,
            Self::Word(Word::None) => Some(0),
        }
    }
}
