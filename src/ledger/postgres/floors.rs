//! Floors: usage known from elsewhere, put into an accepted ledger, or remembered for entries that are still to come.

use std::collections::HashMap;

use super::failure::{Failure, Op};
use super::history;
use super::lots::LotsByHolder;
use super::pool::Wires;
use super::rows::{self, lot_columns};
use super::tx::{Clock, Lane, Tx};
use crate::domain::credit::{Meter, Source};
use crate::domain::directory::{Entry, HolderTerms};
use crate::domain::id::{Holder, IdMap, Kind};
use crate::ledger::audit::Note;
use crate::ledger::rules::floors::{Bound, Floor, Raised, lacking};
use crate::ledger::store::Session;

pub async fn raise(wires: &Wires, clock: &Clock, session: &Session, actor: &str, floors: &[Floor]) -> Op<u64> {
    let mut tx = Tx::begin_fenced(wires, clock, session, Lane::Records).await?;
    let raised = raise_in(&mut tx, actor, floors).await;
    tx.end(raised).await
}

async fn raise_in(tx: &mut Tx, actor: &str, floors: &[Floor]) -> Op<u64> {
    let now = tx.now;
    let running: Vec<&Floor> = floors.iter().filter(|floor| now < floor.until).collect();
    let holders: Vec<Holder> = running.iter().map(|floor| floor.holder).collect();
    let entries = super::read::entries(tx, &holders).await?;
    let (known, unknown): (Vec<&Floor>, Vec<&Floor>) =
        running.into_iter().partition(|floor| entries.contains_key(&floor.holder));
    remember(tx, &unknown).await?;
    let known: Vec<(&Floor, &Entry)> = known.into_iter().map(|floor| (floor, &entries[&floor.holder])).collect();
    Ok(raise_known(tx, actor, &known).await?.len() as u64)
}

async fn raise_known(tx: &mut Tx, actor: &str, floors: &[(&Floor, &Entry)]) -> Op<Vec<Raised>> {
    let mut holders: Vec<Holder> = floors.iter().map(|(floor, _)| floor.holder).collect();
    holders.sort_unstable();
    holders.dedup();
    let mut lots = tx.lock_lots_of(&holders).await?;
    for (floor, entry) in floors {
        // The amount spent is known, whether or not it is limited at present.
        let terms = HolderTerms { priced: floor.meter == Meter::AccountSpend, ..entry.terms() };
        if let Some(of_holder) = lots.get_mut(&floor.holder) {
            tx.run(of_holder, &terms).await?;
        }
    }
    tx.insert_new(&mut lots).await?;
    let mut raised = Vec::new();
    for (floor, entry) in floors {
        if let Some(of_holder) = lots.get_mut(&floor.holder) {
            let (more, topped_up) = of_holder.raise(floor, &entry.terms(), tx.now);
            tx.record_notes(actor, floor.holder, topped_up);
            raised.extend(more);
        }
    }
    write(tx, actor, &lots, &raised).await?;
    Ok(raised)
}

/// Writes raised lots, and the adjustments that explain them. The use of a period is known from now on, also to a later
/// limit.
async fn write(tx: &mut Tx, actor: &str, lots: &LotsByHolder, raised: &[Raised]) -> Op<()> {
    tx.write_changed(lots).await?;
    let ids: Vec<i64> = raised.iter().map(|raised| raised.lot.id.0).collect();
    let credits: Vec<i64> = raised.iter().map(|raised| raised.by).collect();
    tx.execute(
        "INSERT INTO adjustment (lot, credits, actor, at) \
         SELECT x.lot, x.credits, $3, $4 FROM unnest($1::bigint[], $2::bigint[]) x(lot, credits)",
        &[&ids, &credits, &actor, &tx.now_ms()],
    )
    .await?;
    let of_periods = raised.iter().filter(|raised| raised.lot.source == Source::Period);
    history::add(tx, &of_periods.map(|raised| (raised.lot.holder, raised.by)).collect::<Vec<_>>()).await?;
    for Raised { lot, by } in raised {
        tx.mark_moved(lot.holder);
        tx.record_notes(actor, lot.holder, [Note::raised(lot, *by)]);
    }
    Ok(())
}

async fn remember(tx: &Tx, floors: &[&Floor]) -> Op<()> {
    for floor in floors {
        let (used, remaining, seen_at) = match floor.bound {
            Bound::UsedAtLeast(used) => (Some(used), None, None),
            Bound::LeftAtMost { left, at } => (None, Some(left), Some(at.as_millisecond())),
        };
        tx.execute(
            "INSERT INTO floor AS f (kind, holder, meter, used, remaining, seen_at, until) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (kind, holder, meter) DO UPDATE SET used = greatest(f.used, excluded.used), \
                 remaining = least(f.remaining, excluded.remaining), seen_at = greatest(f.seen_at, excluded.seen_at), \
                 until = excluded.until",
            &[
                &rows::kind_number(floor.holder.kind()),
                &floor.holder.uuid(),
                &floor.meter.as_str(),
                &used,
                &remaining,
                &seen_at,
                &floor.until.as_millisecond(),
            ],
        )
        .await?;
    }
    Ok(())
}

/// Applies the floors that were remembered for holders whose entries are new.
pub async fn raise_remembered(tx: &mut Tx, actor: &str, entries: &[&Entry]) -> Op<()> {
    let (kinds, ids) = rows::columns(entries.iter().map(|entry| entry.holder()));
    let found = tx
        .query(
            "DELETE FROM floor f USING unnest($1::smallint[], $2::uuid[]) h(kind, id) \
             WHERE f.kind = h.kind AND f.holder = h.id \
             RETURNING f.kind, f.holder, f.meter, f.used, f.remaining, f.seen_at, f.until",
            &[&kinds, &ids],
        )
        .await?;
    let mut floors = Vec::new();
    for row in &found {
        let word: &str = row.try_get(2)?;
        let meter = Meter::parse(word).ok_or_else(|| Failure::Row(format!("unknown meter {word}")))?;
        let bound = match row.try_get(3)? {
            Some(used) => Bound::UsedAtLeast(used),
            None => Bound::LeftAtMost { left: row.try_get(4)?, at: rows::instant(row.try_get(5)?)? },
        };
        floors.push(Floor { holder: rows::holder(row, 0)?, meter, bound, until: rows::edge(row.try_get(6)?)? });
    }
    let running = floors.iter().filter(|floor| tx.now < floor.until).filter_map(|floor| {
        let entry = entries.iter().find(|entry| entry.holder() == floor.holder)?;
        Some((floor, *entry))
    });
    let running: Vec<(&Floor, &Entry)> = running.collect();
    if running.is_empty() || raise_known(tx, actor, &running).await?.is_empty() {
        return Ok(());
    }
    raise_parents(tx, actor, entries).await
}

/// Raises accounts by what their keys were raised since the acceptance, then policies by what their accounts were.
/// `new` entries are not stored yet.
pub async fn raise_parents(tx: &mut Tx, actor: &str, new: &[&Entry]) -> Op<()> {
    for kind in [Kind::Key, Kind::Account] {
        let raised = raised_since_acceptance(tx, kind).await?;
        let holders: Vec<Holder> = raised.iter().map(|raised| raised.lot.holder).collect();
        let entries = entries(tx, &holders, new).await?;
        let mut children: IdMap<Holder, Vec<Raised>> = IdMap::default();
        for raised in raised {
            if let Some(parent) = entries.get(&raised.lot.holder).and_then(Entry::parent) {
                children.entry(parent).or_default().push(raised);
            }
        }
        if !children.is_empty() {
            raise_those(tx, actor, &children, new).await?;
        }
    }
    Ok(())
}

async fn entries(tx: &Tx, holders: &[Holder], new: &[&Entry]) -> Op<HashMap<Holder, Entry>> {
    let mut entries = super::read::entries(tx, holders).await?;
    let new = new.iter().filter(|entry| holders.contains(&entry.holder()));
    entries.extend(new.map(|entry| (entry.holder(), Entry::clone(entry))));
    Ok(entries)
}

async fn raise_those(tx: &mut Tx, actor: &str, children: &IdMap<Holder, Vec<Raised>>, new: &[&Entry]) -> Op<()> {
    let parents: Vec<Holder> = children.keys().copied().collect();
    let entries = entries(tx, &parents, new).await?;
    let mut lots = tx.lock_lots_of(&entries.keys().copied().collect::<Vec<_>>()).await?;
    for (parent, entry) in &entries {
        if let Some(of_parent) = lots.get_mut(parent) {
            tx.run(of_parent, &entry.terms()).await?;
        }
    }
    tx.insert_new(&mut lots).await?;
    let mut raised = Vec::new();
    for (parent, entry) in &entries {
        let Some(of_parent) = lots.get_mut(parent) else { continue };
        let Some(lot) = of_parent.running(tx.now).cloned() else { continue };
        let own: i64 = tx
            .query_one(
                "SELECT coalesce(sum(credits), 0)::bigint FROM adjustment \
                 WHERE lot = $1 AND at >= (SELECT accepted_at FROM meta)",
                &[&lot.id.0],
            )
            .await?
            .try_get(0)?;
        let by = lacking(&Raised { lot, by: own }, &children[parent]);
        if by > 0 {
            raised.extend(of_parent.raise_by(by, entry.overage(), tx.now));
        }
    }
    write(tx, actor, &lots, &raised).await
}

/// Returns the period lots of holders of a kind that were raised since the acceptance.
async fn raised_since_acceptance(tx: &Tx, kind: Kind) -> Op<Vec<Raised>> {
    let found = tx
        .query(
            concat!(
                "SELECT ",
                lot_columns!(),
                ", a.credits FROM lot l JOIN ( \
                     SELECT lot, sum(credits)::bigint AS credits FROM adjustment \
                     WHERE at >= (SELECT accepted_at FROM meta) GROUP BY lot) a ON a.lot = l.id \
                 WHERE l.source = 'period' AND l.kind = $1"
            ),
            &[&rows::kind_number(kind)],
        )
        .await?;
    let raised = |row: &tokio_postgres::Row| Ok(Raised { lot: rows::lot(row)?, by: row.try_get("credits")? });
    found.iter().map(raised).collect()
}

/// Deletes expired floors.
pub async fn forget(tx: &Tx) -> Op<()> {
    tx.execute("DELETE FROM floor WHERE until <= $1", &[&tx.now_ms()]).await?;
    Ok(())
}
