-- Schema 5: what relays say of upstreams that they do not ask for a while. It only adds: a binary of schema 4 works on it
-- and says nothing.

-- Written by the session that saw it, when it changes. What a session says that is over does not count.
CREATE TABLE trouble (
    session bigint NOT NULL,
    policy uuid NOT NULL,
    epoch bigint NOT NULL,
    upstream text NOT NULL,
    fault text NOT NULL CHECK (fault IN ('refuses_us', 'unreachable')),
    why text NOT NULL,
    since bigint NOT NULL,
    PRIMARY KEY (session, policy)
);
