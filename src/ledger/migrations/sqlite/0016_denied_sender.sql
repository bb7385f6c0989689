-- Schema 16: messages that relays refused for their sender. Only adds.

CREATE TABLE denied_sender (
    key BLOB NOT NULL,
    reason TEXT NOT NULL,
    -- Since the key was made, and as many of them as were reported.
    messages INTEGER NOT NULL,
    reported INTEGER NOT NULL,
    -- Of the last one; empty where it had none.
    domain TEXT NOT NULL,
    last_at INTEGER NOT NULL,
    -- When they may be reported at the earliest.
    due_at INTEGER NOT NULL,
    PRIMARY KEY (key, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX denied_sender_due ON denied_sender (due_at) WHERE messages > reported;
