-- Schema 11: messages that relays refused for their sender. It only adds.

CREATE TABLE denied_sender (
    key uuid NOT NULL,
    reason text NOT NULL,
    -- Since the key was made, and as many of them as were reported.
    messages bigint NOT NULL,
    reported bigint NOT NULL,
    -- Of the last one; empty where it had none.
    domain text NOT NULL,
    last_at bigint NOT NULL,
    -- When they may be reported at the earliest.
    due_at bigint NOT NULL,
    PRIMARY KEY (key, reason)
);
CREATE INDEX denied_sender_due ON denied_sender (due_at) WHERE messages > reported;
