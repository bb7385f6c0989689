//! Who carries what the platform is told: a mail through a policy's own upstream, a webhook over HTTPS.
//!
//! The operator decides what is told to whom and may not speak to the outside; the room `upstream` may, and knows
//! nothing of thresholds. These are the words between them; `main` hands the one to the other.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::directory::{UpstreamEntry, UpstreamSecret};
use crate::domain::id::{AccountId, PolicyId};
use crate::domain::sender::Address;
use crate::domain::webhook::{HookUrl, SigningKey};

/// The way out of a policy's mail, with its login opened.
#[derive(Clone, Debug)]
pub struct Via {
    pub policy: PolicyId,
    pub entry: UpstreamEntry,
    pub secret: Option<UpstreamSecret>,
}

/// Those for whom a mail goes out: what their addresses provoke at an upstream is held against them alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnBehalfOf {
    Platform,
    /// An account, whose people choose the addresses.
    Account {
        account: AccountId,
        namespace: Arc<str>,
    },
}

/// A mail of plain text.
#[derive(Clone)]
pub struct Letter {
    pub from: Address,
    pub to: Vec<Address>,
    pub on_behalf_of: OnBehalfOf,
    pub subject: String,
    pub text: String,
    /// The left part of its Message-ID, the same at every try.
    pub id: String,
    pub at: Timestamp,
}

/// Addresses belong in no log.
impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Letter({}, {} recipients)", self.id, self.to.len())
    }
}

/// Where a webhook goes.
#[derive(Clone, Debug)]
pub struct Hook {
    pub url: HookUrl,
    pub key: SigningKey,
    /// The authority that the receiver's certificate is from, where it is a private one.
    pub ca_pem: Option<String>,
}

/// One delivery of a webhook.
#[derive(Clone, Debug)]
pub struct Call {
    /// The same at every try.
    pub id: String,
    /// Of this try.
    pub at: Timestamp,
    /// JSON.
    pub body: Vec<u8>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Taken; of a mail, for one recipient at least.
    Sent,
    /// Not taken, or nobody knows. To be tried again. The text is for a log and names no address.
    Failed(String),
    /// The receiver said that it wants no more of it (HTTP 410).
    Unwanted,
}

#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    async fn mail(&self, via: Via, letter: &Letter) -> Delivery;

    /// No redirect is followed: whoever the secret is shared with is who answers.
    async fn call(&self, hook: &Hook, call: &Call) -> Delivery;
}
