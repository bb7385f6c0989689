-- Schema 14: when a key came from a network last. It only adds.

ALTER TABLE login_network ADD COLUMN seen_at bigint NOT NULL DEFAULT 0;
UPDATE login_network SET seen_at = at;
