-- Schema 10: what relays say of upstreams that they do not ask for a while. Only adds.

-- Written by the session that saw it, when it changes. What a session says that is over does not count.
CREATE TABLE trouble (
    session INTEGER NOT NULL,
    policy BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    fault TEXT NOT NULL CHECK (fault IN ('refuses_us', 'unreachable')),
    why TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (session, policy)
) STRICT, WITHOUT ROWID;
