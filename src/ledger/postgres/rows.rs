//! Converts rows to values and back.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use crate::domain::credit::{Lot, LotId, Outcome, Part, Source, Topped};
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, Kind, MessageId};
use crate::domain::period::Window;

const DAY_MS: u64 = 86_400_000;

/// Converts a stored instant.
pub fn instant(ms: i64) -> Op<Timestamp> {
    Timestamp::from_millisecond(ms).map_err(|error| Failure::Row(error.to_string()))
}

/// Returns the number of a kind. The order of the numbers is the order in which lots are locked.
pub fn kind_number(kind: Kind) -> i16 {
    match kind {
        Kind::Key => 1,
        Kind::Account => 2,
        Kind::Policy => 3,
    }
}

pub fn kind(number: i16) -> Op<Kind> {
    [Kind::Key, Kind::Account, Kind::Policy]
        .into_iter()
        .find(|kind| kind_number(*kind) == number)
        .ok_or_else(|| Failure::Row(format!("unknown kind {number}")))
}

/// Reads a holder: a kind and, in the column after it, an id.
pub fn holder(row: &Row, column: usize) -> Op<Holder> {
    Ok(Holder::new(kind(row.try_get(column)?)?, row.try_get(column + 1)?))
}

/// Returns holders as two arrays.
pub fn columns(holders: impl IntoIterator<Item = Holder>) -> (Vec<i16>, Vec<Uuid>) {
    holders.into_iter().map(|holder| (kind_number(holder.kind()), holder.uuid())).unzip()
}

/// Converts a limit to SQL's type.
pub fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

pub fn outcome_number(outcome: Outcome) -> i16 {
    match outcome {
        Outcome::Relayed => 1,
        Outcome::Refused => 2,
        Outcome::NotOffered => 3,
        Outcome::Unknown => 4,
    }
}

pub fn outcome(number: i16) -> Op<Outcome> {
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome_number(*outcome) == number)
        .ok_or_else(|| Failure::Row(format!("unknown outcome {number}")))
}

/// Returns the UTC day inside a UUIDv7, so that an id has one partition; any other id gets an arbitrary day, always the
/// same.
pub fn day(message: MessageId) -> i32 {
    let ms = message.0.as_u64_pair().0 >> 16;
    i32::try_from(ms / DAY_MS).unwrap_or(i32::MAX)
}

pub fn day_of(at: Timestamp) -> i32 {
    i32::try_from(at.as_millisecond().div_euclid(DAY_MS as i64)).unwrap_or(i32::MAX)
}

/// The columns that [`lot`] reads, in its order.
macro_rules! lot_columns {
    () => {
        "l.id, l.kind, l.holder, l.source, l.period, l.valid_from, l.valid_to, l.counts_from, l.granted, l.overhang, \
         l.consumed, l.carried, l.overage, l.topped_total, l.topped_until, l.calendar, l.ended"
    };
}
pub(super) use lot_columns;

pub fn lot(row: &Row) -> Op<Lot> {
    let source: String = row.try_get(3)?;
    let topped = match (row.try_get(13)?, row.try_get::<_, Option<i64>>(14)?) {
        (Some(total), Some(until)) => Some(Topped { total, until: instant(until)? }),
        _ => None,
    };
    let begun = edge(row.try_get(5)?)?;
    let counts_from: Option<i64> = row.try_get(7)?;
    Ok(Lot {
        id: LotId(row.try_get(0)?),
        holder: holder(row, 1)?,
        source: Source::parse(&source).ok_or_else(|| Failure::Row(format!("unknown source {source}")))?,
        window: Window {
            key: row.try_get::<_, &str>(4)?.into(),
            from: counts_from.map_or(Ok(begun), instant)?,
            to: edge(row.try_get(6)?)?,
        },
        begun,
        granted: row.try_get(8)?,
        overdraft: row.try_get(9)?,
        consumed: row.try_get(10)?,
        carried: row.try_get(11)?,
        overage: row.try_get(12)?,
        topped,
    })
}

/// Returns the calendar that made a lot, and true if an edit has ended the lot.
pub fn made_by(row: &Row) -> Op<(String, bool)> {
    Ok((row.try_get(15)?, row.try_get(16)?))
}

/// Returns the parts of a reservation's charge, from its credits, its period lots and its other parts, in columns from
/// `first` on.
pub fn parts(row: &Row, first: usize) -> Op<Vec<Part>> {
    let credits: i64 = row.try_get(first)?;
    let period = [row.try_get(first + 1)?, row.try_get(first + 2)?, row.try_get(first + 3)?];
    let more: Option<Vec<i64>> = row.try_get(first + 4)?;
    let more = more.unwrap_or_default();
    let parts = period.into_iter().map(|lot| Part(LotId(lot), credits));
    Ok(parts.chain(more.chunks_exact(2).map(|part| Part(LotId(part[0]), part[1]))).collect())
}

/// Converts an end of a window: the first and the last instant there are have fractions that a millisecond does not.
pub fn edge(ms: i64) -> Op<Timestamp> {
    if ms <= Timestamp::MIN.as_millisecond() {
        Ok(Timestamp::MIN)
    } else if ms >= Timestamp::MAX.as_millisecond() {
        Ok(Timestamp::MAX)
    } else {
        instant(ms)
    }
}

pub fn parse_entry(body: &str) -> Op<Entry> {
    serde_json::from_str(body).map_err(|error| Failure::Row(error.to_string()))
}

pub async fn entry(connection: &PgConnection, holder: Holder) -> Op<Option<Entry>> {
    let row = connection
        .query_opt(
            "SELECT body FROM directory WHERE kind = $1 AND id = $2",
            &[&kind_number(holder.kind()), &holder.uuid()],
        )
        .await?;
    row.map(|row| parse_entry(row.try_get(0)?)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_day_of_its_id() {
        let at: Timestamp = "2026-11-21T23:59:59.999Z".parse().expect("a time");
        let seconds = u64::try_from(at.as_second()).expect("after 1970");
        let id = uuid::Builder::from_unix_timestamp_millis(seconds * 1_000 + 999, &[7; 10]).into_uuid();
        assert_eq!(day(MessageId(id)), day_of(at));
        assert_eq!(day(MessageId(Uuid::from_u128(5))), 0);
    }

    #[test]
    fn windows_without_an_end_read_back() {
        for at in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
            assert_eq!(edge(at.as_millisecond()).expect("an instant"), at);
        }
    }
}
