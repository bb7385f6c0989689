//! Encodes rows of a SQLite ledger for `COPY … (FORMAT binary)`, and adds them up, so that the server's rows can be
//! compared with them.

use bytes::{BufMut as _, Bytes, BytesMut};
use rusqlite::types::ValueRef;
use uuid::Uuid;

use super::rows;
use crate::domain::credit::{Outcome, PERIOD_PARTS, Part};
use crate::domain::id::{Kind, MessageId};
use crate::ledger::transfer::tables::{Field, Table};

/// The beginning of a binary copy: signature, flags, length of an extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The end of a binary copy, in place of a row's number of columns.
const TRAILER: i16 = -1;
/// Octets that are sent at a time: large enough that a row costs no message, small enough to hold a few.
pub const PIECE: usize = 256 * 1024;
/// Modulus of the sums, so that no sum of a table overflows: a prime below 2^20, with room for 10^12 rows.
const MODULUS: i64 = 1_000_003;

/// A table's number of rows, and the sum of each of its columns, to compare both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub rows: i64,
    pub sums: Vec<i64>,
}

/// The encoder of one table.
pub struct Encoder {
    table: &'static Table,
    buffer: BytesMut,
    tally: Tally,
}

/// Returns the number of columns that a field has in the target.
fn width(field: Field) -> usize {
    if field == Field::Parts { 4 } else { 1 }
}

impl Encoder {
    pub fn new(table: &'static Table) -> Self {
        let columns = table.columns.iter().map(|(_, field)| width(*field)).sum();
        let mut buffer = BytesMut::with_capacity(PIECE + PIECE / 8);
        buffer.put_slice(HEADER);
        Self { table, buffer, tally: Tally { rows: 0, sums: vec![0; columns] } }
    }

    /// Adds a row. The error says why it cannot be one of the target's.
    pub fn push(&mut self, row: &[ValueRef<'_>]) -> Result<(), String> {
        self.buffer.put_i16(self.tally.sums.len() as i16);
        self.tally.rows += 1;
        let (mut column, mut before) = (0, 0);
        for ((name, field), value) in self.table.columns.iter().zip(row) {
            let added = self.put(*field, *value, before).map_err(|why| format!("{}.{name}: {why}", self.table.into))?;
            for sum in added.into_iter().take(width(*field)) {
                self.tally.sums[column] += sum;
                column += 1;
            }
            before = if let ValueRef::Integer(number) = value { *number } else { 0 };
        }
        Ok(())
    }

    /// Returns what is ready to be sent, if that is enough to be worth it.
    pub fn piece(&mut self) -> Option<Bytes> {
        (self.buffer.len() >= PIECE).then(|| self.buffer.split().freeze())
    }

    /// Ends the copy. Returns the rest, and what the table has.
    pub fn end(mut self) -> (Bytes, Tally) {
        self.buffer.put_i16(TRAILER);
        (self.buffer.freeze(), self.tally)
    }

    /// Writes one value. Returns what it adds to the sums of its columns.
    fn put(&mut self, field: Field, value: ValueRef<'_>, before: i64) -> Result<[i64; 4], String> {
        if value == ValueRef::Null {
            self.buffer.put_i32(-1);
            return Ok([0; 4]);
        }
        let only = |sum| Ok([sum, 0, 0, 0]);
        match field {
            Field::SmallInt => only(self.small(narrow(integer(value)?)?)),
            Field::Int => only(self.int(narrow(integer(value)?)?)),
            Field::BigInt => only(self.big(integer(value)?)),
            Field::Bool => {
                let set = integer(value)? != 0;
                self.bytes(&[u8::from(set)]);
                only(i64::from(set))
            }
            Field::Text => {
                let text = text(value)?;
                if text.contains('\0') {
                    return Err("it has a NUL character, which PostgreSQL does not store".to_owned());
                }
                self.bytes(text.as_bytes());
                only(text.len() as i64)
            }
            Field::Uuid => {
                let id = id(value)?;
                self.bytes(id.as_bytes());
                only(last(id.as_bytes()))
            }
            Field::Bytes => {
                let bytes = value.as_blob().map_err(|error| error.to_string())?;
                self.bytes(bytes);
                only(bytes.len() as i64)
            }
            Field::Kind => {
                let word = text(value)?;
                let kind = [Kind::Key, Kind::Account, Kind::Policy].into_iter().find(|kind| kind.as_str() == word);
                let kind = kind.ok_or_else(|| format!("unknown kind {word}"))?;
                only(self.small(rows::kind_number(kind)))
            }
            Field::Outcome => {
                let word = text(value)?;
                let outcome = Outcome::parse(word).ok_or_else(|| format!("unknown outcome {word}"))?;
                only(self.small(rows::outcome_number(outcome)))
            }
            Field::Day => only(self.int(rows::day(MessageId(id(value)?)))),
            Field::Parts => self.parts(text(value)?, before),
        }
    }

    /// Writes the lots of a charge. `credits`: what each lot of the period was charged.
    fn parts(&mut self, json: &str, credits: i64) -> Result<[i64; 4], String> {
        let parts: Vec<Part> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let (period, more) = parts.split_at_checked(PERIOD_PARTS).ok_or("a charge has too few lots")?;
        if period.iter().any(|Part(_, amount)| *amount != credits) {
            return Err(format!("a lot of the period was not charged the {credits} credits of its message"));
        }
        let mut sums = [0; 4];
        for (sum, Part(lot, _)) in sums.iter_mut().zip(period) {
            *sum = self.big(lot.0);
        }
        if more.is_empty() {
            self.buffer.put_i32(-1);
            return Ok(sums);
        }
        sums[3] = self.array(more);
        Ok(sums)
    }

    /// Writes an array of bigint: lot, amount, lot, amount.
    fn array(&mut self, parts: &[Part]) -> i64 {
        /// OID of int8.
        const INT8: i32 = 20;
        let numbers: Vec<i64> = parts.iter().flat_map(|Part(lot, amount)| [lot.0, *amount]).collect();
        let length = 20 + 12 * numbers.len();
        self.buffer.put_i32(length as i32);
        // Dimensions, no NULL in it, the type; the one dimension's length and first index.
        for word in [1, 0, INT8, numbers.len() as i32, 1] {
            self.buffer.put_i32(word);
        }
        numbers.iter().map(|number| self.big(*number)).sum()
    }

    fn small(&mut self, number: i16) -> i64 {
        self.buffer.put_i32(2);
        self.buffer.put_i16(number);
        i64::from(number)
    }

    fn int(&mut self, number: i32) -> i64 {
        self.buffer.put_i32(4);
        self.buffer.put_i32(number);
        i64::from(number) % MODULUS
    }

    fn big(&mut self, number: i64) -> i64 {
        self.buffer.put_i32(8);
        self.buffer.put_i64(number);
        number % MODULUS
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.put_i32(bytes.len() as i32);
        self.buffer.put_slice(bytes);
    }
}

fn integer(value: ValueRef<'_>) -> Result<i64, String> {
    value.as_i64().map_err(|error| error.to_string())
}

fn narrow<T: TryFrom<i64>>(number: i64) -> Result<T, String> {
    T::try_from(number).map_err(|_| format!("{number} does not fit"))
}

fn text(value: ValueRef<'_>) -> Result<&str, String> {
    value.as_str().map_err(|error| error.to_string())
}

fn id(value: ValueRef<'_>) -> Result<Uuid, String> {
    let bytes = value.as_blob().map_err(|error| error.to_string())?;
    Uuid::from_slice(bytes).map_err(|error| error.to_string())
}

fn last(bytes: &[u8; 16]) -> i64 {
    i64::from(bytes[15])
}

/// Returns the query by which the server adds up what it has of a table, in the same way.
pub fn tally_query(table: &Table) -> String {
    let sums = table.columns.iter().map(|(name, field)| match field {
        Field::SmallInt | Field::Kind | Field::Outcome => format!("sum({name})"),
        Field::Int | Field::BigInt | Field::Day => format!("sum({name} % {MODULUS})"),
        Field::Bool => format!("sum({name}::integer)"),
        Field::Text => format!("sum(octet_length({name}))"),
        Field::Uuid => format!("sum(get_byte(uuid_send({name}), 15))"),
        Field::Bytes => format!("sum(octet_length({name}))"),
        Field::Parts => {
            let mut names = name.split(", ");
            let lots: Vec<String> =
                names.by_ref().take(PERIOD_PARTS).map(|lot| format!("sum({lot} % {MODULUS})")).collect();
            let more = names.map(|more| format!("sum((SELECT sum(x % {MODULUS}) FROM unnest({more}) x))"));
            lots.into_iter().chain(more).collect::<Vec<_>>().join("::bigint, ")
        }
    });
    let sums: Vec<String> = sums.map(|sum| format!("{sum}::bigint")).collect();
    format!("SELECT count(*), {} FROM {}", sums.join(", "), table.into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::transfer::tables::TABLES;

    fn table(name: &str) -> &'static Table {
        TABLES.iter().find(|table| table.into == name).expect("a table")
    }

    /// The row of a reservation with these parts.
    fn pushed(parts: &str, credits: i64) -> Result<Tally, String> {
        let id = [7; 16];
        let (blob, number) = (ValueRef::Blob(&id), ValueRef::Integer);
        let mut encoder = Encoder::new(table("reservation"));
        let parts = ValueRef::Text(parts.as_bytes());
        let row = [
            blob,
            blob,
            blob,
            blob,
            blob,
            number(credits),
            parts,
            number(0),
            number(1),
            number(1),
            number(9),
            number(0),
        ];
        encoder.push(&row)?;
        Ok(encoder.end().1)
    }

    #[test]
    fn a_charge_is_split_into_the_lots_of_its_period_and_the_rest() {
        let tally = pushed("[[11,2],[12,2],[13,2],[14,5],[15,-1]]", 2).expect("a charge");
        // Day, four ids, credits, three lots, the rest, and five numbers.
        assert_eq!(tally.sums.len(), 15);
        assert_eq!(tally.sums[5..10], [2, 11, 12, 13, 14 + 5 + 15 - 1]);
        assert_eq!(pushed("[[11,2],[12,2],[13,2]]", 2).expect("a charge").sums[9], 0);
    }

    #[test]
    fn what_the_target_cannot_hold_is_refused_by_its_column() {
        for (parts, credits, named) in [
            ("[[11,2],[12,2]]", 2, "too few lots"),
            ("[[11,2],[12,3],[13,2]]", 2, "was not charged the 2 credits"),
            ("[[11", 2, "reservation.key_lot"),
        ] {
            let refused = pushed(parts, credits).expect_err(named);
            assert!(refused.contains(named), "{refused}");
        }
        let mut encoder = Encoder::new(table("notice"));
        let blob = [1; 16];
        let mut row = [ValueRef::Integer(1); 14];
        (row[1], row[2], row[3]) = (ValueRef::Text(b"galaxy"), ValueRef::Blob(&blob), ValueRef::Text(b"m"));
        assert!(encoder.push(&row).expect_err("a kind").contains("unknown kind galaxy"));
        let row = [ValueRef::Text(b"a\0b"); 4];
        assert!(Encoder::new(table("login_network")).push(&row).is_err());
    }
}
