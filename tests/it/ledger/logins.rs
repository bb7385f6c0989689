//! First logins of keys from networks.

use std::net::{IpAddr, Ipv4Addr};

use jiff::SignedDuration;

use super::world::{Place, World, chain, key, key_id, monthly};
use franking::domain::directory::Entry;
use franking::domain::id::Holder;
use franking::domain::login_network::{LOGINS_MAX, LoginFrom, NETWORKS_PER_KEY};
use franking::ledger::store::{Error, Role};

fn login(key: u128, network: u16) -> LoginFrom {
    let [high, low] = network.to_be_bytes();
    LoginFrom::new(key_id(key), IpAddr::V4(Ipv4Addr::new(10, high, low, 9)))
}

/// Returns the trail's notes of networks: the key, the network and its number among the key's.
async fn told(world: &World) -> Vec<(Holder, String, u64)> {
    let events = world.store.events(0, 5_000).await.expect("events");
    let rows = events.into_iter().filter(|event| event.kind == "key.network").map(|event| {
        assert_eq!(event.actor, "relay");
        let network = event.detail["network"].as_str().expect("a text").to_owned();
        (event.holder.expect("a key's"), network, event.detail["number"].as_u64().expect("a number"))
    });
    rows.collect()
}

pub async fn a_first_login_from_a_network_is_told_once_and_of_a_key_so_many_in_a_day(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let many: Vec<Entry> = (2..4).map(|n| Entry::Key(key(n, 1, monthly(None)))).collect();
    world.put(&many).await;
    let store = world.store.clone();
    let relays = [
        store.open_session(Role::Relay, "logins-a").await.expect("a session"),
        store.open_session(Role::Relay, "logins-b").await.expect("a session"),
    ];
    let first = (Holder::Key(key_id(1)), "10.0.7.0/24".to_owned(), 1);
    assert_eq!(first.0, chain()[0]);
    // In one batch twice, of both relays, and again.
    store.note_logins(&relays[0], &[login(1, 7), login(1, 7)]).await.expect("noted");
    store.note_logins(&relays[1], &[login(1, 7)]).await.expect("noted");
    let (one, other) = ([login(2, 7)], [login(2, 7)]);
    let (a, b) = tokio::join!(store.note_logins(&relays[0], &one), store.note_logins(&relays[1], &other));
    assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
    assert_eq!(told(&world).await, [first, (Holder::Key(key_id(2)), "10.0.7.0/24".to_owned(), 1)]);

    // However many networks a key has, and however many logins a relay reports at once.
    let flood: Vec<LoginFrom> = (0..1_500).map(|n| login(3, n)).collect();
    let alone = [login(2, 8)];
    store.note_logins(&relays[0], &[&flood[..LOGINS_MAX], &alone].concat()).await.expect("noted");
    store.note_logins(&relays[1], &flood[LOGINS_MAX..]).await.expect("noted");
    store.note_logins(&relays[1], &alone).await.expect("noted");
    let all = told(&world).await;
    let of = |n| all.iter().filter(|(holder, ..)| *holder == Holder::Key(key_id(n))).count();
    assert_eq!((of(1), of(2), of(3)), (1, 2, NETWORKS_PER_KEY));
    assert_eq!(all.iter().filter(|(.., number)| *number == NETWORKS_PER_KEY as u64).count(), 1, "all are kept");

    // A day later there is room for as many more, and a known network is no news.
    world.clock.advance(24 * 3_600);
    let again = [&flood[NETWORKS_PER_KEY - 1..][..1], &flood[500..600], &alone].concat();
    store.note_logins(&relays[1], &again).await.expect("noted");
    let all = told(&world).await;
    let of = |n| all.iter().filter(|(holder, ..)| *holder == Holder::Key(key_id(n))).count();
    assert_eq!((of(1), of(2), of(3)), (1, 2, 2 * NETWORKS_PER_KEY));

    // A relay that was replaced no longer reports anything.
    store.open_session(Role::Relay, "logins-a").await.expect("a session");
    let fenced = store.note_logins(&relays[0], &[login(1, 9)]).await;
    assert!(matches!(fenced, Err(Error::Fenced)), "{fenced:?}");
    assert_eq!(told(&world).await.len(), all.len());

    // The networks of a key that was removed long ago are deleted with it.
    let removed = world.clock_now();
    world.put(&[Entry::Key(key(3, 1, monthly(None)).removed(removed))]).await;
    world.clock.set(removed + SignedDuration::from_hours(72));
    assert_eq!(store.forget_keys(&world.session, world.clock_now()).await.expect("forgotten"), 1);
    world.put(&[Entry::Key(key(3, 1, monthly(None)))]).await;
    store.note_logins(&relays[1], &[login(3, 0), login(2, 8)]).await.expect("noted");
    let again = told(&world).await;
    assert_eq!(again[all.len()..], [(Holder::Key(key_id(3)), "10.0.0.0/24".to_owned(), 1)]);
    world.check().await;
}

/// Seconds.
const HALF_A_DAY: i64 = 12 * 3_600;

pub async fn a_key_with_many_networks_forgets_the_one_that_it_came_from_longest_ago(place: &impl Place) {
    let world = World::with(place, None, None, None).await;
    let store = world.store.clone();
    let session = store.open_session(Role::Relay, "logins-a").await.expect("a session");
    let many = u16::try_from(NETWORKS_PER_KEY).expect("small");
    for network in 0..many {
        // The key logs in from the first network every time.
        store.note_logins(&session, &[login(1, network), login(1, 0)]).await.expect("noted");
        world.clock.advance(HALF_A_DAY);
    }
    assert_eq!(told(&world).await.len(), NETWORKS_PER_KEY);
    let known = told(&world).await.len();
    // One more, which is recorded, takes the place of the second.
    store.note_logins(&session, &[login(1, many)]).await.expect("noted");
    store.note_logins(&session, &[login(1, many), login(1, 0), login(1, 2), login(1, many - 1)]).await.expect("noted");
    let number = NETWORKS_PER_KEY as u64;
    let news = |network: &str| (chain()[0], network.to_owned(), number);
    assert_eq!(told(&world).await[known..], [news("10.0.64.0/24")]);
    // A forgotten network is news again, and takes the place of the one that is now the oldest.
    store.note_logins(&session, &[login(1, 1), login(1, 1)]).await.expect("noted");
    store.note_logins(&session, &[login(1, 2), login(1, 3)]).await.expect("noted");
    assert_eq!(told(&world).await[known..], ["10.0.64.0/24", "10.0.1.0/24", "10.0.3.0/24"].map(news));
    let events = store.events(0, 5_000).await.expect("events");
    let forgotten = events.iter().filter_map(|event| event.detail["forgotten"].as_str());
    assert_eq!(forgotten.collect::<Vec<_>>(), ["10.0.1.0/24", "10.0.3.0/24", "10.0.4.0/24"]);
    world.check().await;
}
