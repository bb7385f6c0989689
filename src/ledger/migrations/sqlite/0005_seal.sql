-- Schema 5: old messages are sealed and deleted. Only adds.

-- What is left of deleted rows: charged and not given back, of each lot. `ledger check` counts it with the rows.
CREATE TABLE seal (
    lot INTEGER PRIMARY KEY,
    amount INTEGER NOT NULL
) STRICT;
