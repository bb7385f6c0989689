//! `franking ledger …`: maintenance of the ledger, by an administrator by hand or by a backup container on a schedule.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use franking::ledger;
use franking::ledger::bill::Statement;
use franking::ledger::sqlite::backup::{self, Copied, Standing};
use franking::runtime::cli::{Costs, LedgerCommand, Output};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::config::Settings;
use franking::runtime::relay_config::LedgerAddress;
use franking::runtime::shutdown::{self, RoleError};
use franking::runtime::telemetry;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::{FAILED, REFUSED, fail, moving, say, trail};

/// Delay before the next try after a failed backup.
const RETRY: SignedDuration = SignedDuration::from_mins(1);

pub async fn run(settings: &Settings, command: LedgerCommand) -> Result<ExitCode, RoleError> {
    match command {
        LedgerCommand::Check => check(settings).await,
        LedgerCommand::Costs(asked) => print_costs(settings, &asked).await,
        LedgerCommand::Events(events) => trail::show(settings, &events).await,
        LedgerCommand::Backup { file, overwrite } => {
            let path = file_of(settings)?.to_owned();
            let copied = tokio::task::spawn_blocking(move || backup::backup(&path, &file, overwrite)).await??;
            Ok(say(&copied_sentence(&copied)))
        }
        LedgerCommand::Backups { folder, list: true, .. } => {
            let found = tokio::task::spawn_blocking(move || backup::standing(&folder)).await??;
            Ok(say(&listed(&found)))
        }
        LedgerCommand::Backups { folder, keep, every, list: false } => match every {
            None => {
                let copied = into(file_of(settings)?, &folder, keep).await?;
                Ok(say(&copied_sentence(&copied)))
            }
            Some(every) => keep_backing_up(settings, &folder, keep, every).await,
        },
        LedgerCommand::Move { from, abandon, installation } => {
            moving::run(settings, &from, abandon, installation).await
        }
        LedgerCommand::Restore { file, although_moved } => {
            let path = file_of(settings)?.to_owned();
            let now = SystemClock.now();
            let restored =
                tokio::task::spawn_blocking(move || backup::restore(&path, &file, although_moved, now)).await??;
            let mut said = format!(
                "the backup is in place; mail waits until it is accepted, and every resource says how (reason \
                 LedgerReplaced)\nincarnation {}\n",
                restored.identity.incarnation
            );
            if let Some(aside) = restored.aside {
                said.push_str(&format!("the file that was there is kept as {}\n", aside.display()));
            }
            Ok(say(&said))
        }
    }
}

/// Returns the path of the SQLite file. PostgreSQL is backed up with its own tools.
fn file_of(settings: &Settings) -> Result<&Path, RoleError> {
    match &settings.ledger {
        LedgerAddress::Sqlite { path } => Ok(path),
        LedgerAddress::Postgres { .. } => {
            Err("the ledger is a PostgreSQL server: back it up and restore it with its own \
                                               tools (charts/franking/RUNBOOK.md)"
                .into())
        }
    }
}

fn copied_sentence(copied: &Copied) -> String {
    let progress = copied.identity.progress;
    format!(
        "{} is a whole ledger of {} octets, at directory epoch {} and event {}\n",
        copied.path.display(),
        copied.bytes,
        progress.config_epoch,
        progress.event
    )
}

fn listed(found: &[Standing]) -> String {
    let mut table = format!("{:<20} {:>14} BACKUP\n", "TAKEN", "OCTETS");
    for one in found {
        table.push_str(&format!("{:<20} {:>14} {}\n", one.taken_at.to_string(), one.bytes, one.path.display()));
    }
    table
}

async fn into(path: &Path, folder: &Path, keep: usize) -> Result<Copied, RoleError> {
    let (path, folder, now) = (path.to_owned(), folder.to_owned(), SystemClock.now());
    Ok(tokio::task::spawn_blocking(move || backup::backup_into(&path, &folder, keep, now)).await??)
}

/// Makes backups until it is stopped. After a restart it continues from the newest backup in the folder.
async fn keep_backing_up(
    settings: &Settings,
    folder: &Path,
    keep: usize,
    every: SignedDuration,
) -> Result<ExitCode, RoleError> {
    telemetry::start(&settings.telemetry);
    let stop = CancellationToken::new();
    shutdown::follow_signals(stop.clone())?;
    let path = file_of(settings)?;
    let mut latest = backup::latest_backup(folder)?;
    loop {
        let now = SystemClock.now();
        let due = latest.map_or(SignedDuration::ZERO, |latest| every - now.duration_since(latest));
        // After a clock was set back, the next backup must not be put off for years.
        let wait = Duration::try_from(due.min(every)).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
        }
        match into(path, folder, keep).await {
            Ok(copied) => {
                tracing::info!(backup = %copied.path.display(), octets = copied.bytes, "the ledger is backed up");
                latest = Some(SystemClock.now());
            }
            Err(error) => {
                tracing::error!(error = shutdown::chain(error.as_ref()), "the ledger is not backed up");
                latest = Some(SystemClock.now() - every + RETRY.min(every));
            }
        }
    }
}

/// Prints each lot whose balance differs from the one recomputed from its rows. There must be none.
async fn check(settings: &Settings) -> Result<ExitCode, RoleError> {
    let found = ledger::open(&settings.ledger, Arc::new(SystemClock))?.check().await?;
    if found.is_empty() {
        return Ok(say("the ledger is in balance\n"));
    }
    let mut table = format!("{:<16} {:<8} {:<36} {:>16} {:>16}\n", "METER", "LOT", "HOLDER", "CONSUMED", "RECOMPUTED");
    for row in &found {
        let (meter, lot, holder) = (row.meter.as_str(), row.lot.0, row.holder.uuid());
        table.push_str(&format!("{meter:<16} {lot:<8} {holder:<36} {:>16} {:>16}\n", row.consumed, row.recomputed));
    }
    say(&table);
    Ok(ExitCode::from(FAILED))
}

/// Prints the cost of a policy's month, and each payer's part of it.
async fn print_costs(settings: &Settings, asked: &Costs) -> Result<ExitCode, RoleError> {
    let clock = Arc::new(SystemClock);
    let store = ledger::open(&settings.ledger, clock.clone())?;
    match ledger::bill::statement(store.as_ref(), &asked.policy, asked.period.as_deref(), clock.now()).await? {
        Ok(statement) => Ok(say(&printed(&statement, asked.output))),
        Err(refused) => Ok(fail(&refused, REFUSED)),
    }
}

fn printed(statement: &Statement, output: Output) -> String {
    match output {
        Output::Table => statement.table(),
        Output::Json => statement.json(),
        Output::Csv => statement.csv(),
    }
}
