-- The ledger. Times are unix milliseconds, ids are the 16 bytes of a UUID, kinds are words.
-- lot holds the only contended rows; rows are only ever inserted into reservation, settlement and event.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    installation BLOB NOT NULL,
    cluster TEXT NOT NULL,
    incarnation BLOB NOT NULL,
    -- Moves with every change of the directory: caches are compared with it inside each transaction.
    config_epoch INTEGER NOT NULL DEFAULT 0,
    -- Time never runs backwards here, so a clock that steps back opens no older period again.
    last_now INTEGER NOT NULL,
    -- The last number given out in `moved`.
    moved INTEGER NOT NULL DEFAULT 0,
    -- Whether mail may be charged to this ledger.
    state TEXT NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'rebuilding', 'empty', 'restored', 'swapped', 'went_back')),
    -- An id that was given out before this may be given to another name: its ledger was accepted since.
    accepted_at INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Which UUID was minted for (kind, namespace UID, name). Only a digest is kept, so purging a name keeps its id.
CREATE TABLE identity (
    digest BLOB PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    id BLOB NOT NULL UNIQUE,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per running process. Every transaction writes one: a stale epoch writes nothing.
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    closed_at INTEGER,
    UNIQUE (role, name)
) STRICT;

-- What the relays follow by epoch. The limit of a holder is part of its body: there is one truth about it.
CREATE TABLE directory (
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    removed INTEGER NOT NULL CHECK (removed IN (0, 1)),
    username TEXT,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX directory_epoch ON directory (epoch);
CREATE INDEX directory_username ON directory (username) WHERE username IS NOT NULL;

-- One bucket of credits of one holder. `consumed` and `overage` move with each message; the counters beside them are moved by
-- the rollup.
CREATE TABLE lot (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    holder BLOB NOT NULL,
    period TEXT NOT NULL,
    valid_from INTEGER NOT NULL,
    valid_to INTEGER NOT NULL,
    -- JSON of the calendar that made it: tells a limit of this period from one that waits for the next.
    calendar TEXT NOT NULL,
    part INTEGER NOT NULL,
    whole INTEGER NOT NULL,
    granted INTEGER,
    overhang INTEGER NOT NULL DEFAULT 0,
    consumed INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    relayed INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    not_offered INTEGER NOT NULL DEFAULT 0,
    unknown INTEGER NOT NULL DEFAULT 0,
    last_sent_at INTEGER NOT NULL DEFAULT 0,
    -- The rule that the lot came from: 'period', 'spend', 'topup', 'grant/<id>'. A lot of another source than a period lies
    -- outside of all time (valid_from long before the calendar, valid_to a millisecond later), so that a search for the
    -- running lot of a period never finds it.
    source TEXT NOT NULL DEFAULT 'period',
    -- Used beyond the limit where that is allowed, so that the check of `consumed` holds.
    overage INTEGER NOT NULL DEFAULT 0 CHECK (overage >= 0),
    -- When what is left is lost. A period's lot has valid_to.
    expires_at INTEGER,
    -- How far top-ups were added, and how much in all.
    topped_until INTEGER,
    topped_total INTEGER,
    -- The beginning of the period that the lot counts, where it is before `valid_from`.
    counts_from INTEGER,
    -- What its holder had used in that period before `valid_from`, less what was given back of it. It is in `consumed`.
    carried INTEGER NOT NULL DEFAULT 0 CHECK (carried >= 0),
    UNIQUE (holder, kind, valid_from),
    CHECK (valid_from < valid_to),
    CHECK (consumed >= 0 AND (granted IS NULL OR consumed <= max(granted, overhang)))
) STRICT;
CREATE UNIQUE INDEX lot_source ON lot (holder, kind, source) WHERE source <> 'period';

CREATE TABLE reservation (
    -- Follows the order of commits (there is one writer at a time), so cursors over it miss nothing.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    message BLOB NOT NULL UNIQUE,
    key BLOB NOT NULL,
    account BLOB NOT NULL,
    policy BLOB NOT NULL,
    credits INTEGER NOT NULL CHECK (credits >= 0),
    -- JSON: [[lot, amount], …], what a refund gives back and where.
    parts TEXT NOT NULL,
    session INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    -- Micro-units of money for a credit when it was reserved. Parts of a money lot are in micro-units.
    unit_price INTEGER NOT NULL DEFAULT 0,
    -- Whether the row is in its lots' counters without the rollup.
    counted INTEGER NOT NULL DEFAULT 1 CHECK (counted IN (0, 1))
) STRICT;

-- A second row of a message corrects an `unknown`. The rule about the outcome is written as alternatives: for a list of more
-- than two SQLite makes a table of its own for every row that is written.
CREATE TABLE settlement (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    message BLOB NOT NULL,
    correction INTEGER NOT NULL CHECK (correction = 0 OR correction = 1),
    outcome TEXT NOT NULL
        CHECK (outcome = 'relayed' OR outcome = 'refused' OR outcome = 'not_offered' OR outcome = 'unknown'),
    at INTEGER NOT NULL,
    counted INTEGER NOT NULL DEFAULT 1 CHECK (counted = 0 OR counted = 1),
    UNIQUE (message, correction),
    CHECK (correction = 0 OR outcome <> 'unknown')
) STRICT;

-- An index, not a record: the reservations without a settlement, so that giving a session up never scans history.
CREATE TABLE pending (
    message BLOB PRIMARY KEY,
    session INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_hour (
    hour INTEGER NOT NULL,
    key BLOB NOT NULL,
    account BLOB NOT NULL,
    policy BLOB NOT NULL,
    messages INTEGER NOT NULL DEFAULT 0,
    charged INTEGER NOT NULL DEFAULT 0,
    relayed INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    not_offered INTEGER NOT NULL DEFAULT 0,
    unknown INTEGER NOT NULL DEFAULT 0,
    -- Micro-units of money for the credits of the hour that were not given back, by the prices at their reservations.
    priced INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, key, account, policy)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursor (
    name TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The holders whose figures moved, each with the number of its last move.
CREATE TABLE moved (
    kind TEXT NOT NULL,
    id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX moved_seq ON moved (seq);

CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    holder_kind TEXT,
    holder BLOB,
    detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER event_stays_as_it_is BEFORE UPDATE ON event BEGIN
    SELECT RAISE(ABORT, 'the audit trail is only added to');
END;
CREATE TRIGGER event_stays BEFORE DELETE ON event BEGIN
    SELECT RAISE(ABORT, 'the audit trail is only added to');
END;

-- Where a holder with a rate stands: its theoretical arrival in microseconds.
CREATE TABLE tempo (
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account')),
    holder BLOB NOT NULL,
    arrival INTEGER NOT NULL,
    -- When the next message that is given back would come if all came evenly, in microseconds.
    given_back INTEGER,
    PRIMARY KEY (kind, holder)
) STRICT, WITHOUT ROWID;

-- Insert-only. What a lot's balance has besides its reservations: `ledger check` counts it with them.
CREATE TABLE adjustment (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lot INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    actor TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX adjustment_lot ON adjustment (lot);

-- By what a billing period is charged, so that a later price changes no closed bill.
CREATE TABLE terms (
    policy BLOB NOT NULL,
    period TEXT NOT NULL,
    valid_from INTEGER NOT NULL,
    valid_to INTEGER NOT NULL,
    currency TEXT NOT NULL,
    base_price_minor INTEGER NOT NULL,
    price_per_thousand_minor INTEGER NOT NULL,
    PRIMARY KEY (policy, period),
    CHECK (valid_from < valid_to)
) STRICT, WITHOUT ROWID;

-- Thresholds that were told, each once per period and way. The rows are the memory and the queue at once.
CREATE TABLE notice (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    holder BLOB NOT NULL,
    meter TEXT NOT NULL,
    period TEXT NOT NULL,
    threshold INTEGER NOT NULL CHECK (threshold BETWEEN 0 AND 100),
    -- 'none': remembered and sent nowhere.
    channel TEXT NOT NULL,
    policy BLOB NOT NULL,
    granted INTEGER NOT NULL,
    used INTEGER NOT NULL,
    at INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    -- When it is due; NULL when it has ended.
    next_at INTEGER,
    ended TEXT,
    UNIQUE (holder, kind, meter, period, threshold, channel),
    CHECK ((next_at IS NULL) = (ended IS NOT NULL))
) STRICT;
CREATE INDEX notice_due ON notice (channel, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX notice_ended ON notice (at) WHERE next_at IS NULL;

-- What is left of deleted rows: charged and not given back, of each lot. `ledger check` counts it with the rows.
CREATE TABLE seal (
    lot INTEGER PRIMARY KEY,
    amount INTEGER NOT NULL
) STRICT;

-- Messages whose client was told to come again before it was known what became of them.
-- `message` is the one that was charged; its outcome is in `settlement`. `carrier` is the one whose transaction may be
-- under way, in that session: itself, or a copy that stands in for it. `answered` is the copy that was told that it is
-- relayed.
CREATE TABLE fingerprint (
    message BLOB PRIMARY KEY,
    digest BLOB NOT NULL,
    at INTEGER NOT NULL,
    carrier BLOB,
    session INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    answered BLOB,
    -- How often the message was sent again without a charge.
    stand_ins INTEGER NOT NULL DEFAULT 0 CHECK (stand_ins >= 0),
    -- NULL: a day after `at`.
    until INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX fingerprint_digest ON fingerprint (digest);
CREATE INDEX fingerprint_at ON fingerprint (at);
-- Finds what is on its way although its client was told to come again.
CREATE INDEX fingerprint_carried ON fingerprint (message) WHERE carrier = message;

-- What relays say of upstreams that they do not ask for a while. Written by the session that saw it, when it changes. What a session says that is over does not count.
CREATE TABLE trouble (
    session INTEGER NOT NULL,
    policy BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    fault TEXT NOT NULL CHECK (fault IN ('refuses_us', 'unreachable')),
    why TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (session, policy)
) STRICT, WITHOUT ROWID;

-- What each holder has used, so that a limit that begins within its period counts what was used in it before.
-- Credits charged and not given back, by the quarter of their reservation; the rollup moves it.
CREATE TABLE used_hour (
    hour INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    holder BLOB NOT NULL,
    q1 INTEGER NOT NULL DEFAULT 0,
    q2 INTEGER NOT NULL DEFAULT 0,
    q3 INTEGER NOT NULL DEFAULT 0,
    q4 INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, kind, holder)
) STRICT, WITHOUT ROWID;

-- What is known to be used by holders that have no entry yet. Raised when the entry is written. One of `used` and `remaining` is set.
CREATE TABLE floor (
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    holder BLOB NOT NULL,
    meter TEXT NOT NULL,
    used INTEGER,
    remaining INTEGER,
    -- When so much remained.
    seen_at INTEGER,
    until INTEGER NOT NULL,
    PRIMARY KEY (kind, holder, meter),
    CHECK ((used IS NULL) <> (remaining IS NULL)),
    CHECK ((remaining IS NULL) = (seen_at IS NULL))
) STRICT, WITHOUT ROWID;

-- How much of an account's mail was given back lately.
-- When the next one would come if all came evenly, in microseconds; so many in an hour when one was last.
CREATE TABLE refusal (
    account BLOB PRIMARY KEY,
    arrival INTEGER NOT NULL,
    per_hour INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refusal_arrival ON refusal (arrival);

-- Messages that relays refused for their sender.
CREATE TABLE denied_sender (
    key BLOB NOT NULL,
    reason TEXT NOT NULL,
    -- Since the key was made, and as many of them as were reported.
    messages INTEGER NOT NULL,
    reported INTEGER NOT NULL,
    -- Of the last one; empty where it had none.
    domain TEXT NOT NULL,
    last_at INTEGER NOT NULL,
    -- When they may be reported at the earliest.
    due_at INTEGER NOT NULL,
    PRIMARY KEY (key, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX denied_sender_due ON denied_sender (due_at) WHERE messages > reported;

-- Networks that keys logged in from.
CREATE TABLE login_network (
    key BLOB NOT NULL,
    network TEXT NOT NULL,
    -- Of the first login from it.
    at INTEGER NOT NULL,
    -- Of the last one.
    seen_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (key, network)
) STRICT, WITHOUT ROWID;
