//! The registry. Each room describes its own metrics with these types, under its prefix, and registers them here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricType;
use prometheus::{Encoder as _, TextEncoder};
pub use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use serde::Deserialize;

/// The metrics of a process. It also keeps their descriptions, because a metric with labels shows nothing before its first
/// sample.
#[derive(Clone, Default)]
pub struct Registry {
    collectors: prometheus::Registry,
    descriptions: Arc<Mutex<Vec<Description>>>,
}

/// One metric, as the reference page shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, constant ones first.
    pub labels: Vec<String>,
    pub help: String,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what was registered, in order of registration.
    pub fn descriptions(&self) -> Vec<Description> {
        self.descriptions.lock().clone()
    }

    /// Registers a collector and keeps what it says of itself. Refuses a second one of the same name.
    pub fn register(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        let described = described(collector.as_ref());
        self.collectors.register(collector)?;
        self.descriptions.lock().extend(described);
        Ok(())
    }
}

fn described(collector: &dyn Collector) -> Vec<Description> {
    let families = collector.collect();
    let describe = |desc: &Desc| {
        let family = families.iter().find(|family| family.name() == desc.fq_name);
        let constant = desc.const_label_pairs.iter().map(|pair| pair.name().to_owned());
        Description {
            name: desc.fq_name.clone(),
            kind: family.map_or("untyped", |family| kind(family.get_field_type())),
            labels: constant.chain(desc.variable_labels.iter().cloned()).collect(),
            help: desc.help.clone(),
        }
    };
    collector.desc().into_iter().map(describe).collect()
}

fn kind(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
        MetricType::HISTOGRAM => "histogram",
    }
}

/// Registers a collector. Two of one name are a mistake of ours, found by any test that builds the room.
pub fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
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
    match TextEncoder::new().encode(&registry.collectors.gather(), &mut text) {
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
