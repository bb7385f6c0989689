-- Schema 11: what each holder has used, by quarters of an hour, so that a limit that begins within its period counts what
-- was used in it before. Only adds.

-- Credits charged and not given back, by the quarter of their reservation; the rollup moves it.
CREATE TABLE used_hour (
    hour INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    holder BLOB NOT NULL,
    q1 INTEGER NOT NULL DEFAULT 0,
    q2 INTEGER NOT NULL DEFAULT 0,
    q3 INTEGER NOT NULL DEFAULT 0,
    q4 INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, kind, holder)
) STRICT, WITHOUT ROWID;
-- Of what was counted before only the hour is known: it counts for the last quarter, rather too much than too little.
INSERT INTO used_hour (hour, kind, holder, q4)
    SELECT hour, 'key', key, sum(charged - refused - not_offered) FROM usage_hour GROUP BY hour, key
    UNION ALL
    SELECT hour, 'account', account, sum(charged - refused - not_offered) FROM usage_hour GROUP BY hour, account
    UNION ALL
    SELECT hour, 'policy', policy, sum(charged - refused - not_offered) FROM usage_hour GROUP BY hour, policy;

-- The beginning of the period that a lot counts, where it is before `valid_from`.
ALTER TABLE lot ADD COLUMN counts_from INTEGER;
-- What its holder had used in that period before `valid_from`, less what was given back of it. It is in `consumed`.
ALTER TABLE lot ADD COLUMN carried INTEGER NOT NULL DEFAULT 0 CHECK (carried >= 0);
