//! The queries of bills, reports and notices: the second half of the contract, beside [`Store`](super::Store).

use std::fmt;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::error::Result;
use super::session::LedgerSession;
use crate::domain::credit::Meter;
use crate::domain::denied_sender::{DeniedReport, DeniedSenders};
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};
use crate::domain::login_network::LoginFrom;
use crate::domain::trouble::{Sightings, Trouble};

/// Maximum rows of usage in one answer.
pub const USAGE_ROWS_MAX: usize = 50_000;
/// Maximum notices handed out, or taken in, at once.
pub const NOTICES_MAX: usize = 500;
/// Maximum tries of a notice; with the pauses below the last comes two hours after the first, longer than most outages.
pub const NOTICE_TRIES: u32 = 9;
/// The first pause after a failed try; it doubles up to the longest.
const PAUSE_MIN: SignedDuration = SignedDuration::from_secs(30);
const PAUSE_MAX: SignedDuration = SignedDuration::from_hours(1);

/// The user of some credits: an account and its key. `None` stands for the parent's own keys.
pub type Spender = (Option<AccountId>, KeyId);

/// The usage of one key in a span of hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub spender: Spender,
    pub messages: i64,
    /// Credits charged and not given back.
    pub credits: i64,
    /// Cost of these credits, each at the price of its reservation, in micro-units.
    pub priced_micro: i64,
    pub relayed: i64,
    pub refused: i64,
    pub not_offered: i64,
    pub unknown: i64,
}

/// The terms by which a billing period is charged. They are written while the period runs and stay when it is over, so
/// that a later price or calendar changes no closed bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingTerms {
    pub policy: PolicyId,
    /// Name of the month, such as `2026-11`.
    pub period: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// ISO 4217.
    pub currency: String,
    pub base_price_minor: i64,
    pub price_per_thousand_minor: i64,
}

/// A limit in a period, whose thresholds are announced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    pub holder: Holder,
    pub meter: Meter,
    /// The period's calendar identity, or another word that begins a new count.
    pub period: String,
}

/// A threshold that was crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThresholdNotice {
    pub topic: Topic,
    /// In percent; 0 marks the beginning of a count.
    pub threshold: u8,
    /// The holder's policy, whose alerts name the recipients in the platform team, and whose upstream carries the mail.
    pub policy: PolicyId,
    pub granted: i64,
    pub used: i64,
}

/// A limit's notices in the newest period that had any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// That period.
    pub period: String,
    /// The highest threshold in it; 0 if it was only remembered.
    pub threshold: u8,
    /// Granted and used credits in its first notice.
    pub granted: i64,
    pub used: i64,
}

/// The notice's name: the same at every try, so that a recipient who gets it twice can tell.
impl fmt::Display for ThresholdNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Topic { holder, meter, period } = &self.topic;
        let (kind, id) = (holder.kind().as_str(), holder.uuid());
        // Lower case and without dots: it is also an object's name and part of what is signed.
        let meter = meter.as_str().replace('.', "-");
        write!(f, "{kind}-{id}-{meter}-{}-{}", period.to_lowercase(), self.threshold)
    }
}

/// A channel for notices. Each is remembered separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    Event,
    /// To the recipients that the policy names.
    Mail,
    /// To the recipients that the account names.
    AccountMail,
    Webhook,
}

impl Channel {
    pub const ALL: [Self; 4] = [Self::Event, Self::Mail, Self::AccountMail, Self::Webhook];

    /// The word used in the ledger's tables and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Mail => "mail",
            Self::AccountMail => "account_mail",
            Self::Webhook => "webhook",
        }
    }
}

/// A queued notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub id: i64,
    pub notice: ThresholdNotice,
    /// When the crossing of the threshold was seen.
    pub at: Timestamp,
    /// Tries so far, this one included.
    pub tries: u32,
}

/// The end of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Sent,
    /// It was tried too often, or there is no recipient or holder for it any more.
    GivenUp,
}

impl Ended {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::GivenUp => "given_up",
        }
    }
}

/// Maximum due notices among which turns are taken, the longest waiting first: a look at more would hold up charges.
pub const NOTICES_DUE_MAX: usize = 10_000;

/// Returns how long after the try of this number (from 1) the next one is due.
pub fn pause_after(tries: u32) -> SignedDuration {
    let doubled = 1_i32.checked_shl(tries.saturating_sub(1)).filter(|factor| *factor > 0).unwrap_or(i32::MAX);
    PAUSE_MIN.checked_mul(doubled).map_or(PAUSE_MAX, |pause| pause.min(PAUSE_MAX))
}

/// The engine's second half.
#[async_trait]
pub trait Report: Send + Sync {
    /// Returns what the keys of a policy used in the hours that begin in `[from, to)`, as the rollup has it, after
    /// `after` in the order of spenders, `limit` rows at most ([`USAGE_ROWS_MAX`]). Hours are hours of UTC: if a period
    /// begins within one, the whole hour belongs to the period in which it began.
    async fn usage(
        &self,
        policy: PolicyId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Spender>,
        limit: usize,
    ) -> Result<Vec<UsageRow>>;

    /// Writes the terms of a policy's period, replacing earlier ones.
    async fn put_terms(&self, session: &LedgerSession, terms: &BillingTerms) -> Result<()>;

    /// Returns the terms of a policy's period, if any were ever written.
    async fn terms(&self, policy: PolicyId, period: &str) -> Result<Option<BillingTerms>>;

    /// Returns each limit's notices in the newest period that had any.
    async fn told(&self, limits: &[(Holder, Meter)]) -> Result<Vec<Option<Told>>>;

    /// Takes notices to be sent, each on its channels; one without a channel is remembered and sent nowhere. A notice
    /// that was announced on a channel is never announced on it again. Returns for each whether it is new on any
    /// channel. At most [`NOTICES_MAX`].
    async fn announce(&self, session: &LedgerSession, notices: &[(ThresholdNotice, Vec<Channel>)])
    -> Result<Vec<bool>>;

    /// Hands out notices that are due on a channel, taking turns by namespace and in each the longest waiting first:
    /// accounts in one namespace that pass thousands of thresholds delay another's by one turn. (A policy's own have
    /// turns of their own.) Each counts as tried and is due again after [`pause_after`], unless
    /// [`close_notices`](Self::close_notices) ends it: a process that dies in between may or may not have sent it, so
    /// it is sent again under the same name.
    async fn claim_notices(&self, session: &LedgerSession, channel: Channel, limit: usize) -> Result<Vec<Queued>>;

    /// Ends notices.
    async fn close_notices(&self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Result<()>;

    /// Forgets up to `limit` ended notices whose threshold was crossed before `before`, oldest first. Returns how many.
    async fn forget_notices(&self, session: &LedgerSession, before: Timestamp, limit: usize) -> Result<u64>;

    /// Replaces all that this session reports of upstreams, at most
    /// [`TROUBLES_MAX`](crate::domain::trouble::TROUBLES_MAX). The report counts for as long as the session lives.
    async fn put_troubles(&self, session: &LedgerSession, troubles: &[Trouble]) -> Result<()>;

    /// Returns the reports of the relays whose sessions are neither closed nor given up.
    async fn sightings(&self) -> Result<Sightings>;

    /// Takes logins, at most [`LOGINS_MAX`](crate::domain::login_network::LOGINS_MAX), and notes in the audit trail
    /// those from a network that is not known for their key, at most
    /// [`NETWORKS_PER_KEY`](crate::domain::login_network::NETWORKS_PER_KEY) a day for each key.
    async fn note_logins(&self, session: &LedgerSession, logins: &[LoginFrom]) -> Result<()>;

    /// Adds the messages that a relay refused because of their sender, at most
    /// [`DENIED_MAX`](crate::domain::denied_sender::DENIED_MAX) rows.
    async fn count_denied_senders(&self, session: &LedgerSession, denied: &[DeniedSenders]) -> Result<()>;

    /// Hands out what was counted since the last report, for up to `limit` keys and reasons, the longest due first;
    /// each again after `every` at the earliest. If a process dies in between, that report is lost, and the next one
    /// continues after it.
    async fn report_denied_senders(
        &self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Result<Vec<DeniedReport>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let pauses: Vec<i64> = (1..=NOTICE_TRIES).map(|tries| pause_after(tries).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}
