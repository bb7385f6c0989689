//! `franking ledger move`: a SQLite ledger with a history goes into PostgreSQL, whole, whatever interrupts it.

mod kills;
mod ledger;
mod refused;
mod story;
mod whole;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use franking::ledger::Store;
use franking::ledger::postgres::PostgresStore;
use franking::runtime::clock::ManualClock;

use crate::spread::with_databases;

/// A database of a test's own, and the settings that name it.
pub struct New {
    pub url: String,
}

impl New {
    /// `name` is the test's own.
    pub async fn database(name: &str) -> Self {
        let made = [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")];
        let url = with_databases(&made).await;
        let (server, rest) = url.rsplit_once('/').expect("a database");
        let options = rest.split_once('?').map(|(_, options)| format!("?{options}")).unwrap_or_default();
        Self { url: format!("{server}/{name}{options}") }
    }

    pub fn store(&self, clock: &ManualClock) -> Arc<dyn Store> {
        let clock = Arc::new(clock.clone());
        Arc::new(PostgresStore::open(&self.url, "the test's".to_owned(), true, Some(clock)).expect("an address"))
    }

    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.expect("a server");
        tokio::spawn(connection);
        client.batch_execute("SET search_path = franking").await.expect("set");
        client
    }

    /// The command, as the chart's Job runs it.
    pub fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let settings = folder.join("franking.yaml");
        let text = format!("ledger: {{engine: postgres, url: '{}', singleNode: true}}\n", self.url);
        std::fs::write(&settings, text).expect("ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
        command.args(["ledger", "move", "--from"]).arg(folder.join("ledger.db")).args(arguments);
        command.arg("--config").arg(settings).env_clear().stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, folder: &Path, arguments: &[&str]) -> Output {
        self.command(folder, arguments).output().expect("the binary starts")
    }
}

/// What it said at last, with its exit code.
pub fn last(output: &Output) -> (Option<i32>, String) {
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text);
    (output.status.code(), text.lines().last().unwrap_or_default().to_owned())
}
