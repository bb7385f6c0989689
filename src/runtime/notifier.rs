//! Delivery of the platform's own notices: as a mail through a policy's own upstream, or as a webhook over HTTPS.
//!
//! The operator decides which notice goes to whom and may not connect to the outside; the room `upstream` may, and
//! knows nothing of thresholds. These are the types that both use; `main` hands the one to the other.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::directory::{UpstreamEntry, UpstreamSecret};
use crate::domain::id::{AccountId, PolicyId};
use crate::domain::sender::Address;
use crate::domain::webhook::{HookUrl, SigningKey};

/// The upstream of a policy's mail, with its login unsealed.
#[derive(Clone, Debug)]
pub struct Via {
    pub policy: PolicyId,
    pub entry: UpstreamEntry,
    pub secret: Option<UpstreamSecret>,
}

/// The party for which a mail is sent: upstream faults that its addresses provoke are held against it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnBehalfOf {
    Platform,
    /// An account, whose own people choose the addresses.
    Account {
        account: AccountId,
        namespace: Arc<str>,
    },
}

/// A plain-text mail.
#[derive(Clone)]
pub struct AlertMail {
    pub from: Address,
    pub to: Vec<Address>,
    pub on_behalf_of: OnBehalfOf,
    pub subject: String,
    pub text: String,
    /// Left part of the Message-ID, the same at every try.
    pub id: String,
    pub at: Timestamp,
}

/// Prints no address, because addresses belong in no log.
impl fmt::Debug for AlertMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlertMail({}, {} recipients)", self.id, self.to.len())
    }
}

/// The destination of a webhook.
#[derive(Clone, Debug)]
pub struct Hook {
    pub url: HookUrl,
    pub key: SigningKey,
    /// Certificate authority of the receiver, if it is a private one.
    pub ca_pem: Option<String>,
}

/// One delivery of a webhook.
#[derive(Clone, Debug)]
pub struct Call {
    /// Id, the same at every try.
    pub id: String,
    /// Time of this try.
    pub at: Timestamp,
    /// Body, as JSON.
    pub body: Vec<u8>,
}

/// The outcome of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Accepted; for a mail, for one recipient at least.
    Sent,
    /// Not accepted, or the outcome is unknown: to be tried again. The text is for a log and names no address.
    Failed(String),
    /// The receiver wants no more of it (HTTP 410).
    Unwanted,
}

#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    async fn mail(&self, via: Via, mail: &AlertMail) -> Delivery;

    /// Calls a webhook. Follows no redirect, so that only the receiver that shares the secret can answer.
    async fn call(&self, hook: &Hook, call: &Call) -> Delivery;
}
