-- Schema 4: bills and notices. Only adds: schema 1 to 3 know nothing of these tables.

-- Micro-units of money for the credits of the hour that were not given back, by the prices at their reservations.
ALTER TABLE usage_hour ADD COLUMN priced INTEGER NOT NULL DEFAULT 0;

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
