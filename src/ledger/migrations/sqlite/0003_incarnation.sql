-- Schema 3: whether mail may be charged to this ledger, and used credits that no message of it accounts for.

ALTER TABLE meta ADD COLUMN state TEXT NOT NULL DEFAULT 'open'
    CHECK (state IN ('open', 'rebuilding', 'empty', 'restored', 'swapped', 'went_back'));

-- An id that was given out before this may be given to another name: its ledger was accepted since.
ALTER TABLE meta ADD COLUMN accepted_at INTEGER NOT NULL DEFAULT 0;

-- Insert-only. What a lot's balance has besides its reservations: `ledger check` counts it with them.
CREATE TABLE adjustment (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lot INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    actor TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX adjustment_lot ON adjustment (lot);
