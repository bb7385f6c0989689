//! Renders `relay.yaml` from the settings and the installation, writes it when it changed, and follows the settings.
//!
//! `prepare` writes the first one and the operator keeps it up to date. The relay reads nothing else of this, so all
//! that it needs is in that file or next to it.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::operator::fleet::certificate::{self, Leaf};
use crate::operator::fleet::installation::Installation;
use crate::operator::plan::endpoint::Endpoint;
use crate::operator::plan::relay_state::{RelayInForce, RelayState};
use crate::runtime::clock::Clock;
use crate::runtime::fleet::{Certificates, Fleet, Relay};
use crate::runtime::metrics::{IntGauge, Registry, register};
use crate::runtime::relay_config::{LedgerAddress, Listener, ListenerMode, RelayConfig};
use crate::runtime::settings_file::Refused;
use crate::runtime::shutdown::chain;

/// Interval at which the settings are read. A mounted ConfigMap takes up to a minute to arrive, so this adds little.
const POLL: Duration = Duration::from_secs(2);
/// Maximum size of a CA bundle, which is normally a few kilobytes.
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

/// The inputs of `relay.yaml`.
#[derive(Clone)]
pub struct Keeper {
    pub relay: Relay,
    pub ledger: LedgerAddress,
    pub installation: Installation,
    pub clock: Arc<dyn Clock>,
}

/// Renders the config of these settings for this installation.
pub fn render(fleet: &Fleet, config_file: &Path, ledger: &LedgerAddress, installation: &Installation) -> RelayConfig {
    RelayConfig {
        installation: installation.id,
        incarnation: Some(installation.serving.get()),
        hostname: fleet.hostname.clone(),
        listeners: fleet.listeners.clone(),
        tls: fleet.certificates.tls(config_file),
        limits: fleet.limits.clone(),
        ledger: ledger.clone(),
        keys: installation.keys.clone(),
    }
}

/// Returns the endpoint for Secrets and status. If the advertised port is a listener's, clients see the listeners' own
/// ports; if not, a Service maps it, and it is the only known port.
pub fn endpoint(fleet: &Fleet, ca_pem: Option<String>) -> Endpoint {
    let advertise = &fleet.advertise;
    let mapped = !fleet.listeners.iter().any(|listener| listener.address.port() == advertise.port);
    let seen: Vec<(&Listener, u16)> = if mapped {
        let best = fleet.listeners.iter().find(|listener| listener.mode == advertise.mode);
        best.map(|listener| (listener, advertise.port)).into_iter().collect()
    } else {
        fleet.listeners.iter().map(|listener| (listener, listener.address.port())).collect()
    };
    // The advertised port first, so that it is preferred among several of its mode.
    let port_of = |mode: ListenerMode| {
        let ports = seen.iter().filter(|(listener, _)| listener.mode == mode).map(|(_, port)| *port);
        ports.max_by_key(|port| *port == advertise.port)
    };
    let preferred = |mode| match advertise.mode {
        // An advertised port with STARTTLS is preferred to a better one that is not advertised.
        ListenerMode::StartTls | ListenerMode::Plain if mode == ListenerMode::Implicit => None,
        ListenerMode::Plain => None,
        ListenerMode::Implicit | ListenerMode::StartTls => port_of(mode),
    };
    let mut ports: Vec<(String, u16)> = seen.iter().map(|(listener, port)| (listener.name.clone(), *port)).collect();
    ports.sort_by_key(|(_, port)| *port != advertise.port);
    Endpoint {
        host: advertise.host.clone(),
        ports,
        tls_port: preferred(ListenerMode::Implicit),
        starttls_port: preferred(ListenerMode::StartTls),
        plain: advertise.plain.clone(),
        ca_pem,
    }
}

/// Returns the part of the relays' settings that is shown to people.
pub fn in_force(fleet: &Fleet) -> RelayInForce {
    RelayInForce { hostname: fleet.hostname.clone(), listeners: fleet.listeners.clone(), limits: fleet.limits.clone() }
}

impl Keeper {
    /// Brings `relay.yaml` and our own certificate up to date, and returns the endpoint for Secrets. Reads and writes
    /// small local files, so async callers run it on a blocking thread.
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
        // Last, so that the certificate that it names exists.
        if write_if_changed(file, &serde_yaml::to_string(&config)?)? {
            tracing::info!(file = %file.display(), "relay.yaml was written");
        }
        Ok(endpoint(&fleet, ca_pem))
    }

    /// Returns the relays' settings in force, according to the settings file.
    pub fn in_force(&self) -> Result<RelayInForce, Error> {
        Ok(in_force(&self.relay.fleet()?))
    }

    fn refresh_certificate(&self, fleet: &Fleet) -> Result<(), Error> {
        let now = self.clock.now();
        let authority = &self.installation.authority;
        let names = certificate::names(&fleet.hostname, &fleet.advertise.host, &fleet.listeners);
        for files in fleet.certificates.tls(&self.relay.config_file).certificates {
            let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
            let standing = Leaf { certificate: read(&files.certificate_file), key: read(&files.key_file) };
            if authority.stands_behind(&standing, &names, now) {
                continue;
            }
            let leaf = authority.issue(&names, now)?;
            // The key first: the relay, which follows both, keeps the old pair until the two match.
            write_if_changed(&files.key_file, &leaf.key)?;
            write_if_changed(&files.certificate_file, &leaf.certificate)?;
            tracing::info!(file = %files.certificate_file.display(), "a certificate of our own was issued");
        }
        Ok(())
    }
}

/// Keeps `relay.yaml` up to date until `stop`. Invalid settings leave the last good file in force and are logged once.
pub async fn keep(
    keeper: Keeper,
    registry: Registry,
    endpoint: watch::Sender<Endpoint>,
    state: watch::Sender<RelayState>,
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
        let refreshed = match tokio::task::spawn_blocking(move || Ok((once.refresh()?, once.in_force()?))).await {
            Ok(refreshed) => refreshed,
            // Only a panic or the end of the runtime: the next round fails as well, or there is none.
            Err(error) => {
                tracing::error!(%error, "keeping relay.yaml");
                continue;
            }
        };
        match refreshed {
            Ok((new, in_force)) => {
                if said.take().is_some() {
                    tracing::info!("the relay's settings are valid again");
                }
                let next = RelayState { in_force: Some(Arc::new(in_force)), ..RelayState::default() };
                state.send_if_modified(|old| {
                    let changed = *old != next;
                    *old = next;
                    changed
                });
                valid.set(1);
                endpoint.send_if_modified(|old| {
                    let changed = *old != new;
                    *old = new;
                    changed
                });
            }
            Err(error) => {
                let error: Error = error;
                let sentence = chain(&error);
                if said.as_ref() != Some(&sentence) {
                    tracing::error!(error = sentence, "the relay keeps its last good settings");
                    // Its own probe reports its readiness: in the shared pod the operator has no right to ask for it.
                    state.send_modify(|state| (state.refused, state.replicas) = (Some(sentence.clone()), None));
                }
                valid.set(0);
                said = Some(sentence);
            }
        }
    }
}

pub fn settings_valid() -> IntGauge {
    IntGauge::new(
        "franking_relay_settings_valid",
        "1 while the relay's settings are in force, 0 while they are refused.",
    )
    .expect("a metric's name is a valid constant")
}

pub fn read_authority(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { doing: "reading relay.tls.caFile", path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    let pem = if length <= CA_MAX { fs::read_to_string(path).map_err(failed)? } else { String::new() };
    if x509_parser::pem::parse_x509_pem(pem.as_bytes()).is_ok_and(|(_, block)| block.parse_x509().is_ok()) {
        Ok(pem)
    } else {
        Err(Error::NotAnAuthority(path.to_owned()))
    }
}

/// Writes a file that only we may read, atomically, and only if its content differs. Returns true if it wrote.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::ledger::identity::Progress;
    use crate::operator::fleet::certificate::Authority;
    use crate::operator::fleet::installation::Serving;
    use crate::runtime::cli::Flags;
    use crate::runtime::clock::ManualClock;
    use crate::runtime::config;
    use crate::runtime::relay_config::{InstallationKeys, KeyBytes};

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 24 * 60 * 60;

    struct KeeperFixture {
        folder: tempfile::TempDir,
        clock: ManualClock,
        keeper: Keeper,
    }

    impl KeeperFixture {
        fn file(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.file(name)).expect(name)
        }

        fn say(&self, relay_settings: &str) {
            fs::write(self.file("settings.yaml"), relay_settings).expect("writes");
        }
    }

    /// Builds a keeper whose relay's settings are in a file that a test changes.
    fn fixture(relay_settings: &str) -> KeeperFixture {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        fs::write(file("settings.yaml"), relay_settings).expect("writes");
        let franking = format!("relay: {{settingsFile: {}}}", file("settings.yaml").display());
        fs::write(file("franking.yaml"), franking).expect("writes");
        let data = Some(folder.path().join("run"));
        let flags = Flags { config: Some(file("franking.yaml")), data, ..Flags::default() };
        let settings = config::load(&flags).expect("settings");
        let now = Timestamp::from_second(NOW).expect("a time");
        let clock = ManualClock::new(now);
        let installation = Installation {
            namespace: "mail".into(),
            id: Uuid::from_u128(1),
            incarnation: Uuid::from_u128(2),
            serving: Serving::new(Uuid::from_u128(2)),
            progress: Progress::default(),
            cluster: "c".into(),
            ledger_made: true,
            keys: InstallationKeys { hash: KeyBytes([1; 32]), seal: KeyBytes([2; 32]) },
            authority: Authority::mint(Uuid::from_u128(1), now).expect("a CA"),
        };
        let clock_of_keeper: Arc<dyn Clock> = Arc::new(clock.clone());
        let keeper = Keeper { relay: settings.relay, ledger: settings.ledger, installation, clock: clock_of_keeper };
        KeeperFixture { folder, clock, keeper }
    }

    const LOCAL: &str = "{hostname: localhost, listeners: [{name: a, address: '127.0.0.1:2465', mode: Implicit}, \
                         {name: b, address: '127.0.0.1:2587', mode: StartTls}]}";

    #[test]
    fn what_is_written_is_what_the_relay_reads_and_nobody_else() {
        let fixture = fixture(LOCAL);
        let endpoint = fixture.keeper.refresh().expect("refreshed");
        let config: RelayConfig = serde_yaml::from_str(&fixture.read("run/relay.yaml")).expect("a relay config");
        config.validate().expect("valid");
        assert_eq!(config.installation, Uuid::from_u128(1));
        assert_eq!(config.tls.certificates[0].certificate_file, fixture.file("run/tls.crt"));
        for name in ["run/relay.yaml", "run/tls.key"] {
            let mode = fs::metadata(fixture.file(name)).expect(name).permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(endpoint.preferred(), ("smtps", 2465));
        assert_eq!(endpoint.ports, [("a".to_owned(), 2465), ("b".to_owned(), 2587)]);
        assert_eq!(endpoint.ca_pem.as_ref(), Some(&fixture.keeper.installation.authority.certificate));
        let left: Vec<_> = fs::read_dir(fixture.file("run")).expect("a folder").collect();
        assert_eq!(left.len(), 3, "a partial file was left: {left:?}");
    }

    #[test]
    fn nothing_changed_is_nothing_written() {
        let fixture = fixture(LOCAL);
        fixture.keeper.refresh().expect("refreshed");
        let written = |name| fs::metadata(fixture.file(name)).expect(name).modified().expect("a time");
        let files = ["run/relay.yaml", "run/tls.crt", "run/tls.key"];
        let before = files.map(written);
        fixture.clock.advance(50 * DAY);
        fixture.keeper.refresh().expect("refreshed");
        assert_eq!(files.map(written), before);
    }

    #[test]
    fn a_certificate_is_issued_anew_when_it_gets_old_or_its_names_change_or_its_key_is_gone() {
        let fixture = fixture(LOCAL);
        fixture.keeper.refresh().expect("refreshed");
        let mut last = fixture.read("run/tls.crt");
        let mut issued_anew = |why: &str| {
            fixture.keeper.refresh().expect(why);
            let now = fixture.read("run/tls.crt");
            assert_ne!(now, last, "{why}");
            last = now;
        };
        fixture.clock.advance(61 * DAY);
        issued_anew("old");
        fixture.say(&LOCAL.replace("hostname: localhost", "hostname: relay.example.com"));
        issued_anew("other names");
        fs::remove_file(fixture.file("run/tls.key")).expect("removed");
        issued_anew("no key");
    }

    #[test]
    fn a_mapped_port_is_all_that_is_said_of_a_service() {
        let fixture = fixture("advertise: {host: mail.example.com, port: 465}");
        let endpoint = fixture.keeper.refresh().expect("refreshed");
        assert_eq!((endpoint.host.as_str(), endpoint.preferred()), ("mail.example.com", ("smtps", 465)));
        assert_eq!(endpoint.ports, [("submissions".to_owned(), 465)]);
        fixture.say("advertise: {host: mail.example.com, port: 2587}");
        assert_eq!(fixture.keeper.refresh().expect("refreshed").preferred(), ("smtp", 2587));
    }

    #[test]
    fn certificates_of_the_users_own_are_named_and_their_ca_is_published() {
        let fixture = fixture("{}");
        let ca = fixture.keeper.installation.authority.certificate.clone();
        fs::write(fixture.file("ca.crt"), &ca).expect("writes");
        let files = "certificates: [{certificateFile: a.crt, keyFile: a.key}]";
        fixture.say(&format!("tls: {{{files}, caFile: {}}}", fixture.file("ca.crt").display()));
        assert_eq!(fixture.keeper.refresh().expect("refreshed").ca_pem, Some(ca));
        assert!(!fixture.file("run/tls.crt").exists());
        fixture.say(&format!("tls: {{{files}}}"));
        assert_eq!(fixture.keeper.refresh().expect("refreshed").ca_pem, None);
        fs::write(fixture.file("ca.crt"), "not a certificate").expect("writes");
        fixture.say(&format!("tls: {{{files}, caFile: {}}}", fixture.file("ca.crt").display()));
        assert!(fixture.keeper.refresh().expect_err("no CA").to_string().contains("caFile"));
    }

    #[tokio::test]
    async fn a_change_of_the_settings_file_is_followed_and_a_mistake_changes_nothing() {
        let fixture = fixture(LOCAL);
        let first = fixture.keeper.refresh().expect("refreshed");
        let (publish, mut endpoint) = watch::channel(first);
        let (tell, relay) = watch::channel(RelayState::default());
        let (registry, stop) = (Registry::new(), CancellationToken::new());
        let task = tokio::spawn(keep(fixture.keeper.clone(), registry.clone(), publish, tell, stop.clone()));
        let text = |registry: &Registry| crate::runtime::metrics::render(registry);

        let good = fixture.read("run/relay.yaml");
        fixture.say("limits: {recipients: 0}");
        let refused = async {
            while !text(&registry).contains("franking_relay_settings_valid 0") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), refused).await.expect("the mistake is seen");
        assert_eq!(fixture.read("run/relay.yaml"), good);
        let refused = relay.borrow().refused.clone().expect("it is said");
        assert!(refused.contains("relay.limits.recipients"), "{refused}");

        fixture.say(&LOCAL.replace("hostname: localhost", "hostname: relay.example.com"));
        let changed = endpoint.changed();
        tokio::time::timeout(Duration::from_secs(30), changed).await.expect("in time").expect("published");
        assert_eq!(endpoint.borrow().host, "relay.example.com");
        assert!(fixture.read("run/relay.yaml").contains("hostname: relay.example.com"));
        assert!(text(&registry).contains("franking_relay_settings_valid 1"));
        let state = relay.borrow().clone();
        assert_eq!((state.refused, state.replicas), (None, None));
        assert_eq!(state.in_force.expect("what is in force").hostname, "relay.example.com");
        stop.cancel();
        task.await.expect("no panic").expect("a clean end");
    }
}
