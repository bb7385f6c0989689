//! Reports to the ledger once a second which networks keys logged in from; the ledger notes the first login from each
//! in the audit trail. Networks still in use are reported again each hour, so that the ledger knows which ones a key
//! left long ago.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::telling::Telling;
use crate::domain::id::KeyId;
use crate::domain::login_network::{LOGINS_MAX, LoginFrom, SEEN_EVERY};
use crate::ledger::Ledger;

/// Maximum number of keys and networks remembered as reported, so that they are not reported again within the hour:
/// about 5 MB. When it is full all are reported anew, which writes nothing that was written lately.
const TOLD_MAX: usize = 65_536;

/// The networks that keys logged in from, reported and not reported yet.
#[derive(Default)]
pub struct LoginNetworks(Mutex<Logins>);

#[derive(Default)]
struct Logins {
    waiting: HashSet<LoginFrom>,
    told: HashSet<LoginFrom>,
}

impl LoginNetworks {
    /// Remembers a login. If there is no room, it waits for the key's next login from there.
    pub fn add(&self, key: KeyId, address: IpAddr) {
        let login = LoginFrom::new(key, address);
        let mut logins = self.logins();
        if logins.waiting.len() < LOGINS_MAX && !logins.told.contains(&login) {
            logins.waiting.insert(login);
        }
    }

    /// Returns the logins that wait to be reported. They go on waiting until they are [`told`](Self::told).
    fn waiting(&self) -> Vec<LoginFrom> {
        self.logins().waiting.iter().copied().collect()
    }

    fn told(&self, told: &[LoginFrom]) {
        let mut logins = self.logins();
        if logins.told.len() + told.len() > TOLD_MAX {
            logins.told.clear();
        }
        for login in told {
            logins.waiting.remove(login);
            logins.told.insert(*login);
        }
    }

    /// Forgets what was reported, so that it is reported again.
    fn forget_told(&self) {
        self.logins().told.clear();
    }

    fn logins(&self) -> MutexGuard<'_, Logins> {
        self.0.lock()
    }
}

/// Reports until `stop`, and then the rest. A second's delay is fine: people read it, after the fact.
pub async fn tell(networks: Arc<LoginNetworks>, ledger: Ledger, stop: CancellationToken) {
    let mut telling = Telling::of("networks of logins", stop);
    let mut told_since = Instant::now();
    while telling.next_turn().await {
        if told_since.elapsed() >= SEEN_EVERY.unsigned_abs() {
            networks.forget_told();
            told_since = Instant::now();
        }
        let waiting = networks.waiting();
        if waiting.is_empty() {
            continue;
        }
        let session = ledger.session().await;
        let told = ledger.store().note_logins(&session, &waiting).await;
        telling.note(&told);
        if told.is_ok() {
            networks.told(&waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((n << 8).into())
    }

    #[test]
    fn a_login_waits_until_it_is_told_and_is_then_no_news() {
        let (networks, key) = (LoginNetworks::default(), KeyId(Uuid::from_u128(1)));
        networks.add(key, address(1));
        networks.add(key, "0.0.1.200".parse().expect("an address"));
        let waiting = networks.waiting();
        assert_eq!(waiting, [LoginFrom::new(key, address(1))]);
        assert_eq!(networks.waiting(), waiting, "nobody was told");
        networks.add(key, address(2));
        networks.told(&waiting);
        networks.add(key, address(1));
        assert_eq!(networks.waiting(), [LoginFrom::new(key, address(2))]);
        networks.told(&networks.waiting());
        networks.forget_told();
        networks.add(key, address(1));
        assert_eq!(networks.waiting(), waiting, "an hour later it is told that the key still comes from there");
    }

    #[test]
    fn logins_are_remembered_as_far_as_there_is_room() {
        let (networks, key) = (LoginNetworks::default(), KeyId(Uuid::from_u128(1)));
        for round in 0..=TOLD_MAX / LOGINS_MAX {
            for n in 0..LOGINS_MAX + 5 {
                networks.add(key, address(u32::try_from(round * 2_000 + n).expect("small")));
            }
            let waiting = networks.waiting();
            assert_eq!(waiting.len(), LOGINS_MAX);
            networks.told(&waiting);
        }
        assert_eq!(networks.logins().told.len(), LOGINS_MAX, "all were forgotten and the last told");
    }
}
