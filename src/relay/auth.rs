//! Decides which clients may log in, and which senders each may use.
//!
//! Every decision uses the copy of the directory first. A yes from the copy is enough (the ledger has the last word
//! when it charges); a no is never given from it: the rows are looked up in the ledger, and then judged.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::directory::{DirectoryCache, Lookup};
use super::labels::Labels;
use super::metrics::LoginResult;
use super::settings::RelaySettings;
use super::smtp::header::Header;
use super::smtp::reply::{DeniedSender, Moment, Reply, SenderPlace};
use super::smtp::sasl::Login;
use crate::domain::credential::{Credential, HashKey, Password, SecretHash, Stage, Username, is_usable, opened_by};
use crate::domain::credit::Blocked;
use crate::domain::directory::{Directory, KeyEntry, Named, ResolvedKey};
use crate::domain::id::KeyId;
use crate::domain::network;
use crate::domain::sender::{Address, Unlisted, may_send_as};
use crate::runtime::clock::Clock;
use crate::runtime::relay_config::ListenerMode;

/// A client that logged in, and the credential that it used.
#[derive(Clone, Debug)]
pub struct Identity {
    pub key: KeyId,
    pub namespace: Arc<str>,
    username: Username,
    /// The credential that the password matched.
    credential: SecretHash,
    origin: Origin,
}

/// The reason why a login is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    BadLogin,
    WrongNetwork,
    NeedsTls,
    Blocked(Blocked),
    /// The key's account is not accepted.
    NotInUse,
    /// The directory cannot answer at this moment.
    Unavailable,
}

impl Denied {
    pub fn reply(&self) -> Reply {
        match self {
            Self::BadLogin => Reply::BadLogin,
            Self::WrongNetwork => Reply::WrongNetwork,
            Self::NeedsTls => Reply::KeyNeedsTls,
            Self::Blocked(blocked) => Reply::Blocked(blocked.clone(), Moment::Login),
            Self::NotInUse => Reply::KeyNotInUse,
            Self::Unavailable => Reply::LoginUnavailable,
        }
    }

    pub fn result(&self) -> LoginResult {
        match self {
            Self::BadLogin => LoginResult::BadLogin,
            Self::WrongNetwork => LoginResult::WrongNetwork,
            Self::NeedsTls => LoginResult::NeedsTls,
            Self::Blocked(_) => LoginResult::Blocked,
            Self::NotInUse => LoginResult::NotInUse,
            Self::Unavailable => LoginResult::Unavailable,
        }
    }
}

/// The address and the kind of listener that a client came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub address: IpAddr,
    pub mode: ListenerMode,
}

pub struct Authorizer {
    settings: Arc<ArcSwap<RelaySettings>>,
    directory: Arc<DirectoryCache>,
    clock: Arc<dyn Clock>,
    /// The copy of the directory that `changed` returned last.
    seen: Mutex<Weak<Directory>>,
    /// The credential that is compared if no key has the name, so that the time taken says nothing.
    decoy: [Credential; 1],
}

impl Authorizer {
    pub fn new(settings: Arc<ArcSwap<RelaySettings>>, directory: Arc<DirectoryCache>, clock: Arc<dyn Clock>) -> Self {
        let hash = settings.load().hash_key.hash(&Password::given("nobody's password"));
        Self { settings, directory, clock, seen: Mutex::default(), decoy: [decoy(hash)] }
    }

    pub async fn login(&self, login: &Login, origin: Origin) -> Result<Identity, Denied> {
        let username = Username::try_from(login.username.clone());
        let found = {
            let copy = self.directory.current().ok_or(Denied::Unavailable)?;
            username.as_ref().ok().and_then(|username| copy.by_username(username))
        };
        let denied = match self.check(found.as_ref(), login, origin) {
            Ok(identity) => return Ok(identity),
            Err(denied) => denied,
        };
        // A name that no key can have needs no lookup.
        let Ok(username) = username else { return Err(denied) };
        match self.directory.lookup(&username).await {
            Lookup::Found(named) => self.check(Some(&named), login, origin),
            Lookup::NotFound => Err(Denied::BadLogin),
            Lookup::Unavailable => Err(Denied::Unavailable),
        }
    }

    /// Checks the password first: a client that does not know it learns nothing else.
    fn check(&self, named: Option<&Named>, login: &Login, origin: Origin) -> Result<Identity, Denied> {
        let now = self.clock.now();
        let hash_key: &HashKey = &self.settings.load().hash_key;
        let credentials = named.map_or(&self.decoy[..], |named| &named.key().credentials);
        let open = opened_by(hash_key, credentials, &login.password, now);
        let Some((named, credential)) = named.zip(open) else { return Err(Denied::BadLogin) };
        let key = named.key();
        match named {
            Named::Sender(sender) => sender.standing(now),
            Named::Waiting(key) => key.standing(now),
        }
        .map_err(Denied::Blocked)?;
        may_come(key, origin)?;
        match named {
            Named::Sender(sender) => {
                let namespace = Arc::from(sender.account.namespace.as_str());
                Ok(Identity { key: key.id, namespace, username: key.username.clone(), credential, origin })
            }
            Named::Waiting(_) => Err(Denied::NotInUse),
        }
    }

    /// Checks whether the same login would be accepted again: its network, its listener, and the very password. A
    /// session must not outlive the credential that it logged in with.
    pub fn still_logged_in(&self, who: &Identity, sender: &ResolvedKey) -> Result<(), Reply> {
        let now = self.clock.now();
        may_come(&sender.key, who.origin).map_err(|denied| Reply::LoginOver(denied.sentence()))?;
        if is_usable(&sender.key.credentials, &who.credential, now) {
            return Ok(());
        }
        Err(Reply::LoginOver("its password was replaced"))
    }

    /// Returns the sender of `who`, if it may still send and `allowed` agrees.
    pub async fn sender(
        &self,
        who: &Identity,
        allowed: impl Fn(&ResolvedKey) -> Result<(), Reply>,
    ) -> Result<ResolvedKey, Reply> {
        let now = self.clock.now();
        let known = self.directory.current().ok_or(Reply::DirectoryStale)?.sender(who.key);
        if let Some(sender) = known
            && sender.standing(now).is_ok()
            && allowed(&sender).is_ok()
        {
            return Ok(sender);
        }
        match self.directory.lookup(&who.username).await {
            Lookup::Found(named) if named.key().id == who.key => {
                let sender = named.sender().ok_or(Reply::KeyNotInUse)?;
                sender.standing(now).map_err(|blocked| Reply::Blocked(blocked, Moment::Transaction))?;
                allowed(&sender)?;
                Ok(sender)
            }
            Lookup::Found(_) | Lookup::NotFound => Err(Reply::Blocked(Blocked::KeyRevoked, Moment::Transaction)),
            Lookup::Unavailable => Err(Reply::DirectoryStale),
        }
    }

    /// Returns the names of `who`, as far as the copy knows them.
    pub fn labels(&self, who: &Identity) -> Labels {
        let sender = self.directory.current().and_then(|copy| copy.sender(who.key));
        sender.map_or_else(Labels::default, |sender| Labels::of(&sender))
    }

    /// Returns the copy of the directory, if it is fresh.
    pub fn current(&self) -> Option<Guard<Arc<Directory>>> {
        self.directory.current()
    }

    /// Returns the copy of the directory, if it is fresh and has changed since the last call.
    pub fn changed(&self) -> Option<Arc<Directory>> {
        let copy = Guard::into_inner(self.directory.current()?);
        let mut last = self.seen.lock();
        // Weak, so that a copy no longer in use is not kept.
        if std::ptr::eq(last.as_ptr(), Arc::as_ptr(&copy)) {
            return None;
        }
        *last = Arc::downgrade(&copy);
        Some(copy)
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn decoy(hash: SecretHash) -> Credential {
    Credential { hash, stage: Stage::Current { since: Timestamp::UNIX_EPOCH } }
}

/// Checks whether a key may be used from `origin`.
fn may_come(key: &KeyEntry, origin: Origin) -> Result<(), Elsewhere> {
    if !key.allow_from.is_empty() && !network::contains(&key.allow_from, origin.address) {
        return Err(Elsewhere::Network);
    }
    match origin.mode {
        ListenerMode::Plain if !key.plain_listener => Err(Elsewhere::Listener),
        ListenerMode::Plain | ListenerMode::StartTls | ListenerMode::Implicit => Ok(()),
    }
}

/// The part of an origin that a key may not be used from.
enum Elsewhere {
    Network,
    Listener,
}

impl Elsewhere {
    fn sentence(&self) -> &'static str {
        match self {
            Self::Network => "the key may not be used from this network any more",
            Self::Listener => "the key may not be used without TLS any more",
        }
    }
}

impl From<Elsewhere> for Denied {
    fn from(elsewhere: Elsewhere) -> Self {
        match elsewhere {
            Elsewhere::Network => Self::WrongNetwork,
            Elsewhere::Listener => Self::NeedsTls,
        }
    }
}

/// Checks the envelope's sender. The empty path passes here: the From header is checked in any case.
pub fn envelope(sender: &ResolvedKey, from: Option<&Address>) -> Result<(), Reply> {
    from.map_or(Ok(()), |address| may_send(sender, SenderPlace::Envelope, address))
}

/// Checks every address that the message claims to be from.
pub fn header(sender: &ResolvedKey, header: &Header) -> Result<(), Reply> {
    header.senders.iter().try_for_each(|(field, address)| may_send(sender, SenderPlace::Header(*field), address))
}

fn may_send(sender: &ResolvedKey, place: SenderPlace, address: &Address) -> Result<(), Reply> {
    let (policy, account, key) = (&sender.policy, &sender.account, &sender.key);
    let allowed =
        may_send_as(&policy.sender_domains, account.allowed_senders.as_deref(), &key.allowed_senders, address);
    allowed.map_err(|list| {
        let labels = Labels::of(sender);
        let holder = match list {
            Unlisted::Policy | Unlisted::Account => labels.account,
            Unlisted::Key => labels.key,
        };
        Reply::SenderDenied(DeniedSender { place, address: address.clone(), list, holder })
    })
}
