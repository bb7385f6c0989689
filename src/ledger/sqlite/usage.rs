//! The rollup of usage: each row counts exactly once, because the cursors move in the same transaction.
//!
//! Mail writes only balances. Usage by sender and hour, and by a lot's period, is counted here, from the rows; a reader
//! of a lot's counters adds what the rollup has not taken yet.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::rows;
use super::write::Tx;
use crate::domain::credit::{Chain, LotId, Outcome, PERIOD_PARTS, Part};
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};
use crate::ledger::rules::history::{self, HOUR_MS, Quarters};
use crate::ledger::store::{LedgerSession, Usage};

pub const RESERVATIONS: &str = "reservation";
pub const SETTLEMENTS: &str = "settlement";
/// SQLite's word for no limit.
const ALL: i64 = -1;

type Bucket = (i64, Chain);

/// A row that the rollup takes: a reservation, or an outcome beside its reservation's columns.
struct Step {
    seq: i64,
    chain: Chain,
    /// Time of its reservation: an outcome counts in the hour of its reservation.
    at: i64,
    credits: i64,
    unit_price: i64,
    /// The lots of its period, unless they count it already.
    lots: Vec<LotId>,
    outcome: Option<Settled>,
}

struct Settled {
    outcome: Outcome,
    correction: bool,
    at: Timestamp,
}

const RESERVED: &str = "SELECT seq, key, account, policy, at, credits, unit_price, counted, parts FROM reservation \
     WHERE seq > ?1 ORDER BY seq LIMIT ?2";
const SETTLED: &str = "SELECT s.seq, r.key, r.account, r.policy, r.at, r.credits, r.unit_price, s.counted, r.parts, \
     s.outcome, s.correction, s.at FROM settlement s JOIN reservation r ON r.message = s.message \
     WHERE s.seq > ?1 ORDER BY s.seq LIMIT ?2";

fn step(row: &Row<'_>, settled: bool) -> Op<Step> {
    let id = |column| row.get(column).map(Uuid::from_bytes);
    let chain = Chain { key: KeyId(id(1)?), account: AccountId(id(2)?), policy: PolicyId(id(3)?) };
    let lots = if row.get(7)? {
        vec![]
    } else {
        let parts: Vec<Part> = serde_json::from_str(row.get_ref(8)?.as_str().map_err(rusqlite::Error::from)?)
            .map_err(|error| Failure::Row(error.to_string()))?;
        parts.into_iter().take(PERIOD_PARTS).map(|Part(lot, _)| lot).collect()
    };
    let outcome = if settled {
        let word = row.get_ref(9)?.as_str().map_err(rusqlite::Error::from)?;
        let outcome = Outcome::parse(word).ok_or_else(|| Failure::Row(format!("unknown outcome {word}")))?;
        Some(Settled { outcome, correction: row.get(10)?, at: rows::instant(row.get(11)?)? })
    } else {
        None
    };
    Ok(Step { seq: row.get(0)?, chain, at: row.get(4)?, credits: row.get(5)?, unit_price: row.get(6)?, lots, outcome })
}

/// Passes each row of a table after `after` to `take`, in the order of commits, `limit` at most. Returns how many, and
/// the last one's number.
fn walk(connection: &Connection, table: &str, after: i64, limit: i64, mut take: impl FnMut(Step)) -> Op<(u64, i64)> {
    let settled = table == SETTLEMENTS;
    let mut statement = connection.prepare_cached(if settled { SETTLED } else { RESERVED })?;
    let mut found = statement.query(params![after, limit])?;
    let (mut taken, mut last) = (0, after);
    while let Some(row) = found.next()? {
        let step = step(row, settled)?;
        last = step.seq;
        taken += 1;
        take(step);
    }
    Ok((taken, last))
}

impl Step {
    /// Adds it to the counters of an hour or a lot. `accepted` is what it charged, if it is a reservation.
    fn count(&self, usage: &mut Usage) {
        let Some(Settled { outcome, correction, at }) = &self.outcome else {
            usage.messages += 1;
            usage.accepted += self.credits;
            return;
        };
        if *correction {
            usage.unknown -= self.credits;
        }
        match outcome {
            Outcome::Relayed => {
                usage.relayed += self.credits;
                usage.last_sent_at = usage.last_sent_at.max(Some(*at));
            }
            Outcome::Refused => usage.refused += self.credits,
            Outcome::NotOffered => usage.not_offered += self.credits,
            Outcome::Unknown => usage.unknown += self.credits,
        }
    }

    /// Does the same for a lot, whose messages are those that were not given back.
    fn count_for_lot(&self, usage: &mut Usage) {
        self.count(usage);
        if self.gives_back() {
            usage.messages -= 1;
        }
    }

    /// Returns the credits that it adds to what its holders have used.
    fn used(&self) -> i64 {
        match &self.outcome {
            None => self.credits,
            Some(_) if self.gives_back() => -self.credits,
            Some(_) => 0,
        }
    }

    fn gives_back(&self) -> bool {
        self.outcome.as_ref().is_some_and(|settled| settled.outcome.refunds())
    }

    /// Returns the micro-units of money that it adds.
    fn price(&self) -> i64 {
        self.used().saturating_mul(self.unit_price)
    }
}

/// Returns what a holder has used since the beginning of a period, as of this transaction: what the rollup has counted,
/// and the rows that it has not taken.
pub fn used_since(connection: &Connection, holder: Holder, from: Timestamp) -> Op<i64> {
    let first = history::first(from);
    let (kind, id) = (holder.kind().as_str(), holder.uuid());
    let last = connection.prepare_cached("SELECT max(hour) FROM used_hour")?.query_row([], |row| row.get(0))?;
    let last: Option<i64> = last;
    // Hour by hour: the table is in their order, so that old ones are dropped in one place.
    let rolled: i64 = connection
        .prepare_cached(
            "WITH RECURSIVE hours(hour) AS \
                 (SELECT ?3 UNION ALL SELECT hour + 3600000 FROM hours WHERE hour + 3600000 <= ?5) \
             SELECT ifnull(sum(CASE WHEN u.hour >= ?4 THEN q1 ELSE 0 END \
                 + CASE WHEN u.hour + 900000 >= ?4 THEN q2 ELSE 0 END \
                 + CASE WHEN u.hour + 1800000 >= ?4 THEN q3 ELSE 0 END + q4), 0) \
             FROM hours h JOIN used_hour u ON u.hour = h.hour AND u.kind = ?1 AND u.holder = ?2",
        )?
        .query_row(params![kind, id.as_bytes(), history::place(first).0, first, last], |row| row.get(0))?;
    let mut untaken = 0;
    for table in [RESERVATIONS, SETTLEMENTS] {
        walk(connection, table, cursor(connection, table)?, ALL, |step| {
            if step.at >= first && step.chain.holders().contains(&holder) {
                untaken += step.used();
            }
        })?;
    }
    Ok(rolled + untaken)
}

/// The amounts that are added to an hour.
#[derive(Default)]
struct More {
    usage: Usage,
    /// Micro-units of money for what was charged and not given back.
    priced: i64,
}

/// Returns the usage of these lots that the rollup has not counted yet.
pub fn untaken(connection: &Connection, lots: &HashSet<LotId>) -> Op<HashMap<LotId, Usage>> {
    let mut untaken = HashMap::new();
    for table in [RESERVATIONS, SETTLEMENTS] {
        walk(connection, table, cursor(connection, table)?, ALL, |step| {
            for lot in step.lots.iter().filter(|lot| lots.contains(lot)) {
                step.count_for_lot(untaken.entry(*lot).or_default());
            }
        })?;
    }
    Ok(untaken)
}

pub fn cursor(connection: &Connection, name: &str) -> Op<i64> {
    let seq = connection
        .prepare_cached("SELECT seq FROM cursor WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(seq.unwrap_or(0))
}

impl Tx<'_> {
    /// Takes up to `limit` new reservations and as many settlements. Returns how many rows that were.
    pub fn rollup(&mut self, session: &LedgerSession, limit: usize) -> Op<u64> {
        self.fence(session)?;
        let mut hours: HashMap<Bucket, More> = HashMap::new();
        let mut lots: HashMap<LotId, Usage> = HashMap::new();
        let mut quarters: HashMap<(i64, Holder), Quarters> = HashMap::new();
        let mut rolled = 0;
        for table in [RESERVATIONS, SETTLEMENTS] {
            let after = cursor(self.connection, table)?;
            let (taken, last) = walk(self.connection, table, after, rows::limit(limit), |step| {
                let hour = step.at.div_euclid(HOUR_MS) * HOUR_MS;
                let more = hours.entry((hour, step.chain)).or_default();
                step.count(&mut more.usage);
                more.priced = more.priced.saturating_add(step.price());
                for lot in &step.lots {
                    step.count_for_lot(lots.entry(*lot).or_default());
                }
                if step.used() != 0 {
                    let (hour, quarter) = history::place(step.at);
                    for holder in step.chain.holders() {
                        quarters.entry((hour, holder)).or_default()[quarter] += step.used();
                    }
                }
            })?;
            self.set_cursor(table, last)?;
            rolled += taken;
        }
        let mut holders = HashSet::new();
        for ((hour, chain), more) in hours {
            holders.extend(chain.holders());
            self.add(hour, chain, &more)?;
        }
        for (lot, usage) in lots {
            self.count(lot, &usage)?;
        }
        for ((hour, holder), used) in quarters {
            self.add_used(hour, holder, used)?;
        }
        self.all_moved(&holders)?;
        Ok(rolled)
    }

    /// Adds to what a holder has used in the quarters of an hour.
    pub fn add_used(&self, hour: i64, holder: Holder, used: Quarters) -> Op<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO used_hour (hour, kind, holder, q1, q2, q3, q4) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                 ON CONFLICT DO UPDATE SET q1 = q1 + ?4, q2 = q2 + ?5, q3 = q3 + ?6, q4 = q4 + ?7",
            )?
            .execute(params![
                hour,
                holder.kind().as_str(),
                holder.uuid().as_bytes(),
                used[0],
                used[1],
                used[2],
                used[3]
            ])?;
        Ok(())
    }

    /// Drops up to `limit` hours that no running period reaches. Returns how many.
    pub fn forget_used(&self, limit: usize) -> Op<usize> {
        let before = self.now.saturating_sub(history::KEPT).unwrap_or(Timestamp::MIN);
        let forgotten = self
            .connection
            .prepare_cached(
                "DELETE FROM used_hour WHERE (hour, kind, holder) IN \
                 (SELECT hour, kind, holder FROM used_hour WHERE hour < ?1 LIMIT ?2)",
            )?
            .execute(params![before.as_millisecond(), rows::limit(limit)])?;
        Ok(forgotten)
    }

    fn count(&self, lot: LotId, usage: &Usage) -> Op<()> {
        let last_sent_at = usage.last_sent_at.map_or(0, Timestamp::as_millisecond);
        let (messages, relayed, refused) = (usage.messages, usage.relayed, usage.refused);
        self.connection
            .prepare_cached(
                "UPDATE lot SET messages = messages + ?2, relayed = relayed + ?3, refused = refused + ?4, \
                 not_offered = not_offered + ?5, unknown = unknown + ?6, last_sent_at = max(last_sent_at, ?7) \
                 WHERE id = ?1",
            )?
            .execute(params![lot.0, messages, relayed, refused, usage.not_offered, usage.unknown, last_sent_at])?;
        Ok(())
    }

    fn add(&self, hour: i64, chain: Chain, more: &More) -> Op<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO usage_hour \
                 (hour, key, account, policy, messages, charged, relayed, refused, not_offered, unknown, priced) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO UPDATE SET \
                 messages = messages + ?5, charged = charged + ?6, relayed = relayed + ?7, \
                 refused = refused + ?8, not_offered = not_offered + ?9, unknown = unknown + ?10, \
                 priced = priced + ?11",
            )?
            .execute(params![
                hour,
                chain.key.0.as_bytes(),
                chain.account.0.as_bytes(),
                chain.policy.0.as_bytes(),
                more.usage.messages,
                more.usage.accepted,
                more.usage.relayed,
                more.usage.refused,
                more.usage.not_offered,
                more.usage.unknown,
                more.priced
            ])?;
        Ok(())
    }

    fn set_cursor(&self, name: &str, seq: i64) -> Op<()> {
        self.connection
            .prepare_cached("INSERT INTO cursor (name, seq) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seq = ?2")?
            .execute(params![name, seq])?;
        Ok(())
    }
}
