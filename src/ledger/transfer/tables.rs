//! The tables of a SQLite ledger, and where each goes in PostgreSQL.
//!
//! Every table and column of the SQLite schema is read here, or left out with its reason: a test compares this list
//! with the schema, so that a table that is added later cannot be forgotten by a move.

/// The type of a target's column, and how the source's value becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    SmallInt,
    Int,
    BigInt,
    Bool,
    Text,
    Uuid,
    Bytes,
    /// The word of a kind becomes its number.
    Kind,
    /// The word of an outcome becomes its number.
    Outcome,
    /// The id of a message becomes the day inside it.
    Day,
    /// The JSON of a charge's parts becomes four columns: the lots of the period, and the rest. The column before it
    /// is what each of these lots was charged.
    Parts,
}

/// One table of the target, and the rows that it gets.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub into: &'static str,
    pub columns: &'static [(&'static str, Field)],
    /// Selects these columns in the source. `?1` is the number of the target's transaction.
    pub select: &'static str,
}

/// Columns of the source that no query of [`TABLES`] and [`SESSIONS`] reads.
pub const LEFT_OUT: [(&str, &str, &str); 14] = [
    ("cursor", "name", "the target's rollup knows rows by their transaction: `CURSORS` reads it"),
    ("cursor", "seq", "the same"),
    ("reservation", "counted", "rows of development schemas: a move refuses what the rollup has not taken of them"),
    ("settlement", "counted", "the same"),
    ("meta", "one", "there is one row"),
    ("meta", "schema_version", "each engine has its own"),
    ("meta", "installation", "`META` reads it"),
    ("meta", "cluster", "the same"),
    ("meta", "incarnation", "the same"),
    ("meta", "config_epoch", "the same"),
    ("meta", "last_now", "the same"),
    ("meta", "moved", "the same"),
    ("meta", "state", "the same"),
    ("meta", "accepted_at", "the same"),
];

use Field::{BigInt, Bool, Bytes, Day, Int, Kind, Outcome, Parts, SmallInt, Text, Uuid};

/// The tables that nothing writes to while a ledger is held, in the order in which they are copied.
pub const TABLES: [Table; 21] = [
    Table {
        into: "identity",
        columns: &[("digest", Bytes), ("kind", Kind), ("id", Uuid), ("at", BigInt)],
        select: "SELECT digest, kind, id, at FROM identity",
    },
    Table {
        into: "directory",
        columns: &[
            ("kind", Kind),
            ("id", Uuid),
            ("epoch", BigInt),
            ("removed", Bool),
            ("username", Text),
            ("body", Text),
        ],
        select: "SELECT kind, id, epoch, removed, username, body FROM directory",
    },
    Table {
        into: "lot",
        columns: &[
            ("id", BigInt),
            ("kind", Kind),
            ("holder", Uuid),
            ("source", Text),
            ("period", Text),
            ("valid_from", BigInt),
            ("valid_to", BigInt),
            ("calendar", Text),
            ("part", BigInt),
            ("whole", BigInt),
            ("granted", BigInt),
            ("overhang", BigInt),
            ("consumed", BigInt),
            ("overage", BigInt),
            ("topped_total", BigInt),
            ("topped_until", BigInt),
            ("counts_from", BigInt),
            ("carried", BigInt),
        ],
        // A lot of another source than a period lies outside of all time in SQLite, and holds from the first instant
        // to its expiry, or the last instant, in PostgreSQL. (jiff's first and last millisecond.)
        select: "SELECT id, kind, holder, source, period, \
                 CASE source WHEN 'period' THEN valid_from ELSE -377705023201000 END, \
                 CASE source WHEN 'period' THEN valid_to ELSE ifnull(expires_at, 253402207200999) END, \
                 calendar, part, whole, granted, overhang, consumed, overage, topped_total, topped_until, \
                 counts_from, carried FROM lot",
    },
    Table {
        into: "lot_usage",
        columns: &[
            ("lot", BigInt),
            ("messages", BigInt),
            ("relayed", BigInt),
            ("refused", BigInt),
            ("not_offered", BigInt),
            ("unknown", BigInt),
            ("last_sent_at", BigInt),
        ],
        select: "SELECT id, messages, relayed, refused, not_offered, unknown, last_sent_at FROM lot \
                 WHERE messages <> 0 OR relayed <> 0 OR refused <> 0 OR not_offered <> 0 OR unknown <> 0 \
                 OR last_sent_at <> 0",
    },
    Table {
        into: "tempo",
        columns: &[("kind", Kind), ("holder", Uuid), ("arrival", BigInt), ("given_back", BigInt)],
        select: "SELECT kind, holder, arrival, given_back FROM tempo",
    },
    // What the rollup has taken has no transaction (0), so the target's rollup takes the rest, and only that.
    Table {
        into: "reservation",
        columns: &[
            ("day", Day),
            ("message", Uuid),
            ("key", Uuid),
            ("account", Uuid),
            ("policy", Uuid),
            ("credits", BigInt),
            ("key_lot, account_lot, policy_lot, more", Parts),
            ("unit_price", BigInt),
            ("session", BigInt),
            ("epoch", BigInt),
            ("at", BigInt),
            ("xid", BigInt),
        ],
        select: "SELECT message, message, key, account, policy, credits, parts, unit_price, session, epoch, at, \
                 CASE WHEN seq <= ifnull((SELECT c.seq FROM cursor c WHERE c.name = 'reservation'), 0) \
                 THEN 0 ELSE ?1 END FROM reservation ORDER BY seq",
    },
    Table {
        into: "settlement",
        columns: &[
            ("day", Day),
            ("message", Uuid),
            ("correction", Bool),
            ("outcome", Outcome),
            ("at", BigInt),
            ("xid", BigInt),
        ],
        select: "SELECT message, message, correction, outcome, at, \
                 CASE WHEN seq <= ifnull((SELECT c.seq FROM cursor c WHERE c.name = 'settlement'), 0) \
                 THEN 0 ELSE ?1 END FROM settlement ORDER BY seq",
    },
    // The target's rollup adds what it takes.
    Table {
        into: "unsettled",
        columns: &[("message", Uuid), ("day", Day), ("session", BigInt), ("epoch", BigInt)],
        select: "SELECT p.message, p.message, p.session, p.epoch FROM pending p \
                 JOIN reservation r ON r.message = p.message \
                 WHERE r.seq <= ifnull((SELECT c.seq FROM cursor c WHERE c.name = 'reservation'), 0)",
    },
    Table {
        into: "usage_hour",
        columns: &[
            ("hour", BigInt),
            ("key", Uuid),
            ("account", Uuid),
            ("policy", Uuid),
            ("messages", BigInt),
            ("charged", BigInt),
            ("relayed", BigInt),
            ("refused", BigInt),
            ("not_offered", BigInt),
            ("unknown", BigInt),
            ("priced", BigInt),
        ],
        select: "SELECT hour, key, account, policy, messages, charged, relayed, refused, not_offered, unknown, priced \
                 FROM usage_hour",
    },
    Table {
        into: "moved",
        columns: &[("kind", Kind), ("id", Uuid), ("seq", BigInt)],
        select: "SELECT kind, id, seq FROM moved",
    },
    Table {
        into: "event",
        columns: &[
            ("seq", BigInt),
            ("at", BigInt),
            ("actor", Text),
            ("kind", Text),
            ("holder_kind", Kind),
            ("holder", Uuid),
            ("detail", Text),
        ],
        select: "SELECT seq, at, actor, kind, holder_kind, holder, detail FROM event",
    },
    Table {
        into: "adjustment",
        columns: &[("seq", BigInt), ("lot", BigInt), ("credits", BigInt), ("actor", Text), ("at", BigInt)],
        select: "SELECT seq, lot, credits, actor, at FROM adjustment",
    },
    Table {
        into: "terms",
        columns: &[
            ("policy", Uuid),
            ("period", Text),
            ("valid_from", BigInt),
            ("valid_to", BigInt),
            ("currency", Text),
            ("base_price_minor", BigInt),
            ("price_per_thousand_minor", BigInt),
        ],
        select: "SELECT policy, period, valid_from, valid_to, currency, base_price_minor, price_per_thousand_minor \
                 FROM terms",
    },
    Table {
        into: "notice",
        columns: &[
            ("id", BigInt),
            ("kind", Kind),
            ("holder", Uuid),
            ("meter", Text),
            ("period", Text),
            ("threshold", SmallInt),
            ("channel", Text),
            ("policy", Uuid),
            ("granted", BigInt),
            ("used", BigInt),
            ("at", BigInt),
            ("tries", Int),
            ("next_at", BigInt),
            ("ended", Text),
        ],
        select: "SELECT id, kind, holder, meter, period, threshold, channel, policy, granted, used, at, tries, next_at, \
                 ended FROM notice",
    },
    Table { into: "seal", columns: &[("lot", BigInt), ("amount", BigInt)], select: "SELECT lot, amount FROM seal" },
    Table {
        into: "fingerprint",
        columns: &[
            ("message", Uuid),
            ("day", Day),
            ("digest", Bytes),
            ("at", BigInt),
            ("carrier", Uuid),
            ("session", BigInt),
            ("epoch", BigInt),
            ("answered", Uuid),
            ("stand_ins", Int),
            ("until", BigInt),
        ],
        select: "SELECT message, message, digest, at, carrier, session, epoch, answered, stand_ins, until \
                 FROM fingerprint",
    },
    Table {
        into: "used_hour",
        columns: &[
            ("hour", BigInt),
            ("kind", Kind),
            ("holder", Uuid),
            ("q1", BigInt),
            ("q2", BigInt),
            ("q3", BigInt),
            ("q4", BigInt),
        ],
        select: "SELECT hour, kind, holder, q1, q2, q3, q4 FROM used_hour",
    },
    Table {
        into: "floor",
        columns: &[
            ("kind", Kind),
            ("holder", Uuid),
            ("meter", Text),
            ("used", BigInt),
            ("remaining", BigInt),
            ("seen_at", BigInt),
            ("until", BigInt),
        ],
        select: "SELECT kind, holder, meter, used, remaining, seen_at, until FROM floor",
    },
    Table {
        into: "refusal",
        columns: &[("account", Uuid), ("arrival", BigInt), ("per_hour", BigInt)],
        select: "SELECT account, arrival, per_hour FROM refusal",
    },
    Table {
        into: "denied_sender",
        columns: &[
            ("key", Uuid),
            ("reason", Text),
            ("messages", BigInt),
            ("reported", BigInt),
            ("domain", Text),
            ("last_at", BigInt),
            ("due_at", BigInt),
        ],
        select: "SELECT key, reason, messages, reported, domain, last_at, due_at FROM denied_sender",
    },
    Table {
        into: "login_network",
        columns: &[("key", Uuid), ("network", Text), ("at", BigInt), ("seen_at", BigInt)],
        select: "SELECT key, network, at, seen_at FROM login_network",
    },
];

/// The tables that processes of the target write to while its ledger is held: copied last, under a lock. Every session
/// ends with the move, so that no process of the source, and none that was connected to the empty target, is taken for
/// one of this ledger's: each number of a session there took a transaction, so all are below that of the move.
pub const SESSIONS: [Table; 3] = [
    Table {
        into: "session",
        columns: &[
            ("id", BigInt),
            ("role", Text),
            ("name", Text),
            ("epoch", BigInt),
            ("opened_at", BigInt),
            ("closed_at", BigInt),
        ],
        select: "SELECT id, role, name, epoch + ?1, opened_at, ifnull(closed_at, (SELECT last_now FROM meta)) \
                 FROM session",
    },
    Table {
        into: "beat",
        columns: &[("session", BigInt), ("lane", SmallInt), ("seq", BigInt), ("at", BigInt), ("seen_at", BigInt)],
        select: "SELECT id, 3, 1, seen_at, seen_at FROM session",
    },
    Table {
        into: "trouble",
        columns: &[
            ("session", BigInt),
            ("policy", Uuid),
            ("epoch", BigInt),
            ("upstream", Text),
            ("fault", Text),
            ("why", Text),
            ("since", BigInt),
        ],
        select: "SELECT session, policy, epoch, upstream, fault, why, since FROM trouble",
    },
];

/// The sequences of the target, with the source's of the same table: an id is never given out twice.
pub const SEQUENCES: [(&str, &str); 4] = [("lot", "id"), ("adjustment", "seq"), ("notice", "id"), ("session", "id")];

/// Rows that earlier development schemas counted without the rollup, and that it has not passed yet.
pub const COUNTED_AHEAD: &str = "SELECT EXISTS (SELECT 1 FROM reservation WHERE counted = 1 AND seq > \
         ifnull((SELECT c.seq FROM cursor c WHERE c.name = 'reservation'), 0)) \
     OR EXISTS (SELECT 1 FROM settlement WHERE counted = 1 AND seq > \
         ifnull((SELECT c.seq FROM cursor c WHERE c.name = 'settlement'), 0))";

/// The ledger's own row. A reservation counts as a movement in SQLite's mark, so the number of the last one is added
/// to `moved`: the mark never goes back.
pub const META: &str = "SELECT installation, cluster, incarnation, config_epoch, last_now, \
         moved + ifnull((SELECT s.seq FROM sqlite_sequence s WHERE s.name = 'reservation'), 0), \
         ifnull((SELECT s.seq FROM sqlite_sequence s WHERE s.name = 'event'), 0), state, accepted_at FROM meta";

/// The days on which mail was charged.
pub const DAYS: &str = "SELECT DISTINCT at / 86400000 FROM reservation ORDER BY 1";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use rusqlite::Connection;

    use super::*;

    /// Returns the words of a query.
    fn words(query: &str) -> BTreeSet<&str> {
        query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect()
    }

    #[test]
    fn every_table_and_column_of_the_schema_is_moved_or_left_out_with_a_reason() {
        let schema = Connection::open_in_memory().expect("a database");
        schema.execute_batch(include_str!("../migrations/sqlite/0020_ledger.sql")).expect("the schema");
        let mut tables = schema
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .expect("a query");
        let tables: Vec<String> =
            tables.query_map([], |row| row.get(0)).expect("tables").collect::<rusqlite::Result<_>>().expect("names");
        assert!(tables.len() > 20, "{tables:?}");
        let queries: Vec<BTreeSet<&str>> = TABLES.iter().chain(&SESSIONS).map(|table| words(table.select)).collect();
        let mut forgotten = vec![];
        for table in &tables {
            let mut columns = schema.prepare("SELECT name FROM pragma_table_info(?1)").expect("a query");
            let columns: Vec<String> = columns
                .query_map([table], |row| row.get(0))
                .expect("columns")
                .map(|name| name.expect("text"))
                .collect();
            for column in columns {
                let read =
                    queries.iter().any(|query| query.contains(table.as_str()) && query.contains(column.as_str()));
                let left = LEFT_OUT.iter().any(|(of, name, why)| of == table && *name == column && !why.is_empty());
                if !read && !left {
                    forgotten.push(format!("{table}.{column}"));
                }
            }
        }
        assert!(forgotten.is_empty(), "a move would lose {forgotten:?}");
        for (table, column, _) in LEFT_OUT {
            assert!(tables.iter().any(|name| name == table), "{table}.{column} is left out of no table");
        }
        // Each query is one that SQLite takes, and has as many columns as the target's.
        for table in TABLES.iter().chain(&SESSIONS) {
            let statement = schema.prepare(table.select).unwrap_or_else(|error| panic!("{}: {error}", table.into));
            assert_eq!(statement.column_count(), table.columns.len(), "{}", table.into);
        }
        for query in [META, DAYS, COUNTED_AHEAD] {
            schema.prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        }
    }

    #[test]
    fn every_column_of_the_target_is_filled() {
        let target = include_str!("../migrations/postgres/0020_ledger.sql");
        for table in TABLES.iter().chain(&SESSIONS) {
            let opened = format!("CREATE TABLE {} (\n", table.into);
            let (_, after) = target.split_once(&opened).unwrap_or_else(|| panic!("there is no {}", table.into));
            let (body, _) = after.split_once("\n)").expect("an end");
            let names: Vec<&str> = table.columns.iter().flat_map(|(name, _)| name.split(", ")).collect();
            for line in body.lines().map(str::trim) {
                let name = line.split(' ').next().unwrap_or_default();
                let is_column = name.starts_with(|c: char| c.is_ascii_lowercase());
                // A lot that the move brings was ended by no edit of this engine.
                if is_column && name != "ended" || name == "ended" && table.into == "notice" {
                    assert!(names.contains(&name), "{}.{name} gets nothing", table.into);
                }
            }
        }
    }

    #[test]
    fn a_lot_without_a_period_holds_from_the_first_instant_to_the_last() {
        let lot = TABLES.iter().find(|table| table.into == "lot").expect("lots");
        for instant in [Timestamp::MIN, Timestamp::MAX] {
            assert!(lot.select.contains(&instant.as_millisecond().to_string()), "{}", instant.as_millisecond());
        }
    }
}
