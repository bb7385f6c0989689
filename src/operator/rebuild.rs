//! Puts the resources back into a ledger that was accepted, before mail is charged to it.
//!
//! First the ids that statuses show are assigned again, so that nobody is made anew. Then every policy, account and key
//! is passed once, in this order: each pass writes its directory entry, takes the password of a key from its Secret, and
//! raises what is used to what the status shows, before that status is written again. Last, what stands in the ledger
//! and has no resource any more is removed. It may be interrupted anywhere and is then begun again.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use uuid::Uuid;

use super::error::{Error, Result};
use super::kinds::Kind;
use super::observe::Context;
use super::plan::meta;
use super::plan::usage::{Figures, Metered as _};
use super::references::Ref;
use super::watch::Name;
use crate::domain::credit::Meter;
use crate::domain::directory::{AccountEntry, Entry};
use crate::domain::id::{self, Holder};
use crate::domain::money::MICRO;
use crate::ledger::store::{Balance, Floor};

/// How long all objects of one kind may take, whatever fails. Then the others must not wait any longer for those whose
/// pass does not succeed; each still gets its credits and its password when it does.
const ROUND_MAX: Duration = Duration::from_secs(600);
/// A round in which nothing passes any more ends after this long.
const ROUND_SILENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Who is named in the audit trail for what follows from an acceptance.
const ACTOR: &str = "rebuild";

pub async fn run(context: &Context) -> Result<()> {
    let references = &context.references;
    references.ready().await?;
    context.forget_ledger().await;
    for policy in references.policies.state() {
        let id = policy.status.as_ref().and_then(|status| status.policy_id.clone());
        assign(context, id::Kind::Policy, policy.as_ref(), id).await?;
    }
    for account in references.accounts.state() {
        let id = account.status.as_ref().and_then(|status| status.account_id.clone());
        assign(context, id::Kind::Account, account.as_ref(), id).await?;
    }
    for key in references.keys.state() {
        let id = key.status.as_ref().and_then(|status| status.key_id.clone());
        assign(context, id::Kind::Key, key.as_ref(), id).await?;
    }
    context.guard.begin_rebuilding();
    let policies = references.policies.state();
    round(context, "policies", policies.iter().filter(|object| is_live(object.as_ref())).map(|o| o.reference())).await;
    let accounts = references.accounts.state();
    round(context, "accounts", accounts.iter().filter(|object| is_live(object.as_ref())).map(|o| o.reference())).await;
    let keys = references.keys.state();
    round(context, "keys", keys.iter().filter(|object| is_live(object.as_ref())).map(|o| o.reference())).await;
    remove_orphans(context).await?;
    context.books.reopen().await.map_err(Error::ledger("opening the rebuilt ledger"))
}

fn is_live<K: Resource>(object: &K) -> bool {
    !meta::deleting(object.meta())
}

/// An object that never had an id, or whose status holds none that can be read, gets one as a new object does.
async fn assign<K: Resource>(context: &Context, kind: id::Kind, object: &K, shown: Option<String>) -> Result<()> {
    let Some(id) = shown.and_then(|id| id.parse::<Uuid>().ok()) else { return Ok(()) };
    let uid = match object.namespace() {
        None => String::new(),
        Some(namespace) => match context.references.namespace(&namespace).and_then(|namespace| namespace.uid()) {
            Some(uid) => uid,
            // It is leaving, and so is the object.
            None => return Ok(()),
        },
    };
    let name = object.name_any();
    let held = context.books.assign(kind, &uid, &name, id).await.map_err(Error::ledger("assigning an id"))?;
    if held != id {
        tracing::warn!(kind = kind.as_str(), name, shown = %id, %held, "the id that this status shows is another object's");
    }
    Ok(())
}

/// Wakes objects and waits until each was passed.
async fn round(context: &Context, what: &'static str, objects: impl Iterator<Item = Ref>) {
    let mut left: Vec<Ref> = objects.collect();
    let (total, begun) = (left.len(), Instant::now());
    for one in &left {
        context.wakes.wake(one).await;
    }
    let mut progress = Instant::now();
    while !left.is_empty() && progress.elapsed() < ROUND_SILENCE && begun.elapsed() < ROUND_MAX {
        tokio::time::sleep(POLL).await;
        let before = left.len();
        left.retain(|one| !context.guard.has_passed(one) && exists(context, one));
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

/// Raises what is used to what the object's status shows. Says whether anything was raised: then the figures that were
/// observed are old.
pub async fn raise<K: Kind>(context: &Context, object: &K) -> Result<bool> {
    let Some((figures, _)) = object.status().and_then(K::Status::shown) else { return Ok(false) };
    let Some(holder) = context.holder_of(&object.reference()) else { return Ok(false) };
    let balance = context.books.balance(holder).await.map_err(Error::ledger("reading a balance"))?;
    let floors = floors(holder, &figures, balance.as_ref());
    let raised = context.books.raise(ACTOR, &floors).await.map_err(Error::ledger("raising what is used"))?;
    Ok(raised > 0)
}

/// What a status shows as used, of each meter. Prepaid credits are shown as what is left of them, so that it takes the
/// ledger's grants to say what was used.
fn floors(holder: Holder, figures: &Figures, balance: Option<&Balance>) -> Vec<Floor> {
    let floor = |meter, consumed, until| Floor { holder, meter, consumed, until };
    let mut floors = vec![floor(Meter::of_period(holder), figures.used, figures.end)];
    let prepaid = balance.and_then(|balance| balance.prepaid);
    if let (Some(left), Some(known), Some(meter)) = (figures.prepaid, prepaid, Meter::of_prepaid(holder)) {
        floors.push(floor(meter, known.granted - left, Timestamp::MAX));
    }
    if let Some(spend) = figures.spend {
        let micro = spend.used_minor.saturating_mul(MICRO);
        floors.push(floor(Meter::AccountSpend, micro, Timestamp::MAX));
    }
    floors
}

/// A credential must not outlive its resource, and a ledger from before may hold some that do. Whoever accepted it has
/// looked, so there is no number of them at which this stops.
async fn remove_orphans(context: &Context) -> Result<()> {
    let changes = context.books.store().changes(0).await.map_err(Error::ledger("reading the directory"))?;
    let now = context.clock.now();
    let mut gone = Vec::new();
    for entry in changes.entries {
        let stands = |what: Ref, holder: Holder| exists(context, &what) && context.holder_of(&what) == Some(holder);
        match entry {
            Entry::Account(account) if account.removed_at.is_none() => {
                let what = Ref::Account(Name::new(&account.namespace, &account.name));
                if !stands(what, Holder::Account(account.id)) {
                    gone.push(Entry::Account(AccountEntry { removed_at: Some(now), ..account }));
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
        context.books.put(ACTOR, &[entry]).await.map_err(Error::ledger("removing what has no resource"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::SpendStatus;
    use crate::domain::credit::{Limit, Lot, Overage};
    use crate::domain::period::Calendar;
    use crate::ledger::store::{PrepaidBalance, Usage};

    #[test]
    fn each_meter_that_a_status_shows_has_a_floor() {
        let holder = Holder::Account(Uuid::from_u128(1).into());
        let at = |second| Timestamp::from_second(second).expect("a time");
        let spend = Some(SpendStatus { limit_minor: 500, used_minor: 70 });
        let (prepaid, remaining) = (Some(30), Some(30));
        let figures =
            Figures { start: at(0), end: at(100), granted: None, used: 12, remaining, prepaid, overage: None, spend };
        let limit = Limit { credits: None, calendar: Calendar::monthly_utc() };
        let lot = Lot::of_period(holder, limit.calendar.window(at(0)), None);
        let prepaid = PrepaidBalance { granted: 100, remaining: 90, next_top_up: None, next_expiry: None };
        let (usage, overage) = (Usage::default(), Overage::Deny);
        let balance = Balance { lot, usage, overage, prepaid: Some(prepaid), spend: None };
        let found = floors(holder, &figures, Some(&balance));
        let shown: Vec<_> = found.iter().map(|floor| (floor.meter, floor.consumed, floor.until)).collect();
        assert_eq!(
            shown,
            [
                (Meter::AccountCap, 12, at(100)),
                (Meter::AccountPrepaid, 70, Timestamp::MAX),
                (Meter::AccountSpend, 70_000_000, Timestamp::MAX),
            ]
        );
        // Where the ledger knows of no grants, there is nothing to take them from.
        assert_eq!(floors(holder, &figures, None).len(), 2);
    }
}
