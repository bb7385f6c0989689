//! Ids that outlive Kubernetes objects.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A map by ids. Franking mints the ids, so no client can choose colliding ones. A charge looks up about twenty, so
/// hashing must cost no more than the rest of the lookup.
pub type IdMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
pub type IdSet<K> = HashSet<K, foldhash::fast::RandomState>;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

id! {
    /// A policy's id in the ledger.
    PolicyId
}
id! {
    /// An account's id: random, minted once by the ledger for (namespace UID, name). Deleting and re-applying in the
    /// same namespace finds the same id; in a namespace that was deleted and made again, the account is a new one.
    AccountId
}
id! {
    /// A key's id, minted in the same way as an account's.
    KeyId
}
id! {
    /// A message's id: a UUIDv7 that the relay makes before it asks for credits. Because of it, a repeated reservation
    /// charges nothing twice.
    MessageId
}

impl MessageId {
    /// Returns the time at which the relay made the id, by its clock (RFC 9562 §5.7); `None` if the id holds no time.
    pub fn made_at(self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
    }
}

/// One of the three kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Key,
    Account,
    Policy,
}

impl Kind {
    /// Returns the word used in the ledger's tables, in metric labels and in replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Account => "account",
            Self::Policy => "policy",
        }
    }
}

/// One of the three parties that hold meters: a key, its account, its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    Key(KeyId),
    Account(AccountId),
    Policy(PolicyId),
}

impl Holder {
    pub fn kind(self) -> Kind {
        match self {
            Self::Key(_) => Kind::Key,
            Self::Account(_) => Kind::Account,
            Self::Policy(_) => Kind::Policy,
        }
    }

    pub fn uuid(self) -> Uuid {
        match self {
            Self::Key(id) => id.0,
            Self::Account(id) => id.0,
            Self::Policy(id) => id.0,
        }
    }

    pub fn new(kind: Kind, id: Uuid) -> Self {
        match kind {
            Kind::Key => Self::Key(KeyId(id)),
            Kind::Account => Self::Account(AccountId(id)),
            Kind::Policy => Self::Policy(PolicyId(id)),
        }
    }
}
