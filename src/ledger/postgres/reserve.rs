//! Charges a batch: in one call if the cache says that it fits, otherwise decided on locked rows.

use super::charge_cache::{ChargeCache, Columns, Plan};
use super::failure::{Failure, Op};
use super::identity::refuse_unless_open;
use super::lots::LotsByHolder;
use super::pool::{Connections, Lease};
use super::tx::{Clock, Lane, Tx, clock_ms};
use super::{fingerprint, refusals, rows};
use crate::domain::credit::{BatchRows, Chain, Reservation, Verdict};
use crate::domain::directory::{HolderTerms, ResolvedKey};
use crate::domain::id::{AccountId, Holder, IdMap, IdSet, KeyId, MessageId, PolicyId};
use crate::ledger::audit::LEDGER;
use crate::ledger::rules::lots::Lots;
use crate::ledger::rules::pending::{self, Open};
use crate::ledger::rules::reserve::{Charged, Decision, Step, decide, fingerprints, screen, senders};
use crate::ledger::rules::sources::Planned;
use crate::ledger::store::LedgerSession;

/// Charges in one round trip. Any assumption that does not hold fails the whole.
pub async fn charge_as_planned(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    plan: &Plan,
    batch: &[Reservation],
) -> Op<jiff::Timestamp> {
    let connection = Lease::take(connections).await?;
    let columns = &plan.columns;
    let digests: Vec<&[u8]> = batch.iter().filter_map(|asked| Some(asked.fingerprint.as_ref()?.0.as_slice())).collect();
    // Nothing is charged if one of them came before, or if much was refused lately. A branch that is not taken is not
    // run, and a fingerprint is committed before its client is told to try again, so the branch may look outside of the
    // function. It uses the earlier of the ledger's time and the clock, so that none is missed that is judged by
    // either.
    let sql = "SELECT CASE WHEN EXISTS (SELECT FROM fingerprint WHERE digest = ANY ($1)) \
                 OR EXISTS (SELECT FROM refusal WHERE account = ANY ($14) AND arrival > least($24, $25 + \
                     1000 * coalesce($5, (extract(epoch FROM clock_timestamp()) * 1000)::bigint))) THEN NULL ELSE \
             (SELECT now_ms FROM reserve($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
             $19, $20, $21, $22, $23)) END";
    let charged = connection
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
                &refusals::open_until(plan.now),
                &refusals::open_until(jiff::Timestamp::UNIX_EPOCH),
            ],
        )
        .await;
    connection.give_back_answered();
    charged?.try_get::<_, Option<i64>>(0)?.map_or(Err(Failure::Overtaken), rows::instant)
}

/// Decides on locked rows.
pub async fn decide_locked(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    cache: &mut ChargeCache,
    batch: &[Reservation],
) -> Op<Vec<Verdict>> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Reserve).await?;
    let result = decide_in(&mut tx, session, cache, batch).await;
    let now = tx.now;
    let (verdicts, lots) = tx.end(result).await?;
    cache.learn(lots, now);
    Ok(verdicts)
}

async fn decide_in(
    tx: &mut Tx,
    session: &LedgerSession,
    cache: &mut ChargeCache,
    batch: &[Reservation],
) -> Op<(Vec<Verdict>, LotsByHolder)> {
    refuse_unless_open(tx.state)?;
    cache.renew(tx).await?;
    cache.load_senders(tx, batch.iter().map(|reservation| reservation.key)).await?;
    let reserved = reserved(tx, batch).await?;
    let steps = screen(batch, &reserved, |key| cache.sender(key), tx.judged_at());
    let mut records = fingerprint::records(tx, fingerprints(batch, &steps)).await?;
    let (mut lots, mut rows) = open(tx, &steps).await?;
    let before = rows.lots.clone();
    rows.refused = refusals::read(tx).await?;
    let mut decisions = decide(batch, &steps, &mut records, &mut rows, tx.judged_at());
    write(tx, session, batch, &decisions).await?;
    let lacking = pending::lacking(&steps, &decisions);
    if !lacking.is_empty() {
        let open = open_messages(tx, &lacking).await?;
        pending::judge(batch, &steps, &mut decisions, &rows, &open);
    }
    for (asked, decision) in batch.iter().zip(&decisions) {
        if let Some(change) = decision.change {
            fingerprint::record_copy(tx, session, change, asked.message).await?;
        }
    }
    tx.write_balances(rows.lots.values().filter(|lot| before.get(&lot.id) != Some(lot))).await?;
    write_rate_states(tx, &rows).await?;
    for of_holder in lots.values_mut() {
        of_holder.take_back(&rows.lots);
    }
    Ok((decisions.into_iter().map(|decision| decision.verdict).collect(), lots))
}

/// Locks the lots that the messages are charged to, and makes the missing ones, before any denial.
async fn open(tx: &mut Tx, steps: &[Step]) -> Op<(LotsByHolder, BatchRows)> {
    let terms: IdMap<Holder, HolderTerms<'_>> =
        senders(steps).flat_map(ResolvedKey::terms).map(|terms| (terms.holder, terms)).collect();
    let mut rows = BatchRows::default();
    if terms.is_empty() {
        return Ok((LotsByHolder::default(), rows));
    }
    let mut lots = tx.lock_lots_of(&terms.keys().copied().collect::<Vec<_>>()).await?;
    for (holder, of_holder) in &mut lots {
        tx.run(of_holder, &terms[holder]).await?;
    }
    tx.insert_new(&mut lots).await?;
    for (holder, of_holder) in &mut lots {
        let Some(opened) = of_holder.open(&terms[holder], tx.now) else { continue };
        if let Some(Planned { lot, notes }) = opened.topped_up {
            of_holder.put(lot);
            tx.record_notes(LEDGER, *holder, notes);
            tx.mark_moved(*holder);
        }
        rows.lots.extend(opened.lots.into_iter().chain(of_holder.running(tx.now).cloned()).map(|lot| (lot.id, lot)));
        rows.holdings.insert(*holder, opened.holding);
    }
    tx.write_changed(&lots).await?;
    lots.values_mut().for_each(Lots::is_written);
    Ok((lots, rows))
}

/// Returns the messages of holders that may still be given back: without an outcome, or with an unknown one while their
/// own transaction is under way. A transaction that gives back waits for the lots that are locked here.
async fn open_messages(tx: &Tx, holders: &IdSet<Holder>) -> Op<Vec<Open>> {
    let holders: Vec<uuid::Uuid> = holders.iter().map(|holder| holder.uuid()).collect();
    let found = tx
        .query(
            "WITH carried AS ( \
                 SELECT f.day, f.message FROM fingerprint f \
                 JOIN session s ON s.id = f.session AND s.epoch = f.epoch AND s.closed_at IS NULL \
                 WHERE f.carrier = f.message \
             ), candidates AS ( \
                 SELECT u.day, u.message FROM unsettled u \
                 UNION SELECT v.day, v.message FROM rolled c, reservation v \
                     WHERE v.xid >= c.low AND (v.xid >= c.high OR v.xid = ANY (c.running)) \
                         AND (v.key = ANY ($1) OR v.account = ANY ($1) OR v.policy = ANY ($1)) \
                 UNION SELECT day, message FROM carried \
             ) \
             SELECT v.key, v.account, v.policy, v.at, v.credits, v.key_lot, v.account_lot, v.policy_lot, v.more \
             FROM candidates x JOIN reservation v ON v.day = x.day AND v.message = x.message \
             LEFT JOIN LATERAL (SELECT outcome, correction FROM settlement s \
                 WHERE s.day = v.day AND s.message = v.message ORDER BY correction DESC LIMIT 1) o ON true \
             WHERE (v.key = ANY ($1) OR v.account = ANY ($1) OR v.policy = ANY ($1)) \
                 AND (o.outcome IS NULL OR o.outcome = 4 AND NOT o.correction \
                 AND EXISTS (SELECT FROM carried c WHERE c.message = v.message))",
            &[&holders],
        )
        .await?;
    let open = |row: &tokio_postgres::Row| {
        let chain = Chain {
            key: KeyId(row.try_get(0)?),
            account: AccountId(row.try_get(1)?),
            policy: PolicyId(row.try_get(2)?),
        };
        Ok(Open { chain, parts: rows::parts(row, 4)?, at: rows::instant(row.try_get(3)?)? })
    };
    found.iter().map(open).collect()
}

/// Returns the messages that have a reservation.
async fn reserved(tx: &Tx, batch: &[Reservation]) -> Op<IdSet<MessageId>> {
    let days: Vec<i32> = batch.iter().map(|reservation| rows::day(reservation.message)).collect();
    let messages: Vec<uuid::Uuid> = batch.iter().map(|reservation| reservation.message.0).collect();
    let found = tx
        .query(
            "SELECT v.message FROM unnest($1::integer[], $2::uuid[]) x(day, message) \
             JOIN reservation v ON v.day = x.day AND v.message = x.message",
            &[&days, &messages],
        )
        .await?;
    found.iter().map(|row| Ok(MessageId(row.try_get(0)?))).collect()
}

async fn write(tx: &Tx, session: &LedgerSession, batch: &[Reservation], decisions: &[Decision]) -> Op<()> {
    let mut columns = Columns::default();
    for (reservation, decision) in batch.iter().zip(decisions) {
        if let Some(Charged { charge, parts }) = &decision.charged {
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

async fn write_rate_states(tx: &Tx, rows: &BatchRows) -> Op<()> {
    let moved = rows.holdings.iter().filter_map(|(holder, holding)| {
        let state = holding.rate_state.filter(|state| state.moved)?;
        Some((*holder, state.arrival?))
    });
    tx.write_arrivals(moved).await
}
