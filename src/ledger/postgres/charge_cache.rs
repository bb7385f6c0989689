//! The rows that a process charged last, remembered so that most batches are charged in one round trip.
//!
//! The cache alone never grants a credit: the server compares every assumption (the directory's epoch, each lot's
//! window and room, the keys' expiry) in the transaction that charges, and if one fails the batch is decided again on
//! locked rows. A wrong cache costs a round trip, never a credit.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::connection::PgConnection;
use super::failure::Op;
use super::lots::LotsByHolder;
use super::rows;
use super::tx::Tx;
use crate::domain::credit::{BatchRows, Charge, LotId, PERIOD_PARTS, Part, Reservation};
use crate::domain::directory::{Directory, Entry, HolderTerms, ResolvedKey};
use crate::domain::id::{Holder, IdMap, IdSet, KeyId};
use crate::ledger::rules::reserve::{Charged, Step, decide, screen};
use crate::ledger::store::REMEMBERED_FOR;

/// Maximum holders whose lots are remembered: some 100 MB. Beyond, everything is forgotten and learnt again.
const HOLDERS_MAX: usize = 250_000;

pub struct ChargeCache {
    directory: Directory,
    entries: IdMap<Holder, Entry>,
    /// Every row of `directory` is as it was at this epoch, or newer.
    config_epoch: i64,
    /// The time of that comparison.
    renewed_at: Timestamp,
    lots: LotsByHolder,
    now: Timestamp,
}

impl Default for ChargeCache {
    fn default() -> Self {
        Self {
            directory: Directory::default(),
            entries: IdMap::default(),
            config_epoch: 0,
            renewed_at: Timestamp::UNIX_EPOCH,
            lots: LotsByHolder::default(),
            now: Timestamp::UNIX_EPOCH,
        }
    }
}

/// A batch that fits as far as is known, as the columns of one call.
#[derive(Default)]
pub struct Plan {
    pub config_epoch: i64,
    /// The ledger's time when it was last read: now or before.
    pub now: Timestamp,
    /// The time at which the first of the keys expires, or the cache is too old.
    pub until: i64,
    pub lots: Vec<i64>,
    pub deltas: Vec<i64>,
    pub over: Vec<bool>,
    pub columns: Columns,
    rows: BatchRows,
}

/// Reservations as columns.
#[derive(Default)]
pub struct Columns {
    pub days: Vec<i32>,
    pub messages: Vec<Uuid>,
    pub keys: Vec<Uuid>,
    pub accounts: Vec<Uuid>,
    pub policies: Vec<Uuid>,
    pub credits: Vec<i64>,
    pub unit_prices: Vec<i64>,
    pub key_lots: Vec<i64>,
    pub account_lots: Vec<i64>,
    pub policy_lots: Vec<i64>,
    /// The parts of other lots of all messages, flat; each message has those from its first to its last, counted from
    /// 1.
    pub more: Vec<i64>,
    pub firsts: Vec<i32>,
    pub lasts: Vec<i32>,
}

impl Columns {
    pub fn push(&mut self, reservation: &Reservation, charge: &Charge, parts: &[Part]) {
        let position = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
        self.days.push(rows::day(reservation.message));
        self.messages.push(reservation.message.0);
        self.keys.push(charge.chain.key.0);
        self.accounts.push(charge.chain.account.0);
        self.policies.push(charge.chain.policy.0);
        self.credits.push(charge.credits);
        self.unit_prices.push(charge.unit_price);
        let lot = |index: usize| parts.get(index).map_or(0, |part: &Part| part.0.0);
        self.key_lots.push(lot(0));
        self.account_lots.push(lot(1));
        self.policy_lots.push(lot(2));
        self.firsts.push(position(self.more.len() + 1));
        self.more.extend(parts.iter().skip(PERIOD_PARTS).flat_map(|part| [part.0.0, part.1]));
        self.lasts.push(position(self.more.len()));
    }
}

impl ChargeCache {
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Returns the batch as one call, if all of it fits as far as is known.
    pub fn plan(&self, batch: &[Reservation]) -> Option<Plan> {
        let until = self.renewed_at.saturating_add(REMEMBERED_FOR).unwrap_or(Timestamp::MAX).as_millisecond();
        let mut plan = Plan { config_epoch: self.config_epoch, now: self.now, until, ..Plan::default() };
        let steps = screen(batch, &IdSet::default(), |key| self.directory.sender(key), self.now);
        for step in &steps {
            let Step::Open(sender) = step else { return None };
            if let Some(expires_at) = sender.key.expires_at {
                plan.until = plan.until.min(expires_at.as_millisecond());
            }
            for terms in sender.terms() {
                self.add(&mut plan.rows, &terms)?;
            }
        }
        // The server checks whether one of them was reserved before or is a copy.
        let decisions = decide(batch, &steps, &mut HashMap::new(), &mut plan.rows, self.now);
        let mut deltas: BTreeMap<(i16, i64), i64> = BTreeMap::new();
        for (reservation, decision) in batch.iter().zip(&decisions) {
            let Charged { charge, parts } = decision.charged.as_ref()?;
            plan.columns.push(reservation, charge, parts);
            for Part(id, amount) in parts {
                let kind = rows::kind_number(plan.rows.lots[id].holder.kind());
                *deltas.entry((kind, id.0)).or_default() += amount;
            }
        }
        let may_exceed: HashSet<LotId> =
            plan.rows.holdings.values().filter(|h| !h.overage.is_deny()).map(|holding| holding.period).collect();
        for ((_, lot), delta) in deltas {
            plan.lots.push(lot);
            plan.deltas.push(delta);
            plan.over.push(may_exceed.contains(&LotId(lot)));
        }
        Some(plan)
    }

    /// Adds a holder's remembered lots to the rows.
    fn add(&self, rows: &mut BatchRows, terms: &HolderTerms<'_>) -> Option<()> {
        if rows.holdings.contains_key(&terms.holder) {
            return Some(());
        }
        let of_holder = self.lots.get(&terms.holder)?;
        let opened = of_holder.open(terms, self.now)?;
        // A rate depends on what others sent a moment ago, and a top-up that is due is to be written first.
        if terms.rate.is_some() || opened.topped_up.is_some() {
            return None;
        }
        rows.lots.extend(opened.lots.into_iter().chain(of_holder.running(self.now).cloned()).map(|lot| (lot.id, lot)));
        rows.holdings.insert(terms.holder, opened.holding);
        Some(())
    }

    /// Takes over the balances of a plan that was charged.
    pub fn charged(&mut self, plan: Plan, now: Timestamp) {
        self.now = now;
        for holder in plan.rows.holdings.keys() {
            if let Some(of_holder) = self.lots.get_mut(holder) {
                of_holder.take_back(&plan.rows.lots);
                of_holder.is_written();
            }
        }
    }

    /// Remembers the lots that were just read and written under locks.
    pub fn learn(&mut self, lots: LotsByHolder, now: Timestamp) {
        self.now = now;
        if self.lots.len() + lots.len() > HOLDERS_MAX {
            self.lots.clear();
        }
        for (holder, mut of_holder) in lots {
            of_holder.is_written();
            self.lots.insert(holder, of_holder);
        }
    }

    pub fn sender(&self, key: KeyId) -> Option<ResolvedKey> {
        self.directory.sender(key)
    }

    /// Takes over the changes of the rows remembered here.
    pub async fn renew(&mut self, tx: &Tx) -> Op<()> {
        if self.entries.len() > HOLDERS_MAX || tx.now.duration_since(self.renewed_at) > REMEMBERED_FOR {
            self.forget();
        }
        if self.config_epoch != tx.config_epoch && self.config_epoch != 0 {
            let changed = tx.query("SELECT kind, id FROM directory WHERE epoch > $1", &[&self.config_epoch]).await?;
            let changed: Vec<Holder> = changed.iter().map(|row| rows::holder(row, 0)).collect::<Op<_>>()?;
            let known: Vec<Holder> = changed.into_iter().filter(|holder| self.entries.contains_key(holder)).collect();
            for holder in &known {
                self.lots.remove(holder);
            }
            self.load(tx, &known).await?;
        }
        (self.config_epoch, self.renewed_at) = (tx.config_epoch, tx.now);
        Ok(())
    }

    /// Reads the keys that are not known yet, with their accounts and policies.
    pub async fn load_senders(&mut self, connection: &PgConnection, keys: impl Iterator<Item = KeyId>) -> Op<()> {
        let mut next: Vec<Holder> = keys.map(Holder::Key).collect();
        while !next.is_empty() {
            let unknown: HashSet<Holder> = next.iter().copied().filter(|h| !self.entries.contains_key(h)).collect();
            self.load(connection, &unknown.into_iter().collect::<Vec<_>>()).await?;
            let above = next.iter().filter_map(|holder| self.entries.get(holder)?.parent());
            next = above.collect::<HashSet<_>>().into_iter().collect();
        }
        Ok(())
    }

    async fn load(&mut self, connection: &PgConnection, holders: &[Holder]) -> Op<()> {
        if holders.is_empty() {
            return Ok(());
        }
        for (holder, entry) in super::read::entries(connection, holders).await? {
            self.entries.insert(holder, entry.clone());
            self.directory.apply(entry);
        }
        Ok(())
    }
}
