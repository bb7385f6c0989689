-- Schema 10: how much of an account's mail was given back lately. It only adds.

-- When the next one would come if all came evenly, in microseconds; so many in an hour when one was last.
CREATE TABLE refusal (
    account uuid PRIMARY KEY,
    arrival bigint NOT NULL,
    per_hour bigint NOT NULL
);
CREATE INDEX refusal_arrival ON refusal (arrival);
