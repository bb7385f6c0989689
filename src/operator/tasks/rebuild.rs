//! Puts the resources back into an accepted ledger, before mail is charged to it.
//!
//! First the IDs in the statuses are assigned again, so that no object gets a new identity, and the ledger receives the
//! use that these statuses show, also of objects being deleted, so that an object made again finds it. Then every
//! policy, account and key is reconciled once, in this order: each pass writes its directory entry and takes the
//! password of a key from its Secret. Last, ledger entries without a resource are removed. It may be interrupted
//! anywhere and then starts again.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use uuid::Uuid;

use crate::domain::credit::Meter;
use crate::domain::directory::Entry;
use crate::domain::id::{self, Holder};
use crate::domain::money::MICRO;
use crate::ledger::store::{Bound, Floor};
use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::kinds::Kind;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::figures::Figures;
use crate::operator::plan::meta;
use crate::operator::plan::usage::Metered as _;

/// Limit for all objects of one kind. After it the other objects must not wait any longer for those whose pass does not
/// succeed; each of those still gets its credits and its password when it does.
const ROUND_MAX: Duration = Duration::from_secs(600);
/// Time without any further success after which a round ends.
const ROUND_SILENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Number of floors per call.
const PAGE: usize = 500;
/// The actor in the audit trail for the effects of an acceptance.
const ACTOR: &str = "rebuild";

pub async fn run(context: &Context) -> Result<()> {
    let references = &context.references;
    references.ready().await?;
    context.forget_ledger().await;
    let mut floors = Vec::new();
    for policy in references.policies.state() {
        let id = policy.status.as_ref().and_then(|status| status.policy_id.clone());
        floors.extend(assign(context, policy.as_ref(), id::Kind::Policy, id).await?);
    }
    for account in references.accounts.state() {
        let id = account.status.as_ref().and_then(|status| status.account_id.clone());
        floors.extend(assign(context, account.as_ref(), id::Kind::Account, id).await?);
    }
    for key in references.keys.state() {
        let id = key.status.as_ref().and_then(|status| status.key_id.clone());
        floors.extend(assign(context, key.as_ref(), id::Kind::Key, id).await?);
    }
    for page in floors.chunks(PAGE) {
        context.ledger.raise(ACTOR, page).await.map_err(Error::ledger("restoring the usage"))?;
    }
    context.ledger_guard.begin_rebuilding();
    let policies = references.policies.state();
    round(context, "policies", policies.iter().filter(|object| is_live(object.as_ref())).map(|o| o.reference())).await;
    let accounts = references.accounts.state();
    round(context, "accounts", accounts.iter().filter(|object| is_live(object.as_ref())).map(|o| o.reference())).await;
    let keys = references.keys.state();
    round(context, "keys", keys.iter().filter(|object| is_live(object.as_ref())).map(|o| o.reference())).await;
    remove_orphans(context).await?;
    context.ledger.reopen().await.map_err(Error::ledger("opening the rebuilt ledger"))
}

fn is_live<K: Resource>(object: &K) -> bool {
    !meta::deleting(object.meta())
}

/// Assigns the ID that the object's status shows, and returns the use that it shows. An object that never had an ID, or
/// whose status has no readable one, gets one as a new object does.
async fn assign<K: Kind>(context: &Context, object: &K, kind: id::Kind, shown: Option<String>) -> Result<Vec<Floor>> {
    let Some(id) = shown.and_then(|id| id.parse::<Uuid>().ok()) else { return Ok(vec![]) };
    let uid = match object.namespace() {
        None => String::new(),
        Some(namespace) => match context.references.namespace(&namespace).and_then(|namespace| namespace.uid()) {
            Some(uid) => uid,
            // The namespace is being deleted, and so is the object.
            None => return Ok(vec![]),
        },
    };
    let name = object.name_any();
    let held = context.ledger.assign(kind, &uid, &name, id).await.map_err(Error::ledger("assigning an id"))?;
    if held != id {
        tracing::warn!(kind = kind.as_str(), name, shown = %id, %held, "the id that this status shows is another object's");
    }
    let figures = object.status().and_then(K::Status::shown);
    Ok(figures.map_or(vec![], |(figures, at)| floors(Holder::new(kind, held), &figures, at)))
}

/// Wakes objects and waits until each has had a successful pass.
async fn round(context: &Context, what: &'static str, objects: impl Iterator<Item = Ref>) {
    let mut left: Vec<Ref> = objects.collect();
    let (total, begun) = (left.len(), Instant::now());
    for one in &left {
        context.queues.wake(one);
    }
    let mut progress = Instant::now();
    while !left.is_empty() && progress.elapsed() < ROUND_SILENCE && begun.elapsed() < ROUND_MAX {
        tokio::time::sleep(POLL).await;
        let before = left.len();
        left.retain(|one| !context.ledger_guard.is_restored(one) && exists(context, one));
        if left.len() < before {
            progress = Instant::now();
        }
    }
    if left.is_empty() {
        tracing::info!(total, "all {what} are back in the ledger");
    } else {
        tracing::error!(total, left = left.len(), "some {what} could not be put back; they are tried on by themselves");
    }
}

fn exists(context: &Context, what: &Ref) -> bool {
    match what {
        Ref::Policy(name) => context.references.policy(&name.name).is_some(),
        Ref::Account(name) => context.references.account(name).is_some(),
        Ref::Key(name) => context.references.key(name).is_some(),
    }
}

/// Returns the use that a status shows, per meter. `at`: the time of its observation.
fn floors(holder: Holder, figures: &Figures, at: Timestamp) -> Vec<Floor> {
    let floor = |meter, bound, until| Floor { holder, meter, bound, until };
    let mut floors = vec![floor(Meter::of_period(holder), Bound::UsedAtLeast(figures.used), figures.end)];
    if let (Some(left), Some(meter)) = (figures.prepaid, Meter::of_prepaid(holder)) {
        floors.push(floor(meter, Bound::LeftAtMost { left, at }, Timestamp::MAX));
    }
    if let Some(spend) = figures.spend {
        let micro = spend.used_minor.saturating_mul(MICRO);
        floors.push(floor(Meter::AccountSpend, Bound::UsedAtLeast(micro), Timestamp::MAX));
    }
    floors
}

/// Removes entries without a resource: a credential must not outlive its resource, and an old ledger may hold some that
/// do. The administrator who accepted it has reviewed it, so there is no limit on their number.
async fn remove_orphans(context: &Context) -> Result<()> {
    let changes = context.ledger.store().changes(0).await.map_err(Error::ledger("reading the directory"))?;
    let now = context.clock.now();
    let mut gone = Vec::new();
    for entry in changes.entries {
        let stands = |what: Ref, holder: Holder| {
            exists(context, &what) && context.ids.holder_of(&context.references, &what) == Some(holder)
        };
        match entry {
            Entry::Account(account) if account.removed_at.is_none() => {
                let what = Ref::Account(Name::new(&account.namespace, &account.name));
                if !stands(what, Holder::Account(account.id)) {
                    gone.push(Entry::Account(account.removed(now)));
                }
            }
            Entry::Key(key) if key.removed_at.is_none() => {
                let what = Ref::Key(Name::new(&key.namespace, &key.name));
                if !stands(what, Holder::Key(key.id)) {
                    gone.push(Entry::Key(key.removed(now)));
                }
            }
            Entry::Policy(_) | Entry::Account(_) | Entry::Key(_) => {}
        }
    }
    if !gone.is_empty() {
        tracing::warn!(entries = gone.len(), "entries of the accepted ledger have no resource and are removed");
    }
    for entry in gone {
        context.ledger.put(ACTOR, &[entry]).await.map_err(Error::ledger("removing an entry without a resource"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::SpendStatus;

    #[test]
    fn each_meter_that_a_status_shows_has_a_floor() {
        let holder = Holder::Account(Uuid::from_u128(1).into());
        let at = |second| Timestamp::from_second(second).expect("a time");
        let spend = Some(SpendStatus { limit_minor: 500, used_minor: 70 });
        let (prepaid, remaining) = (Some(30), Some(30));
        let figures = Figures {
            start: at(0),
            end: at(100),
            granted: None,
            used: 12,
            remaining,
            left: remaining,
            prepaid,
            overage: None,
            spend,
        };
        let found = floors(holder, &figures, at(50));
        let shown: Vec<_> = found.iter().map(|floor| (floor.meter, floor.bound, floor.until)).collect();
        assert_eq!(
            shown,
            [
                (Meter::AccountCap, Bound::UsedAtLeast(12), at(100)),
                (Meter::AccountPrepaid, Bound::LeftAtMost { left: 30, at: at(50) }, Timestamp::MAX),
                (Meter::AccountSpend, Bound::UsedAtLeast(70_000_000), Timestamp::MAX),
            ]
        );
    }
}
