//! Checks that the file that a process has open is still the file at its path.
//!
//! A volume that is emptied, or a backup that is copied over, leaves a running process with a file that will never be
//! read again. So before each transaction the file at the path is compared with the open one, which costs a
//! microsecond. The first process that finds another file of ours there holds it, so that every process and the
//! operator know; a file of another installation is left alone, and every call fails.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::Connection;
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::{file, identity};
use crate::ledger::store::{Because, Result};

/// The check, shared by the threads of one process.
pub struct FileIdentity {
    path: PathBuf,
    seen: Mutex<Seen>,
}

struct Seen {
    file: Node,
    /// Number of files seen at the path so far: a thread whose connection belongs to an earlier one opens another.
    generation: u64,
    installation: Uuid,
}

/// Device and inode.
type Node = (u64, u64);

impl FileIdentity {
    /// Begins with the file that `connection` has just opened.
    pub fn begin(path: &Path, connection: &Connection) -> Result<Self> {
        let identity =
            identity::read_identity(connection).map_err(|failure| failure.of("reading who the ledger is"))?;
        let file = node(path).map_err(|failure| failure.of("looking at the ledger's file"))?;
        let seen = Seen { file, generation: 0, installation: identity.installation };
        Ok(Self { path: path.to_owned(), seen: Mutex::new(seen) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the generation of the file at the path. Fails while there is none, or one that is not ours.
    pub fn look(&self) -> Op<u64> {
        let mut seen = self.seen.lock();
        let found = node(&self.path)?;
        if found == seen.file {
            return Ok(seen.generation);
        }
        let connection = file::connect_ledger(&self.path).map_err(|error| Failure::Gone(error.to_string()))?;
        let installation = identity::tag(&connection)?.installation;
        if installation != seen.installation {
            return Err(Failure::Foreign { found: installation, expected: seen.installation });
        }
        identity::hold(&connection, Because::Swapped)?;
        tracing::error!(ledger = %self.path.display(), "another file was put in the ledger's place while it was in use");
        seen.file = found;
        seen.generation += 1;
        Ok(seen.generation)
    }
}

fn node(path: &Path) -> Op<Node> {
    match fs::metadata(path) {
        // Created but not yet written.
        Ok(file) if file.len() == 0 => Err(Failure::Gone("its file is empty".to_owned())),
        Ok(file) => Ok((file.dev(), file.ino())),
        Err(error) => Err(Failure::Gone(format!("its file cannot be found ({error})"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::ledger::sqlite::{SqliteStore, prepare};
    use crate::ledger::store::{Error, Role, State, Store as _};
    use crate::runtime::clock::ManualClock;

    fn made(path: &Path, installation: u128, incarnation: u128) {
        let (installation, incarnation) = (Uuid::from_u128(installation), Uuid::from_u128(incarnation));
        prepare(path, installation, "cluster", incarnation, Timestamp::UNIX_EPOCH).expect("a ledger");
    }

    /// A ledger in use, and another file for its place.
    fn scene(installation: u128) -> (tempfile::TempDir, PathBuf, SqliteStore, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, other) = (folder.path().join("ledger.db"), folder.path().join("other.db"));
        made(&path, 1, 2);
        made(&other, installation, 3);
        let store = SqliteStore::open(&path, Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH))).expect("opened");
        (folder, path, store, other)
    }

    fn put_away(path: &Path) {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            // The presence of a journal depends on what was written last.
            drop(fs::remove_file(name));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_gone_answers_nothing_and_is_found_when_it_is_back() {
        let (folder, path, store, _) = scene(1);
        let session = store.open_session(Role::Operator, "o").await.expect("a session");
        let away = folder.path().join("away.db");
        fs::rename(&path, &away).expect("renamed");
        for failed in [store.heartbeat(&session).await.map(|()| 0), store.changes(0).await.map(|changes| changes.epoch)]
        {
            assert!(failed.expect_err("it is gone").is_undone(), "nothing is written where nobody reads");
        }
        fs::rename(&away, &path).expect("renamed");
        store.heartbeat(&session).await.expect("it is back");
        assert_eq!(store.identity().await.expect("read").state, State::Open);
    }

    #[tokio::test]
    async fn another_file_of_ours_is_held_by_whoever_finds_it() {
        let (_folder, path, store, other) = scene(1);
        store.open_session(Role::Operator, "o").await.expect("a session");
        put_away(&path);
        fs::rename(&other, &path).expect("renamed");
        assert!(matches!(store.changes(0).await, Ok(changes) if changes.tag.state == State::Held(Because::Swapped)));
        let second = SqliteStore::open(&path, Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH))).expect("opened");
        assert_eq!(second.identity().await.expect("read").state, State::Held(Because::Swapped));
        // The writer goes on with the new file too.
        let session = store.open_session(Role::Operator, "o").await.expect("a session");
        assert_eq!(session.epoch, 1, "a session of the file that is gone");
    }

    #[tokio::test]
    async fn a_file_of_another_installation_is_left_alone() {
        let (_folder, path, store, other) = scene(9);
        put_away(&path);
        fs::rename(&other, &path).expect("renamed");
        assert!(matches!(store.identity().await, Err(Error::Foreign { .. })));
        assert!(matches!(store.open_session(Role::Operator, "o").await, Err(Error::Foreign { .. })));
        let second = SqliteStore::open(&path, Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH))).expect("opened");
        assert_eq!(second.identity().await.expect("read").state, State::Open);
    }
}
