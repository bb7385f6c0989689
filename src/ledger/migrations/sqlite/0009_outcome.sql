-- Schema 9: the rule about a settlement's outcome as alternatives. For a list of more than two SQLite makes a table of
-- its own for every row that is written.

CREATE TABLE settled (
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
INSERT INTO settled (seq, message, correction, outcome, at, counted)
    SELECT seq, message, correction, outcome, at, counted FROM settlement;
-- Numbers of rows that were deleted are not given again: the rollup has passed them.
DELETE FROM sqlite_sequence WHERE name = 'settled';
INSERT INTO sqlite_sequence (name, seq) SELECT 'settled', seq FROM sqlite_sequence WHERE name = 'settlement';
DROP TABLE settlement;
ALTER TABLE settled RENAME TO settlement;
