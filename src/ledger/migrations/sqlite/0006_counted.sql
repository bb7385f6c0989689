-- Schema 6: the rollup counts a lot's messages and outcomes, so that mail writes balances only. Only adds.

-- Whether a row is in its lots' counters without the rollup: rows of releases before are, also those of a binary that
-- is still running.
ALTER TABLE reservation ADD COLUMN counted INTEGER NOT NULL DEFAULT 1 CHECK (counted IN (0, 1));
ALTER TABLE settlement ADD COLUMN counted INTEGER NOT NULL DEFAULT 1 CHECK (counted IN (0, 1));
