-- Schema 19: when a key came from a network last. Only adds.

ALTER TABLE login_network ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0;
UPDATE login_network SET seen_at = at;
