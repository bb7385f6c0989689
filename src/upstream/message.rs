//! The types that this module and its callers exchange.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::domain::directory::{UpstreamEntry, UpstreamSecret};
use crate::domain::id::PolicyId;
use crate::domain::sender::Address;

/// The destination: a policy's upstream with its secret already opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub policy: PolicyId,
    pub entry: UpstreamEntry,
    pub secret: Option<UpstreamSecret>,
}

/// One message with its envelope.
#[derive(Clone)]
pub struct Message {
    /// `None` is the null sender `<>`.
    pub sender: Option<Address>,
    pub recipients: Vec<Address>,
    /// CRLF line ends only, not dot-stuffed, ending with CRLF (or empty). Anything else is refused with 554 5.6.0:
    /// lettre 0.11.23 would let a dot after a bare LF through, which ends the message early (RUSTSEC-2026-0561).
    pub body: Bytes,
    /// The body has octets above 127.
    pub eight_bit: bool,
    /// The client gave SMTPUTF8.
    pub smtputf8: bool,
    pub tenant: Tenant,
}

/// The tenant whose mail it is, to tell failures that a sender provokes from faults of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The account's id.
    pub account: Uuid,
    pub namespace: Arc<str>,
}

impl Tenant {
    /// Returns the platform team itself, as the sender of its notices.
    pub fn platform() -> Self {
        Self { account: Uuid::nil(), namespace: Arc::from("") }
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({} recipients, {} octets)", self.recipients.len(), self.body.len())
    }
}

/// The outcome of a message.
#[derive(Debug)]
pub enum Forwarded {
    /// The upstream replied 2yz to the complete message.
    Relayed {
        /// The text of its reply, one line.
        reply: String,
    },
    /// A definite refusal of this message; it was accepted for no recipient.
    Refused {
        code: u16,
        /// The enhanced status code, such as `5.1.1`, already taken off `text`.
        enhanced: Option<String>,
        text: String,
        /// The recipient that the upstream refused, if it refused one.
        recipient: Option<Address>,
        stage: Stage,
    },
    /// The upstream refuses us, not the message: login, quota, greeting. Nothing was accepted. Our fault: 451 4.3.5.
    RefusesUs { text: String },
    /// The final dot was not written and never will be: the upstream cannot have accepted it.
    NotOffered { cause: Cause },
    /// The final dot was written, if only in part, and no reply was read. It may have been accepted.
    Unknown { cause: Cause },
    /// The deadline passed after the final dot was written and before the reply. Answer the client now (451 4.4.2,
    /// settled as unknown), and settle once more when `outcome` resolves: it yields `Relayed`, `Refused`, `RefusesUs`
    /// or `Unknown`, at the latest `UpstreamSettings::final_reply_limit` after the dot. A closed channel is `Unknown`.
    Open { cause: Cause, outcome: oneshot::Receiver<Forwarded> },
}

impl Cause {
    /// Describes the cause for people, without any text of the upstream's own.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unreachable => "no connection can be made to it",
            Self::Timeout => "it does not answer in time",
            Self::Tls => "TLS cannot be agreed on with it",
            Self::Closed => "it ends its connections in the middle",
            Self::Protocol => "it answers what is not SMTP",
            Self::Busy => "all connections to it are in use",
            Self::BreakerOpen | Self::RefusedBefore | Self::SenderPaused => "it is not asked for a while",
        }
    }
}

/// The stage of a transaction at which a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Mail,
    Recipient,
    Data,
    /// After the final dot.
    Message,
    /// Refused by us, without asking: the upstream announced that it cannot take it.
    Announced,
}

/// The cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No address, no route, connection refused.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// The TLS handshake failed, STARTTLS was not offered or was tampered with, or a login would go in the clear.
    Tls,
    /// The connection ended in the middle.
    Closed,
    /// It sent a reply that SMTP does not allow.
    Protocol,
    /// Every connection was in use until the deadline, or too many messages wait for one.
    Busy,
    /// It failed several times in a row a moment ago, so it was not tried.
    BreakerOpen,
    /// It refused us several times in a row a moment ago, so it was not tried.
    RefusedBefore,
    /// This sender's own messages failed there several times in a row a moment ago, so this one was not tried.
    SenderPaused,
}
