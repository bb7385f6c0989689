//! A lot's row, read.

use jiff::Timestamp;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row};

use super::failure::Op;
use super::rows;
use crate::domain::credit::{Lot, LotId, Share, Source, Topped};
use crate::domain::period::Window;
use crate::ledger::store::Usage;

/// The columns in the order that [`read`] reads them, before the rest of a query.
macro_rules! select_lot {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, holder, period, valid_from, valid_to, part, whole, granted, overhang, consumed, \
             calendar, messages, relayed, refused, not_offered, unknown, last_sent_at, source, overage, expires_at, \
             topped_until, topped_total FROM lot ",
            $rest
        )
    };
}

pub(super) use select_lot;

/// A lot as stored.
#[derive(Clone, Debug)]
pub struct LotRow {
    pub lot: Lot,
    /// JSON of the calendar that made it.
    pub calendar: String,
    /// What the rollup has counted.
    usage: Usage,
}

impl LotRow {
    /// The usage of its period, with what the rollup has not taken. What is charged and not refunded is the balance
    /// itself.
    pub fn usage(&self, untaken: Usage) -> Usage {
        let Self { lot, usage, .. } = self;
        Usage {
            messages: usage.messages + untaken.messages,
            accepted: lot.used(),
            relayed: usage.relayed + untaken.relayed,
            refused: usage.refused + untaken.refused,
            not_offered: usage.not_offered + untaken.not_offered,
            unknown: usage.unknown + untaken.unknown,
            last_sent_at: usage.last_sent_at.max(untaken.last_sent_at),
        }
    }
}

pub fn read(row: &Row<'_>) -> rusqlite::Result<LotRow> {
    let instant = |column| -> rusqlite::Result<Timestamp> {
        let ms = row.get(column)?;
        Timestamp::from_millisecond(ms).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, ms))
    };
    let maybe = |column| match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => instant(column).map(Some),
    };
    let last_sent: i64 = row.get(17)?;
    let source = source(row, 18)?;
    let window = match source {
        Source::Period => Window { key: row.get_ref(3)?.as_str()?.into(), from: instant(4)?, to: instant(5)? },
        Source::Spend | Source::Grant(_) | Source::TopUp => Window::always(maybe(20)?),
    };
    let topped = match maybe(21)? {
        Some(until) => Some(Topped { until, total: row.get(22)? }),
        None => None,
    };
    Ok(LotRow {
        lot: Lot {
            id: LotId(row.get(0)?),
            holder: rows::holder_at(row, 1)?,
            source,
            window,
            share: Share { part: row.get(6)?, whole: row.get(7)? },
            granted: row.get(8)?,
            overhang: row.get(9)?,
            consumed: row.get(10)?,
            overage: row.get(19)?,
            topped,
        },
        calendar: row.get(11)?,
        usage: Usage {
            messages: row.get(12)?,
            accepted: 0,
            relayed: row.get(13)?,
            refused: row.get(14)?,
            not_offered: row.get(15)?,
            unknown: row.get(16)?,
            last_sent_at: if last_sent == 0 { None } else { Some(instant(17)?) },
        },
    })
}

/// The source that a column names.
pub fn source(row: &Row<'_>, column: usize) -> rusqlite::Result<Source> {
    let word = row.get_ref(column)?.as_str()?;
    Source::parse(word).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("unknown source {word}").into())
    })
}

pub fn by_id(connection: &Connection, id: LotId) -> Op<LotRow> {
    Ok(connection.prepare_cached(select_lot!("WHERE id = ?1"))?.query_row([id.0], read)?)
}
