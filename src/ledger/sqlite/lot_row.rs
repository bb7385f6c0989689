//! Reads a lot's row.

use jiff::Timestamp;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row};

use super::failure::Op;
use super::rows;
use crate::domain::credit::{Lot, LotId, Source, Topped};
use crate::domain::period::Window;
use crate::ledger::store::Usage;

/// Selects the columns in the order in which [`read`] reads them, before the rest of a query.
macro_rules! select_lot {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, holder, period, valid_from, valid_to, granted, overhang, consumed, carried, overage, \
             calendar, source, counts_from, expires_at, topped_until, topped_total, messages, relayed, refused, \
             not_offered, unknown, last_sent_at FROM lot ",
            $rest
        )
    };
}

pub(super) use select_lot;

/// A stored lot.
#[derive(Clone, Debug)]
pub struct LotRow {
    pub lot: Lot,
    /// JSON of the calendar that made it.
    pub calendar: String,
    /// The usage that the rollup has counted.
    usage: Usage,
}

impl LotRow {
    /// Returns the usage since it began, with what the rollup has not taken. Credits charged and not refunded are in
    /// the balance itself.
    pub fn usage(&self, untaken: Usage) -> Usage {
        let Self { lot, usage, .. } = self;
        Usage {
            messages: usage.messages + untaken.messages,
            accepted: lot.charged(),
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
    let source = source(row, 12)?;
    let (window, begun) = match source {
        Source::Period => {
            let (key, begun) = (row.get_ref(3)?.as_str()?.into(), instant(4)?);
            (Window { key, from: maybe(13)?.unwrap_or(begun), to: instant(5)? }, begun)
        }
        Source::Spend | Source::Grant(_) | Source::TopUp => {
            let window = Window::always(maybe(14)?);
            let begun = window.from;
            (window, begun)
        }
    };
    let topped = match maybe(15)? {
        Some(until) => Some(Topped { until, total: row.get(16)? }),
        None => None,
    };
    let last_sent: i64 = row.get(22)?;
    Ok(LotRow {
        lot: Lot {
            id: LotId(row.get(0)?),
            holder: rows::holder_at(row, 1)?,
            source,
            window,
            begun,
            granted: row.get(6)?,
            overdraft: row.get(7)?,
            consumed: row.get(8)?,
            carried: row.get(9)?,
            overage: row.get(10)?,
            topped,
        },
        calendar: row.get(11)?,
        usage: Usage {
            messages: row.get(17)?,
            accepted: 0,
            relayed: row.get(18)?,
            refused: row.get(19)?,
            not_offered: row.get(20)?,
            unknown: row.get(21)?,
            last_sent_at: if last_sent == 0 { None } else { Some(instant(22)?) },
        },
    })
}

/// Reads the source that a column names.
pub fn source(row: &Row<'_>, column: usize) -> rusqlite::Result<Source> {
    let word = row.get_ref(column)?.as_str()?;
    Source::parse(word).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("unknown source {word}").into())
    })
}

pub fn by_id(connection: &Connection, id: LotId) -> Op<LotRow> {
    Ok(connection.prepare_cached(select_lot!("WHERE id = ?1"))?.query_row([id.0], read)?)
}
