//! Revokes keys that have no resource any more.
//!
//! Finalizers make that rare: an object let go by force, or a cluster restored without some of its objects. Because
//! the same is seen when a cluster lost its objects by mistake, many at once stop the sweep for a human to look.

use std::time::Duration;

use kube::Api;

use super::error::{Error, Result};
use super::observe::Context;
use super::references::Ref;
use super::watch::Name;
use crate::crd::SubAccountApiKey;
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, KeyId};

const EVERY: Duration = Duration::from_secs(3600);
/// After a failure, before the next try.
const RETRY: Duration = Duration::from_secs(60);
/// So many may always go: 5 % of a small installation is less than one key.
const FLOOR: usize = 10;
/// One in twenty, 5 %.
const SHARE: usize = 20;

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    loop {
        context.guard.opened().await;
        let pause = match sweep(context).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "sweeping keys without a resource");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // What was let go without the ledger's note is gone from the store by then, and the ledger may be back.
            () = context.let_go.notified() => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn sweep(context: &Context) -> Result<()> {
    let standing = context.books.standing_keys().await.map_err(Error::ledger("reading the directory"))?;
    let total = standing.len();
    let gone: Vec<(KeyId, Name)> = standing
        .into_iter()
        .map(|(id, (namespace, name))| (id, Name::new(namespace, name)))
        .filter(|(id, name)| !is_theirs(context, *id, name))
        .collect();
    if is_too_many(gone.len(), total) {
        tracing::error!(
            keys.gone = gone.len(),
            keys.total = total,
            "too many keys have no resource; none is revoked until somebody has looked"
        );
        context.report.sweep(true, 0);
        return Ok(());
    }
    let mut revoked = 0;
    for (id, name) in gone {
        revoked += u64::from(revoke(context, id, &name).await?);
    }
    context.report.sweep(false, revoked);
    Ok(())
}

/// Whether the resource of this name is this key's, as far as is known. In a namespace that was made again another key
/// may have the name.
fn is_theirs(context: &Context, id: KeyId, name: &Name) -> bool {
    let known = context.holder_of(&Ref::Key(name.clone()));
    context.references.key(name).is_some() && known.is_none_or(|holder| holder == Holder::Key(id))
}

fn is_too_many(gone: usize, total: usize) -> bool {
    gone > FLOOR.max(total / SHARE)
}

/// Revokes after a live look: a cache that lacks an object proves nothing.
async fn revoke(context: &Context, id: KeyId, name: &Name) -> Result<bool> {
    let api: Api<SubAccountApiKey> = Api::namespaced(context.client.clone(), &name.namespace);
    let live = api.get_metadata_opt(&name.name).await.map_err(Error::cluster("looking for a key's resource"))?;
    if live.is_some() && context.key_id(name).await?.is_none_or(|current| current == id) {
        return Ok(false);
    }
    let entry = context.books.entry(Holder::Key(id)).await.map_err(Error::ledger("reading the directory"))?;
    let Some(Entry::Key(entry)) = entry else { return Ok(false) };
    let entry = entry.removed(context.clock.now());
    tracing::warn!(key.id = %id, "a key without a resource is revoked");
    context.books.put("sweep", &[Entry::Key(entry)]).await.map_err(Error::ledger("revoking a key"))?;
    // A resource that came between the look and the write gets its credential back at once.
    context.queues.wake(&Ref::Key(name.clone()));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::is_too_many;

    #[test]
    fn ten_may_always_go_and_five_in_a_hundred_of_many() {
        for (gone, total, stops) in [(10, 10, false), (11, 11, true), (50, 1000, false), (51, 1000, true)] {
            assert_eq!(is_too_many(gone, total), stops, "{gone} of {total}");
        }
    }
}
