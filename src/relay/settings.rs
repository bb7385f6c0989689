//! `relay.yaml` as the relay runs with it: read, checked, and taken over live when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::credential::HashKey;
use crate::ledger::seal::Sealer;
use crate::runtime::clock::Clock;
use crate::runtime::relay_config::RelayConfig;

use super::tickets::Tickets;
use super::tls::{self, Certificates};

/// Maximum size of a `relay.yaml`: hundreds of listeners.
const FILE_MAX: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is larger than {FILE_MAX} octets")]
    TooLarge { path: PathBuf },
    #[error("understanding {path}")]
    Syntax {
        path: PathBuf,
        #[source]
        source: serde_yaml::Error,
    },
    #[error("{path}: {sentence}")]
    Invalid { path: PathBuf, sentence: String },
    #[error("loading the certificates of {path}")]
    Tls {
        path: PathBuf,
        #[source]
        source: tls::Error,
    },
}

/// A valid config, with the objects that are made from it.
pub struct RelaySettings {
    pub config: RelayConfig,
    pub hash_key: HashKey,
    pub sealer: Sealer,
    /// `None` if every listener is plain.
    pub certificates: Option<Arc<Certificates>>,
}

impl RelaySettings {
    /// Parses the settings in a file's text. `path` is for the error message.
    pub fn parse(path: &Path, text: &str, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let path = || path.to_owned();
        let config: RelayConfig =
            serde_yaml::from_str(text).map_err(|source| Error::Syntax { path: path(), source })?;
        config.validate().map_err(|sentence| Error::Invalid { path: path(), sentence })?;
        let certificates = match config.tls.certificates.is_empty() {
            true => None,
            false => {
                let tickets = Arc::new(Tickets::new(&config.keys.seal, clock));
                let loaded = Certificates::load(&config.tls, tickets);
                Some(Arc::new(loaded.map_err(|source| Error::Tls { path: path(), source })?))
            }
        };
        Ok(Self {
            hash_key: HashKey::new(&config.keys.hash.0),
            sealer: Sealer::new(&config.keys.seal),
            certificates,
            config,
        })
    }
}

/// Reads the file's text; `None` while the file does not exist.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    let wrong = |source| Error::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error)),
        Ok(file) if file.len() > FILE_MAX => return Err(Error::TooLarge { path: path.to_owned() }),
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(wrong)
}
