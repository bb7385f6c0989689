-- The ledger, schema 1. Times are unix milliseconds, ids are the 16 bytes of a UUID, kinds are words.
-- lot holds the only contended rows; reservation, settlement and event are only ever inserted into.

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
    moved INTEGER NOT NULL DEFAULT 0
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

-- One bucket of credits of one holder in one period. The counters beside `consumed` are the usage of the period;
-- they move in the same transaction as the balance, so they are exact and a status read is one row.
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
    UNIQUE (holder, kind, valid_from),
    CHECK (valid_from < valid_to),
    CHECK (consumed >= 0 AND (granted IS NULL OR consumed <= max(granted, overhang)))
) STRICT;

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
    at INTEGER NOT NULL
) STRICT;

-- A second row of a message corrects an `unknown`.
CREATE TABLE settlement (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    message BLOB NOT NULL,
    correction INTEGER NOT NULL CHECK (correction IN (0, 1)),
    outcome TEXT NOT NULL CHECK (outcome IN ('relayed', 'refused', 'not_offered', 'unknown')),
    at INTEGER NOT NULL,
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
