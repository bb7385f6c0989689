//! Before the others start: the keys of the installation, the ledger, the first `relay.yaml`.
//!
//! It runs as an init container, at the start of `franking all`, and as often as one likes: what is there stays. What it
//! must never do is let mail be charged to an empty ledger where there was one, because that gives every credit away
//! again.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use rand::Rng;
use uuid::Uuid;

use crate::domain::relay_config::LedgerAddress;
use crate::ledger;
use crate::ledger::incarnation::{self, Finding};
use crate::operator::fleet::installation::{self, Installation};
use crate::operator::fleet::relay_config::{self, Keeper};
use crate::operator::plan::endpoint::Endpoint;
use crate::runtime::clock::Clock;
use crate::runtime::config::Settings;

/// For all calls to the API server together. They are five; an init container that ends is started again, with a
/// back-off that one can see, which is better than one that hangs.
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

/// Makes what is missing, but for `relay.yaml`. Returns who we are.
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

/// Makes the ledger, or finds it. One that is not the one we know is held before a relay can charge mail to it: the
/// start goes on, because only who is there can say what is wrong.
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
        Some(because) => {
            let store = ledger::open(address, clock.clone()).map_err(failed)?;
            store.hold(because).await.map_err(failed)
        }
        // Not ours to write to: the relay is told of no ledger.
        None => {
            installation.serving.set(Uuid::nil());
            Ok(())
        }
    }
}
