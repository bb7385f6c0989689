//! The holders' use by quarters of an hour: read, added to, forgotten.

use jiff::Timestamp;

use super::connection::PgConnection;
use super::failure::Op;
use super::rows;
use super::tx::Tx;
use crate::domain::id::Holder;
use crate::ledger::rules::history;

/// Returns what a holder has used since the beginning of a period: what the rollup has counted, and the rows that it
/// has not taken, in one statement. A caller that has locked the holder's running lot sees all that was charged to it.
pub async fn used_since(connection: &PgConnection, holder: Holder, from: Timestamp) -> Op<i64> {
    let first = history::first(from);
    let kind = rows::kind_number(holder.kind());
    let row = connection
        .query_one(
            "SELECT ( \
                 SELECT coalesce(sum(CASE WHEN u.hour >= $3 THEN q1 ELSE 0 END \
                     + CASE WHEN u.hour + 900000 >= $3 THEN q2 ELSE 0 END \
                     + CASE WHEN u.hour + 1800000 >= $3 THEN q3 ELSE 0 END + q4), 0) \
                 FROM generate_series($4, (SELECT max(hour) FROM used_hour), 3600000::bigint) h(hour) \
                 JOIN used_hour u ON u.hour = h.hour AND u.kind = $1 AND u.holder = $2 \
             )::bigint + ( \
                 SELECT coalesce(sum(v.credits), 0) FROM rolled c, reservation v \
                 WHERE v.xid >= c.low AND (v.xid >= c.high OR v.xid = ANY (c.running)) AND v.at >= $3 \
                     AND CASE $1 WHEN 1 THEN v.key WHEN 2 THEN v.account ELSE v.policy END = $2 \
             )::bigint - ( \
                 SELECT coalesce(sum(v.credits), 0) FROM rolled c, settlement s \
                 JOIN reservation v ON v.day = s.day AND v.message = s.message \
                 WHERE s.xid >= c.low AND (s.xid >= c.high OR s.xid = ANY (c.running)) AND s.outcome IN (2, 3) \
                     AND v.at >= $3 AND CASE $1 WHEN 1 THEN v.key WHEN 2 THEN v.account ELSE v.policy END = $2 \
             )::bigint",
            &[&kind, &holder.uuid(), &first, &history::place(first).0],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Adds credits that holders have used at this moment. Counting and adding exclude each other.
pub async fn add(tx: &Tx, used: &[(Holder, i64)]) -> Op<()> {
    if used.is_empty() {
        return Ok(());
    }
    tx.query("SELECT FROM rolled FOR UPDATE", &[]).await?;
    let (hour, quarter) = history::place(tx.now_ms());
    let (kinds, ids) = rows::columns(used.iter().map(|(holder, _)| *holder));
    let credits: Vec<i64> = used.iter().map(|(_, credits)| *credits).collect();
    let quarter = i32::try_from(quarter).unwrap_or(0);
    tx.execute(
        "INSERT INTO used_hour AS u (hour, kind, holder, q1, q2, q3, q4) \
         SELECT $1, x.kind, x.id, \
             sum(CASE $2::integer WHEN 0 THEN x.credits ELSE 0 END), sum(CASE $2 WHEN 1 THEN x.credits ELSE 0 END), \
             sum(CASE $2 WHEN 2 THEN x.credits ELSE 0 END), sum(CASE $2 WHEN 3 THEN x.credits ELSE 0 END) \
         FROM unnest($3::smallint[], $4::uuid[], $5::bigint[]) x(kind, id, credits) GROUP BY 2, 3 \
         ON CONFLICT (hour, kind, holder) DO UPDATE SET \
             q1 = u.q1 + excluded.q1, q2 = u.q2 + excluded.q2, q3 = u.q3 + excluded.q3, q4 = u.q4 + excluded.q4",
        &[&hour, &quarter, &kinds, &ids, &credits],
    )
    .await?;
    Ok(())
}

/// Drops the hours that no running period reaches.
pub async fn forget(tx: &Tx) -> Op<()> {
    let before = tx.now.saturating_sub(history::KEPT).unwrap_or(Timestamp::MIN);
    tx.execute("DELETE FROM used_hour WHERE hour < $1", &[&before.as_millisecond()]).await?;
    Ok(())
}
