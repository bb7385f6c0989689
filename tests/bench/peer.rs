//! Postfix's before-queue proxy: the best of the relays that answer only when the next hop has answered. It asks for no
//! login and counts no credits.

use std::fs;
use std::net::SocketAddr;

use crate::support::franking::free_port;
use crate::support::postfix::Postfix;

pub struct Peer {
    postfix: Postfix,
}

impl Peer {
    /// One that hands on to `to`, by implicit TLS where that is asked for; `None` where there is no Postfix.
    pub async fn start(tls: bool, to: SocketAddr) -> Option<Self> {
        if !Postfix::is_installed() {
            return None;
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let pair = made.signing_key.serialize_pem() + &made.cert.pem();
        let wrapped = if tls { "yes" } else { "no" };
        // All clients come from one address, and nobody's name is looked up.
        let settings = format!(
            "smtpd_proxy_filter = {to}\n\
             smtpd_recipient_restrictions = permit_mynetworks, reject\n\
             smtpd_client_connection_count_limit = 0\n\
             smtpd_peername_lookup = no\n\
             smtpd_tls_security_level = may\n\
             smtpd_tls_wrappermode = {wrapped}\n\
             smtpd_tls_chain_files = $config_directory/pair.pem\n"
        );
        let files = [("pair.pem", pair.as_str())];
        Some(Self { postfix: Postfix::start(free_port(), "peer.example", &settings, &files).await })
    }

    pub fn address(&self) -> SocketAddr {
        self.postfix.address
    }

    /// Seconds of CPU used so far by all its processes, those that have ended included.
    pub fn cpu_seconds(&self) -> f64 {
        let master = self.postfix.master();
        let processes = fs::read_dir("/proc").expect("processes");
        let names = processes.filter_map(|process| process.ok()?.file_name().into_string().ok());
        let ticks = names.filter_map(|name| {
            let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
            // Counted after the name, which ends with the last parenthesis: session 3, own time 11 and 12, that of
            // ended children 13 and 14.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ours = fields.get(3) == Some(&master.as_str());
            ours.then(|| fields[11..15].iter().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>())
        });
        ticks.sum::<f64>() / 100.0
    }
}
