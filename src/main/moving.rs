//! `franking ledger move`: from SQLite into PostgreSQL, by an administrator by hand or by the chart's Job.

use std::path::Path;
use std::process::ExitCode;

use franking::ledger::transfer::{self, Moved};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::config::Settings;
use franking::runtime::settings_file::Refused;
use franking::runtime::shutdown::RoleError;
use franking::runtime::telemetry;
use uuid::Uuid;

use super::{REFUSED, fail, say};

pub async fn run(
    settings: &Settings,
    from: &Path,
    abandon: bool,
    installation: Option<Uuid>,
) -> Result<ExitCode, RoleError> {
    let is_database = from.to_str().is_some_and(|text| text.starts_with("postgres"));
    if is_database && !from.exists() {
        let refused = "--from names a database, and there is no way back from PostgreSQL to SQLite, which has one \
                       writer in one pod; it names the file of a SQLite ledger";
        return Ok(fail(&Refused::new(refused), REFUSED));
    }
    telemetry::start(&settings.telemetry);
    if abandon {
        transfer::abandon(from, &settings.ledger).await?;
        return Ok(say(&format!("{} is in force again; nothing of it was moved\n", from.display())));
    }
    let moved = transfer::run(from, &settings.ledger, installation, SystemClock.now()).await?;
    Ok(say(&sentence(from, &moved)))
}

fn sentence(from: &Path, moved: &Moved) -> String {
    let (from, place) = (from.display(), &moved.place);
    if moved.rows.is_empty() {
        return format!("{place} has all of {from} already, and is in force\n");
    }
    let rows: i64 = moved.rows.iter().map(|(_, rows)| rows).sum();
    let mail = moved.rows.iter().find(|(table, _)| *table == "reservation").map_or(0, |(_, rows)| *rows);
    format!(
        "{place} has all of {from} ({rows} rows, {mail} of them messages), both sides agree, and it is in force; the \
         file is marked as moved and starts no more\n"
    )
}
