//! Searches the directory for entries whose resource is gone, and writes them off.
//!
//! Deletions that a watch saw are written off at once; the sweep finds those that no watch saw: an object deleted while
//! the operator was down, a cluster restored without some of its objects. [`orphans`] decides how many may go without
//! an administrator's approval.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::id::{Holder, PolicyId};
use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::meta;
use crate::operator::plan::orphans::{self, Census, Orphan};
use crate::operator::tasks::write_off::{Loss, loss, write_off};

const EVERY: Duration = Duration::from_secs(3600);
/// Pause after a failure, and while orphans wait for an administrator.
const RETRY: Duration = Duration::from_secs(60);

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    loop {
        context.ledger_guard.opened().await;
        let pause = match sweep(context).await {
            Ok(0) => EVERY,
            Ok(_) => RETRY,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "sweeping for entries without a resource");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.references.deletions.missing() => {}
        }
    }
}

/// Sweeps once. Returns the number of orphans kept.
async fn sweep(context: &Context) -> Result<usize> {
    let (totals, suspects) = suspects(context).await?;
    let home = context.settings.namespace.clone();
    let mut census = Census { totals, home: home.clone(), ..Census::default() };
    for (what, holder, policy) in suspects {
        match (loss(context, &what, holder).await?, &what) {
            (None, _) => {}
            // An account without its policy is refused anyway, and a key of a deleted namespace must not log in.
            (Some(Loss::Object), Ref::Policy(_)) | (Some(Loss::Namespace), _) => {
                write_off(context, &what, holder, false).await?;
            }
            (Some(Loss::Object), Ref::Account(name) | Ref::Key(name)) => {
                census.orphans.push(Orphan { holder, name: name.clone(), policy });
            }
        }
    }
    let places = census.orphans.iter().map(|orphan| orphan.name.namespace.clone()).chain([home]);
    census.approvals = places.filter_map(|place| Some((place.clone(), approval(context, &place)?))).collect();
    let verdict = orphans::judge(&census);
    for orphan in &verdict.write_off {
        let what = reference(orphan);
        write_off(context, &what, orphan.holder, false).await?;
    }
    if verdict.kept > 0 {
        tracing::error!(kept = verdict.kept, "too many entries have no resource; they wait for an administrator");
    }
    context.report.sweep(verdict.kept > 0);
    for policy in context.orphans.replace(verdict.sentences) {
        if let Some(what) = context.ids.object_of(Holder::Policy(policy)) {
            context.queues.wake(&what);
        }
    }
    Ok(verdict.kept)
}

type Suspect = (Ref, Holder, Option<PolicyId>);

/// Counts the entries in service per namespace, and lists those whose resource no watch knows.
async fn suspects(context: &Context) -> Result<(BTreeMap<String, usize>, Vec<Suspect>)> {
    let found = context.ledger.in_service(|in_service| {
        let (mut totals, mut suspects) = (BTreeMap::<String, usize>::new(), Vec::new());
        for (what, holder) in in_service.all() {
            if let Ref::Account(name) | Ref::Key(name) = what {
                *totals.entry(name.namespace.clone()).or_default() += 1;
            }
            if !is_theirs(context, what, holder) {
                suspects.push((what.clone(), holder, in_service.policy_of(holder)));
            }
        }
        (totals, suspects)
    });
    found.await.map_err(Error::ledger("reading the directory"))
}

/// True if the resource of this name belongs to this holder, as far as is known. In a namespace that was made again
/// another object may have the name.
fn is_theirs(context: &Context, what: &Ref, holder: Holder) -> bool {
    let exists = match what {
        Ref::Policy(name) => context.references.policy(&name.name).is_some(),
        Ref::Account(name) => context.references.account(name).is_some(),
        Ref::Key(name) => context.references.key(name).is_some(),
    };
    exists && context.ids.holder_of(&context.references, what).is_none_or(|known| known == holder)
}

fn reference(orphan: &Orphan) -> Ref {
    let name: Name = orphan.name.clone();
    match orphan.holder {
        Holder::Policy(_) => Ref::Policy(name),
        Holder::Account(_) => Ref::Account(name),
        Holder::Key(_) => Ref::Key(name),
    }
}

/// Reads the finding that an administrator approved on the namespace.
fn approval(context: &Context, namespace: &str) -> Option<String> {
    let namespace = context.references.namespace(namespace)?;
    namespace.metadata.annotations.as_ref()?.get(meta::REVOKE_ORPHANS).cloned()
}
