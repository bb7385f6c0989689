-- Schema 3: messages whose client was told to come again before it was known what became of them. It only adds: a binary
-- of schema 2 works on it and keeps none.

-- `message` is the one that was charged; its outcome is in `settlement`. `carrier` is the one whose transaction may be
-- under way, in that session: itself, or a copy that stands in for it. `answered` is the copy that was told that it is
-- relayed. Locked before any other row.
CREATE TABLE fingerprint (
    message uuid PRIMARY KEY,
    day integer NOT NULL,
    digest bytea NOT NULL,
    at bigint NOT NULL,
    carrier uuid,
    session bigint NOT NULL,
    epoch bigint NOT NULL,
    answered uuid
);
CREATE INDEX fingerprint_digest ON fingerprint (digest);
CREATE INDEX fingerprint_at ON fingerprint (at);
