//! Checks that the balances follow from the rows.

use rusqlite::Connection;

use super::failure::Op;
use super::{lot_row, rows};
use crate::domain::credit::{LotId, Meter};
use crate::ledger::store::Discrepancy;

/// Recomputes charged − refunded for every lot, from reservations and the settlements that hold, with adjustments,
/// beside the lot's own balance without what it carries. The cast gives the lots' numbers a type: without it they
/// cannot be looked up by index, and every lot is compared with every other.
const RECOMPUTED: &str = "
    WITH final AS MATERIALIZED (
        SELECT s.message, s.outcome FROM settlement s
        WHERE s.correction = 1 OR NOT EXISTS
            (SELECT 1 FROM settlement c WHERE c.message = s.message AND c.correction = 1)
    ), charged AS (
        SELECT lot, sum(credits) AS credits FROM (
        SELECT CAST(part.value ->> 0 AS INTEGER) AS lot, sum(part.value ->> 1) AS credits
        FROM reservation r
        JOIN json_each(r.parts) part
        LEFT JOIN final f ON f.message = r.message
        WHERE f.outcome IS NULL OR f.outcome NOT IN ('refused', 'not_offered')
        GROUP BY 1
        UNION ALL
        SELECT lot, credits FROM adjustment
        UNION ALL
        SELECT lot, amount FROM seal
        ) GROUP BY lot
    )
    SELECT l.kind, l.holder, l.id, l.consumed + l.overage - l.carried, ifnull(c.credits, 0), l.source
    FROM lot l LEFT JOIN charged c ON c.lot = l.id
    WHERE l.consumed + l.overage - l.carried <> ifnull(c.credits, 0)
    UNION ALL
    -- Charged to a lot that is not there.
    SELECT 'policy', zeroblob(16), c.lot, 0, c.credits, 'period'
    FROM charged c WHERE NOT EXISTS (SELECT 1 FROM lot l WHERE l.id = c.lot)";

pub fn check(connection: &Connection) -> Op<Vec<Discrepancy>> {
    let mut statement = connection.prepare(RECOMPUTED)?;
    let found = statement.query_map([], |row| {
        let holder = rows::holder(row)?;
        Ok(Discrepancy {
            lot: LotId(row.get(2)?),
            holder,
            meter: lot_row::source(row, 5)?.meter(holder).unwrap_or(Meter::of_period(holder)),
            consumed: row.get(3)?,
            recomputed: row.get(4)?,
        })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}
