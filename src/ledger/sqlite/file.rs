//! The file: where it may be stored, how it is opened, and its schema.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::identity::read_identity;
use super::moved;
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{Error, Identity, Result};

/// 3.7.0 to 3.51.2 can corrupt a database when one connection resets the WAL while another writes.
const SQLITE_OLDEST: i32 = 3_051_003;
const _: () = assert!(rusqlite::ffi::SQLITE_VERSION_NUMBER >= SQLITE_OLDEST, "the bundled SQLite is too old");

/// "FRNK": marks the file, so that another program's database is not taken for a ledger.
const APPLICATION_ID: i64 = 0x4652_4e4b;
/// Maximum tries, a millisecond apart, for a lock held by another process. Five seconds: a commit takes milliseconds,
/// so a process that holds it longer is stuck, and callers keep their own deadlines above this.
const BUSY_TRIES: i32 = 5_000;
/// Pages in the WAL before it is moved into the file (64 MiB): a page that is written often is moved once, and the move
/// still takes a fraction of a second.
const WAL_AUTOCHECKPOINT_PAGES: i64 = 16_000;
/// KiB of page cache of the writer, negative as SQLite wants it: filled only as far as there are rows. The lots of
/// 100,000 accounts with a key each are some 60 MiB.
const CACHE_KIB: i64 = -98_304;
/// The same for a connection that only reads.
const READER_CACHE_KIB: i64 = -16_384;
/// Capacity of the statement cache: every statement of the room is prepared once per connection.
const STATEMENTS: usize = 96;
/// The value by which `PRAGMA synchronous` reads back FULL.
const SYNCHRONOUS_FULL: i64 = 2;

/// A step from one schema to the next. A release changes the schema only in ways its neighbour can read.
pub struct Migration {
    pub version: i64,
    pub sql: &'static str,
}

pub const MIGRATIONS: &[Migration] =
    &[Migration { version: FIRST, sql: include_str!("../migrations/sqlite/0020_ledger.sql") }];

/// The first schema. The numbers below it were those of development versions.
const FIRST: i64 = 20;

/// The schemas that this release works with.
const SCHEMA_OLDEST: i64 = FIRST;
const SCHEMA_NEWEST: i64 = FIRST;

pub fn unfit(path: &Path, why: impl Into<String>) -> Error {
    Error::Unfit { path: path.display().to_string(), why: why.into() }
}

/// Returns the name of a file system on which several processes cannot share SQLite's locks and shared memory safely,
/// by `statfs` type (statfs(2), linux/magic.h).
pub fn network_file_system(kind: i64) -> Option<&'static str> {
    match kind {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x6573_5546 => Some("FUSE"),
        0x0102_1997 => Some("9P"),
        0x00c3_6400 => Some("CephFS"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        _ => None,
    }
}

#[expect(unsafe_code, reason = "std has no statfs; the call writes into a zeroed struct of its own type")]
pub fn file_system_of(directory: &Path) -> io::Result<i64> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` is a C string that outlives the call, and all-zero is a valid `statfs`.
    let (result, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &raw mut stat), stat)
    };
    // The field may be sign-extended; the magic numbers have 32 bits.
    if result == 0 { Ok(stat.f_type & 0xffff_ffff) } else { Err(io::Error::last_os_error()) }
}

pub fn refuse_network(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kind = file_system_of(directory)
        .map_err(|source| unfit(path, format!("its directory cannot be examined ({source})")))?;
    match network_file_system(kind) {
        Some(name) => Err(unfit(
            path,
            format!("it lies on {name}, whose locks cannot be relied on; use a local disk, or PostgreSQL"),
        )),
        None => Ok(()),
    }
}

/// Opens a connection for the writer. The file must exist.
pub fn connect_writer(path: &Path) -> Result<Connection> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    wait_when_busy(&mut connection).and_then(|()| configure(&connection)).map_err(|error| opening(path, error))?;
    verify(&connection, path)?;
    Ok(connection)
}

/// Opens a connection for the writer of a file that is a ledger of this release's schema.
pub fn connect_ledger(path: &Path) -> Result<Connection> {
    let connection = connect_writer(path)?;
    check_schema(&connection, path)?;
    moved::refuse(&connection, path)?;
    Ok(connection)
}

/// Opens a connection that cannot write.
pub fn connect_reader(path: &Path) -> Result<Connection> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let failed = |error| opening(path, error);
    wait_when_busy(&mut connection).map_err(failed)?;
    keep_plans(&connection).map_err(failed)?;
    connection.pragma_update(None, "cache_size", READER_CACHE_KIB).map_err(failed)?;
    connection.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(connection)
}

/// Keeps the plans of statements. Without the stability guarantee SQLite plans a range query again for each new value,
/// which was half the cost of a reservation.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    if !path.is_file() {
        let why =
            "there is no such file; --config or --data name the right one, and `franking prepare` makes a new one";
        return Err(unfit(path, why));
    }
    refuse_network(path)?;
    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(|error| opening(path, error))
}

/// Distinguishes errors that an administrator must repair from those that may pass.
pub fn opening(path: &Path, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => unfit(path, "it is not a database"),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            unfit(path, format!("it cannot be opened for reading and writing ({error})"))
        }
        Some(_) | None => Failure::from(error).of("opening the ledger"),
    }
}

/// Waits for a busy lock. SQLite's own handler sleeps up to 100 ms between two tries; a commit is over in a few.
fn wait_when_busy(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(|tries| {
        thread::sleep(Duration::from_millis(1));
        tries < BUSY_TRIES
    }))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    keep_plans(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_AUTOCHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    // The data for undoing a failed operation; a batch touches a few megabytes at most.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // An index that disagrees with its table is an error, not a wrong answer.
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

/// Checks the journal settings: `NORMAL` may roll an acknowledged commit back in a power cut, which is a credit spent
/// twice.
fn verify(connection: &Connection, path: &Path) -> Result<()> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    let failed = |error| opening(path, error);
    let journal = read("journal_mode").map_err(failed)?;
    let synchronous = read("synchronous").map_err(failed)?;
    if journal != rusqlite::types::Value::Text("wal".to_owned()) {
        return Err(unfit(path, format!("SQLite refused the WAL journal here and uses {journal:?}")));
    }
    if synchronous != rusqlite::types::Value::Integer(SYNCHRONOUS_FULL) {
        return Err(unfit(path, format!("SQLite refused synchronous=FULL and uses {synchronous:?}")));
    }
    Ok(())
}

/// Refuses a file that is not a ledger, or one of a release that this one does not know.
pub fn check_schema(connection: &Connection, path: &Path) -> Result<()> {
    let version =
        schema_version(connection, path)?.ok_or_else(|| unfit(path, "it is empty; run `franking prepare`"))?;
    if (SCHEMA_OLDEST..=SCHEMA_NEWEST).contains(&version) {
        Ok(())
    } else {
        Err(Error::Schema { found: version, oldest: SCHEMA_OLDEST, newest: SCHEMA_NEWEST })
    }
}

/// Returns the schema's version. `None` for a file without tables: one that was just made, or whose making was
/// interrupted.
fn schema_version(connection: &Connection, path: &Path) -> Result<Option<i64>> {
    let failed = |error| opening(path, error);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if tables == 0 {
        return Ok(None);
    }
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION_ID {
        return Err(unfit(path, "it is a database of another program"));
    }
    connection.query_row("SELECT schema_version FROM meta", [], |row| row.get(0)).optional().map_err(failed)
}

/// Makes the file, or brings it to the newest schema after copying it beside itself. The ledger of another installation
/// is left as it is: its identity is returned if its schema is ours, otherwise it is refused.
pub fn prepare(path: &Path, naming: &Naming, migrations: &[Migration], now: Timestamp) -> Result<Identity> {
    create_private(path)?;
    let mut connection = connect_writer(path)?;
    let doing = "preparing the ledger";
    let found = schema_version(&connection, path)?;
    let newest = migrations.last().map_or(0, |migration| migration.version);
    let from = found.unwrap_or(0);
    moved::refuse(&connection, path)?;
    if found.is_some() && from < newest {
        let installation = installation_of(&connection, path)?;
        if installation != naming.installation {
            return Err(Error::Foreign { found: installation, expected: naming.installation });
        }
    }
    if from > newest || (found.is_some() && from < FIRST) {
        return Err(Error::Schema { found: from, oldest: SCHEMA_OLDEST, newest });
    }
    if from < newest {
        if found.is_some() {
            copy_beside(&connection, path, from, now)?;
        }
        migrate(&mut connection, naming, migrations, now).map_err(|failure| failure.of(doing))?;
    }
    read_identity(&connection).map_err(|failure| failure.of(doing))
}

/// Returns the installation that the file belongs to, whatever its schema. Refuses a file that is no ledger.
pub fn installation_of(connection: &Connection, path: &Path) -> Result<Uuid> {
    schema_version(connection, path)?.ok_or_else(|| unfit(path, "it is empty"))?;
    let read = connection.query_row("SELECT installation FROM meta", [], |row| row.get(0));
    read.map(Uuid::from_bytes).map_err(|error| opening(path, error))
}

/// Makes the file with private permissions. SQLite gives its `-wal` and `-shm` the same.
fn create_private(path: &Path) -> Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unfit(path, format!("it cannot be made ({error})"))),
    }
}

/// Returns the path for the copy of a file that is made before its schema is changed.
pub fn copy_path(path: &Path, version: i64, now: Timestamp) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{version}-{}", now.as_second()));
    PathBuf::from(name)
}

fn copy_beside(connection: &Connection, path: &Path, version: i64, now: Timestamp) -> Result<()> {
    connection
        .backup("main", copy_path(path, version, now), None::<fn(rusqlite::backup::Progress)>)
        .map_err(|error| Failure::from(error).of("copying the ledger before changing its schema"))
}

fn migrate(connection: &mut Connection, naming: &Naming, migrations: &[Migration], now: Timestamp) -> Op<()> {
    // Checked again under the lock: two processes may be preparing.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let empty: bool = transaction.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    let current: i64 =
        if empty { 0 } else { transaction.query_row("SELECT schema_version FROM meta", [], |row| row.get(0))? };
    for migration in migrations.iter().filter(|migration| migration.version > current) {
        transaction.execute_batch(migration.sql)?;
        transaction.execute("UPDATE meta SET schema_version = ?1", [migration.version])?;
        if empty && migration.version == FIRST {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.execute(
                "INSERT INTO meta (one, schema_version, installation, cluster, incarnation, last_now, state) \
                 VALUES (1, ?6, ?1, ?2, ?3, ?4, ?5)",
                params![
                    naming.installation.as_bytes(),
                    naming.cluster,
                    naming.incarnation.as_bytes(),
                    now.as_millisecond(),
                    naming.state.as_str(),
                    FIRST
                ],
            )?;
        }
    }
    transaction.commit()?;
    Ok(())
}
