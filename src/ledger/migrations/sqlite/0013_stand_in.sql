-- Schema 13: how often a kept message was sent again without a charge, and how long it is kept. Only adds.

ALTER TABLE fingerprint ADD COLUMN stand_ins INTEGER NOT NULL DEFAULT 0 CHECK (stand_ins >= 0);
-- NULL: a day after `at`.
ALTER TABLE fingerprint ADD COLUMN until INTEGER;
