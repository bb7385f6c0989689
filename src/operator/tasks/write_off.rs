//! Writes off the directory's entries whose resource is gone.
//!
//! A credential must not outlive its resource. Finalizers ensure that; this handles an object that was deleted without
//! one. Each is looked up live before it is written off, because an object missing from a cache proves nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt as _};
use uuid::Uuid;

use crate::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::ledger::audit;
use crate::operator::context::Context;
use crate::operator::error::{Error, Result, status_code};
use crate::operator::kinds::Kind;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::observe::secrets::adopted_secrets;
use crate::operator::plan::adoption::{self, Adoption};
use crate::operator::plan::meta;
use crate::operator::state::deletions::Pending;
use crate::operator::state::registered_ids::identify;

/// Delay after a failure before the next try: a credential works until then.
const RETRY: Duration = Duration::from_secs(2);
/// Tries to release a Secret that another writer keeps changing.
const CONFLICT_TRIES: usize = 5;

/// Writes off the resources that the watches saw deleted, until the future is dropped.
pub async fn run(context: &Context) {
    loop {
        let mut pending = context.references.deletions.next().await;
        context.ledger_guard.opened().await;
        if let Err(error) = write_off_all(context, &mut pending).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "writing off entries whose resource is gone");
            context.references.deletions.put_back(pending);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes off all that is `pending`, and leaves it empty.
async fn write_off_all(context: &Context, pending: &mut Pending) -> Result<()> {
    let found = context.ledger.in_service(|in_service| {
        let within = pending.namespaces.iter().flat_map(|namespace| in_service.in_namespace(namespace));
        let within = within.map(|what| (what, false));
        let gone = pending.resources.iter().map(|(what, purge)| (what.clone(), *purge));
        let all: Vec<(Ref, bool)> = within.chain(gone).collect();
        let holders = |(what, purge): (Ref, bool)| {
            in_service.of(&what).map(|holder| (what.clone(), holder, purge)).collect::<Vec<_>>()
        };
        all.into_iter().flat_map(holders).collect::<Vec<_>>()
    });
    for (what, holder, purge) in found.await.map_err(Error::ledger("reading the directory"))? {
        write_off(context, &what, holder, purge).await?;
    }
    *pending = Pending::default();
    Ok(())
}

/// The reason why an entry has no resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The object is gone from its namespace.
    Object,
    /// Its namespace is gone, or another one has the name.
    Namespace,
}

/// Looks up the resource of an entry, live. `None`: it exists.
pub async fn loss(context: &Context, what: &Ref, holder: Holder) -> Result<Option<Loss>> {
    let exists = match what {
        Ref::Policy(name) => exists::<CreditPolicy>(context, name).await?,
        Ref::Account(name) => exists::<SubAccount>(context, name).await?,
        Ref::Key(name) => exists::<SubAccountApiKey>(context, name).await?,
    };
    match live_id(context, what).await? {
        Some(id) if id == holder.uuid() => Ok((!exists).then_some(Loss::Object)),
        Some(_) | None => Ok(Some(Loss::Namespace)),
    }
}

/// Returns the ID of the object with this name in the namespace as it is now. Reads the namespace live, because a watch
/// may still show its predecessor. `None`: there is no such namespace. Does not remember the ID, because the object may
/// not exist.
async fn live_id(context: &Context, what: &Ref) -> Result<Option<Uuid>> {
    let name = what.name();
    if name.namespace.is_empty() {
        return identify(&context.ledger, what, "").await.map(Some);
    }
    let api: Api<Namespace> = Api::all(context.client.clone());
    let live = api.get_metadata_opt(&name.namespace).await.map_err(Error::cluster("reading a namespace"))?;
    let Some(uid) = live.and_then(|namespace: PartialObjectMeta<Namespace>| namespace.metadata.uid) else {
        return Ok(None);
    };
    identify(&context.ledger, what, &uid).await.map(Some)
}

async fn exists<K: Kind>(context: &Context, name: &Name) -> Result<bool> {
    let api = K::api(&context.client, Some(&name.namespace));
    let live = api.get_metadata_opt(&name.name).await.map_err(Error::cluster("looking for a resource"))?;
    Ok(live.is_some())
}

/// Takes an entry out of service for good, unless its resource exists. Returns true if it did.
pub async fn write_off(context: &Context, what: &Ref, holder: Holder, purge: bool) -> Result<bool> {
    if loss(context, what, holder).await?.is_none() {
        return Ok(false);
    }
    let entry = context.ledger.entry(holder).await.map_err(Error::ledger("reading the directory"))?;
    let Some(entry) = entry.filter(|entry| entry.removed_at().is_none()) else { return Ok(false) };
    let now = context.clock.now();
    let removed = match entry {
        Entry::Policy(policy) => Entry::Policy(policy.removed(now)),
        Entry::Account(account) if purge => {
            let namespace = namespace_uid(context, &account.namespace).await?;
            Entry::Account(account.purged(now, namespace))
        }
        Entry::Account(account) => Entry::Account(account.removed(now)),
        Entry::Key(key) => Entry::Key(key.removed(now)),
    };
    tracing::warn!(kind = holder.kind().as_str(), id = %holder.uuid(), "an entry without a resource is written off");
    context.ledger.put(audit::OPERATOR, &[removed]).await.map_err(Error::ledger("writing off an entry"))?;
    context.report.written_off(holder.kind());
    if let Ref::Key(name) = what {
        let_go_of_secrets(context, name).await?;
    }
    context.forget(what);
    // A resource that was made between the lookup and the write gets its credential back at once.
    context.queues.wake(what);
    Ok(true)
}

/// Removes a key's additions from the foreign Secrets that it shared. The Secrets that we made are garbage-collected.
async fn let_go_of_secrets(context: &Context, name: &Name) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &name.namespace);
    let parameters = PatchParams { field_manager: Some(meta::MANAGER.to_owned()), ..PatchParams::default() };
    let doing = "letting an adopted secret go";
    let found = adopted_secrets(&context.client, &context.references, name, None).await;
    let shared = match found {
        // The namespace's administrators took the right away; the password in it has ended.
        Err(error) if error.is_forbidden() => return Ok(()),
        found => found?,
    };
    for secret in shared {
        let mut live = Some(secret);
        for _ in 0..CONFLICT_TRIES {
            let Some(secret) = live.take() else { break };
            let adoption = Adoption::of(&secret.metadata);
            let Some(patch) = adoption.and_then(|adoption| adoption::release(&secret, &adoption)) else { break };
            match api.patch(&secret.name_any(), &parameters, &Patch::Merge(patch)).await {
                Ok(_) => {}
                Err(error) if status_code(&error) == Some(404) => {}
                // Another writer changed it since the read.
                Err(error) if status_code(&error) == Some(409) => {
                    live = api.get_opt(&secret.name_any()).await.map_err(Error::cluster(doing))?;
                }
                Err(error) => return Err(Error::cluster(doing)(error)),
            }
        }
    }
    Ok(())
}

/// Looks up the UID of the namespace in which a purged account keeps its place; empty if the namespace is gone.
async fn namespace_uid(context: &Context, name: &str) -> Result<String> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let live = api.get_metadata_opt(name).await.map_err(Error::cluster("reading a namespace"))?;
    Ok(live.and_then(|namespace: PartialObjectMeta<Namespace>| namespace.uid()).unwrap_or_default())
}
