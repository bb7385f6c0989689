//! Copies the file while it is in use, and puts a copy back while it is not.
//!
//! A copy is one snapshot: writers go on beside it, and what they write after its beginning is not in it. It is whole
//! and on the disk before it gets its name. A restored file is marked, so that no mail is charged to it before an
//! administrator has accepted it: it has forgotten what was used since.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::failure::Failure;
use super::file::{self, unfit};
use super::identity::read_identity;
use super::moved;
use crate::ledger::audit::LEDGER_RESTORED;
use crate::ledger::identity::{Because, State};
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{self, Identity};

/// Why there is no copy, or none in the ledger's place. It names the file that is at fault, which may be either one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ledger(#[from] store::Error),
    #[error("{what} {} cannot be used: {why}", .path.display())]
    File { what: &'static str, path: PathBuf, why: String },
}

pub type Result<T> = std::result::Result<T, Error>;

const COPY: &str = "the copy";
const BACKUP: &str = "the backup";
const FOLDER: &str = "the folder of backups";

fn at_fault(what: &'static str, path: &Path, why: impl Into<String>) -> Error {
    Error::File { what, path: path.to_owned(), why: why.into() }
}

/// Says of `path` what was found wrong with a file that was opened as a ledger, under whatever name.
fn of(what: &'static str, path: &Path, error: store::Error) -> Error {
    match error {
        store::Error::Unfit { why, .. } => at_fault(what, path, why),
        store::Error::Schema { found, oldest, newest } => {
            at_fault(what, path, format!("it has schema version {found}, and this release reads {oldest} to {newest}"))
        }
        error => error.into(),
    }
}

/// A copy that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    pub path: PathBuf,
    pub bytes: u64,
    pub identity: Identity,
}

/// A backup that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub identity: Identity,
    /// Path at which the previous file is kept.
    pub aside: Option<PathBuf>,
}

/// Copies the ledger at `path`, in use or not, to `to`.
pub fn backup(path: &Path, to: &Path, overwrite: bool) -> Result<Copied> {
    if !overwrite && to.exists() {
        return Err(at_fault(COPY, to, "it exists; name another file, or overwrite it with --overwrite"));
    }
    if same_file(path, to) {
        return Err(at_fault(COPY, to, "it is the ledger itself"));
    }
    let source = file::connect_reader(path)?;
    file::check_schema(&source, path)?;
    // What was left behind is no backup of the ledger, and could not be restored.
    moved::refuse(&source, path)?;
    let partial = beside(to, "partial");
    let copied = copy(&source, &partial, to).and_then(|()| verify(&partial).map_err(|error| of(COPY, to, error)));
    let identity = match copied {
        Ok(identity) => identity,
        Err(error) => {
            // Half a copy is useless. A failure to remove it is not the error to report.
            drop(fs::remove_file(&partial));
            return Err(error);
        }
    };
    put_in_place(&partial, to).map_err(|error| at_fault(COPY, to, not_placed(&error)))?;
    let bytes = fs::metadata(to).map_err(|error| at_fault(COPY, to, error.to_string()))?.len();
    Ok(Copied { path: to.to_owned(), bytes, identity })
}

/// Copies all pages in one step, and so in one snapshot. In several steps a writer in another process would make it
/// start over after each of its commits, for ever.
fn copy(source: &Connection, partial: &Path, to: &Path) -> Result<()> {
    private_file(partial).map_err(|error| at_fault(COPY, to, format!("it cannot be written ({error})")))?;
    let failed = |error| Failure::from(error).of("copying the ledger");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(partial, flags).map_err(failed)?;
    let copy = Backup::new(source, &mut target).map_err(failed)?;
    match copy.step(-1).map_err(failed)? {
        StepResult::Done => {}
        stopped => return Err(at_fault(COPY, to, format!("it stopped before its end ({stopped:?})"))),
    }
    drop(copy);
    // One file that needs no journal beside it.
    Ok(target.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?)
}

/// Reads the whole copy on a connection of its own.
fn verify(path: &Path) -> store::Result<Identity> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let doing = "verifying a copy of the ledger";
    let copy = Connection::open_with_flags(path, flags).map_err(|error| Failure::from(error).of(doing))?;
    file::check_schema(&copy, path)?;
    let said: String = copy
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| file::opening(path, error))?;
    if said != "ok" {
        return Err(unfit(path, format!("it is damaged: {said}")));
    }
    read_identity(&copy).map_err(|failure| failure.of(doing))
}

/// Puts a backup in the ledger's place, which no process may have open, and marks it as restored.
pub fn restore(path: &Path, from: &Path, although_moved: bool, now: Timestamp) -> Result<Restored> {
    if same_file(path, from) {
        return Err(at_fault(BACKUP, from, "it is the ledger itself"));
    }
    if !from.is_file() {
        return Err(at_fault(BACKUP, from, format!("there is no such file; {}", beside_it(from))));
    }
    file::refuse_network(path)?;
    if !although_moved {
        refuse_moved(path)?;
    }
    let fresh = beside(path, "restoring");
    let marked = prepare(&fresh, from, now);
    let placed = marked.and_then(|identity| {
        let aside = set_aside(path, now)?;
        put_in_place(&fresh, path).map_err(|error| unfit(path, not_placed(&error)))?;
        Ok(Restored { identity, aside })
    });
    if placed.is_err() {
        drop(fs::remove_file(&fresh));
    }
    placed
}

/// Refuses to replace a ledger that is moving to another engine, or has moved: with an older one in its place, two could
/// be in force.
fn refuse_moved(path: &Path) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match Connection::open_with_flags(path, flags).and_then(|connection| moved::read(&connection)) {
        Ok(Some(mark)) => {
            let is = if mark.is_done { "was moved" } else { "is being moved" };
            Err(unfit(
                path,
                format!(
                    "it {is} to {}, and a restored one could be in force beside that; where that database is lost for \
                     good, run this again with --although-moved",
                    mark.place
                ),
            )
            .into())
        }
        // There is no ledger, or one that cannot be read: it is lost.
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Copies the backup beside the ledger, brings the copy to this release's schema and marks it as restored.
fn prepare(fresh: &Path, from: &Path, now: Timestamp) -> Result<Identity> {
    let doing = "copying the backup";
    fs::copy(from, fresh)
        .map_err(|error| at_fault(BACKUP, from, format!("it cannot be copied beside the ledger ({error})")))?;
    let of_backup = |error| of(BACKUP, from, error);
    let failed = |error| of_backup(file::opening(fresh, error));
    let connection = Connection::open_with_flags(fresh, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let installation = file::installation_of(&connection, from).map_err(of_backup)?;
    drop(connection);
    let naming = Naming { installation, cluster: String::new(), incarnation: installation, state: State::Open };
    let before = file::prepare(fresh, &naming, file::MIGRATIONS, now).map_err(of_backup)?;
    let connection = Connection::open_with_flags(fresh, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let mark = || {
        let bytes: [u8; 16] = connection.query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
        let incarnation = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let detail = serde_json::json!({ "from": before.incarnation, "to": incarnation });
        connection.execute(
            "UPDATE meta SET incarnation = ?1, state = ?2, last_now = max(last_now, ?3)",
            params![incarnation.as_bytes(), State::Held(Because::Restored).as_str(), now.as_millisecond()],
        )?;
        connection.execute(
            "INSERT INTO event (at, actor, kind, detail) VALUES (?1, 'franking ledger restore', ?2, ?3)",
            params![now.as_millisecond(), LEDGER_RESTORED, detail.to_string()],
        )?;
        connection.pragma_update(None, "journal_mode", "DELETE")
    };
    mark().map_err(|error| Failure::from(error).of(doing))?;
    drop(connection);
    verify(fresh).map_err(of_backup)
}

/// Keeps the existing file under another name. A process that has it open holds a lock that prevents leaving WAL mode.
fn set_aside(path: &Path, now: Timestamp) -> store::Result<Option<PathBuf>> {
    match fs::metadata(path) {
        Ok(standing) if standing.len() > 0 => {}
        // It is empty: nothing is lost.
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unfit(path, format!("it cannot be looked at ({error})"))),
    }
    let in_use = || unfit(path, "a process has it open; stop franking first (scale its StatefulSet to 0)");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let left = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, String>(0))
    });
    match left {
        Ok(mode) if mode == "delete" => {}
        Ok(_) => return Err(in_use()),
        Err(error)
            if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) =>
        {
            return Err(in_use());
        }
        // A file that cannot even be opened is kept all the same.
        Err(_) => {}
    }
    let aside = beside(path, &format!("replaced-{}", now.as_second()));
    fs::hard_link(path, &aside).map_err(|error| unfit(&aside, format!("the ledger cannot be kept there ({error})")))?;
    // A journal of the old file must not be replayed into the new one.
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut journal = path.as_os_str().to_owned();
        journal.push(suffix);
        match fs::remove_file(PathBuf::from(journal)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unfit(path, format!("its journal cannot be removed ({error})"))),
        }
    }
    Ok(Some(aside))
}

/// Renames a file into place: first its content is on the disk, then it gets its name, then the name is on the disk.
fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::rename(from, to)?;
    File::open(folder_of(to))?.sync_all()
}

fn not_placed(error: &io::Error) -> String {
    format!("it cannot be put in place ({error})")
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a private file: the rest of an interrupted copy is overwritten.
fn private_file(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map(drop)
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Returns the name of a backup in a folder; names sort in the order of their making.
fn name_at(at: Timestamp) -> String {
    format!("{PREFIX}{}{SUFFIX}", at.strftime("%Y%m%dT%H%M%SZ"))
}

const PREFIX: &str = "ledger-";
const SUFFIX: &str = ".db";

/// Copies the ledger into a folder under the time's name, then removes the oldest copies beyond `keep`.
pub fn backup_into(path: &Path, folder: &Path, keep: usize, now: Timestamp) -> Result<Copied> {
    let copied = backup(path, &folder.join(name_at(now)), true)?;
    let mut standing = copies(folder)?;
    let superfluous = standing.len().saturating_sub(keep.max(1));
    for old in standing.drain(..superfluous) {
        fs::remove_file(&old).map_err(|error| at_fault(BACKUP, &old, format!("it cannot be removed ({error})")))?;
        tracing::info!(backup = %old.display(), "removed an old backup");
    }
    Ok(copied)
}

/// Returns the copies in a folder that [`backup_into`] made, oldest first. Other files are ignored.
fn copies(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| at_fault(FOLDER, folder, format!("it cannot be read ({error})"));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if taken_at(&name.to_string_lossy()).is_some() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A backup in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub path: PathBuf,
    pub taken_at: Timestamp,
    pub bytes: u64,
}

/// Returns the backups in a folder that [`backup_into`] made, newest first.
pub fn standing(folder: &Path) -> Result<Vec<Standing>> {
    let mut found = Vec::new();
    for path in copies(folder)?.into_iter().rev() {
        let bytes = fs::metadata(&path).map_err(|error| at_fault(BACKUP, &path, error.to_string()))?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        found.extend(taken_at(&name).map(|taken_at| Standing { path: path.clone(), taken_at, bytes }));
    }
    Ok(found)
}

/// Names that a sentence has room for.
const NAMES_MAX: usize = 5;

/// Says which backups there are in the folder of one that is not there.
fn beside_it(from: &Path) -> String {
    let folder = folder_of(from);
    let Ok(found) = standing(folder) else { return format!("{} cannot be read as a folder", folder.display()) };
    let names: Vec<_> = found
        .iter()
        .take(NAMES_MAX)
        .filter_map(|one| one.path.file_name())
        .map(|name| name.to_string_lossy())
        .collect();
    match found.len().saturating_sub(NAMES_MAX) {
        _ if names.is_empty() => format!("there are no backups in {}", folder.display()),
        0 => format!("{} has {}", folder.display(), names.join(", ")),
        older => format!("{} has {} and {older} older", folder.display(), names.join(", ")),
    }
}

fn taken_at(name: &str) -> Option<Timestamp> {
    let time = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.strip_suffix('Z')?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", time).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Returns when the newest copy in a folder was taken: a restarted process does not begin its waiting anew.
pub fn latest_backup(folder: &Path) -> Result<Option<Timestamp>> {
    let standing = copies(folder)?;
    let latest = standing.last().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    Ok(latest.and_then(|name| taken_at(&name)))
}

#[cfg(test)]
mod tests;
