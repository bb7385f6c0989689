//! Settles outcomes: in one call if nothing is given back, otherwise decided on locked rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::fingerprint::keep;
use super::pool::{Connections, Lease};
use super::tx::{Clock, Lane, Tx, clock_ms};
use super::{read, refusals, rows};
use crate::domain::credit::{PERIOD_PARTS, Part};
use crate::domain::directory::Entry;
use crate::domain::id::{AccountId, Holder, KeyId};
use crate::ledger::rules::settle::{Settled, carries, charged_at, correction, rate_holders};
use crate::ledger::store::{LedgerSession, Settlement};

/// Settles in one round trip, for outcomes that move no balance. A message that already has an outcome fails the whole.
pub async fn settle_as_new(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    batch: &[Settlement],
) -> Op<()> {
    let connection = Lease::take(connections).await?;
    let (days, messages, outcomes) = columns(batch.iter().copied());
    let written = connection
        .execute(
            "SELECT settle($1, $2, $3, $4, $5, $6, $7)",
            &[&session.id, &session.epoch, &Lane::Settle.number(), &clock_ms(clock), &days, &messages, &outcomes],
        )
        .await;
    connection.give_back_answered();
    written.map(drop)
}

fn columns(batch: impl Iterator<Item = Settlement>) -> (Vec<i32>, Vec<Uuid>, Vec<i16>) {
    let (mut days, mut messages, mut outcomes) = (vec![], vec![], vec![]);
    for Settlement { message, outcome, dedup: _ } in batch {
        days.push(rows::day(message));
        messages.push(message.0);
        outcomes.push(rows::outcome_number(outcome));
    }
    (days, messages, outcomes)
}

/// A message as the rows show it.
struct MessageRow {
    key: KeyId,
    account: AccountId,
    parts: Vec<Part>,
    /// Time of its reservation.
    at: Timestamp,
    settled: Settled,
}

/// Decides each outcome on the written rows. A late one is taken even from a session that was given up: it corrects.
pub async fn settle_locked(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    lane: Lane,
    batch: &[Settlement],
) -> Op<()> {
    let tx = Tx::begin(connections, clock, session, lane).await?;
    let result = async {
        let earlier = keep(&tx, session, batch).await?;
        settle_in(&tx, &[batch, &earlier].concat()).await
    };
    let result = result.await;
    tx.end(result).await
}

pub async fn settle_in(tx: &Tx, batch: &[Settlement]) -> Op<()> {
    let mut known = known(tx, batch).await?;
    let mut accepted = Vec::with_capacity(batch.len());
    let (mut refunds, mut rates) = (Vec::new(), Vec::new());
    let mut refused = BTreeMap::new();
    for settlement in batch {
        // Never reserved: nothing to settle.
        let Some(message) = known.get_mut(&settlement.message.0) else { continue };
        // Settled for good.
        let Some(correction) = correction(message.settled, settlement.outcome) else { continue };
        message.settled = Settled::As { outcome: settlement.outcome, corrected: correction };
        accepted.push((*settlement, correction));
        if settlement.outcome.refunds() {
            refunds.push((message.parts.clone(), message.at));
            let charged_at = charged_at(settlement.message, message.at, tx.judged_at());
            rates.extend(charged_at.map(|at| (rate_holders(message.key, message.account), at)));
            *refused.entry(message.account).or_default() += 1;
        }
    }
    give_back(tx, &refunds).await?;
    give_rates_back(tx, &rates).await?;
    refusals::count(tx, &refused).await?;
    if accepted.is_empty() {
        return Ok(());
    }
    let corrections: Vec<bool> = accepted.iter().map(|(_, correction)| *correction).collect();
    let (days, messages, outcomes) = columns(accepted.into_iter().map(|(settlement, _)| settlement));
    tx.execute(
        "INSERT INTO settlement (day, message, outcome, correction, at, xid) \
         SELECT x.day, x.message, x.outcome, x.correction, $5, (SELECT pg_current_xact_id()::text::bigint) \
         FROM unnest($1::integer[], $2::uuid[], $3::smallint[], $4::boolean[]) x(day, message, outcome, correction)",
        &[&days, &messages, &outcomes, &corrections, &tx.now_ms()],
    )
    .await?;
    Ok(())
}

/// Gives messages back to the lots that they were charged to, and to those that run now and carry them.
async fn give_back(tx: &Tx, refunds: &[(Vec<Part>, Timestamp)]) -> Op<()> {
    if refunds.is_empty() {
        return Ok(());
    }
    let charged: Vec<i64> = refunds.iter().flat_map(|(parts, _)| parts).map(|part| part.0.0).collect();
    let running = tx.running_beside(&charged).await?;
    let ids: Vec<i64> = charged.into_iter().chain(running.values().map(|lot| lot.0)).collect();
    let mut lots = tx.lock_lots(&ids).await?;
    if running.values().any(|id| lots.get(id).is_some_and(|(_, ended)| *ended)) {
        // An edit has meanwhile made another lot run, which carries what is given back here.
        return Err(Failure::Overtaken);
    }
    for (parts, at) in refunds {
        for (index, Part(id, amount)) in parts.iter().enumerate() {
            if let Some((lot, _)) = lots.get_mut(id) {
                lot.refund(*amount);
            }
            let running = running.get(id).filter(|_| index < PERIOD_PARTS).and_then(|running| lots.get_mut(running));
            if let Some((lot, _)) = running.filter(|(running, _)| carries(running, *id, *at)) {
                lot.refund_carried(*amount);
            }
        }
    }
    tx.write_balances(lots.values().map(|(lot, _)| lot)).await
}

/// Gives back to the rates of keys and accounts what messages took of them. Their running lots are locked, so that no
/// reservation is judged by these rows meanwhile.
async fn give_rates_back(tx: &Tx, messages: &[([Holder; 2], Timestamp)]) -> Op<()> {
    let holders: BTreeSet<Holder> = messages.iter().flat_map(|(holders, _)| *holders).collect();
    let mut arrivals = tx.arrivals(&holders.into_iter().collect::<Vec<_>>()).await?;
    if arrivals.is_empty() {
        return Ok(());
    }
    let entries = read::entries(tx, &arrivals.keys().copied().collect::<Vec<_>>()).await?;
    for (holder, charged_at) in messages.iter().flat_map(|(holders, at)| holders.map(|holder| (holder, *at))) {
        let Some(stands) = arrivals.get_mut(&holder) else { continue };
        let rate = entries.get(&holder).and_then(Entry::rate);
        let given_back = rate.and_then(|rate| rate.give_back(*stands, charged_at, tx.judged_at()));
        *stands = given_back.unwrap_or(*stands);
    }
    tx.write_given_back(arrivals).await
}

async fn known(tx: &Tx, batch: &[Settlement]) -> Op<HashMap<Uuid, MessageRow>> {
    let (days, messages, _) = columns(batch.iter().copied());
    let found = tx
        .query(
            "SELECT v.message, v.credits, v.key_lot, v.account_lot, v.policy_lot, v.more, s.outcome, s.correction, \
                 v.at, v.account, v.key \
             FROM unnest($1::integer[], $2::uuid[]) x(day, message) \
             JOIN reservation v ON v.day = x.day AND v.message = x.message \
             LEFT JOIN LATERAL (SELECT outcome, correction FROM settlement s \
                 WHERE s.day = x.day AND s.message = x.message ORDER BY correction DESC LIMIT 1) s ON true",
            &[&days, &messages],
        )
        .await?;
    let mut known = HashMap::with_capacity(found.len());
    for row in &found {
        let parts = rows::parts(row, 1)?;
        let outcome: Option<i16> = row.try_get(6)?;
        let settled = match outcome {
            Some(number) => Settled::As { outcome: rows::outcome(number)?, corrected: row.try_get(7)? },
            None => Settled::Open,
        };
        let (key, account) = (KeyId(row.try_get(10)?), AccountId(row.try_get(9)?));
        let at = rows::instant(row.try_get(8)?)?;
        known.insert(row.try_get(0)?, MessageRow { key, account, parts, at, settled });
    }
    Ok(known)
}
