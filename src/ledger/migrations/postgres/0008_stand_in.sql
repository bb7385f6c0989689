-- Schema 8: how often a kept message was sent again without a charge, and how long it is kept. It only adds.

-- `until`, NULL: a day after `at`.
ALTER TABLE fingerprint
    ADD COLUMN stand_ins integer NOT NULL DEFAULT 0 CHECK (stand_ins >= 0),
    ADD COLUMN until bigint;
