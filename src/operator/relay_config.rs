//! `relay.yaml`: rendered from the settings and the installation, written when it changed, followed while we run.
//!
//! `prepare` writes the first one and the operator keeps it. The relay reads nothing else of all this, so whatever it
//! needs is in that file or beside it.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Endpoint;
use super::certificate;
use super::installation::Installation;
use crate::domain::relay_config::{LedgerAddress, RelayConfig};
use crate::runtime::clock::Clock;
use crate::runtime::config::Refused;
use crate::runtime::fleet::{Certificates, Fleet, Relay};
use crate::runtime::metrics::{IntGauge, Registry, register};
use crate::runtime::shutdown::chain;

/// How often the settings are looked at. A mounted ConfigMap takes up to a minute to arrive; this adds nothing to feel.
const POLL: Duration = Duration::from_secs(2);
/// A CA bundle is a few kilobytes.
const CA_MAX: u64 = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the relay's settings make no valid relay.yaml: {0}")]
    Invalid(String),
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("relay.tls.caFile {0} is not a PEM certificate of at most {CA_MAX} octets")]
    NotAnAuthority(PathBuf),
    #[error("writing relay.yaml")]
    Yaml(#[from] serde_yaml::Error),
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
}

/// All that `relay.yaml` is made of.
#[derive(Clone)]
pub struct Keeper {
    pub relay: Relay,
    pub ledger: LedgerAddress,
    pub installation: Installation,
    pub clock: Arc<dyn Clock>,
}

/// The config that these settings make for this installation.
pub fn render(fleet: &Fleet, config_file: &Path, ledger: &LedgerAddress, installation: &Installation) -> RelayConfig {
    RelayConfig {
        installation: installation.id,
        hostname: fleet.hostname.clone(),
        listeners: fleet.listeners.clone(),
        tls: fleet.certificates.tls(config_file),
        limits: fleet.limits.clone(),
        ledger: ledger.clone(),
        keys: installation.keys.clone(),
    }
}

impl Keeper {
    /// Brings `relay.yaml` and a certificate of our own up to date, and says what Secrets should tell programs. Reads
    /// and writes small local files, so callers in async code put it on a blocking thread.
    pub fn refresh(&self) -> Result<Endpoint, Error> {
        let fleet = self.relay.fleet()?;
        let file = &self.relay.config_file;
        let config = render(&fleet, file, &self.ledger, &self.installation);
        config.validate().map_err(Error::Invalid)?;
        let ca_pem = match &fleet.certificates {
            Certificates::SelfSigned => {
                self.refresh_certificate(&fleet)?;
                Some(self.installation.authority.certificate.clone())
            }
            Certificates::Files { ca_file: None, .. } => None,
            Certificates::Files { ca_file: Some(path), .. } => Some(read_authority(path)?),
        };
        // Last, so that the certificate that it names is there.
        if write_if_changed(file, &serde_yaml::to_string(&config)?)? {
            tracing::info!(file = %file.display(), "relay.yaml was written");
        }
        Ok(Endpoint::new(fleet.advertise, ca_pem))
    }

    fn refresh_certificate(&self, fleet: &Fleet) -> Result<(), Error> {
        let now = self.clock.now();
        let authority = &self.installation.authority;
        let names = certificate::names(&fleet.hostname, &fleet.advertise.host, &fleet.listeners);
        for files in fleet.certificates.tls(&self.relay.config_file).certificates {
            let standing = fs::read_to_string(&files.certificate_file).unwrap_or_default();
            if files.key_file.exists() && authority.stands_behind(&standing, &names, now) {
                continue;
            }
            let leaf = authority.issue(&names, now)?;
            // The key first: the relay, which follows both, keeps the old pair until the two fit.
            write_if_changed(&files.key_file, &leaf.key)?;
            write_if_changed(&files.certificate_file, &leaf.certificate)?;
            tracing::info!(file = %files.certificate_file.display(), "a certificate of our own was issued");
        }
        Ok(())
    }
}

/// Keeps `relay.yaml` until `stop`. A mistake in the settings leaves the last good file in force and is said once.
pub async fn keep(
    keeper: Keeper,
    registry: Registry,
    endpoint: watch::Sender<Endpoint>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let valid = register(&registry, settings_valid());
    valid.set(1);
    let mut said = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let once = keeper.clone();
        let refreshed = match tokio::task::spawn_blocking(move || once.refresh()).await {
            Ok(refreshed) => refreshed,
            // Only a panic or the end of the runtime: the next round meets it again, or there is none.
            Err(error) => {
                tracing::error!(%error, "keeping relay.yaml");
                continue;
            }
        };
        match refreshed {
            Ok(new) => {
                if said.take().is_some() {
                    tracing::info!("the relay's settings are valid again");
                }
                valid.set(1);
                endpoint.send_if_modified(|old| {
                    let changed = *old != new;
                    *old = new;
                    changed
                });
            }
            Err(error) => {
                let sentence = chain(&error);
                if said.as_ref() != Some(&sentence) {
                    tracing::error!(error = sentence, "the relay keeps its last good settings");
                }
                valid.set(0);
                said = Some(sentence);
            }
        }
    }
}

fn settings_valid() -> IntGauge {
    IntGauge::new(
        "franking_relay_settings_valid",
        "1 while the relay's settings are in force, 0 while they are refused.",
    )
    .expect("a metric's name is a valid constant")
}

fn read_authority(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { doing: "reading relay.tls.caFile", path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    let pem = if length <= CA_MAX { fs::read_to_string(path).map_err(failed)? } else { String::new() };
    if x509_parser::pem::parse_x509_pem(pem.as_bytes()).is_ok_and(|(_, block)| block.parse_x509().is_ok()) {
        Ok(pem)
    } else {
        Err(Error::NotAnAuthority(path.to_owned()))
    }
}

/// Writes a file that only we may read, whole or not at all, and only when its content differs. Whether it wrote.
fn write_if_changed(path: &Path, content: &str) -> Result<bool, Error> {
    if fs::read(path).is_ok_and(|standing| standing == content.as_bytes()) {
        return Ok(false);
    }
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("making the folder", folder))?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).and_then(
        |mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        },
    );
    written.map_err(failed("writing", &partial))?;
    fs::rename(&partial, path).map_err(failed("replacing", path))?;
    Ok(true)
}
