//! Before the others start: the keys of the installation, the ledger, the first `relay.yaml`.
//!
//! It runs as an init container, at the start of `franking all`, and as often as one likes: what is there stays. What it
//! must never do is begin with an empty ledger where there was one, because that gives every credit away again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kube::Client;
use rand::Rng;
use uuid::Uuid;

use super::Endpoint;
use super::installation::{self, Installation};
use super::relay_config::{self, Keeper};
use crate::domain::relay_config::LedgerAddress;
use crate::ledger;
use crate::runtime::clock::Clock;
use crate::runtime::config::Settings;
use std::sync::Arc;

/// For all calls to the API server together. They are five; an init container that ends is started again, with a
/// back-off that one can see, which is better than one that hangs.
const API_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Installation(#[from] installation::Error),
    #[error("asking the Kubernetes API: no answer within {} s", API_LIMIT.as_secs())]
    ApiTimeout,
    #[error(
        "the ledger {path} is empty, but ConfigMap {namespace}/{} knows one: starting would give every used credit \
         away; put the volume or a backup back, or accept the loss with --accept-empty-ledger",
        installation::NAME
    )]
    EmptyLedger { path: String, namespace: String },
    #[error(
        "the ledger {path} is not the one that ConfigMap {namespace}/{} knows: it belongs to {found}, expected \
         {expected}; mount the right volume",
        installation::NAME
    )]
    AnotherLedger { path: String, namespace: String, found: String, expected: String },
    #[error("preparing the ledger {path}")]
    Ledger {
        path: String,
        #[source]
        source: ledger::Error,
    },
    #[error("preparing the ledger ended early")]
    Thread(#[from] tokio::task::JoinError),
    #[error(transparent)]
    RelayConfig(#[from] relay_config::Error),
}

/// Makes what is missing, but for `relay.yaml`. Returns who we are.
pub async fn run(
    client: &Client,
    settings: &Settings,
    accept_empty_ledger: bool,
    clock: Arc<dyn Clock>,
    rng: &mut (impl Rng + Send),
) -> Result<Installation, Error> {
    let namespace = &settings.operator.namespace;
    let now = clock.now();
    let mut installation = in_time(installation::ensure(client, namespace, now, rng)).await?;
    let path = match &settings.ledger {
        LedgerAddress::Sqlite { path } => path,
        LedgerAddress::Postgres { .. } => {
            let (path, why) = (settings.ledger.place(), "this build has no PostgreSQL engine yet".to_owned());
            return Err(Error::Ledger { path: path.clone(), source: ledger::Error::Unfit { path, why } });
        }
    };
    if installation.ledger_made && is_empty(path) {
        if !accept_empty_ledger {
            return Err(Error::EmptyLedger { path: path.display().to_string(), namespace: namespace.clone() });
        }
        tracing::warn!(ledger = %path.display(), "an empty ledger is accepted: what was used so far is forgotten");
        in_time(installation::begin_incarnation(client, &mut installation, rng)).await?;
    }
    prepare_ledger(path, &installation, clock.as_ref()).await?;
    if !installation.ledger_made {
        in_time(installation::note_ledger(client, &mut installation, now)).await?;
    }
    tracing::info!(installation = %installation.id, "prepared");
    Ok(installation)
}

/// Who we are, for an operator that was started after `prepare`: makes nothing.
pub async fn resume(client: &Client, settings: &Settings) -> Result<Installation, Error> {
    in_time(installation::load(client, &settings.operator.namespace)).await
}

/// Writes `relay.yaml` where relays of this very pod read it. Returns its keeper, and what Secrets should tell programs.
pub async fn relay_yaml(
    installation: Installation,
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<(Keeper, Endpoint), Error> {
    let keeper = Keeper { relay: settings.relay.clone(), ledger: settings.ledger.clone(), installation, clock };
    let once = keeper.clone();
    let endpoint = tokio::task::spawn_blocking(move || once.refresh()).await??;
    Ok((keeper, endpoint))
}

async fn in_time<T>(asking: impl Future<Output = Result<T, installation::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(API_LIMIT, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::ApiTimeout),
    }
}

/// A file that was never made, or made and never written: either holds nothing.
fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |file| file.len() == 0)
}

async fn prepare_ledger(path: &Path, installation: &Installation, clock: &dyn Clock) -> Result<(), Error> {
    let (file, id, cluster) = (path.to_owned(), installation.id, installation.cluster.clone());
    let (incarnation, now) = (installation.incarnation, clock.now());
    let prepared =
        tokio::task::spawn_blocking(move || ledger::sqlite::prepare(&file, id, &cluster, incarnation, now)).await?;
    let path = path.display().to_string();
    let another = |what: &str, found: String, expected: String| Error::AnotherLedger {
        path: path.clone(),
        namespace: installation.namespace.clone(),
        found: format!("{what} {found}"),
        expected,
    };
    let uuids = |what: &str, found: Uuid, expected: Uuid| another(what, found.to_string(), expected.to_string());
    match prepared {
        Ok(identity) if identity.cluster != installation.cluster => {
            Err(another("cluster", identity.cluster, installation.cluster.clone()))
        }
        Ok(identity) if identity.incarnation != incarnation => {
            Err(uuids("incarnation", identity.incarnation, incarnation))
        }
        Ok(_) => Ok(()),
        Err(ledger::Error::Foreign { found, expected }) => Err(uuids("installation", found, expected)),
        Err(source) => Err(Error::Ledger { path, source }),
    }
}
