//! Sends notices: as mail through a policy's own upstream, and as webhooks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use tokio::time::Instant;

use super::message::{Forwarded, Message, Target, Tenant};
use super::settings::UpstreamSettings;
use super::upstreams::Upstreams;
use super::webhook;
use crate::domain::sender::Address;
use crate::runtime::metrics::Registry;
use crate::runtime::notifier::{AlertMail, Call, Delivery, Hook, Notifier, OnBehalfOf, Via};

/// Number of connections to one upstream: notices are few and wait for each other.
const CONNECTIONS: usize = 1;
/// Maximum time for one mail: enough for some kilobytes to a slow upstream. Notices behind it wait.
const MAIL_LIMIT: Duration = Duration::from_secs(60);

/// The sender's name, beside its address.
const NAME: &str = "Franking";

/// A notifier with pools of its own, so that a flood of tenants' mail delays no notice about it.
pub struct SmtpNotifier {
    upstreams: Upstreams,
    hostname: String,
}

impl SmtpNotifier {
    /// Creates the pools. `hostname` is the name in the EHLO and in message ids.
    pub fn new(hostname: &str) -> Self {
        let settings = UpstreamSettings::new(hostname, CONNECTIONS);
        // The registry of the process has the metrics of the relay's pools; those of these pools would be added to
        // them.
        Self { upstreams: Upstreams::new(settings, &Registry::new()), hostname: hostname.to_owned() }
    }
}

#[async_trait]
impl Notifier for SmtpNotifier {
    /// Sends the mail in one transaction per recipient, so that a refused address does not keep it from the others.
    async fn mail(&self, via: Via, mail: &AlertMail) -> Delivery {
        let target = Target { policy: via.policy, entry: via.entry, secret: via.secret };
        let text = match render(mail, &self.hostname) {
            Ok(text) => Bytes::from(text),
            Err(problem) => return Delivery::Failed(problem),
        };
        let tenant = match &mail.on_behalf_of {
            OnBehalfOf::Platform => Tenant::platform(),
            OnBehalfOf::Account { account, namespace } => Tenant { account: account.0, namespace: namespace.clone() },
        };
        let (mut taken, mut problem) = (0, None);
        for recipient in &mail.to {
            let message = Message {
                sender: Some(mail.from.clone()),
                recipients: vec![recipient.clone()],
                eight_bit: !text.is_ascii(),
                smtputf8: !(mail.from.is_ascii() && recipient.is_ascii()),
                body: text.clone(),
                tenant: tenant.clone(),
            };
            match refusal(self.upstreams.forward(&target, message, Instant::now() + MAIL_LIMIT).await) {
                None => taken += 1,
                Some(refused) => problem = Some(refused),
            }
        }
        match problem {
            Some(problem) if taken == 0 => Delivery::Failed(problem),
            Some(problem) => {
                tracing::warn!(policy = %via.policy, problem, "a notice did not reach all its recipients");
                Delivery::Sent
            }
            None => Delivery::Sent,
        }
    }

    async fn call(&self, hook: &Hook, call: &Call) -> Delivery {
        webhook::post(hook, call).await
    }
}

/// Describes why a mail was not taken; `None` if it was. The upstream's own words are left out, because they may name
/// the recipient.
fn refusal(forwarded: Forwarded) -> Option<String> {
    match forwarded {
        Forwarded::Relayed { .. } => None,
        Forwarded::Refused { code, stage, .. } => Some(format!("the upstream refused it with {code} at {stage:?}")),
        Forwarded::RefusesUs { .. } => Some("the upstream refuses us".to_owned()),
        Forwarded::NotOffered { cause } => Some(format!("it was not offered: {cause:?}")),
        Forwarded::Unknown { cause } | Forwarded::Open { cause, .. } => {
            Some(format!("what became of it is not known: {cause:?}"))
        }
    }
}

/// Renders the mail as it goes over the wire: RFC 5322, and marked by RFC 3834 so that no robot answers it. The library
/// encodes whatever a header cannot hold, such as line ends.
fn render(mail: &AlertMail, hostname: &str) -> Result<Vec<u8>, String> {
    let mailbox = |name: Option<&str>, address: &Address| {
        let address = address.to_string().parse::<lettre::Address>();
        let address = address.map_err(|_| "an address of it cannot be written into a header".to_owned())?;
        Ok::<_, String>(Mailbox::new(name.map(str::to_owned), address))
    };
    let mut message = lettre::Message::builder().from(mailbox(Some(NAME), &mail.from)?);
    for to in &mail.to {
        message = message.to(mailbox(None, to)?);
    }
    let auto_submitted = HeaderName::new_from_ascii_str("Auto-Submitted");
    let message = message
        .subject(&mail.subject)
        // The library panics on times before 1970.
        .date(mail.at.max(Timestamp::UNIX_EPOCH).into())
        .message_id(Some(format!("<{}@{hostname}>", mail.id)))
        .raw_header(HeaderValue::new(auto_submitted, "auto-generated".to_owned()))
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(mail.text.clone())
        .map_err(|error| format!("it cannot be written as a mail: {error}"))?;
    let mut octets = message.formatted();
    if !octets.ends_with(b"\r\n") {
        octets.extend_from_slice(b"\r\n");
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "relay.example.com";

    fn mail(to: &[&str]) -> AlertMail {
        let address = |text: &str| Address::parse(text).expect("an address");
        AlertMail {
            from: address("franking@example.com"),
            to: to.iter().map(|text| address(text)).collect(),
            on_behalf_of: OnBehalfOf::Platform,
            subject: "Credits of acme at 90 %".to_owned(),
            text: "One line.\nAnother.\n".to_owned(),
            id: "notice-1".to_owned(),
            at: "2026-11-22T06:30:00Z".parse().expect("a time"),
        }
    }

    fn rendered(mail: &AlertMail) -> String {
        String::from_utf8(render(mail, HOST).expect("a mail")).expect("text")
    }

    #[test]
    fn a_mail_has_crlf_line_ends() {
        let expected = "From: Franking <franking@example.com>\r\n\
            To: a@example.com, b@example.com\r\n\
            Subject: Credits of acme at 90 %\r\n\
            Date: Sun, 22 Nov 2026 06:30:00 +0000\r\n\
            Message-ID: <notice-1@relay.example.com>\r\n\
            Auto-Submitted: auto-generated\r\n\
            MIME-Version: 1.0\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 7bit\r\n\
            \r\n\
            One line.\r\nAnother.\r\n";
        assert_eq!(rendered(&mail(&["a@example.com", "b@example.com"])), expected);
    }

    #[test]
    fn nothing_in_a_letter_adds_a_header_or_ends_the_head() {
        let mut hostile = mail(&["a@example.com"]);
        hostile.subject = "90 %\r\nBcc: c@example.org\r\n\r\nbody\u{0}\u{85}\u{2028}ü".to_owned();
        hostile.id = "notice-1>\r\nReply-To: <c@example.org".to_owned();
        hostile.text = "no end".to_owned();
        let mail = rendered(&hostile);
        let (head, body) = mail.split_once("\r\n\r\n").expect("a head and a body");
        assert_eq!(body, "no end\r\n");
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        let expected = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        ];
        assert_eq!(names, expected, "{mail}");
        assert!(!head.replace("\r\n", "").contains(char::is_control), "{mail}");
    }

    #[test]
    fn addresses_that_settings_may_hold_can_be_written() {
        let long = format!("{}@{}.example", "l".repeat(64), "d".repeat(63));
        let to = ["o'hara+x=y@example.com", "bücher@bücher.example", "a@localhost", &long];
        let text = rendered(&mail(&to));
        for address in to {
            assert!(text.contains(address), "{address} is not in {text}");
        }
        assert!(text.split("\r\n").all(|line| line.len() <= 998));
        // The longest words that names of Kubernetes make.
        let mut longest = mail(&["a@example.com"]);
        longest.subject = format!("[franking] account {}/{}: cap used up", "n".repeat(63), "a".repeat(253));
        assert!(rendered(&longest).split("\r\n").all(|line| line.len() <= 998), "RFC 5322 §2.1.1");
    }
}
