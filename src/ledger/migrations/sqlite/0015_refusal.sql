-- Schema 15: how much of an account's mail was given back lately. Only adds.

-- When the next one would come if all came evenly, in microseconds; so many in an hour when one was last.
CREATE TABLE refusal (
    account BLOB PRIMARY KEY,
    arrival INTEGER NOT NULL,
    per_hour INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refusal_arrival ON refusal (arrival);
