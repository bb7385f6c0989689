-- Schema 7: what is known to be used by holders that have no entry yet. It only adds.

-- Raised when the entry is written. One of `used` and `remaining` is set.
CREATE TABLE floor (
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    holder uuid NOT NULL,
    meter text NOT NULL,
    used bigint,
    remaining bigint,
    -- When so much remained.
    seen_at bigint,
    until bigint NOT NULL,
    PRIMARY KEY (kind, holder, meter),
    CHECK ((used IS NULL) <> (remaining IS NULL)),
    CHECK ((remaining IS NULL) = (seen_at IS NULL))
);
