//! Reserve and settle: the only operations that move a balance.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension as _, params};

use super::failure::{Failure, Op};
use super::ledgered::Ledgered;
use super::lots::latest;
use super::write::Tx;
use super::{identity, rate_state, rows};
use crate::domain::credit::{Chain, Charge, Outcome, PERIOD_PARTS, Part, Reservation, Verdict};
use crate::domain::directory::ResolvedKey;
use crate::domain::id::{AccountId, Holder, IdMap, IdSet, KeyId, MessageId, PolicyId};
use crate::ledger::audit::{LEDGER, Note};
use crate::ledger::rules::pending::{self, Open};
use crate::ledger::rules::reserve::{Charged, Step, decide, fingerprints, screen, senders};
use crate::ledger::rules::settle::{Settled, carries, charged_at, correction, rate_holders};
use crate::ledger::store::{LedgerSession, Settlement};

/// A reserved message: its sender, its charge, and when.
struct Reserved {
    key: KeyId,
    account: AccountId,
    parts: Vec<Part>,
    at: Timestamp,
}

impl Tx<'_> {
    pub fn reserve(&mut self, session: &LedgerSession, batch: &[Reservation]) -> Op<Vec<Verdict>> {
        self.fence(session)?;
        identity::refuse_unless_open(self.connection)?;
        let steps = self.screen(batch)?;
        let mut records = HashMap::new();
        for (_, fingerprint) in fingerprints(batch, &steps) {
            if let Entry::Vacant(unread) = records.entry(fingerprint) {
                unread.insert(self.records(&fingerprint)?);
            }
        }
        // Missing lots are made here, before any denial.
        let mut lots = Ledgered::default();
        for terms in senders(&steps).flat_map(ResolvedKey::terms) {
            lots.open(self, &terms)?;
        }
        lots.rows.refused = self.refused()?;
        let mut decisions = decide(batch, &steps, &mut records, &mut lots.rows, self.judged_at());
        for (reservation, decision) in batch.iter().zip(&decisions) {
            if let Some(Charged { charge, parts }) = &decision.charged {
                self.insert_reservation(session, reservation, charge, parts)?;
                parts.iter().for_each(|part| lots.touch(part.0));
            }
            if let Some(change) = decision.change {
                self.record_copy(session, change, reservation.message)?;
            }
        }
        let lacking = pending::lacking(&steps, &decisions);
        if !lacking.is_empty() {
            let open = self.open_messages(&lacking)?;
            pending::judge(batch, &steps, &mut decisions, &lots.rows, &open);
        }
        lots.save(self)?;
        Ok(decisions.into_iter().map(|decision| decision.verdict).collect())
    }

    /// Returns the messages of holders that may still be given back: without an outcome, or with an unknown one while
    /// their own transaction is under way.
    fn open_messages(&self, holders: &IdSet<Holder>) -> Op<Vec<Open>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT r.key, r.account, r.policy, r.parts, r.at FROM pending p \
             JOIN reservation r ON r.message = p.message \
             UNION ALL \
             SELECT r.key, r.account, r.policy, r.parts, r.at FROM fingerprint f \
             JOIN session s ON s.id = f.session AND s.epoch = f.epoch AND s.closed_at IS NULL \
             JOIN reservation r ON r.message = f.message \
             JOIN settlement o ON o.message = f.message AND o.correction = 0 AND o.outcome = 'unknown' \
             WHERE f.carrier = f.message \
                 AND NOT EXISTS (SELECT 1 FROM settlement c WHERE c.message = f.message AND c.correction = 1)",
        )?;
        let mut open = Vec::new();
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let id = |column| row.get(column).map(uuid::Uuid::from_bytes);
            let chain = Chain { key: KeyId(id(0)?), account: AccountId(id(1)?), policy: PolicyId(id(2)?) };
            if chain.holders().iter().any(|holder| holders.contains(holder)) {
                let parts = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
                let parts = serde_json::from_str(parts).map_err(|error| Failure::Row(error.to_string()))?;
                open.push(Open { chain, parts, at: rows::instant(row.get(4)?)? });
            }
        }
        Ok(open)
    }

    /// Finds messages that are known already, and judges each sender's standing, on fresh rows.
    fn screen(&mut self, batch: &[Reservation]) -> Op<Vec<Step>> {
        let mut reserved = IdSet::default();
        let mut known = IdMap::default();
        for asked in batch {
            if self.is_reserved(asked.message)? {
                reserved.insert(asked.message);
            } else if !known.contains_key(&asked.key)
                && let Some(sender) = self.sender(asked.key)?
            {
                known.insert(asked.key, sender);
            }
        }
        Ok(screen(batch, &reserved, |key| known.get(&key).cloned(), self.judged_at()))
    }

    fn is_reserved(&self, message: MessageId) -> Op<bool> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM reservation WHERE message = ?1")?
            .exists([message.0.as_bytes()])?)
    }

    fn insert_reservation(
        &self,
        session: &LedgerSession,
        reservation: &Reservation,
        charge: &Charge,
        parts: &[Part],
    ) -> Op<()> {
        let parts = serde_json::to_string(parts).map_err(|error| Failure::Row(error.to_string()))?;
        self.connection
            .prepare_cached(
                "INSERT INTO reservation (message, key, account, policy, credits, parts, session, epoch, at, unit_price, counted) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0)",
            )?
            .execute(params![
                reservation.message.0.as_bytes(),
                charge.chain.key.0.as_bytes(),
                charge.chain.account.0.as_bytes(),
                charge.chain.policy.0.as_bytes(),
                reservation.credits,
                parts,
                session.id,
                session.epoch,
                self.now_ms(),
                charge.unit_price
            ])?;
        self.connection
            .prepare_cached("INSERT INTO pending (message, session, epoch) VALUES (?1, ?2, ?3)")?
            .execute(params![reservation.message.0.as_bytes(), session.id, session.epoch])?;
        Ok(())
    }

    /// Writes outcomes. A fenced session's are taken too: they correct.
    pub fn settle(&mut self, session: &LedgerSession, batch: &[Settlement]) -> Op<()> {
        self.touch(session)?;
        let mut lots = Ledgered::default();
        let mut refused = BTreeMap::new();
        for settlement in batch {
            self.settle_one(&mut lots, &mut refused, *settlement)?;
            if let Some(earlier) = self.keep(session, *settlement)? {
                self.settle_one(&mut lots, &mut refused, earlier)?;
            }
        }
        self.count_refused(&refused)?;
        lots.save(self)
    }

    /// Writes one outcome. `refused`: how many messages of each account are given back.
    fn settle_one(
        &mut self,
        lots: &mut Ledgered,
        refused: &mut BTreeMap<AccountId, u32>,
        settlement: Settlement,
    ) -> Op<()> {
        let message = settlement.message.0.as_bytes();
        let open = self.connection.prepare_cached("DELETE FROM pending WHERE message = ?1")?.execute([message])? == 1;
        let before = if open { Some(Settled::Open) } else { self.latest_outcome(settlement.message)? };
        // Never reserved, or settled for good.
        let Some(correction) = before.and_then(|before| correction(before, settlement.outcome)) else { return Ok(()) };
        self.connection
            .prepare_cached(
                "INSERT INTO settlement (message, correction, outcome, at, counted) VALUES (?1, ?2, ?3, ?4, 0)",
            )?
            .execute(params![message, correction, settlement.outcome.as_str(), self.now_ms()])?;
        // Without a refund no balance moves: the rollup counts the message.
        if settlement.outcome.refunds() {
            let account = self.refund(lots, settlement.message)?;
            *refused.entry(account).or_default() += 1;
        }
        Ok(())
    }

    /// Gives a message back to the lots that it was charged to, and to those that run now and carry it. Returns its
    /// account.
    fn refund(&self, lots: &mut Ledgered, message: MessageId) -> Op<AccountId> {
        let Reserved { key, account, parts, at } = self.reserved(message)?;
        if let Some(charged_at) = charged_at(message, at, self.judged_at()) {
            self.give_rates_back(key, account, charged_at)?;
        }
        for (index, Part(id, amount)) in parts.into_iter().enumerate() {
            let lot = lots.lot(self, id)?;
            lot.refund(amount);
            let (holder, ended) = (lot.holder, !lot.holds_at(self.now));
            lots.touch(id);
            if index < PERIOD_PARTS
                && ended
                && let Some(row) = latest(self.connection, holder, self.now)?
            {
                let running = lots.lot(self, row.lot.id)?;
                if carries(running, id, at) {
                    running.refund_carried(amount);
                    let running = running.id;
                    lots.touch(running);
                }
            }
        }
        Ok(account)
    }

    /// Gives back to the rates of its key and its account what a message took of them.
    fn give_rates_back(&self, key: KeyId, account: AccountId, charged_at: Timestamp) -> Op<()> {
        for holder in rate_holders(key, account) {
            let Some(arrivals) = rate_state::arrivals(self.connection, holder)? else { continue };
            let rate = rows::entry(self.connection, holder)?.and_then(|entry| entry.rate());
            let given_back = rate.and_then(|rate| rate.give_back(arrivals, charged_at, self.judged_at()));
            if let Some(arrivals) = given_back {
                rate_state::set_arrivals(self.connection, holder, arrivals)?;
            }
        }
        Ok(())
    }

    /// Returns the outcome that holds, if there is one.
    pub fn latest_outcome(&self, message: MessageId) -> Op<Option<Settled>> {
        let found: Option<(String, bool)> = self
            .connection
            .prepare_cached(
                "SELECT outcome, correction FROM settlement WHERE message = ?1 ORDER BY correction DESC LIMIT 1",
            )?
            .query_row([message.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        found
            .map(|(word, corrected)| {
                let outcome = Outcome::parse(&word).ok_or_else(|| Failure::Row(format!("unknown outcome {word}")))?;
                Ok(Settled::As { outcome, corrected })
            })
            .transpose()
    }

    fn reserved(&self, message: MessageId) -> Op<Reserved> {
        let (key, account, parts, at): (_, _, String, i64) = self
            .connection
            .prepare_cached("SELECT key, account, parts, at FROM reservation WHERE message = ?1")?
            .query_row([message.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let parts = serde_json::from_str(&parts).map_err(|error| Failure::Row(error.to_string()))?;
        let [key, account] = [key, account].map(uuid::Uuid::from_bytes);
        Ok(Reserved { key: KeyId(key), account: AccountId(account), parts, at: rows::instant(at)? })
    }

    /// Settles up to `limit` open messages of sessions that are gone as unknown. Returns those messages.
    pub fn sweep(&mut self, session: &LedgerSession, silence: SignedDuration, limit: usize) -> Op<Vec<MessageId>> {
        let since = self.now.saturating_sub(silence).unwrap_or(Timestamp::MIN);
        self.fence(session)?;
        let given_up: Vec<(String, String)> = self
            .connection
            .prepare_cached(
                "UPDATE session SET closed_at = ?3, epoch = epoch + 1 \
                 WHERE id <> ?1 AND closed_at IS NULL AND seen_at < ?2 RETURNING role, name",
            )?
            .query_map(params![session.id, since.as_millisecond(), self.now_ms()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (role, name) in given_up {
            self.note_of_ledger(LEDGER, &Note::given_up(&role, &name))?;
        }
        let orphans: Vec<Settlement> = self
            .connection
            .prepare_cached(
                "SELECT p.message FROM pending p WHERE NOT EXISTS \
                 (SELECT 1 FROM session s WHERE s.id = p.session AND s.epoch = p.epoch AND s.closed_at IS NULL) \
                 LIMIT ?1",
            )?
            .query_map([rows::limit(limit)], |row| {
                let message = MessageId(uuid::Uuid::from_bytes(row.get(0)?));
                Ok(Settlement::of(message, Outcome::Unknown))
            })?
            .collect::<rusqlite::Result<_>>()?;
        self.settle(session, &orphans)?;
        Ok(orphans.into_iter().map(|orphan| orphan.message).collect())
    }
}
