//! The contract between the rooms and an engine. Each method is one transaction (sweep, lots ahead and rollup, which
//! may have much to do, are several, one after another); absent is `None`, not an error.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::report::Report;
use crate::domain::credential::Username;
use crate::domain::credit::{LotId, Meter, Outcome, Reservation, Verdict};
use crate::domain::directory::{Entry, Named};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::{Holder, Kind, MessageId};
pub use crate::ledger::error::{Error, Result, Undone};
pub use crate::ledger::identity::{Because, Identity, Progress, State, Tag};
pub use crate::ledger::incarnation::Acceptance;
pub use crate::ledger::rules::balance::{Balance, Exhausted, PrepaidBalance, SpendBalance, Usage, short_of};
pub use crate::ledger::rules::floors::{Bound, Floor};
use crate::ledger::rules::time;
pub use crate::ledger::rules::time::{AHEAD_MAX, REMEMBERED_FOR};
pub use crate::ledger::session::{LedgerSession, Role};

/// The ledger's time beside the clock that it is taken from: the server's if the engine has one, otherwise this
/// process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerTime {
    /// The time of the last write, or the clock's if that is later.
    pub ledger: Timestamp,
    pub clock: Timestamp,
}

impl LedgerTime {
    /// Returns how far the ledger is ahead of the clock, if by more than [`AHEAD_MAX`].
    pub fn ahead(&self) -> Option<SignedDuration> {
        time::ahead(self.ledger, self.clock)
    }
}

/// The outcome of one message, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub message: MessageId,
    pub outcome: Outcome,
    /// Set for a message that its client may send again: what the ledger must remember for that copy.
    pub dedup: Option<DedupUpdate>,
}

/// The record of a message that is kept, or given up, for the copy of it that may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupUpdate {
    /// The client was told to try again, and an answer may still come.
    Open(Kept),
    /// The same, but no answer will come any more.
    Ended(Kept),
    /// The message stood in for an earlier one, as its reservation was answered, or may have been. If its outcome is
    /// `relayed`, so is the earlier one's; any other outcome leaves the earlier one unknown, for the next copy.
    StoodIn {
        fingerprint: Fingerprint,
        /// The client was told that it is relayed: a client that sends the same bytes once more means another message.
        told: bool,
    },
}

impl DedupUpdate {
    pub fn fingerprint(&self) -> &Fingerprint {
        match self {
            Self::Open(Kept { fingerprint, .. })
            | Self::Ended(Kept { fingerprint, .. })
            | Self::StoodIn { fingerprint, .. } => fingerprint,
        }
    }
}

/// A fingerprint to keep, and how long its client may try the message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub fingerprint: Fingerprint,
    pub within: SignedDuration,
}

/// The time within which a client may retry a message whose outcome was open. Queues of clients try for days, but
/// mostly in their first hours; and a device that sends the same bytes every day means a new message.
pub const FINGERPRINT_KEPT: SignedDuration = SignedDuration::from_hours(24);
/// The same for a message with neither Message-ID nor Date. Nothing tells two of them apart: a device that reports the
/// same fault twice sends the same bytes twice. Clients that send such mail retry within minutes, or never.
pub const FINGERPRINT_KEPT_UNMARKED: SignedDuration = SignedDuration::from_mins(15);

impl Settlement {
    pub fn of(message: MessageId, outcome: Outcome) -> Self {
        Self { message, outcome, dedup: None }
    }

    /// Builds the settlement that gives back what a reservation was answered with: credits, or the place of an earlier
    /// message.
    pub fn given_back(reservation: &Reservation) -> Self {
        let stood_in = |fingerprint| DedupUpdate::StoodIn { fingerprint, told: false };
        let dedup = reservation.fingerprint.map(stood_in);
        Self { message: reservation.message, outcome: Outcome::NotOffered, dedup }
    }
}

/// The changes of the directory after an epoch.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub entries: Vec<Entry>,
    /// Pass it as `after` next time.
    pub epoch: i64,
    /// The ledger that answered, read in the same snapshot.
    pub tag: Tag,
}

/// A row of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub seq: i64,
    pub at: Timestamp,
    /// The actor: `user:` and a name, `manager:` and a field manager, or one of our roles.
    pub actor: String,
    pub kind: String,
    pub holder: Option<Holder>,
    pub detail: serde_json::Value,
}

/// A lot whose balance does not follow from its reservations and settlements. There must be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discrepancy {
    pub lot: LotId,
    pub holder: Holder,
    pub meter: Meter,
    pub consumed: i64,
    /// Charged − refunded, recomputed from the rows.
    pub recomputed: i64,
}

/// An engine. Its second half is [`Report`].
#[async_trait]
pub trait Store: Report + Send + Sync + 'static {
    async fn identity(&self) -> Result<Identity>;

    /// Returns the ledger's time. Reads only.
    async fn time(&self) -> Result<LedgerTime>;

    /// Opens a session: a new epoch for (role, name); an older one of the same name is fenced from here on.
    async fn open_session(&self, role: Role, name: &str) -> Result<LedgerSession>;

    /// Reports that the session is alive. Batches do so too.
    async fn heartbeat(&self, session: &LedgerSession) -> Result<()>;

    /// Ends a session in good order.
    async fn close_session(&self, session: &LedgerSession) -> Result<()>;

    /// Gives up every other session that was silent for `silence` by the ledger's own time, and settles as unknown the
    /// open reservations of sessions that are given up or closed. Returns those messages.
    async fn sweep_sessions(&self, session: &LedgerSession, silence: SignedDuration) -> Result<Vec<MessageId>>;

    /// Returns the id of (kind, namespace UID, name): found, or minted once and for ever. A cluster-scoped object's
    /// namespace UID is "". Only a digest of the two is kept, so that purging personal data keeps the id.
    async fn identify(&self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid>;

    /// Writes directory entries and the limits that follow from them, in one transaction. A changed limit holds at
    /// once, and so does a changed calendar: a limit counts what its holder has used since the beginning of its own
    /// period, whenever it was set and whatever held in between. An entry equal to the stored one is not written and
    /// moves no epoch. `actor` goes to the audit trail.
    async fn put(&self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()>;

    /// Returns all that changed in the directory after epoch `after` (0 = everything). Cheap when nothing did: the
    /// relays ask every 200 ms.
    async fn changes(&self, after: i64) -> Result<Changes>;

    /// Looks the sender up on fresh rows: the relay's last check before it replies 535. Refused unless the ledger is
    /// open. A key whose account or policy has no row is returned alone.
    async fn find_sender(&self, username: &Username) -> Result<Option<Named>>;

    /// Reads one entry, fresh.
    async fn find(&self, holder: Holder) -> Result<Option<Entry>>;

    /// Charges a batch, all meters of a message or none, in order. Idempotent by message id, whatever happened to
    /// earlier calls. Judges standing (revoked, expired, suspended) on fresh rows. An id is answered as reserved for
    /// ever, also after its credits were given back: the relay that settles a message never uses its id again. Refused
    /// unless the ledger is open.
    ///
    /// A message in good standing whose fingerprint was kept ([`DedupUpdate`]) is answered with the outcome of the
    /// earlier one: each kept fingerprint stands for one message, so one copy of it is answered as relayed or stands in
    /// for it. Two copies of a fingerprint may stand in, within the rates; from the third on it is a new message.
    async fn reserve(&self, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>>;

    /// Writes outcomes, refunding what they refund to the lots it came from. Idempotent: the first outcome stays, only
    /// `unknown` may be replaced, once. A late outcome is taken even from a fenced session: it corrects.
    async fn settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Result<()>;

    /// Drops the fingerprints that were kept before `before`, however long they are valid. Returns how many.
    async fn forget_fingerprints(&self, session: &LedgerSession, before: Timestamp) -> Result<u64>;

    /// Makes the lots that will hold at `until`, ahead of their time. Idempotent. Returns how many were new.
    async fn prepare_lots(&self, session: &LedgerSession, until: Timestamp) -> Result<u64>;

    /// The running lots of holders with the usage of their periods, as of the last commit. A holder without an entry is
    /// left out; an unused lot may be returned before it is made (its id is 0 then).
    async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>>;

    /// Returns the holders whose figures changed after `cursor`, with the next cursor. At most `limit`; ask again while
    /// it is full. Messages move it when [`rollup`](Self::rollup) takes them. A period that ends moves nothing: its end
    /// is known beforehand.
    async fn moved(&self, cursor: i64, limit: usize) -> Result<(Vec<Holder>, i64)>;

    /// Moves new reservations and settlements into the hourly rollup, exactly once. Returns how many rows it took.
    async fn rollup(&self, session: &LedgerSession) -> Result<u64>;

    /// Returns the audit trail after `seq`, oldest first.
    async fn events(&self, after: i64, limit: usize) -> Result<Vec<Event>>;

    /// Adds to the audit trail. `detail` must name no person: the trail outlives what is purged.
    async fn record(
        &self,
        session: &LedgerSession,
        actor: &str,
        kind: &str,
        holder: Option<Holder>,
        detail: serde_json::Value,
    ) -> Result<()>;

    /// Seals the sums of messages that were reserved on days that ended before `before`, and drops their rows: from
    /// then on they can neither be given back nor be recognised. Those still open stay charged, as unknown. Returns how
    /// many messages those were.
    async fn retire(&self, session: &LedgerSession, before: Timestamp) -> Result<u64>;

    /// Deletes the directory's rows of keys that were removed for good before `before`, and at least [`REMEMBERED_FOR`]
    /// ago. What they used, and their ids, stay: a key of the same name that is applied again in its namespace finds
    /// both. Returns how many rows.
    async fn forget_keys(&self, session: &LedgerSession, before: Timestamp) -> Result<u64>;

    /// Recomputes every balance from its rows and returns those that differ. Must be empty.
    async fn check(&self) -> Result<Vec<Discrepancy>>;

    /// Holds the ledger until it is accepted: [`put`](Self::put), [`identify`](Self::identify) and
    /// [`balances`](Self::balances) are refused too, so that nothing that follows from it is shown or written. A ledger
    /// that is already held, or is being rebuilt, stays as it is.
    async fn hold(&self, because: Because) -> Result<()>;

    /// Accepts a replaced ledger under a new incarnation, to be rebuilt before mail is charged to it: every session
    /// ends. Refused ([`Error::Replaced`]) if it is not the one that was found; repeating it changes nothing.
    async fn accept(&self, acceptance: &Acceptance) -> Result<()>;

    /// Gives (kind, namespace UID, name) the id that its status shows, in a ledger that is being rebuilt. If another
    /// name was given that id since the acceptance, that name keeps it, and this one's own id is found or minted.
    /// Returns the id that holds.
    async fn assign(
        &self,
        session: &LedgerSession,
        kind: Kind,
        namespace_uid: &str,
        name: &str,
        id: Uuid,
    ) -> Result<Uuid>;

    /// Raises the usage of running lots to what is known, for every meter, where they have used less, by adjustments in
    /// the audit trail that [`check`](Self::check) counts. A floor whose holder has no entry is remembered until its
    /// entry is written, one whose period has ended is left out. Returns how many lots were raised.
    async fn raise(&self, session: &LedgerSession, actor: &str, floors: &[Floor]) -> Result<u64>;

    /// Ends the rebuilding: mail is charged to the ledger from here on. First every account is raised by what its keys
    /// were, and every policy by what its accounts were, where they were raised by less.
    async fn reopen(&self, session: &LedgerSession) -> Result<()>;
}
