//! Prepares the installation before the other roles start: its keys, the ledger, the first `relay.yaml`.
//!
//! It runs as an init container, and at the start of `franking all`. It may run any number of times: existing objects
//! stay. It must never let mail be charged to an empty ledger that replaced another, because that would give all
//! credits away again.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use rand::Rng;
use uuid::Uuid;

use crate::ledger;
use crate::ledger::incarnation::{self, Finding};
use crate::operator::fleet::installation::{self, Installation};
use crate::operator::fleet::relay_config::{self, Keeper};
use crate::operator::plan::endpoint::Endpoint;
use crate::runtime::clock::Clock;
use crate::runtime::config::Settings;
use crate::runtime::relay_config::LedgerAddress;

/// Limit for all calls to the API server together, of which there are five. An init container that ends is restarted
/// with a visible back-off, which is better than one that hangs.
const API_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Installation(#[from] installation::Error),
    #[error("asking the Kubernetes API: no answer within {} s", API_LIMIT.as_secs())]
    ApiTimeout,
    #[error("preparing the ledger {path}")]
    Ledger {
        path: String,
        #[source]
        source: ledger::Error,
    },
    #[error("writing relay.yaml ended early")]
    Thread(#[from] tokio::task::JoinError),
    #[error(transparent)]
    RelayConfig(#[from] relay_config::Error),
}

/// Makes what is missing, except `relay.yaml`. Returns the installation.
pub async fn run(
    client: &Client,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    rng: &mut (impl Rng + Send),
) -> Result<Installation, Error> {
    let namespace = &settings.operator.namespace;
    let now = clock.now();
    let mut installation = in_time(installation::ensure(client, namespace, now, rng)).await?;
    prepare_ledger(&settings.ledger, &installation, &clock, rng).await?;
    if !installation.ledger_made {
        in_time(installation::note_ledger(client, &mut installation, now)).await?;
    }
    tracing::info!(installation = %installation.id, "prepared");
    Ok(installation)
}

/// Loads the installation for an operator that was started after `prepare`: makes nothing.
pub async fn resume(client: &Client, settings: &Settings) -> Result<Installation, Error> {
    in_time(installation::load(client, &settings.operator.namespace)).await
}

/// Writes `relay.yaml` where the relays of this pod read it. Returns its keeper, and the endpoint for Secrets.
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

/// Makes the ledger, or finds it. A ledger that is not the known one is held before a relay can charge mail to it. The
/// start goes on, because only a running operator can report the problem.
async fn prepare_ledger(
    address: &LedgerAddress,
    installation: &Installation,
    clock: &Arc<dyn Clock>,
    rng: &mut (impl Rng + Send),
) -> Result<(), Error> {
    let failed = |source| Error::Ledger { path: address.place(), source };
    let identity = ledger::prepare(address, &installation.naming(rng), clock.now()).await.map_err(failed)?;
    let Finding::Replaced(replaced) = incarnation::judge(&installation.known(), &identity) else { return Ok(()) };
    tracing::error!(ledger = address.place(), "the ledger {}; mail waits until it is accepted", replaced.sentence());
    match replaced.because() {
        Some(_) if replaced.is_held() => Ok(()),
        Some(because) => {
            let store = ledger::open(address, clock.clone()).map_err(failed)?;
            store.hold(because).await.map_err(failed)
        }
        // Not ours to write to: the relay gets no ledger.
        None => {
            installation.serving.set(Uuid::nil());
            Ok(())
        }
    }
}
