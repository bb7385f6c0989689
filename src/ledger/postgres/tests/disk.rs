//! The server's disk is full: a real file system without room, below the real server.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::TestLedger;
use super::server::Server;
use crate::domain::credit::{Reservation, Verdict};
use crate::domain::id::MessageId;
use crate::ledger::postgres::connection::PgConnection;
use crate::ledger::postgres::schema::MIGRATIONS;
use crate::ledger::store::Error;
use crate::ledger::world::{World, key_id};

/// Room for an empty ledger, whose partitions and indexes each take a page or two, and some thousand messages.
const ROOM: u32 = 24;
/// Messages in one call.
const BATCH: u64 = 100;
/// Maximum calls that fit into the existing pages.
const CALLS_MAX: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(60);

/// Fills all the room that is left.
async fn fill(connection: PgConnection) {
    connection.batch("CREATE TABLE filler (text text)").await.expect("a table");
    for rows in [1_000, 100, 1] {
        let more = format!("INSERT INTO filler SELECT repeat(md5(n::text), 50) FROM generate_series(1, {rows}) n");
        while connection.batch(&more).await.is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_loses_nothing_and_heals() {
    let server = Server::start_with_room(ROOM);
    let place = server.folder.join("small");
    let aside = TestLedger::on(&server.url(), MIGRATIONS);
    aside.look(move |connection| async move {
        let make = format!("CREATE TABLESPACE small LOCATION '{}'", place.display());
        connection.batch(&make).await.expect("a tablespace");
    });
    let ledger = TestLedger::on(&format!("{}&options=-cdefault_tablespace%3Dsmall", server.url()), MIGRATIONS);
    let world = World::with(&ledger, None, Some(1_000_000), None).await;
    ledger.look(fill);

    let (mut kept, mut next) = (HashSet::new(), 0);
    let mut ask = async || {
        let ids: Vec<MessageId> = (next..next + BATCH).map(|n| MessageId(uuid::Uuid::from_u64_pair(7, n))).collect();
        next += BATCH;
        let batch: Vec<Reservation> = ids
            .iter()
            .map(|message| Reservation { message: *message, key: key_id(1), credits: 1, fingerprint: None })
            .collect();
        let verdicts = world.store.reserve(&world.session, &batch).await?;
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved), "{verdicts:?}");
        kept.extend(ids);
        Ok::<_, Error>(())
    };
    let mut refused = None;
    for _ in 0..CALLS_MAX {
        if let Err(error) = ask().await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Full)), "{refused:?}\n{}", server.log());
    // It stays so, and every further call reports the full disk.
    assert!(matches!(ask().await, Err(Error::Full)));

    ledger.look(|connection| async move { connection.batch("DROP TABLE filler").await.expect("dropped") });
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask().await {
        assert!(Instant::now() < deadline, "it does not heal: {error:?}");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.consumed().await, [i64::try_from(kept.len()).expect("few"); 3]);
    world.check().await;
}
