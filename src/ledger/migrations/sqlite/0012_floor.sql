-- Schema 12: what is known to be used by holders that have no entry yet. Only adds.

-- Raised when the entry is written. One of `used` and `remaining` is set.
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
