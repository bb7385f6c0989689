//! The page of the metrics: each room registers its own, and the registry says what they are.

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;

use franking::crd::File;
use franking::ledger::Figures;
use franking::ledger::store::Role;
use franking::operator::AccountMetrics;
use franking::operator::fleet::{relay_config, relays};
use franking::operator::report::Report;
use franking::operator::state::guard::Guard;
use franking::operator::state::ledger_clock::LedgerClock;
use franking::operator::state::notices::Notices;
use franking::relay::Metrics;
use franking::runtime::health::Health;
use franking::runtime::http::Telemetry;
use franking::runtime::metrics::{Description, Registry, register};
use franking::runtime::process;
use franking::upstream::{SmtpNotifier, UpstreamSettings, Upstreams};
use http::{Request, Response};
use kube::Client;
use kube::client::Body;

use super::markdown::{code, page, table};
use super::root;

pub fn file() -> File {
    let sections = [
        ("Operator", operator()),
        ("Relay", relay()),
        ("Ledger, in the relay", described(|registry| drop(Figures::new(registry, Role::Relay)))),
        ("Every process", every_process()),
    ];
    let about = "Served at `/metrics`: port 9091 of the operator, 9092 of the relay. A metric with labels shows nothing before its \
                 first sample. What to alert on: [Operating](../operating.md#what-to-alert-on).";
    let parts = sections.map(|(title, metrics)| format!("## {title}\n\n{}", rows(metrics)));
    let parts: Vec<String> = [about.to_owned()].into_iter().chain(parts).collect();
    page("metrics.md", "Metrics", "the registered metrics", &parts)
}

/// Names of metrics in what `/metrics` says that the committed page does not have.
pub fn documented(served: &str) -> Result<(), Vec<&str>> {
    let page = fs::read_to_string(root().join("docs/reference/metrics.md")).expect("the page");
    let names = served.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    let missing: Vec<&str> = names.filter(|name| !page.contains(&format!("| `{name}` |"))).collect();
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

fn rows(mut metrics: Vec<Description>) -> String {
    metrics.sort();
    let rows = metrics.into_iter().map(|Description { name, kind, labels, help }| {
        [code(&name), kind.to_owned(), labels.iter().map(|label| code(label)).collect::<Vec<_>>().join(", "), help]
    });
    table(["metric", "type", "labels", "meaning"], rows)
}

/// What a part of a process registers.
fn described(registers: impl FnOnce(&Registry)) -> Vec<Description> {
    let registry = Registry::new();
    registers(&registry);
    registry.descriptions()
}

fn operator() -> Vec<Description> {
    let nobody = |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
    let client = Client::new(tower::service_fn(nobody), "default");
    described(|registry| {
        drop(Report::new(client, registry, AccountMetrics::All));
        drop(Guard::new(None, registry));
        drop(LedgerClock::new(registry, &Health::default()));
        drop(Notices::new(Arc::new(SmtpNotifier::new("franking.example.com")), registry));
        register(registry, relay_config::settings_valid());
        register(registry, relays::replicas_ready());
    })
}

fn relay() -> Vec<Description> {
    described(|registry| {
        drop(Metrics::new(registry));
        drop(Upstreams::new(UpstreamSettings::new("relay.example.com", 1), registry));
    })
}

fn every_process() -> Vec<Description> {
    described(|registry| {
        process::register(registry);
        drop(Telemetry::new(registry.clone(), Health::default()));
    })
}
