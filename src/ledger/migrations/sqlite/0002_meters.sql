-- The ledger, schema 2: money, grants, top-ups, overage, rates. It only adds, and every column has a default, so what a
-- binary of schema 1 writes still fits.

-- The rule that a lot came from: 'period', 'spend', 'topup', 'grant/<id>'. A lot of another source than a period lies
-- outside of all time (valid_from long before the calendar, valid_to a millisecond later), so that whoever looks for
-- the running lot of a period never finds it.
ALTER TABLE lot ADD COLUMN source TEXT NOT NULL DEFAULT 'period';
-- Used beyond the limit where that is allowed: beside `consumed`, so the belt on that holds.
ALTER TABLE lot ADD COLUMN overage INTEGER NOT NULL DEFAULT 0 CHECK (overage >= 0);
-- When what is left is lost. A period's lot has valid_to.
ALTER TABLE lot ADD COLUMN expires_at INTEGER;
-- How far top-ups were added, and how much in all.
ALTER TABLE lot ADD COLUMN topped_until INTEGER;
ALTER TABLE lot ADD COLUMN topped_total INTEGER;
CREATE UNIQUE INDEX lot_source ON lot (holder, kind, source) WHERE source <> 'period';

-- Micro-units of money for a credit when it was reserved. Parts of a money lot are in micro-units.
ALTER TABLE reservation ADD COLUMN unit_price INTEGER NOT NULL DEFAULT 0;

-- Where a holder with a rate stands: its theoretical arrival in microseconds.
CREATE TABLE tempo (
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account')),
    holder BLOB NOT NULL,
    arrival INTEGER NOT NULL,
    PRIMARY KEY (kind, holder)
) STRICT, WITHOUT ROWID;
