//! Notices: mail through a policy's own upstream, and webhooks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::fmt::rfc2822;
use tokio::time::Instant;

use super::{Forwarded, Message, Target, Tenant, UpstreamSettings, Upstreams, webhook};
use crate::domain::sender::Address;
use crate::runtime::courier::{Call, Courier, Delivery, Hook, Letter, Via};
use crate::runtime::metrics::Registry;

/// Connections to one upstream: notices are few and wait for each other.
const CONNECTIONS: usize = 1;
/// A mail of some kilobytes to a slow upstream. Notices behind it wait.
const MAIL_LIMIT: Duration = Duration::from_secs(60);

/// Carries mail by pools of its own, so that a flood of tenants' mail keeps no notice about it waiting.
pub struct Post {
    upstreams: Upstreams,
    hostname: String,
}

impl Post {
    /// `hostname` is the name in the EHLO and in message ids.
    pub fn new(hostname: &str) -> Self {
        let settings = UpstreamSettings::new(hostname, CONNECTIONS);
        // The registry of the process has the relay's pools; the figures of these would be added to them.
        Self { upstreams: Upstreams::new(settings, &Registry::new()), hostname: hostname.to_owned() }
    }
}

#[async_trait]
impl Courier for Post {
    /// One transaction for each recipient, so that one address that is refused keeps the notice from nobody else.
    async fn mail(&self, via: Via, letter: &Letter) -> Delivery {
        let target = Target { policy: via.policy, entry: via.entry, secret: via.secret };
        let text = Bytes::from(render(letter, &self.hostname));
        let (mut taken, mut problem) = (0, None);
        for recipient in &letter.to {
            let message = Message {
                sender: Some(letter.from.clone()),
                recipients: vec![recipient.clone()],
                eight_bit: !text.is_ascii(),
                smtputf8: !(letter.from.is_ascii() && recipient.is_ascii()),
                body: text.clone(),
                tenant: Tenant::platform(),
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

/// `None`: it was taken. The upstream's own words are left out, because they may name the recipient.
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

/// RFC 5322, with CRLF line ends. RFC 3834 keeps robots from answering it.
fn render(letter: &Letter, hostname: &str) -> String {
    let to: Vec<String> = letter.to.iter().map(Address::to_string).collect();
    let date = rfc2822::to_string(&letter.at.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
    let head = [
        format!("From: Franking <{}>", letter.from),
        format!("To: {}", to.join(",\r\n ")),
        format!("Subject: {}", letter.subject),
        format!("Date: {date}"),
        format!("Message-ID: <{}@{hostname}>", letter.id),
        "Auto-Submitted: auto-generated".to_owned(),
        "MIME-Version: 1.0".to_owned(),
        "Content-Type: text/plain; charset=utf-8".to_owned(),
        "Content-Transfer-Encoding: 8bit".to_owned(),
    ];
    let lines = head.iter().map(String::as_str).chain([""]).chain(letter.text.lines());
    lines.flat_map(|line| [line, "\r\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_a_mail_with_crlf_line_ends() {
        let address = |text| Address::parse(text).expect("an address");
        let letter = Letter {
            from: address("franking@example.com"),
            to: vec![address("a@example.com"), address("b@example.com")],
            subject: "Credits of acme at 90 %".to_owned(),
            text: "One line.\nAnother.\n".to_owned(),
            id: "notice-1".to_owned(),
            at: "2026-11-22T06:30:00Z".parse().expect("a time"),
        };
        let expected = "From: Franking <franking@example.com>\r\n\
            To: a@example.com,\r\n b@example.com\r\n\
            Subject: Credits of acme at 90 %\r\n\
            Date: Sun, 22 Nov 2026 06:30:00 +0000\r\n\
            Message-ID: <notice-1@relay.example.com>\r\n\
            Auto-Submitted: auto-generated\r\n\
            MIME-Version: 1.0\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 8bit\r\n\
            \r\n\
            One line.\r\nAnother.\r\n";
        assert_eq!(render(&letter, "relay.example.com"), expected);
    }
}
