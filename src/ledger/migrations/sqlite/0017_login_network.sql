-- Schema 17: networks that keys logged in from. Only adds.

CREATE TABLE login_network (
    key BLOB NOT NULL,
    network TEXT NOT NULL,
    -- Of the first login from it.
    at INTEGER NOT NULL,
    PRIMARY KEY (key, network)
) STRICT, WITHOUT ROWID;
