//! The reports of relays about their upstreams.

use tokio_postgres::Row;

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use super::rows;
use super::tx::Tx;
use crate::domain::id::PolicyId;
use crate::domain::trouble::{Fault, Sightings, TROUBLES_MAX, Trouble};
use crate::ledger::store::{LedgerSession, Role};

/// Replaces the session's report, and drops the reports of sessions that are over, unless another call is dropping
/// them.
pub async fn put(tx: &Tx, session: &LedgerSession, troubles: &[Trouble]) -> Op<()> {
    tx.execute(
        "DELETE FROM trouble WHERE (session, policy) IN \
             (SELECT t.session, t.policy FROM trouble t WHERE t.session = $1 OR NOT EXISTS \
                 (SELECT FROM session s WHERE s.id = t.session AND s.epoch = t.epoch AND s.closed_at IS NULL) \
              FOR UPDATE SKIP LOCKED)",
        &[&session.id],
    )
    .await?;
    let told: Vec<&Trouble> = troubles.iter().take(TROUBLES_MAX).collect();
    let policies: Vec<uuid::Uuid> = told.iter().map(|trouble| trouble.policy.0).collect();
    let upstreams: Vec<&str> = told.iter().map(|trouble| trouble.upstream.as_str()).collect();
    let faults: Vec<&str> = told.iter().map(|trouble| trouble.fault.as_str()).collect();
    let whys: Vec<&str> = told.iter().map(|trouble| trouble.why.as_str()).collect();
    let since: Vec<i64> = told.iter().map(|trouble| trouble.since.as_millisecond()).collect();
    tx.execute(
        "INSERT INTO trouble (session, epoch, policy, upstream, fault, why, since) \
         SELECT $1, $2, * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[])",
        &[&session.id, &session.epoch, &policies, &upstreams, &faults, &whys, &since],
    )
    .await?;
    Ok(())
}

pub async fn sightings(connection: &PgConnection) -> Op<Sightings> {
    let living = "SELECT count(*) FROM session WHERE role = $1 AND closed_at IS NULL";
    let relays: i64 = connection.query_one(living, &[&Role::Relay.as_str()]).await?.try_get(0)?;
    let found = connection
        .query(
            "SELECT t.policy, t.upstream, t.fault, t.why, t.since FROM trouble t \
             JOIN session s ON s.id = t.session AND s.epoch = t.epoch AND s.closed_at IS NULL \
             ORDER BY t.policy, t.since, t.session",
            &[],
        )
        .await?;
    let troubles = found.iter().map(trouble).collect::<Op<_>>()?;
    Ok(Sightings { relays: u32::try_from(relays).unwrap_or(u32::MAX), troubles })
}

fn trouble(row: &Row) -> Op<Trouble> {
    let fault: &str = row.try_get(2)?;
    Ok(Trouble {
        policy: PolicyId(row.try_get(0)?),
        upstream: row.try_get(1)?,
        fault: Fault::parse(fault).ok_or_else(|| Failure::Row(format!("unknown fault {fault}")))?,
        why: row.try_get(3)?,
        since: rows::instant(row.try_get(4)?)?,
    })
}
