//! Charging a batch: in one call where memory says that it fits, else decided on locked rows.

use std::collections::{HashMap, HashSet};

use super::failure::{Failure, Op};
use super::fingerprint::{self, Recognised};
use super::incarnation::refuse_unless_open;
use super::lots::Shelves;
use super::memory::{Columns, Memory, Plan, demand};
use super::rows;
use super::tx::{Clock, Lane, Tx, clock_ms};
use super::wire::{Lease, Wires};
use crate::domain::credit::{Blocked, Books, Demand, Part, Reservation, Verdict, decide};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::ledger::shelf::Shelf;
use crate::ledger::sources::Planned;
use crate::ledger::store::Session;
use crate::ledger::trail::LEDGER;

/// One round trip. Whatever does not hold fails the whole.
pub async fn charge_as_planned(
    wires: &Wires,
    clock: &Clock,
    session: &Session,
    plan: &Plan,
    batch: &[Reservation],
) -> Op<jiff::Timestamp> {
    let wire = Lease::take(wires).await?;
    let columns = &plan.columns;
    let digests: Vec<&[u8]> = batch.iter().filter_map(|asked| Some(asked.fingerprint.as_ref()?.0.as_slice())).collect();
    // Nothing is charged where one of them came before. A branch that is not taken is not run, and a fingerprint is
    // committed before its client is told to come again, so the branch may look outside of the function.
    let sql = if fingerprint::is_known(&wire) {
        "SELECT CASE WHEN EXISTS (SELECT FROM fingerprint WHERE digest = ANY ($1)) THEN NULL ELSE \
             (SELECT now_ms FROM reserve($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
             $19, $20, $21, $22, $23)) END"
    } else {
        "SELECT CASE WHEN $1::bytea[] IS NULL THEN NULL ELSE \
             (SELECT now_ms FROM reserve($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
             $19, $20, $21, $22, $23)) END"
    };
    let charged = wire
        .query_one(
            sql,
            &[
                &digests,
                &session.id,
                &session.epoch,
                &Lane::Reserve.number(),
                &clock_ms(clock),
                &plan.until,
                &plan.config_epoch,
                &plan.lots,
                &plan.deltas,
                &plan.over,
                &columns.days,
                &columns.messages,
                &columns.keys,
                &columns.accounts,
                &columns.policies,
                &columns.credits,
                &columns.unit_prices,
                &columns.key_lots,
                &columns.account_lots,
                &columns.policy_lots,
                &columns.more,
                &columns.firsts,
                &columns.lasts,
            ],
        )
        .await;
    wire.give_back_answered();
    charged?.try_get::<_, Option<i64>>(0)?.map_or(Err(Failure::Overtaken), rows::instant)
}

/// Decides on locked rows.
pub async fn decide_locked(
    wires: &Wires,
    clock: &Clock,
    session: &Session,
    memory: &mut Memory,
    batch: &[Reservation],
) -> Op<Vec<Verdict>> {
    let mut tx = Tx::begin_fenced(wires, clock, session, Lane::Reserve).await?;
    let result = decide_in(&mut tx, session, memory, batch).await;
    let now = tx.now;
    let (verdicts, shelves) = tx.end(result).await?;
    memory.learn(shelves, now);
    Ok(verdicts)
}

async fn decide_in(
    tx: &mut Tx,
    session: &Session,
    memory: &mut Memory,
    batch: &[Reservation],
) -> Op<(Vec<Verdict>, Shelves)> {
    refuse_unless_open(tx.state)?;
    memory.renew(tx).await?;
    memory.load_senders(tx, batch.iter().map(|reservation| reservation.key)).await?;
    let reserved = reserved(tx, batch).await?;
    let is_open = |asked: &&Reservation| {
        let known = memory.sender(asked.key).is_some_and(|sender| sender.standing(tx.now).is_ok());
        known && !reserved.contains(&asked.message.0)
    };
    let again = Recognised::look(tx, batch.iter().filter(is_open)).await?;
    let mut first = HashMap::with_capacity(batch.len());
    let demands: Vec<Demand> = batch
        .iter()
        .enumerate()
        .map(|(index, reservation)| {
            let repeated = *first.entry(reservation.message).or_insert(index) != index;
            if repeated || reserved.contains(&reservation.message.0) {
                return Demand::Known;
            }
            // The directory forgets a key long after it was removed; one that it does not know is not good.
            let Some(sender) = memory.sender(reservation.key) else { return Demand::Blocked(Blocked::KeyRevoked) };
            match sender.standing(tx.now) {
                Ok(()) => match again.verdict(reservation.message) {
                    Some(verdict) => Demand::Again(verdict.clone()),
                    None => demand(&sender, reservation),
                },
                Err(blocked) => Demand::Blocked(blocked),
            }
        })
        .collect();
    let (mut shelves, mut books) = open(tx, memory, &demands).await?;
    let before = books.lots.clone();
    let decided = decide(&mut books, &demands, tx.now);
    let moved = books.lots.values().filter(|lot| before.get(&lot.id) != Some(lot));
    write(tx, session, batch, &demands, &decided).await?;
    again.write(tx, session, batch.iter().map(|reservation| reservation.message)).await?;
    tx.write_balances(moved).await?;
    write_tempos(tx, &books).await?;
    for shelf in shelves.values_mut() {
        shelf.take_back(&books.lots);
    }
    // A message that is asked for twice in one batch is answered the same twice.
    let verdicts = batch.iter().map(|reservation| decided[first[&reservation.message]].0.clone()).collect();
    Ok((verdicts, shelves))
}

/// Locks what the messages are charged to, and makes what is missing of it, before any denial.
async fn open(tx: &mut Tx, memory: &Memory, demands: &[Demand]) -> Op<(Shelves, Books)> {
    let holders: HashSet<Holder> = demands
        .iter()
        .filter_map(|demand| match demand {
            Demand::Charge(charge) => Some(charge.chain.holders()),
            Demand::Known | Demand::Blocked(_) | Demand::Again(_) => None,
        })
        .flatten()
        .collect();
    let mut books = Books::default();
    if holders.is_empty() {
        return Ok((Shelves::default(), books));
    }
    let mut shelves = tx.lock_shelves(&holders.into_iter().collect::<Vec<_>>()).await?;
    for (holder, shelf) in &mut shelves {
        if let Some(entry) = memory.entry(*holder) {
            shelf.run(entry.limit(), tx.now);
        }
    }
    tx.insert_new(&mut shelves).await?;
    for (holder, shelf) in &mut shelves {
        let terms = memory.entry(*holder).map(Entry::terms);
        let Some(opened) = terms.and_then(|terms| shelf.open(&terms, tx.now)) else { continue };
        if let Some(Planned { lot, notes }) = opened.topped_up {
            shelf.put(lot);
            tx.record_notes(LEDGER, *holder, notes);
            tx.mark_moved(*holder);
        }
        books.lots.extend(opened.lots.into_iter().chain(shelf.running(tx.now).cloned()).map(|lot| (lot.id, lot)));
        books.holdings.insert(*holder, opened.holding);
    }
    tx.write_changed(&shelves).await?;
    shelves.values_mut().for_each(Shelf::is_written);
    Ok((shelves, books))
}

/// Which of the messages have a reservation.
async fn reserved(tx: &Tx, batch: &[Reservation]) -> Op<HashSet<uuid::Uuid>> {
    let days: Vec<i32> = batch.iter().map(|reservation| rows::day(reservation.message)).collect();
    let messages: Vec<uuid::Uuid> = batch.iter().map(|reservation| reservation.message.0).collect();
    let found = tx
        .query(
            "SELECT v.message FROM unnest($1::integer[], $2::uuid[]) x(day, message) \
             JOIN reservation v ON v.day = x.day AND v.message = x.message",
            &[&days, &messages],
        )
        .await?;
    found.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn write(
    tx: &Tx,
    session: &Session,
    batch: &[Reservation],
    demands: &[Demand],
    decided: &[(Verdict, Vec<Part>)],
) -> Op<()> {
    let mut columns = Columns::default();
    for ((reservation, demand), (verdict, parts)) in batch.iter().zip(demands).zip(decided) {
        if let (Demand::Charge(charge), Verdict::Reserved) = (demand, verdict) {
            columns.push(reservation, charge, parts);
        }
    }
    if columns.messages.is_empty() {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO reservation (day, message, key, account, policy, credits, key_lot, account_lot, policy_lot, more, unit_price, \
             session, epoch, at, xid) \
         SELECT x.day, x.message, x.key, x.account, x.policy, x.credits, x.key_lot, x.account_lot, x.policy_lot, \
             CASE WHEN x.first <= x.last THEN ($10::bigint[])[x.first:x.last] END, x.unit_price, $13, $14, $15, \
             (SELECT pg_current_xact_id()::text::bigint) \
         FROM unnest($1::integer[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::bigint[], $7::bigint[], \
             $8::bigint[], $9::bigint[], $11::integer[], $12::integer[], $16::bigint[]) \
             x(day, message, key, account, policy, credits, key_lot, account_lot, policy_lot, first, last, unit_price)",
        &[
            &columns.days,
            &columns.messages,
            &columns.keys,
            &columns.accounts,
            &columns.policies,
            &columns.credits,
            &columns.key_lots,
            &columns.account_lots,
            &columns.policy_lots,
            &columns.more,
            &columns.firsts,
            &columns.lasts,
            &session.id,
            &session.epoch,
            &tx.now_ms(),
            &columns.unit_prices,
        ],
    )
    .await?;
    Ok(())
}

async fn write_tempos(tx: &Tx, books: &Books) -> Op<()> {
    let moved = books.holdings.iter().filter_map(|(holder, holding)| {
        let tempo = holding.tempo.filter(|tempo| tempo.moved)?;
        Some((*holder, tempo.arrival?.as_microsecond()))
    });
    let (holders, arrivals): (Vec<Holder>, Vec<i64>) = moved.unzip();
    if holders.is_empty() {
        return Ok(());
    }
    let (kinds, ids) = rows::columns(holders);
    tx.execute(
        "INSERT INTO tempo AS t (kind, holder, arrival) \
         SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bigint[]) x(kind, holder, arrival) ORDER BY 1, 2 \
         ON CONFLICT (kind, holder) DO UPDATE SET arrival = excluded.arrival",
        &[&kinds, &ids, &arrivals],
    )
    .await?;
    Ok(())
}
