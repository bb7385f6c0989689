//! Settings of the relays that clients see: host name, listeners, certificates, limits. A section of `franking.yaml`,
//! or a file of its own (the chart mounts ConfigMap `franking-relay`), which the operator follows while it runs.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::settings_file::{Refused, parse_file};
use crate::runtime::relay_config::{self, CertificateFiles, Limits, Listener, ListenerMode, Tls};

/// The relay's settings. Those that clients see may also be in a file of their own, which is followed while we run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// `relay.yaml`, which prepare and the operator write and the relay reads.
    pub config_file: PathBuf,
    pub settings_file: Option<PathBuf>,
    /// ConfigMap that a separate fleet is made from; it also holds what would be in the settings file.
    pub config_map: Option<String>,
    /// Host name from the flag, which overrides every file.
    hostname: Option<String>,
    /// Namespace of the relays' Service, which the default host name contains.
    namespace: String,
    raw: RawFleet,
}

/// Settings of the relays that clients see: the content of ConfigMap `franking-relay`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub hostname: String,
    pub advertise: Advertise,
    pub listeners: Vec<Listener>,
    pub certificates: Certificates,
    pub limits: Limits,
}

/// The address that Secrets tell programs to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    pub host: String,
    pub port: u16,
    pub mode: ListenerMode,
    /// The address for devices without TLS. `None`: there is no plain listener, or its port as clients see it is not
    /// known.
    pub plain: Option<PlainAddress>,
}

/// The address of the plain listener that Secrets tell devices without TLS to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainAddress {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// One that `prepare` and the operator issue under the installation's own CA.
    SelfSigned,
    /// Certificates that the user mounted. `ca_file` is set if clients need a private CA to trust them.
    Files { files: Vec<CertificateFiles>, ca_file: Option<PathBuf> },
}

/// The section `relay`. It repeats the keys of [`RawFleet`] because serde cannot both flatten and refuse unknown keys.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawRelay {
    /// `relay.yaml`, which `prepare` and the operator write and the relay reads: in the data folder, else `/run/franking`,
    /// where absent. It holds keys, so it belongs in memory.
    config_file: Option<PathBuf>,
    /// A file whose keys stand over the same keys of this section, `hostname` to `limits`; the operator follows it while it
    /// runs.
    settings_file: Option<PathBuf>,
    /// With PostgreSQL: the ConfigMap that the fleet of relays is made from, instead of `settingsFile`.
    config_map: Option<String>,
    /// The name that clients connect to: `franking-relay.NAMESPACE.svc` where absent.
    hostname: Option<String>,
    advertise: Option<RawAdvertise>,
    listeners: Option<Vec<Listener>>,
    tls: Option<RawTls>,
    limits: Option<Limits>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawFleet {
    hostname: Option<String>,
    advertise: Option<RawAdvertise>,
    listeners: Option<Vec<Listener>>,
    tls: Option<RawTls>,
    limits: Option<Limits>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawAdvertise {
    /// The host that Secrets tell programs to connect to: `relay.hostname` where absent.
    host: Option<String>,
    /// The port that Secrets tell programs to connect to: that of the best listener where absent.
    port: Option<u16>,
    /// The host of the plain listener, in the Secrets of keys with `plainListener`: `host` where absent.
    plain_host: Option<String>,
    /// The port of the plain listener, in the Secrets of keys with `plainListener`. Where absent, the listener's own,
    /// unless a Service maps ports.
    plain_port: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawTls {
    /// The relay's certificates. Without any, one of the installation's own CA is issued.
    certificates: Vec<CertificateFiles>,
    /// The private CA of these certificates, which the Secrets then carry.
    ca_file: Option<PathBuf>,
}

impl Relay {
    pub(super) fn new(raw: RawRelay, hostname: Option<String>, namespace: &str, run: &Path) -> Result<Self, Refused> {
        let relay = Self {
            config_file: raw.config_file.unwrap_or_else(|| run.join("relay.yaml")),
            settings_file: raw.settings_file,
            config_map: raw.config_map,
            hostname,
            namespace: namespace.to_owned(),
            raw: RawFleet {
                hostname: raw.hostname,
                advertise: raw.advertise,
                listeners: raw.listeners,
                tls: raw.tls,
                limits: raw.limits,
            },
        };
        if relay.config_file.file_name().is_none() {
            return Err(Refused::new(format!("relay.configFile \"{}\" is not a file", relay.config_file.display())));
        }
        if let Some(name) = &relay.config_map {
            if !is_object_name(name) {
                return Err(Refused::new(format!("relay.configMap \"{name}\" is not the name of a ConfigMap")));
            }
            if relay.settings_file.is_some() {
                return Err(Refused::new("relay.settingsFile and relay.configMap are both set; set one"));
            }
        }
        // Checked at the start in every role: a mistake in the file affects all roles that read it.
        relay.check(&relay.raw)?;
        Ok(relay)
    }

    /// Reads the settings that clients see. A key in the relay's own settings file overrides the same key in
    /// `franking.yaml`.
    pub fn fleet(&self) -> Result<Fleet, Refused> {
        let Some(path) = &self.settings_file else { return self.check(&self.raw) };
        let over: RawFleet = parse_file(path)?;
        self.over(over)
            .map_err(|Refused(sentence)| Refused::new(format!("settings file {}: {sentence}", path.display())))
    }

    /// Returns the same settings from the text of a ConfigMap's entry.
    pub fn fleet_of(&self, text: &str) -> Result<Fleet, Refused> {
        let over: Option<RawFleet> = serde_yaml::from_str(text).map_err(|error| Refused::new(error.to_string()))?;
        self.over(over.unwrap_or_default())
    }

    fn over(&self, over: RawFleet) -> Result<Fleet, Refused> {
        let merged = RawFleet {
            hostname: over.hostname.or_else(|| self.raw.hostname.clone()),
            advertise: over.advertise.or_else(|| self.raw.advertise.clone()),
            listeners: over.listeners.or_else(|| self.raw.listeners.clone()),
            tls: over.tls.or_else(|| self.raw.tls.clone()),
            limits: over.limits.or_else(|| self.raw.limits.clone()),
        };
        self.check(&merged)
    }

    fn check(&self, raw: &RawFleet) -> Result<Fleet, Refused> {
        let refused = |sentence: String| Refused::new(format!("relay.{sentence}"));
        let hostname = self
            .hostname
            .clone()
            .or_else(|| raw.hostname.clone())
            .unwrap_or_else(|| format!("franking-relay.{}.svc", self.namespace));
        let listeners = raw.listeners.clone().unwrap_or_else(default_listeners);
        let limits = raw.limits.clone().unwrap_or_default();
        let tls = raw.tls.clone().unwrap_or_default();
        let certificates = match (tls.certificates, tls.ca_file) {
            (files, None) if files.is_empty() => Certificates::SelfSigned,
            (files, Some(_)) if files.is_empty() => {
                return Err(refused(
                    "tls.caFile is set without tls.certificates; name the certificates of that CA".into(),
                ));
            }
            (files, ca_file) => Certificates::Files { files, ca_file },
        };
        relay_config::validate(&hostname, &listeners, &certificates.tls(&self.config_file), &limits)
            .map_err(refused)?;
        let mut addresses = BTreeSet::new();
        if let Some(twin) = listeners.iter().find(|listener| !addresses.insert(listener.address)) {
            return Err(refused(format!("listeners: \"{}\" has an address that another one has", twin.name)));
        }
        let advertise = advertise(raw.advertise.clone().unwrap_or_default(), &hostname, &listeners)?;
        Ok(Fleet { hostname, advertise, listeners, certificates, limits })
    }
}

/// Checks for a DNS label (RFC 1123) that begins with a letter, which a Service can be named too.
fn is_object_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}

impl Certificates {
    /// Returns the files that the relay reads: the user's, or those that are issued beside `relay.yaml`.
    pub fn tls(&self, config_file: &Path) -> Tls {
        match self {
            Self::Files { files, .. } => Tls { certificates: files.clone() },
            Self::SelfSigned => Tls {
                certificates: vec![CertificateFiles {
                    certificate_file: config_file.with_file_name("tls.crt"),
                    key_file: config_file.with_file_name("tls.key"),
                }],
            },
        }
    }
}

fn advertise(raw: RawAdvertise, hostname: &str, listeners: &[Listener]) -> Result<Advertise, Refused> {
    let host = host(raw.host.as_deref().unwrap_or(hostname), "host")?;
    for (port, name) in [(raw.port, "port"), (raw.plain_port, "plainPort")] {
        if port == Some(0) {
            return Err(Refused::new(format!("relay.advertise.{name} is 0; name the port that programs connect to")));
        }
    }
    // Implicit TLS is best for programs (RFC 8314 §3), then STARTTLS.
    let best = [ListenerMode::Implicit, ListenerMode::StartTls, ListenerMode::Plain]
        .into_iter()
        .find_map(|mode| listeners.iter().find(|listener| listener.mode == mode));
    let (port, mode) = match (raw.port, best) {
        (Some(port), best) => {
            let same = listeners.iter().find(|listener| listener.address.port() == port);
            // A Service may map ports: a port that no listener has is taken to lead to the best listener.
            (port, same.or(best).map_or(ListenerMode::Implicit, |listener| listener.mode))
        }
        (None, Some(listener)) if listener.address.port() != 0 => (listener.address.port(), listener.mode),
        (None, _) => {
            return Err(Refused::new("relay.advertise.port is not set and the listener's port is 0; name one of them"));
        }
    };
    let mut advertise = Advertise { host, port, mode, plain: None };
    advertise.plain = plain_address(raw.plain_host.as_deref(), raw.plain_port, &advertise, listeners)?;
    Ok(advertise)
}

fn host(host: &str, name: &str) -> Result<String, Refused> {
    if host.is_empty() || host.len() > 255 || host.contains(char::is_whitespace) {
        return Err(Refused::new(format!("relay.advertise.{name} \"{host}\" is not a host name")));
    }
    Ok(host.to_owned())
}

fn plain_address(
    plain_host: Option<&str>,
    plain_port: Option<u16>,
    best: &Advertise,
    listeners: &[Listener],
) -> Result<Option<PlainAddress>, Refused> {
    let Some(listener) = listeners.iter().find(|listener| listener.mode == ListenerMode::Plain) else {
        if plain_host.is_some() || plain_port.is_some() {
            let sentence = "relay.advertise.plainHost or plainPort is set and no listener has the mode Plain; leave them \
                            out, or add one";
            return Err(Refused::new(sentence));
        }
        return Ok(None);
    };
    let host = host(plain_host.unwrap_or(&best.host), "plainHost")?;
    // Clients see the listeners' own ports, unless the advertised one is none of them: a Service maps it then.
    let is_mapped = !listeners.iter().any(|listener| listener.address.port() == best.port);
    let own = match best.mode {
        ListenerMode::Plain => Some(best.port),
        ListenerMode::Implicit | ListenerMode::StartTls => {
            Some(listener.address.port()).filter(|port| !is_mapped && *port != 0)
        }
    };
    Ok(plain_port.or(own).map(|port| PlainAddress { host, port }))
}

/// Returns listeners on ports above 1024, because a container drops the capability for lower ones; the Service maps 587
/// and 465.
fn default_listeners() -> Vec<Listener> {
    let listener = |name: &str, port: u16, mode: ListenerMode| Listener {
        name: name.to_owned(),
        address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        mode,
        networks: vec![],
        proxy_from: vec![],
        budget_seconds: mode.budget_seconds(),
        line_ends: mode.line_ends(),
    };
    vec![listener("submission", 2587, ListenerMode::StartTls), listener("submissions", 2465, ListenerMode::Implicit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(yaml: &str) -> Result<Relay, Refused> {
        let raw: RawRelay = serde_yaml::from_str(yaml).map_err(|error| Refused::new(error.to_string()))?;
        Relay::new(raw, None, "mail", Path::new("/run/franking"))
    }

    const LISTENERS: &str = "[{name: a, address: '[::]:2465', mode: Implicit}]";

    #[test]
    fn nothing_said_is_a_self_signed_relay_on_unprivileged_ports() {
        let relay = relay("{}").expect("defaults");
        let fleet = relay.fleet().expect("defaults");
        assert_eq!(relay.config_file, Path::new("/run/franking/relay.yaml"));
        assert_eq!(fleet.hostname, "franking-relay.mail.svc");
        assert_eq!(
            fleet.advertise,
            Advertise { host: fleet.hostname, port: 2465, mode: ListenerMode::Implicit, plain: None }
        );
        assert_eq!(fleet.certificates, Certificates::SelfSigned);
        let tls = fleet.certificates.tls(&relay.config_file);
        assert_eq!(tls.certificates[0].key_file, Path::new("/run/franking/tls.key"));
    }

    #[test]
    fn each_impossible_relay_is_refused_by_name() {
        for (yaml, named) in [
            ("hostname: ''", "relay.hostname"),
            ("hostname: a b", "relay.hostname"),
            ("listeners: []", "relay.listeners"),
            ("listeners: [{name: a, address: '0.0.0.0:25', mode: Plain}]", "relay.listeners: \"a\" is plain"),
            (
                "listeners: [{name: a, address: '[::]:1', mode: Implicit}, {name: b, address: '[::]:1', mode: StartTls}]",
                "relay.listeners: \"b\" has an address",
            ),
            ("listeners: [{name: a, address: '[::]:0', mode: Implicit}]", "relay.advertise.port"),
            ("advertise: {port: 0}", "relay.advertise.port"),
            ("advertise: {host: ''}", "relay.advertise.host"),
            ("advertise: {plainPort: 25}", "relay.advertise.plainHost or plainPort is set and no listener"),
            ("advertise: {plainHost: a}", "relay.advertise.plainHost or plainPort is set and no listener"),
            ("advertise: {plainPort: 0}", "relay.advertise.plainPort is 0"),
            ("tls: {caFile: ca.crt}", "relay.tls.caFile"),
            ("limits: {recipients: 0}", "relay.limits.recipients"),
            ("limits: {bytesInFlight: 5}", "relay.limits.bytesInFlight"),
            ("limits: {recipient: 5}", "recipient"),
            ("advertise: {ports: 5}", "ports"),
            ("configFile: /", "relay.configFile"),
        ] {
            let sentence = relay(yaml).expect_err(yaml).0;
            assert!(sentence.contains(named), "{yaml}: {sentence}");
        }
    }

    #[test]
    fn programs_are_told_the_best_listener_unless_a_port_is_advertised() {
        let mode = |yaml: &str| relay(yaml).expect(yaml).fleet().expect(yaml).advertise;
        let start_tls = mode("listeners: [{name: a, address: '[::]:587', mode: StartTls}]");
        assert_eq!((start_tls.port, start_tls.mode), (587, ListenerMode::StartTls));
        let mapped = mode(&format!("{{listeners: {LISTENERS}, advertise: {{host: mail.example.com, port: 465}}}}"));
        assert_eq!((mapped.host.as_str(), mapped.port, mapped.mode), ("mail.example.com", 465, ListenerMode::Implicit));
        assert_eq!(mode("advertise: {port: 2587}").mode, ListenerMode::StartTls);
    }

    #[test]
    fn devices_are_told_the_plain_listener_as_clients_see_it() {
        let tls = "{name: a, address: '[::]:4465', mode: Implicit}";
        let open = "{name: b, address: '[::]:4025', mode: Plain, networks: [10.0.0.0/8]}";
        let plain = |listeners: &str, advertise: &str| {
            let yaml = format!("{{hostname: mail.example.com, listeners: [{listeners}], advertise: {{{advertise}}}}}");
            let plain = relay(&yaml).expect(&yaml).fleet().expect(&yaml).advertise.plain;
            plain.map(|plain| format!("{}:{}", plain.host, plain.port))
        };
        let both = format!("{tls}, {open}");
        for (listeners, advertise, expected) in [
            (tls, "", None),
            (&both, "", Some("mail.example.com:4025")),
            (&both, "plainHost: 192.0.2.10", Some("192.0.2.10:4025")),
            // A Service maps the ports.
            (&both, "port: 465", None),
            (&both, "port: 465, plainPort: 25", Some("mail.example.com:25")),
            (&both, "host: smtp.example.com, port: 465, plainPort: 25", Some("smtp.example.com:25")),
            (open, "port: 25", Some("mail.example.com:25")),
        ] {
            assert_eq!(plain(listeners, advertise).as_deref(), expected, "{listeners} {advertise}");
        }
        let yaml = format!("{{listeners: [{both}], advertise: {{plainHost: a b}}}}");
        assert!(relay(&yaml).expect_err("no host").0.contains("relay.advertise.plainHost"));
    }

    #[test]
    fn the_settings_file_stands_over_the_section_and_is_read_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("relay-settings.yaml");
        let relay = relay(&format!("{{settingsFile: {}, hostname: one, limits: {{recipients: 7}}}}", file.display()))
            .expect("a relay");
        assert!(relay.fleet().expect_err("no file").0.contains("relay-settings.yaml"));
        std::fs::write(&file, "").expect("writes");
        assert_eq!(relay.fleet().expect("empty").hostname, "one");
        std::fs::write(&file, "hostname: two").expect("writes");
        let fleet = relay.fleet().expect("a host name");
        assert_eq!((fleet.hostname.as_str(), fleet.limits.recipients), ("two", 7));
        for (text, named) in [("configFile: x", "configFile"), ("hostname: ''", "relay.hostname")] {
            std::fs::write(&file, text).expect("writes");
            let sentence = relay.fleet().expect_err(text).0;
            assert!(sentence.contains(named) && sentence.contains("relay-settings.yaml"), "{sentence}");
        }
    }
}
