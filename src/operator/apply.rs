//! Executes the steps of a plan in order; every decision was taken by the plan.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::error::{Error, Result, status_code};
use super::kinds::Kind;
use super::plan::{Step, meta, secret};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::operator::context::Context;
use crate::operator::error::Deposed;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::watch::marks::own_mark;

/// The outcome of applying a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// Another writer was faster: the object that was planned for has changed.
    Conflict,
    /// The object or its namespace is being deleted, and nothing more can be written.
    Terminating,
}

/// Executes the steps in order. If a finalizer was added, `object` carries it afterwards, with the new resource
/// version, so that later steps and writes do not use an outdated version.
pub async fn apply<K: Kind>(context: &Context, object: &mut K, steps: Vec<Step>) -> Result<Applied> {
    for step in steps {
        match one(context, object, step).await? {
            Applied::Done => {}
            stop @ (Applied::Conflict | Applied::Terminating) => return Ok(stop),
        }
    }
    Ok(Applied::Done)
}

async fn one<K: Kind>(context: &Context, object: &mut K, step: Step) -> Result<Applied> {
    let namespace = object.namespace();
    let api = K::api(&context.client, namespace.as_deref());
    let secrets = || Api::<Secret>::namespaced(context.client.clone(), namespace.as_deref().unwrap_or_default());
    match step {
        Step::AddFinalizer => {
            let finalizers = object.finalizers();
            let patch = if finalizers.is_empty() {
                json!([{"op": "test", "path": "/metadata/finalizers", "value": null},
                       {"op": "add", "path": "/metadata/finalizers", "value": [meta::FINALIZER]}])
            } else {
                json!([{"op": "test", "path": "/metadata/finalizers", "value": finalizers},
                       {"op": "add", "path": "/metadata/finalizers/-", "value": meta::FINALIZER}])
            };
            let patched = patch_json(&api, &object.name_any(), patch).await;
            if let Ok(patched) = &patched {
                // A spec that changed meanwhile was not planned for: the watch's event for it must not be skipped.
                if let Some(uid) = patched.uid().filter(|_| patched.metadata.generation == object.meta().generation) {
                    context.references.expectations.mark(uid, own_mark(patched));
                }
                object.meta_mut().finalizers.clone_from(&patched.metadata.finalizers);
                object.meta_mut().resource_version.clone_from(&patched.metadata.resource_version);
            }
            written(patched, "adding the finalizer")
        }
        Step::RemoveFinalizer => {
            let position = object.finalizers().iter().position(|finalizer| finalizer == meta::FINALIZER);
            let Some(position) = position else { return Ok(Applied::Done) };
            let path = format!("/metadata/finalizers/{position}");
            let patch =
                json!([{"op": "test", "path": &path, "value": meta::FINALIZER}, {"op": "remove", "path": &path}]);
            let patched = patch_json(&api, &object.name_any(), patch).await;
            written(patched, "removing the finalizer")
        }
        Step::Put(entry) => {
            let entries: [Entry; 1] = [*entry];
            let actor = actor(context, object);
            context.ledger.put(&actor, &entries).await.map_err(Error::ledger("writing the directory"))?;
            count_departures(context, &entries[0]);
            Ok(Applied::Done)
        }
        Step::CreateSecret(secret) => {
            still_leads(context)?;
            let parameters = PostParams { field_manager: Some(meta::MANAGER.to_owned()), ..PostParams::default() };
            let place = Name::new(namespace.as_deref().unwrap_or_default(), secret.name_any());
            let known = context.references.secret_intended(&place, &object.name_any());
            let created = secrets().create(&parameters, &secret).await;
            // If the reply to an earlier create was lost, the Secret may exist.
            if !known && matches!(created, Err(kube::Error::Api(_))) {
                context.references.secret_refused(&place);
            }
            remember(context, &created);
            written(created, format!("creating the Secret \"{}\"", secret.name_any()))
        }
        Step::PatchSecret { name, patch } => {
            still_leads(context)?;
            let place = Name::new(namespace.as_deref().unwrap_or_default(), &name);
            context.references.secret_intended(&place, &object.name_any());
            let patched = secrets().patch(&name, &manager(), &Patch::Merge(patch)).await;
            remember(context, &patched);
            written(patched, format!("writing the Secret \"{name}\""))
        }
        Step::ReadBack { name, password } => {
            let doing = format!("reading the Secret \"{name}\" back");
            let live = secrets().get_opt(&name).await.map_err(Error::cluster(doing))?;
            match live {
                Some(live) if secret::carries(&live, &password) => Ok(Applied::Done),
                Some(_) => Err(Error::ReadBack),
                None => Ok(Applied::Conflict),
            }
        }
        Step::DeleteSecret { name, uid, resource_version } => {
            still_leads(context)?;
            let preconditions = Preconditions { uid: Some(uid), resource_version: Some(resource_version) };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match secrets().delete(&name, &parameters).await {
                Err(error) if status_code(&error) == Some(404) => Ok(Applied::Done),
                deleted => written(deleted, format!("deleting the Secret \"{name}\" of an earlier name")),
            }
        }
    }
}

/// Returns the actor that the audit trail names for a write to the directory.
fn actor<K: Kind>(context: &Context, object: &K) -> String {
    let (status, meta) = (object.status(), object.meta());
    let conditions = status.map(K::conditions).unwrap_or_default();
    let last = meta::LastPass::of(status.and_then(K::observed_generation), conditions);
    let editor = context.references.edits.manager(meta);
    meta::actor(meta, last, editor.as_deref(), context.settings.changed_by_stamped)
}

/// Queues a recount of the accounts of each policy that the account left.
fn count_departures(context: &Context, entry: &Entry) {
    let Entry::Account(account) = entry else { return };
    for departure in &account.departures {
        if let Some(Ref::Policy(policy)) = context.ids.object_of(Holder::Policy(departure.policy)) {
            context.references.account_left(&policy);
        }
    }
}

/// Fails if this operator no longer leads. The ledger refuses the writes of a deposed operator; the API server has no
/// such fence. A request already under way is harmless: its password stays valid until another one is read back.
pub(super) fn still_leads(context: &Context) -> Result<()> {
    if context.ledger.leads() { Ok(()) } else { Err(Error::Deposed(Deposed)) }
}

/// Remembers the Secret as written, so that the watch's event for it does not start another pass.
fn remember(context: &Context, answer: &kube::Result<Secret>) {
    if let Ok(secret) = answer {
        context.references.secret_written(secret);
    }
}

async fn patch_json<K: Kind>(
    api: &Api<K>,
    name: &str,
    operations: serde_json::Value,
) -> kube::Result<PartialObjectMeta<K>> {
    let operations = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    api.patch_metadata(name, &manager(), &Patch::Json::<()>(operations)).await
}

/// Sets our field manager on plain writes too, so that `managedFields` shows which fields are ours.
fn manager() -> PatchParams {
    PatchParams { field_manager: Some(meta::MANAGER.to_owned()), ..PatchParams::default() }
}

/// Converts the reply to a write into an outcome.
fn written<T>(answer: kube::Result<T>, doing: impl Into<Cow<'static, str>>) -> Result<Applied> {
    let doing = doing.into();
    let error = match answer {
        Ok(_) => return Ok(Applied::Done),
        Err(error) => error,
    };
    match status_code(&error) {
        // 409: a concurrent create, or another resource version. 422 on a JSON patch: its test failed.
        Some(409) => Ok(Applied::Conflict),
        Some(422) if doing.contains("finalizer") => Ok(Applied::Conflict),
        Some(404) => Ok(Applied::Terminating),
        Some(403) if is_terminating(&error) => Ok(Applied::Terminating),
        Some(_) | None => Err(Error::cluster(doing)(error)),
    }
}

/// Checks whether the API server refused the request because the namespace is terminating.
fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
