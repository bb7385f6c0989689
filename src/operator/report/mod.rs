//! The output for people and machines: status, Events and the loop's metrics. Only this module writes them.
//!
//! Status is written by merge patch, with only the changed fields: it has one writer. An equal status is not written.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::crd::printable;
use crate::domain::id;
use crate::operator::error::{Error, Result, status_code};
use crate::operator::kinds::Kind;
use crate::operator::object_ref::Ref;
use crate::operator::plan::figures::Figures;
use crate::operator::plan::{EventNote, meta};
use crate::operator::report::account_metrics::{AccountMetrics, Measured};
use crate::runtime::metrics::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register,
};

/// Maximum octets of an Event's note; the API server allows 1024, and counts octets where it counts characters
/// elsewhere.
const NOTE_MAX: usize = 1_000;
/// Characters of an object's name in an Event's name, which leaves room for the suffix that the API server adds.
const EVENT_PREFIX_MAX: usize = 200;
/// Versions of an object over which a status write is tried, before the pass is left to its back-off.
const STATUS_TRIES: usize = 5;
/// Labels of the credit figures.
const FIGURES: [&str; 5] = ["granted", "used", "remaining", "prepaid", "overage"];

pub struct Report {
    client: Client,
    reconciles: IntCounterVec,
    seconds: HistogramVec,
    active: IntGaugeVec,
    depth: IntGaugeVec,
    status_writes: IntCounter,
    statuses_due: IntGauge,
    status_lag: IntGauge,
    credits: IntGaugeVec,
    account_credits: IntGaugeVec,
    measured: Mutex<Measured>,
    left_out: IntGauge,
    unknown: IntCounter,
    sweep_stopped: IntGauge,
    written_off: IntCounterVec,
}

impl Report {
    pub fn new(client: Client, registry: &Registry, accounts: AccountMetrics) -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, metric(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(registry, metric(IntGaugeVec::new(Opts::new(name, help), labels)))
        };
        // The names used by controller-runtime, so that dashboards made for it work.
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let times =
            HistogramOpts::new("controller_runtime_reconcile_time_seconds", "Length of a reconcile.").buckets(buckets);
        Self {
            client,
            reconciles: counter(
                "controller_runtime_reconcile_total",
                "Reconciles by result.",
                &["controller", "result"],
            ),
            seconds: register(registry, metric(HistogramVec::new(times, &["controller"]))),
            active: gauge("controller_runtime_active_workers", "Reconciles under way.", &["controller"]),
            depth: gauge("workqueue_depth", "Objects that wait for their reconcile.", &["name"]),
            status_writes: register(
                registry,
                metric(IntCounter::new("franking_operator_status_writes_total", "Statuses written.")),
            ),
            statuses_due: register(
                registry,
                metric(IntGauge::new(
                    "franking_operator_statuses_due",
                    "Statuses that are to be written and wait: for the budget (operator.statusWritesPerSecond), or for their turn \
                     among counts (accounts of a policy, keys of an account), of which 100 are written in a second.",
                )),
            ),
            status_lag: register(
                registry,
                metric(IntGauge::new(
                    "franking_operator_status_lag_seconds",
                    "How long the status that has waited longest has been due. Figures in a status may be older than a minute by this much.",
                )),
            ),
            credits: gauge(
                "franking_policy_credits",
                "Credits of a policy. granted, used, overage: of its pool in the running period. prepaid: those left of the \
                 prepaid balance. remaining: the lesser of both. Absent if nothing limits.",
                &["policy", "what"],
            ),
            account_credits: gauge(
                "franking_account_credits",
                "Credits of an account. granted, used: of its cap in the running period. prepaid: those left of the prepaid \
                 balance. remaining: the least of all its limits. Exported for the accounts that used most, as many as \
                 operator.metricAccounts says; franking_accounts_left_out counts the others.",
                &["namespace", "account", "what"],
            ),
            measured: Mutex::new(Measured::new(accounts)),
            left_out: register(
                registry,
                metric(IntGauge::new(
                    "franking_accounts_left_out",
                    "Accounts without figures of their own in franking_account_credits: operator.metricAccounts has no room.",
                )),
            ),
            unknown: register(
                registry,
                metric(IntCounter::new(
                    "franking_operator_unknown_messages_total",
                    "Messages whose session ended without settling them; they stay charged.",
                )),
            ),
            sweep_stopped: register(
                registry,
                metric(IntGauge::new(
                    "franking_operator_sweep_stopped",
                    "1 while accounts or keys without a resource are left, because they are too many to be revoked unseen.",
                )),
            ),
            written_off: counter(
                "franking_operator_written_off_total",
                "Policies, accounts and keys taken out of service because their resource is gone.",
                &["kind"],
            ),
        }
    }

    pub fn started(&self, controller: &str) -> Running {
        self.active.with_label_values(&[controller]).inc();
        let seconds = self.seconds.with_label_values(&[controller]);
        Running { active: self.active.with_label_values(&[controller]), seconds, started: std::time::Instant::now() }
    }

    /// Sets the number of objects that wait for their turn.
    pub fn waiting(&self, controller: &str, objects: usize) {
        self.depth.with_label_values(&[controller]).set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Sets how many statuses wait to be written, and how long the oldest has waited.
    pub fn status_queue(&self, due: usize, lag: std::time::Duration) {
        self.statuses_due.set(i64::try_from(due).unwrap_or(i64::MAX));
        self.status_lag.set(i64::try_from(lag.as_secs()).unwrap_or(i64::MAX));
    }

    pub fn finished(&self, controller: &str, result: &str) {
        self.reconciles.with_label_values(&[controller, result]).inc();
    }

    /// Sets whether entries without a resource wait for an administrator.
    pub fn sweep(&self, stopped: bool) {
        self.sweep_stopped.set(i64::from(stopped));
    }

    pub fn written_off(&self, kind: id::Kind) {
        self.written_off.with_label_values(&[kind.as_str()]).inc();
    }

    pub fn unknown(&self, messages: u64) {
        self.unknown.inc_by(messages);
    }

    /// Sets the same figures as in the status, exactly.
    pub fn figures(&self, what: &Ref, figures: &Figures) {
        let is_measured = self.is_measured(what, figures);
        let Figures { granted, used, remaining, prepaid, overage, .. } = *figures;
        for (label, value) in FIGURES.into_iter().zip([granted, Some(used), remaining, prepaid, overage]) {
            match (what, value) {
                (Ref::Policy(name), Some(value)) => {
                    self.credits.with_label_values(&[name.name.as_str(), label]).set(value);
                }
                (Ref::Account(name), Some(value)) if is_measured => {
                    let labels = [name.namespace.as_str(), name.name.as_str(), label];
                    self.account_credits.with_label_values(&labels).set(value);
                }
                // A limit that was removed leaves no figure behind.
                (Ref::Policy(_) | Ref::Account(_), None) => self.forget_figure(what, label),
                (Ref::Account(_) | Ref::Key(_), Some(_)) | (Ref::Key(_), None) => {}
            }
        }
    }

    fn forget_figure(&self, what: &Ref, label: &str) {
        // Removing a series that never existed is no fault.
        let _ = match what {
            Ref::Policy(name) => self.credits.remove_label_values(&[name.name.as_str(), label]),
            Ref::Account(name) => {
                self.account_credits.remove_label_values(&[name.namespace.as_str(), name.name.as_str(), label])
            }
            Ref::Key(_) => Ok(()),
        };
    }

    /// Checks whether an account has metrics of its own; an account that gives way to it loses its series.
    fn is_measured(&self, what: &Ref, figures: &Figures) -> bool {
        let Ref::Account(account) = what else { return false };
        let mut measured = self.measured.lock();
        let change = measured.moved(account, figures.used);
        self.left_out.set(i64::try_from(measured.left_out()).unwrap_or(i64::MAX));
        if let Some(hidden) = change.hidden {
            FIGURES.into_iter().for_each(|label| self.forget_figure(&Ref::Account(hidden.clone()), label));
        }
        change.shown
    }

    /// Removes the metrics of an object that is gone.
    pub fn forget(&self, what: &Ref) {
        if let Ref::Account(account) = what {
            let mut measured = self.measured.lock();
            measured.forget(account);
            self.left_out.set(i64::try_from(measured.left_out()).unwrap_or(i64::MAX));
        }
        for label in FIGURES {
            self.forget_figure(what, label);
        }
    }

    /// Writes a status, unless it is equal. `object` is the latest known version; if there is a newer one by now, that
    /// one is patched. `leads` is checked before each try. Returns the object after the write; `None` if there was
    /// nothing to write, or the object is gone.
    pub async fn status<K: Kind>(
        &self,
        object: &K,
        next: &K::Status,
        leads: impl Fn() -> Result<()> + Send + Sync,
    ) -> Result<Option<K>> {
        if object.status() == Some(next) {
            return Ok(None);
        }
        let name = object.name_any();
        let api = K::api(&self.client, object.namespace().as_deref());
        let parameters = PatchParams { field_manager: Some(meta::MANAGER.to_owned()), ..PatchParams::default() };
        let mut live = None;
        for _ in 0..STATUS_TRIES {
            leads()?;
            let body = status_patch(live.as_ref().unwrap_or(object), next)?;
            match api.patch_status(&name, &parameters, &Patch::Merge(body)).await {
                Ok(written) => {
                    self.status_writes.inc();
                    return Ok(Some(written));
                }
                // It is gone, so there is no status to write.
                Err(error) if status_code(&error) == Some(404) => return Ok(None),
                Err(error) if status_code(&error) == Some(409) => {}
                Err(error) => return Err(Error::cluster("writing a status")(error)),
            }
            let found = api.get_opt(&name).await.map_err(Error::cluster("reading an object again for its status"))?;
            // A new object of the same name must not get the old one's figures.
            let Some(found) = found.filter(|found| found.uid() == object.uid()) else { return Ok(None) };
            if found.status() == Some(next) {
                return Ok(Some(found));
            }
            live = Some(found);
        }
        Err(Error::Contended)
    }

    /// Publishes an Event about an object of one of our kinds.
    pub async fn publish<K: Kind>(&self, object: &K, event_note: &EventNote, now: Timestamp) {
        let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
        publish(&self.client, regarding(object), &namespace, event_note, now).await;
    }

    /// Publishes an Event that exists once, however often it is written. Returns false if its namespace is gone.
    pub async fn publish_once<K: Kind>(
        &self,
        object: &K,
        name: &str,
        event_note: &EventNote,
        now: Timestamp,
    ) -> Result<bool> {
        let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
        let named = ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace), ..ObjectMeta::default() };
        match create(&self.client, regarding(object), named, event_note, now).await {
            Ok(()) => Ok(true),
            Err(error) => match status_code(&error) {
                Some(409) => Ok(true),
                // The namespace is gone or being deleted.
                Some(403 | 404) => Ok(false),
                Some(_) | None => Err(Error::cluster("writing an event")(error)),
            },
        }
    }
}

fn regarding<K: Kind>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(object.name_any()),
        namespace: object.namespace(),
        uid: object.uid(),
        resource_version: object.resource_version(),
        ..ObjectReference::default()
    }
}

/// Publishes an Event. A failure is only logged, and nothing depends on it.
pub async fn publish(
    client: &Client,
    regarding: ObjectReference,
    namespace: &str,
    event_note: &EventNote,
    now: Timestamp,
) {
    let name = regarding.name.clone().unwrap_or_default();
    let named = ObjectMeta {
        generate_name: Some(event_prefix(&name)),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    if let Err(error) = create(client, regarding, named, event_note, now).await {
        tracing::warn!(object = name, error = &error as &dyn std::error::Error, "writing an event");
    }
}

async fn create(
    client: &Client,
    regarding: ObjectReference,
    named: ObjectMeta,
    event_note: &EventNote,
    now: Timestamp,
) -> std::result::Result<(), kube::Error> {
    let namespace = named.namespace.clone().unwrap_or_default();
    let note = printable(&event_note.note);
    let event = Event {
        metadata: named,
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note[..note.floor_char_boundary(NOTE_MAX)].to_owned()),
        reason: Some(event_note.reason.as_str().to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some("franking.io/operator".to_owned()),
        reporting_instance: Some(meta::MANAGER.to_owned()),
        type_: Some(if event_note.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let parameters = PostParams { field_manager: Some(meta::MANAGER.to_owned()), ..PostParams::default() };
    api.create(&parameters, &event).await.map(drop)
}

/// Builds the patch that gives `object` the status `next`, for this object in this version only. So a write that a
/// leader began before it lost the lease does not replace what the next leader has written since.
fn status_patch<K: Kind>(object: &K, next: &K::Status) -> Result<Value> {
    let fail = |source| Error::cluster("writing a status")(kube::Error::SerdeError(source));
    let before = object.status().map_or(Ok(Value::Null), serde_json::to_value).map_err(fail)?;
    let after = serde_json::to_value(next).map_err(fail)?;
    let metadata = json!({"uid": object.uid(), "resourceVersion": object.resource_version()});
    Ok(json!({"metadata": metadata, "status": merge_patch(&before, after)}))
}

/// Builds the JSON merge patch (RFC 7396) from `before` to `after`. A status has one writer, so the field ownership
/// that a server-side apply would record is of no use.
fn merge_patch(before: &Value, after: Value) -> Value {
    let (before, after) = match (before, after) {
        (Value::Object(before), Value::Object(after)) => (before, after),
        (_, after) => return after,
    };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let mut patch: serde_json::Map<String, Value> = gone.collect();
    for (key, value) in after {
        match before.get(&key) {
            Some(standing) if *standing == value => {}
            Some(standing) => {
                patch.insert(key, merge_patch(standing, value));
            }
            None => {
                patch.insert(key, value);
            }
        }
    }
    Value::Object(patch)
}

/// Returns the prefix of an Event's generated name. It avoids `name.`, which Kubernetes' own Events use.
fn event_prefix(name: &str) -> String {
    let kept: String = name.chars().take(EVENT_PREFIX_MAX).collect();
    format!("{}-", kept.trim_end_matches(['.', '-']))
}

/// The measurement of a reconcile under way; dropping it ends the measurement.
pub struct Running {
    active: IntGauge,
    seconds: Histogram,
    started: std::time::Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.active.dec();
        self.seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

/// Unwraps a metric whose name and labels are the constants above.
fn metric<T, E: std::fmt::Display>(made: std::result::Result<T, E>) -> T {
    made.unwrap_or_else(|error| panic!("a metric of the operator is malformed: {error}"))
}

pub mod account_metrics;
#[cfg(test)]
mod tests;
