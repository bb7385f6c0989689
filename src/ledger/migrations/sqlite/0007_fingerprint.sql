-- Schema 7: messages whose client was told to come again before it was known what became of them. Only adds.

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
    answered BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX fingerprint_digest ON fingerprint (digest);
CREATE INDEX fingerprint_at ON fingerprint (at);
