//! Settings: `franking.yaml`, overridden by the environment and the flags. Raw → checked, once, at the start.
//!
//! An unknown key or an impossible value stops the start with one sentence that names it: a setting that is silently
//! ignored is worse than a process that does not start.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cli::Flags;
use super::fleet::{RawRelay, Relay};
use super::log::{LogFormat, LogLevel};
use super::metrics::MetricAccounts;
use super::settings_file::{Refused, parse_file};
use crate::runtime::relay_config::LedgerAddress;

/// Default folder of the state, as the FHS defines it.
const DATA_FOLDER: &str = "/var/lib/franking";
/// Default folder of `relay.yaml`: it holds keys, so it belongs in memory, not beside the database that they seal.
const RUN_FOLDER: &str = "/run/franking";
/// Maximum reconciles at once. Each may hold a connection to the API server, and those stay under 100.
const CONCURRENCY_MAX: u16 = 64;
/// Maximum status writes per second: more are a burden on the API server.
const STATUS_WRITES_MAX: u32 = 100;
/// Default of `stopSeconds`: the default drain of a relay (330 s, [`Limits`]) and 15 s to close sessions and
/// connections after it.
const STOP_SECONDS: u64 = 345;
/// Maximum of `stopSeconds`, an hour: longer than any grace period that makes sense.
const STOP_SECONDS_MAX: u64 = 3600;
/// Maximum octets of a URI: it is one line, and even several hosts and options make only a few hundred.
const URL_MAX: u64 = 16 * 1024;

/// All settings of a process, checked. The raw types below say what each is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub stop_seconds: u64,
    pub ledger: LedgerAddress,
    pub operator: Operator,
    pub relay: Relay,
    pub telemetry: Telemetry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    pub namespace: String,
    /// Empty = all.
    pub secret_namespaces: Vec<String>,
    pub concurrency: u16,
    pub status_writes_per_second: u32,
    pub effective_config_map: String,
    /// `None` = all.
    pub metric_accounts: Option<u32>,
    pub changed_by_stamped: bool,
    pub leader_election: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    pub format: LogFormat,
    pub level: LogLevel,
    pub address: SocketAddr,
    pub probes_address: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawSettings {
    /// Name of this process in the ledger, `franking` where absent; a second process of one name and role fences the first.
    name: Option<String>,
    /// Seconds from the first signal until the process ends in any case: 1 to 3600, 345 where absent.
    stop_seconds: Option<u64>,
    ledger: Option<RawLedger>,
    operator: RawOperator,
    relay: RawRelay,
    telemetry: RawTelemetry,
}

/// [`LedgerAddress`] as a user writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "engine")]
enum RawLedger {
    Sqlite {
        /// With `engine: sqlite`: the ledger's file, `ledger.db` in the data folder where the section is absent.
        path: PathBuf,
    },
    #[serde(rename_all = "camelCase")]
    Postgres {
        /// With `engine: postgres`: a `postgresql://` URI. It may hold a password, so `urlFile` is better.
        url: Option<String>,
        /// With `engine: postgres`: a file that holds the URI, such as the mounted key of a Secret.
        url_file: Option<PathBuf>,
        /// With `engine: postgres`: true takes a server without synchronous standbys.
        #[serde(default)]
        single_node: bool,
    },
}

impl fmt::Debug for RawLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawLedger(…)")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawOperator {
    /// The operator's own namespace, where the Secrets of upstreams are: `franking-system` where absent.
    namespace: Option<String>,
    /// The namespaces whose Secrets the operator may watch and write, where RBAC gives it those alone; all where absent.
    secret_namespaces: Vec<String>,
    /// Reconciles at once, for each kind: 1 to 64, 16 where absent.
    concurrency: Option<u16>,
    /// Statuses that are written in a second for figures alone: 1 to 100, 25 where absent.
    status_writes_per_second: Option<u32>,
    /// The ConfigMap that says what the relays run with: `franking-relay-effective` where absent.
    effective_config_map: Option<String>,
    /// Accounts with figures of their own in the metrics: `All`, `None` or how many, 1000 where absent.
    metric_accounts: Option<MetricAccounts>,
    /// True where the chart's admission policy stamps who changed a spec; the audit trail then believes the annotation.
    changed_by_stamped: bool,
    /// True where several operators share a PostgreSQL ledger: one works, the others stand by.
    leader_election: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawTelemetry {
    /// `text` or `json`; `text` where absent.
    format: Option<LogFormat>,
    /// `error`, `warn`, `info`, `debug` or `trace`; `info` where absent.
    level: Option<LogLevel>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served: `127.0.0.1:9464` where absent.
    address: Option<SocketAddr>,
    /// Where `/healthz` and `/readyz` are served for probes, on a port of their own. Only on `address` where absent.
    probes_address: Option<SocketAddr>,
}

/// Reads the settings file, applies the flags over it, and checks the result.
pub fn load(flags: &Flags) -> Result<Settings, Refused> {
    let raw = match &flags.config {
        Some(path) => parse_file(path)?,
        None => RawSettings::default(),
    };
    check(raw, flags)
}

fn check(raw: RawSettings, flags: &Flags) -> Result<Settings, Refused> {
    let data = flags.data.as_deref();
    let ledger = match raw.ledger {
        Some(ledger) => check_ledger(ledger)?,
        None => LedgerAddress::Sqlite { path: data.unwrap_or(Path::new(DATA_FOLDER)).join("ledger.db") },
    };
    let name = flags.name.clone().or(raw.name).unwrap_or_else(|| "franking".to_owned());
    if name.is_empty() || name.len() > 253 {
        return Err(Refused::new(format!("name \"{name}\" is not 1 to 253 characters long")));
    }
    let stop_seconds = flags.stop_seconds.or(raw.stop_seconds).unwrap_or(STOP_SECONDS);
    let stop_seconds = within("stopSeconds", stop_seconds, 1, STOP_SECONDS_MAX)?;
    let operator = check_operator(raw.operator, flags)?;
    let run = data.unwrap_or(Path::new(RUN_FOLDER));
    let relay = Relay::new(raw.relay, flags.hostname.clone(), &operator.namespace, run)?;
    check_spread(&ledger, &operator, &relay)?;
    let telemetry = Telemetry {
        format: flags.log_format.or(raw.telemetry.format).unwrap_or_default(),
        level: flags.log_level.or(raw.telemetry.level).unwrap_or_default(),
        address: flags
            .telemetry_address
            .or(raw.telemetry.address)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9464))),
        probes_address: flags.probes_address.or(raw.telemetry.probes_address),
    };
    if telemetry.probes_address == Some(telemetry.address) {
        return Err(Refused::new(format!(
            "telemetry.probesAddress {} is telemetry.address; probes need a port of their own",
            telemetry.address
        )));
    }
    Ok(Settings { name, stop_seconds, ledger, operator, relay, telemetry })
}

/// Checks that the installation may spread over several pods: with SQLite it may not, because one file belongs to one
/// pod.
fn check_spread(ledger: &LedgerAddress, operator: &Operator, relay: &Relay) -> Result<(), Refused> {
    match ledger {
        LedgerAddress::Postgres { .. } => Ok(()),
        LedgerAddress::Sqlite { .. } if operator.leader_election => Err(Refused::new(
            "operator.leaderElection is true with ledger.engine sqlite: several operators cannot share the one file of one \
             pod; use ledger.engine postgres",
        )),
        LedgerAddress::Sqlite { .. } if relay.config_map.is_some() => Err(Refused::new(
            "relay.configMap is set with ledger.engine sqlite: a fleet of relays cannot share the one file of one pod; use \
             ledger.engine postgres",
        )),
        LedgerAddress::Sqlite { .. } => Ok(()),
    }
}

fn check_ledger(raw: RawLedger) -> Result<LedgerAddress, Refused> {
    match raw {
        RawLedger::Sqlite { path } if path.as_os_str().is_empty() => {
            Err(Refused::new("ledger.path is empty; name the ledger's file"))
        }
        RawLedger::Sqlite { path } => Ok(LedgerAddress::Sqlite { path }),
        RawLedger::Postgres { url, url_file, single_node } => {
            let url = match (url, url_file) {
                (Some(url), None) => url,
                (None, Some(path)) => read_url(&path)?,
                (Some(_), Some(_)) => return Err(Refused::new("ledger.url and ledger.urlFile are both set; set one")),
                (None, None) => {
                    return Err(Refused::new("ledger.urlFile is missing; name the file that holds the database's URI"));
                }
            };
            // The scheme is required, so that a mistake is found here and never printed by a parser that quotes it.
            if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
                return Err(Refused::new("ledger.url is not a postgresql:// URI"));
            }
            Ok(LedgerAddress::Postgres { url, single_node })
        }
    }
}

/// Reads the URI from a file that a Secret is mounted as, because it holds a password.
fn read_url(path: &Path) -> Result<String, Refused> {
    let refused = |what: &dyn fmt::Display| Refused::new(format!("ledger.urlFile {}: {what}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| refused(&error))?.len();
    if length > URL_MAX {
        return Err(refused(&format_args!("{length} octets are more than the {URL_MAX} that are read")));
    }
    Ok(std::fs::read_to_string(path).map_err(|error| refused(&error))?.trim().to_owned())
}

fn check_operator(raw: RawOperator, flags: &Flags) -> Result<Operator, Refused> {
    let namespace = flags.namespace.clone().or(raw.namespace).unwrap_or_else(|| "franking-system".to_owned());
    check_namespace("operator.namespace", &namespace)?;
    let mut secret_namespaces = raw.secret_namespaces;
    for namespace in &secret_namespaces {
        check_namespace("operator.secretNamespaces", namespace)?;
    }
    // A Secret that two watches showed would be reported twice.
    secret_namespaces.sort();
    secret_namespaces.dedup();
    Ok(Operator {
        namespace,
        secret_namespaces,
        concurrency: within("operator.concurrency", raw.concurrency.unwrap_or(16), 1, CONCURRENCY_MAX)?,
        status_writes_per_second: within(
            "operator.statusWritesPerSecond",
            raw.status_writes_per_second.unwrap_or(25),
            1,
            STATUS_WRITES_MAX,
        )?,
        effective_config_map: check_config_map(raw.effective_config_map)?,
        metric_accounts: raw.metric_accounts.unwrap_or_default().most(),
        changed_by_stamped: raw.changed_by_stamped,
        leader_election: raw.leader_election,
    })
}

/// Checks for an RFC 1123 label, as the API server requires.
fn check_namespace(field: &str, namespace: &str) -> Result<(), Refused> {
    let label = (1..=63).contains(&namespace.len())
        && namespace.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !namespace.starts_with('-')
        && !namespace.ends_with('-');
    if label { Ok(()) } else { Err(Refused::new(format!("{field} \"{namespace}\" is not the name of a namespace"))) }
}

fn check_config_map(name: Option<String>) -> Result<String, Refused> {
    let name = name.unwrap_or_else(|| "franking-relay-effective".to_owned());
    let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.len() > 253 || !edge(name.bytes().next()) || !edge(name.bytes().last()) || !name.bytes().all(inner) {
        return Err(Refused::new(format!("operator.effectiveConfigMap \"{name}\" is not the name of a ConfigMap")));
    }
    Ok(name)
}

fn within<T: PartialOrd + fmt::Display>(name: &str, value: T, least: T, most: T) -> Result<T, Refused> {
    if value < least || value > most {
        return Err(Refused::new(format!("{name} is {value}; it must be {least} to {most}")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "\
name: franking-0
stopSeconds: 60
ledger: {engine: sqlite, path: /data/ledger.db}
operator: {namespace: mail, concurrency: 8, statusWritesPerSecond: 2}
relay: {configFile: /run/franking/relay.yaml, hostname: relay.example.com, limits: {recipients: 50}}
telemetry: {format: json, level: debug, address: '127.0.0.1:9464', probesAddress: '127.0.0.1:9465'}
";

    fn load_text(text: &str, flags: Flags) -> Result<Settings, Refused> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("writes");
        load(&Flags { config: Some(file.path().to_owned()), ..flags })
    }

    #[test]
    fn a_valid_file_says_everything() {
        let settings = load_text(VALID, Flags::default()).expect("valid");
        assert_eq!((settings.name.as_str(), settings.stop_seconds), ("franking-0", 60));
        assert_eq!(settings.ledger, LedgerAddress::Sqlite { path: "/data/ledger.db".into() });
        let operator = Operator {
            namespace: "mail".into(),
            secret_namespaces: vec![],
            concurrency: 8,
            status_writes_per_second: 2,
            effective_config_map: "franking-relay-effective".into(),
            metric_accounts: Some(1_000),
            changed_by_stamped: false,
            leader_election: false,
        };
        assert_eq!(settings.operator, operator);
        let fleet = settings.relay.fleet().expect("a fleet");
        assert_eq!((fleet.hostname.as_str(), fleet.limits.recipients), ("relay.example.com", 50));
        let address = SocketAddr::from(([127, 0, 0, 1], 9464));
        assert_eq!(
            settings.telemetry,
            Telemetry {
                format: LogFormat::Json,
                level: LogLevel::Debug,
                address,
                probes_address: Some(SocketAddr::from(([127, 0, 0, 1], 9465))),
            }
        );
    }

    #[test]
    fn the_accounts_with_metrics_are_all_some_or_none() {
        for (word, expected) in [("All", None), ("None", Some(0)), ("25", Some(25))] {
            let text = VALID.replace("concurrency: 8", &format!("metricAccounts: {word}"));
            assert_eq!(load_text(&text, Flags::default()).expect(word).operator.metric_accounts, expected);
        }
    }

    #[test]
    fn each_mistake_stops_the_start_with_one_sentence_that_names_it() {
        for (right, wrong, named) in [
            ("name:", "nam:", "nam"),
            ("name: franking-0", "name: ''", "name"),
            ("stopSeconds: 60", "stopSeconds: 0", "stopSeconds"),
            ("stopSeconds: 60", "stopSeconds: soon", "stopSeconds"),
            ("engine: sqlite", "engine: mysql", "mysql"),
            ("path: /data", "file: /data", "file"),
            ("path: /data/ledger.db", "path: ''", "ledger.path"),
            ("concurrency: 8", "concurrency: 0", "operator.concurrency"),
            ("concurrency: 8", "secretNamespaces: [team, The Team]", "operator.secretNamespaces \"The Team\""),
            ("concurrency: 8", "concurrency: 65", "operator.concurrency"),
            ("concurrency: 8", "concurrency: many", "operator.concurrency"),
            ("concurrency: 8", "concurency: 8", "concurency"),
            ("concurrency: 8", "leaderElection: true", "operator.leaderElection"),
            ("concurrency: 8", "leaderElection: sometimes", "operator.leaderElection"),
            ("configFile: /run/franking/relay.yaml", "configMap: franking-relay", "relay.configMap"),
            ("configFile: /run/franking/relay.yaml", "configMap: Franking", "relay.configMap"),
            ("namespace: mail", "namespace: Mail", "operator.namespace"),
            ("namespace: mail", "namespace: -mail", "operator.namespace"),
            ("statusWritesPerSecond: 2", "statusWritesPerSecond: 101", "operator.statusWritesPerSecond"),
            ("statusWritesPerSecond: 2", "effectiveConfigMap: Not-a-name", "operator.effectiveConfigMap"),
            ("statusWritesPerSecond: 2", "metricAccounts: some", "write All, None, or a number of accounts"),
            ("recipients: 50", "recipients: 0", "relay.limits.recipients"),
            ("recipients: 50", "recipients: 70000", "relay.limits.recipients"),
            ("hostname: relay.example.com", "host: relay.example.com", "host"),
            ("format: json", "format: xml", "telemetry.format"),
            ("level: debug", "level: loud", "telemetry.level"),
            ("'127.0.0.1:9464'", "localhost", "telemetry.address"),
            ("'127.0.0.1:9465'", "localhost", "telemetry.probesAddress"),
            ("'127.0.0.1:9465'", "'127.0.0.1:9464'", "a port of their own"),
            ("telemetry:", "telemetries:", "telemetries"),
        ] {
            assert!(VALID.contains(right), "{right} is not in the fixture");
            let Refused(sentence) = load_text(&VALID.replace(right, wrong), Flags::default()).expect_err(wrong);
            assert!(sentence.contains(named) && !sentence.contains('\n'), "{wrong}: {sentence}");
        }
    }

    #[test]
    fn a_database_is_named_by_a_uri_here_or_in_a_file() {
        let with = |ledger: &str| {
            load_text(&VALID.replace("engine: sqlite, path: /data/ledger.db", ledger), Flags::default())
                .map(|settings| settings.ledger)
        };
        let secret = tempfile::NamedTempFile::new().expect("a file");
        let url = "postgresql://franking:s3cret@db/franking";
        std::fs::write(secret.path(), format!("{url}\n")).expect("writes");
        let file = format!("engine: postgres, urlFile: {}", secret.path().display());
        let address = |single_node| Ok(LedgerAddress::Postgres { url: url.to_owned(), single_node });
        assert_eq!(with(&file), address(false));
        assert_eq!(with(&format!("engine: postgres, url: '{url}', singleNode: true")), address(true));
        for (wrong, named) in [
            ("engine: postgres", "ledger.urlFile is missing"),
            (&format!("{file}, url: '{url}'"), "both set"),
            ("engine: postgres, urlFile: /nowhere/uri", "/nowhere/uri"),
            ("engine: postgres, url: 'host=db password=s3cret'", "not a postgresql:// URI"),
            (&format!("engine: postgres, url: '{url}', path: /data/ledger.db"), "path"),
        ] {
            let Refused(sentence) = with(wrong).expect_err(wrong);
            assert!(sentence.contains(named) && !sentence.contains("s3cret"), "{sentence}");
        }
    }

    #[test]
    fn only_a_database_is_shared_by_several_operators_and_a_fleet() {
        let postgres = VALID
            .replace("engine: sqlite, path: /data/ledger.db", "engine: postgres, url: 'postgres://db/franking'")
            .replace("concurrency: 8", "leaderElection: true")
            .replace("configFile: /run/franking/relay.yaml", "configMap: franking-relay");
        let settings = load_text(&postgres, Flags::default()).expect("a spread installation");
        assert!(settings.operator.leader_election);
        assert_eq!(settings.relay.config_map.as_deref(), Some("franking-relay"));
        let both = postgres.replace("configMap:", "settingsFile: relay-settings.yaml, configMap:");
        let Refused(sentence) = load_text(&both, Flags::default()).expect_err("two sources of one thing");
        assert!(sentence.contains("relay.settingsFile"), "{sentence}");
    }

    #[test]
    fn flags_stand_over_the_file() {
        let flags = Flags {
            name: Some("laptop".into()),
            namespace: Some("other".into()),
            hostname: Some("localhost".into()),
            stop_seconds: Some(7),
            log_level: Some(LogLevel::Warn),
            log_format: Some(LogFormat::Text),
            telemetry_address: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            probes_address: Some(SocketAddr::from(([127, 0, 0, 1], 2))),
            ..Flags::default()
        };
        let settings = load_text(VALID, flags).expect("valid");
        assert_eq!((settings.name.as_str(), settings.operator.namespace.as_str()), ("laptop", "other"));
        assert_eq!(settings.relay.fleet().expect("a fleet").hostname, "localhost");
        assert_eq!((settings.telemetry.level, settings.telemetry.format), (LogLevel::Warn, LogFormat::Text));
        assert_eq!((settings.telemetry.address.port(), settings.stop_seconds), (1, 7));
        assert_eq!(settings.telemetry.probes_address.map(|address| address.port()), Some(2));
    }

    #[test]
    fn without_a_file_the_data_folder_holds_all_state() {
        let settings = load(&Flags { data: Some("/tmp/d".into()), ..Flags::default() }).expect("defaults");
        assert_eq!(settings.ledger, LedgerAddress::Sqlite { path: "/tmp/d/ledger.db".into() });
        assert_eq!(settings.relay.config_file, Path::new("/tmp/d/relay.yaml"));
        let settings = load_text("", Flags::default()).expect("defaults");
        assert_eq!(settings.ledger, LedgerAddress::Sqlite { path: "/var/lib/franking/ledger.db".into() });
        assert_eq!(settings.relay.config_file, Path::new("/run/franking/relay.yaml"));
    }

    #[test]
    fn a_file_that_is_missing_or_far_too_large_is_named() {
        let missing = load(&Flags { config: Some("/nowhere/franking.yaml".into()), ..Flags::default() });
        assert!(missing.expect_err("missing").0.contains("/nowhere/franking.yaml"));
        let large = "#".repeat(usize::try_from(crate::runtime::settings_file::FILE_MAX).expect("fits") + 1);
        assert!(load_text(&large, Flags::default()).expect_err("large").0.contains("more than"));
    }
}
