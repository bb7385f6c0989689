-- Schema 12: networks that keys logged in from. It only adds.

CREATE TABLE login_network (
    key uuid NOT NULL,
    network text NOT NULL,
    -- Of the first login from it.
    at bigint NOT NULL,
    PRIMARY KEY (key, network)
);
