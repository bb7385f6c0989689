//! The hourly rollup: moved exactly once, because its cursors move in the same transaction.

use std::collections::{HashMap, HashSet};

use rusqlite::{OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::write::Tx;
use crate::domain::credit::{Chain, Outcome};
use crate::domain::id::{AccountId, KeyId, PolicyId};
use crate::ledger::store::Session;

pub const RESERVATIONS: &str = "reservation";
pub const SETTLEMENTS: &str = "settlement";
const HOUR_MS: i64 = 3_600_000;

type Bucket = (i64, Chain);

/// What is added to a bucket.
#[derive(Default)]
struct More {
    messages: i64,
    charged: i64,
    relayed: i64,
    refused: i64,
    not_offered: i64,
    unknown: i64,
    /// Micro-units of money for what was charged and not given back.
    priced: i64,
}

/// The first six columns: key, account, policy, at, credits, unit price. With the credits and what they cost.
fn bucket(row: &Row<'_>) -> rusqlite::Result<(Bucket, i64, i64)> {
    let id = |column| row.get(column).map(Uuid::from_bytes);
    let chain = Chain { key: KeyId(id(0)?), account: AccountId(id(1)?), policy: PolicyId(id(2)?) };
    let at: i64 = row.get(3)?;
    let (credits, unit_price): (i64, i64) = (row.get(4)?, row.get(5)?);
    Ok(((at.div_euclid(HOUR_MS) * HOUR_MS, chain), credits, credits.saturating_mul(unit_price)))
}

impl Tx<'_> {
    /// Takes up to `limit` new reservations and as many settlements. Returns how many rows that were.
    pub fn rollup(&mut self, session: &Session, limit: usize) -> Op<u64> {
        self.fence(session)?;
        let mut buckets = HashMap::new();
        let reserved = self.roll_reservations(&mut buckets, limit)?;
        let settled = self.roll_settlements(&mut buckets, limit)?;
        let mut holders = HashSet::new();
        for ((hour, chain), more) in buckets {
            holders.extend(chain.holders());
            self.add(hour, chain, &more)?;
        }
        self.all_moved(&holders)?;
        Ok(reserved + settled)
    }

    fn roll_reservations(&mut self, buckets: &mut HashMap<Bucket, More>, limit: usize) -> Op<u64> {
        let mut seq = self.cursor(RESERVATIONS)?;
        let mut statement = self.connection.prepare_cached(
            "SELECT key, account, policy, at, credits, unit_price, seq FROM reservation \
             WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let mut rows = statement.query(params![seq, super::rows::limit(limit)])?;
        let mut taken = 0;
        while let Some(row) = rows.next()? {
            let (bucket, credits, price) = bucket(row)?;
            let more = buckets.entry(bucket).or_default();
            more.messages += 1;
            more.charged += credits;
            more.priced = more.priced.saturating_add(price);
            seq = row.get(6)?;
            taken += 1;
        }
        self.set_cursor(RESERVATIONS, seq)?;
        Ok(taken)
    }

    /// An outcome counts in the hour of its reservation.
    fn roll_settlements(&mut self, buckets: &mut HashMap<Bucket, More>, limit: usize) -> Op<u64> {
        let mut seq = self.cursor(SETTLEMENTS)?;
        let mut statement = self.connection.prepare_cached(
            "SELECT r.key, r.account, r.policy, r.at, r.credits, r.unit_price, s.seq, s.correction, s.outcome \
             FROM settlement s JOIN reservation r ON r.message = s.message WHERE s.seq > ?1 ORDER BY s.seq LIMIT ?2",
        )?;
        let mut rows = statement.query(params![seq, super::rows::limit(limit)])?;
        let mut taken = 0;
        while let Some(row) = rows.next()? {
            let (bucket, credits, price) = bucket(row)?;
            let word: String = row.get(8)?;
            let outcome = Outcome::parse(&word).ok_or_else(|| Failure::Row(format!("unknown outcome {word}")))?;
            let more = buckets.entry(bucket).or_default();
            if row.get(7)? {
                more.unknown -= credits;
            }
            match outcome {
                Outcome::Relayed => more.relayed += credits,
                Outcome::Refused => more.refused += credits,
                Outcome::NotOffered => more.not_offered += credits,
                Outcome::Unknown => more.unknown += credits,
            }
            if outcome.refunds() {
                more.priced = more.priced.saturating_sub(price);
            }
            seq = row.get(6)?;
            taken += 1;
        }
        self.set_cursor(SETTLEMENTS, seq)?;
        Ok(taken)
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
                more.messages,
                more.charged,
                more.relayed,
                more.refused,
                more.not_offered,
                more.unknown,
                more.priced
            ])?;
        Ok(())
    }

    pub fn cursor(&self, name: &str) -> Op<i64> {
        let seq = self
            .connection
            .prepare_cached("SELECT seq FROM cursor WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        Ok(seq.unwrap_or(0))
    }

    fn set_cursor(&self, name: &str, seq: i64) -> Op<()> {
        self.connection
            .prepare_cached("INSERT INTO cursor (name, seq) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seq = ?2")?
            .execute(params![name, seq])?;
        Ok(())
    }
}
