//! The registry. Each room describes its own metrics with these types, under its prefix, and registers them here.

use prometheus::{Encoder as _, TextEncoder};
pub use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Registers a collector. Two of one name are a mistake of ours, found by any test that builds the room.
pub fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    if let Err(error) = registry.register(Box::new(collector.clone())) {
        panic!("registering a metric: {error}");
    }
    collector
}

/// The Prometheus text format, version 0.0.4.
pub fn render(registry: &Registry) -> String {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => String::from_utf8(text).unwrap_or_default(),
        Err(error) => format!("# rendering the metrics: {error}\n"),
    }
}
