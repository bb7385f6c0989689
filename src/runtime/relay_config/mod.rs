//! `relay.yaml`: the settings that change with a deployment. One type, written by the operator and read by the relay.
//!
//! Besides the directory, it is all that a relay is told: its listeners, certificates and limits, the ledger's address,
//! and the two keys that the ledger does not hold.

mod limits;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use limits::Limits;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelayConfig {
    /// Id of the installation whose ledger this relay may work with; any other ledger is refused.
    pub installation: Uuid,
    /// Incarnation of the ledger; another one is refused until this field names it. Absent in a file of the previous
    /// release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Uuid>,
    /// Host name that clients connect to; it is in the greeting, in EHLO and in Received.
    pub hostname: String,
    pub listeners: Vec<Listener>,
    pub tls: Tls,
    #[serde(default)]
    pub limits: Limits,
    pub ledger: LedgerAddress,
    pub keys: InstallationKeys,
}

impl RelayConfig {
    /// Checks the rules that no type can express, before the settings take effect. The error is one sentence.
    pub fn validate(&self) -> Result<(), String> {
        validate(&self.hostname, &self.listeners, &self.tls, &self.limits)
    }
}

/// Checks the parts that a user writes, before there is an installation to make a whole of them.
pub fn validate(hostname: &str, listeners: &[Listener], tls: &Tls, limits: &Limits) -> Result<(), String> {
    if hostname.is_empty() || hostname.len() > 255 || hostname.contains(char::is_whitespace) {
        return Err(format!("hostname \"{hostname}\" is not a host name"));
    }
    if listeners.is_empty() {
        return Err("listeners is empty; name at least one".to_owned());
    }
    for (index, listener) in listeners.iter().enumerate() {
        let twin = listeners[..index].iter().any(|other| other.name == listener.name);
        if twin {
            return Err(format!("listeners: the name \"{}\" is used twice", listener.name));
        }
        if listener.budget_seconds == 0 {
            return Err(format!(
                "listeners: budgetSeconds of \"{}\" is 0; no message could be sent in it",
                listener.name
            ));
        }
        if listener.budget_seconds > limits.drain_seconds {
            return Err(format!(
                "listeners: budgetSeconds of \"{}\" ({}) is above limits.drainSeconds ({}), so that a stop would not wait \
                 for its messages; lower the one, or raise the other and the pod's terminationGracePeriodSeconds with it",
                listener.name, listener.budget_seconds, limits.drain_seconds
            ));
        }
        match listener.mode {
            ListenerMode::Plain if listener.networks.is_empty() => {
                return Err(format!(
                    "listeners: \"{}\" is plain and names no networks; list the trusted source networks it may serve",
                    listener.name
                ));
            }
            ListenerMode::Implicit | ListenerMode::StartTls if tls.certificates.is_empty() => {
                return Err(format!("listeners: \"{}\" needs a certificate; set tls.certificates", listener.name));
            }
            ListenerMode::Plain | ListenerMode::Implicit | ListenerMode::StartTls => {}
        }
    }
    limits.validate()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "WrittenListener")]
pub struct Listener {
    /// Name in logs and metrics, and of the port in the Service.
    pub name: String,
    pub address: SocketAddr,
    pub mode: ListenerMode,
    /// Source networks that may connect; empty = any. A plain listener must name some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Load balancers that report the client's address by the PROXY protocol (version 1 or 2). Empty = none, and
    /// clients that send its header are refused; otherwise every connection must come from one of them and send it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_from: Vec<IpNet>,
    /// Seconds after the client's final dot within which it gets a reply, 451 at the latest.
    pub budget_seconds: u32,
    /// Treatment of a CR or LF that is not part of CRLF.
    pub line_ends: LineEnds,
}

/// A listener as it is written; fields that are left out follow from its mode.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenListener {
    /// For logs and metrics, and the port's name in the Service.
    name: String,
    /// Where it listens, such as `[::]:2465`.
    address: SocketAddr,
    /// `Implicit` (TLS from the first byte), `StartTls`, or `Plain` (no TLS: keys with `plainListener` only).
    mode: ListenerMode,
    /// Source networks that may connect; empty = any. A plain listener must name some.
    #[serde(default)]
    networks: Vec<IpNet>,
    /// Load balancers that say who the client is by the PROXY protocol. Then every connection must come from one of them.
    #[serde(default)]
    proxy_from: Vec<IpNet>,
    /// Seconds after the client's final dot until it is answered 451 at the latest: 25 on a plain listener, else 300, where
    /// absent.
    budget_seconds: Option<u32>,
    /// Handling of a CR or LF that is not part of CRLF: `Reject` or `Normalize`. `Normalize` on a plain listener, else
    /// `Reject`, where absent.
    line_ends: Option<LineEnds>,
}

impl From<WrittenListener> for Listener {
    fn from(written: WrittenListener) -> Self {
        let WrittenListener { name, address, mode, networks, proxy_from, budget_seconds, line_ends } = written;
        let budget_seconds = budget_seconds.unwrap_or_else(|| mode.budget_seconds());
        let line_ends = line_ends.unwrap_or_else(|| mode.line_ends());
        Self { name, address, mode, networks, proxy_from, budget_seconds, line_ends }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerMode {
    /// Port 587 (RFC 6409): AUTH only after STARTTLS.
    StartTls,
    /// Port 465 (RFC 8314 §3.3).
    Implicit,
    /// No TLS: for trusted networks and keys with `plainListener` only.
    Plain,
}

impl ListenerMode {
    /// Returns the default budget. Printers and scanners give up after 30 s, and most of them cannot be configured
    /// otherwise. Servers and programs wait for minutes (RFC 5321 §4.5.3.2.6 says 10), but many libraries only five.
    pub fn budget_seconds(self) -> u32 {
        match self {
            Self::Plain => 25,
            Self::StartTls | Self::Implicit => 300,
        }
    }

    /// Returns the default treatment of bare line ends. Devices that need the plain listener write them. Clients that
    /// speak TLS know CRLF, so a bare LF from them is smuggled or injected.
    pub fn line_ends(self) -> LineEnds {
        match self {
            Self::Plain => LineEnds::Normalize,
            Self::StartTls | Self::Implicit => LineEnds::Reject,
        }
    }
}

/// Treatment of a CR or LF that is not part of CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineEnds {
    /// In a body it is changed to CRLF, and a command may end in LF.
    Normalize,
    /// A body is refused after its end (554 5.6.0). A command is refused and the connection closed (500 5.5.2), because
    /// the rest may be a command that a program was tricked into passing on.
    Reject,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// ECDSA and RSA certificates may stand side by side; the client's signature schemes decide between them.
    #[serde(default)]
    pub certificates: Vec<CertificateFiles>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and its chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// The address of the ledger.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "engine")]
pub enum LedgerAddress {
    /// One file on a local disk, shared by the containers of one pod.
    #[serde(rename_all = "camelCase")]
    Sqlite { path: PathBuf },
    /// A PostgreSQL server that the processes share.
    #[serde(rename_all = "camelCase")]
    Postgres {
        /// A connection URI as libpq reads it. It may hold the password, so it is never printed.
        url: String,
        /// True if a server without synchronous standbys is good enough: what it acknowledged is lost with its disk.
        #[serde(default)]
        single_node: bool,
    },
}

impl LedgerAddress {
    /// Returns the place for messages: a path, or server and database, but never user or password.
    pub fn place(&self) -> String {
        match self {
            Self::Sqlite { path } => path.display().to_string(),
            Self::Postgres { url, .. } => {
                let (before, after) = url.split_once('@').unwrap_or(("", url));
                let place = after.trim_start_matches("postgresql://").trim_start_matches("postgres://");
                let place = place.split('?').next().unwrap_or_default();
                // A stray `@` may be part of the password, and so may the text beside it.
                let clear = !before.contains('?') && !after.contains('@') && !place.is_empty();
                if clear { format!("postgresql://{place}") } else { "postgresql".to_owned() }
            }
        }
    }
}

impl fmt::Debug for LedgerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => f.debug_struct("Sqlite").field("path", path).finish(),
            Self::Postgres { single_node, .. } => {
                f.debug_struct("Postgres").field("single_node", single_node).finish_non_exhaustive()
            }
        }
    }
}

/// The keys of the installation: 32 random bytes each, base64. They suffice to check passwords against the directory
/// and to open the upstreams' logins, so they never enter the database, a log or a status.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstallationKeys {
    pub hash: KeyBytes,
    pub seal: KeyBytes,
}

impl fmt::Debug for InstallationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallationKeys(…)")
    }
}

/// 32 bytes, base64 when serialized.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyBytes(pub [u8; 32]);

impl TryFrom<String> for KeyBytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = BASE64.decode(text).map_err(|_| "a key is not base64".to_owned())?;
        bytes.try_into().map(Self).map_err(|_| "a key is not 32 bytes".to_owned())
    }
}

impl From<KeyBytes> for String {
    fn from(key: KeyBytes) -> Self {
        BASE64.encode(key.0)
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RelayConfig {
        serde_yaml::from_str(
            "installation: 6a1b0d7e-3b1f-4a6e-9d52-0d8f3f1b7c11\n\
             hostname: relay.example.com\n\
             listeners: [{name: submission, address: '[::]:587', mode: StartTls}]\n\
             tls: {certificates: [{certificateFile: tls.crt, keyFile: tls.key}]}\n\
             ledger: {engine: sqlite, path: ledger.db}\n\
             keys: {hash: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=, seal: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}\n",
        )
        .expect("a config")
    }

    #[test]
    fn each_impossible_setting_is_refused_by_name() {
        type Edit = fn(&mut RelayConfig);
        let cases: [(Edit, &str); 12] = [
            (|c| c.hostname = "two words".into(), "hostname"),
            (|c| c.listeners.clear(), "listeners is empty"),
            (|c| c.listeners.push(c.listeners[0].clone()), "used twice"),
            (|c| c.listeners[0].mode = ListenerMode::Plain, "trusted source networks"),
            (|c| c.tls.certificates.clear(), "tls.certificates"),
            (|c| c.listeners[0].budget_seconds = 0, "budgetSeconds"),
            (
                |c| c.limits.drain_seconds = 299,
                "budgetSeconds of \"submission\" (300) is above limits.drainSeconds (299)",
            ),
            (|c| c.listeners[0].budget_seconds = 331, "is above limits.drainSeconds (330)"),
            (|c| c.limits.bytes_in_flight = 1, "limits.bytesInFlight"),
            (|c| c.limits.bytes_in_flight = 99 * 1024 * 1024, "is under twice limits.messageBytes"),
            (|c| c.limits.bytes_in_flight_per_account = Some(1), "limits.bytesInFlightPerAccount"),
            (|c| c.limits.bytes_in_flight_per_namespace = Some(1), "limits.bytesInFlightPerNamespace"),
        ];
        assert_eq!(config().validate(), Ok(()));
        for (edit, sentence) in cases {
            let mut config = config();
            edit(&mut config);
            let error = config.validate().expect_err(sentence);
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn a_listener_of_devices_answers_before_they_give_up() {
        let listener = |rest: &str| -> Result<Listener, serde_yaml::Error> {
            serde_yaml::from_str(&format!("{{name: x, address: '[::]:25', {rest}}}"))
        };
        for (written, seconds) in [
            ("mode: Plain", 25),
            ("mode: StartTls", 300),
            ("mode: Implicit", 300),
            ("mode: Plain, budgetSeconds: 60", 60),
            ("mode: Implicit, budgetSeconds: 25", 25),
        ] {
            assert_eq!(listener(written).expect("a listener").budget_seconds, seconds, "{written}");
        }
        assert!(listener("mode: Plain, budgetSecond: 60").is_err(), "an unknown field is refused");
        for (written, line_ends) in [
            ("mode: Plain", LineEnds::Normalize),
            ("mode: StartTls", LineEnds::Reject),
            ("mode: Implicit", LineEnds::Reject),
            ("mode: Plain, lineEnds: Reject", LineEnds::Reject),
            ("mode: Implicit, lineEnds: Normalize", LineEnds::Normalize),
        ] {
            assert_eq!(listener(written).expect("a listener").line_ends, line_ends, "{written}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_keys_do_not_print() {
        let text = serde_yaml::to_string(&config()).expect("yaml");
        assert_eq!(serde_yaml::from_str::<RelayConfig>(&text).expect("a config"), config());
        assert!(!format!("{:?}", config()).contains("AAAA"));
    }

    #[test]
    fn a_database_has_a_url_that_does_not_print() {
        let text = "{engine: postgres, url: 'postgresql://franking:s3cret@db/franking', singleNode: true}";
        let address: LedgerAddress = serde_yaml::from_str(text).expect("an address");
        let url = "postgresql://franking:s3cret@db/franking".to_owned();
        assert_eq!(address, LedgerAddress::Postgres { url, single_node: true });
        assert_eq!(format!("{address:?}"), "Postgres { single_node: true, .. }");
        for (url, place) in [
            ("postgresql://franking:s3cret@db:5432/franking?sslmode=require", "postgresql://db:5432/franking"),
            ("postgres://db/franking?password=s3cret", "postgresql://db/franking"),
            ("postgres://franking:s3@cret@db/franking", "postgresql"),
            ("postgres://db/franking?password=s3@cret", "postgresql"),
            ("postgres://franking:s3?cret@db/franking", "postgresql"),
        ] {
            assert_eq!(LedgerAddress::Postgres { url: url.to_owned(), single_node: false }.place(), place);
        }
    }
}
