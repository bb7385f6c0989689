//! A random tenant, with every verb that the chart's roles give, against a model of what the platform team's limits allow.
//!
//! A real API server with the chart's roles and admission policies, the real operator and relay, and an upstream for each
//! plan. Each history has two namespaces, a strict plan and a lax one, and three people who may each do something else.
//! They make, edit, move, delete, strip and share whatever they can, alone (`plays::Draw::any`) or in the order of an
//! attack (`plays::Draw::play`), and send mail in between with every password that was ever issued. After each step:
//!
//! - what was let through is within every limit that holds: caps of keys and accounts, the plan's ceiling, prepaid credits,
//!   money, the pools, and the places of a namespace times the ceiling (`model`);
//! - no password logs in whose key, account or namespace is gone;
//! - the application's Secrets have all that they had;
//! - what the platform team imposed on an account stands, and the currency of a plan;
//! - nobody sent as an address outside the account's allowedSenders.
//!
//! `make test` plays a few histories from a fixed seed. By hand, for longer:
//!
//! ```text
//! TENANT_MINUTES=60 TENANT_SEED=1000 cargo test --locked --test it tenants::random -- --nocapture
//! ```
//!
//! | variable | meaning |
//! | --- | --- |
//! | `TENANT_SEED` | the seed of the first history; each that follows has the next number |
//! | `TENANT_HISTORIES` | how many |
//! | `TENANT_MINUTES` | instead: histories begin for so long |
//! | `TENANT_LEDGER` | `postgres`: operator and relay apart over PostgreSQL, else one process over SQLite |
//!
//! A history that fails says its seed and all its steps. The same seed draws the same steps, but not the same timing.

mod acts;
mod api;
mod founding;
mod mail;
mod model;
mod plans;
mod plays;
mod town;
mod verbs;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use serde_json::json;

use super::{Cluster, User, admit, binding};
use crate::spread::SpreadSetup;
use crate::support::control_plane::ControlPlane;
use crate::support::franking::{DEADLINE, eventually};
use plays::Draw;
use town::{Place, Tally, Town};
use verbs::Who;

const SEED: u64 = 100;
/// One of each kind of strict plan.
const HISTORIES: u64 = 4;
/// Steps of a history, beside those that it opens with; a play is always ended.
const STEPS: usize = 40;
/// Histories at the same time. Most of their time they wait for the operator.
const AT_ONCE: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// What the environment asks for.
struct Asked {
    seed: u64,
    histories: Option<u64>,
    minutes: Option<u32>,
    is_postgres: bool,
}

impl Asked {
    fn read() -> Self {
        let text = |name: &str| Some(std::env::var_os(name)?.into_string().expect("UTF-8"));
        let number = |name: &str| {
            text(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: write a number instead of {text}")))
        };
        let (seed, minutes) = (number("TENANT_SEED"), number("TENANT_MINUTES"));
        let histories = number("TENANT_HISTORIES").or(minutes.is_none().then_some(HISTORIES));
        Self {
            seed: seed.unwrap_or(SEED),
            histories,
            minutes: minutes.map(|minutes| u32::try_from(minutes).expect("TENANT_MINUTES: fewer")),
            is_postgres: match text("TENANT_LEDGER").as_deref() {
                None | Some("sqlite") => false,
                Some("postgres") => true,
                Some(other) => panic!("TENANT_LEDGER: write sqlite or postgres instead of {other}"),
            },
        }
    }

    /// The seeds of the histories, for as long as they are wanted.
    fn seeds(&self) -> impl Iterator<Item = u64> {
        let (started, minutes) = (Instant::now(), self.minutes);
        let histories = self.histories.unwrap_or(u64::MAX);
        let all = (self.seed..).zip(0..histories).map(|(seed, _)| seed);
        all.take_while(move |_| minutes.is_none_or(|minutes| started.elapsed() < MINUTE * minutes))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_tenant_never_gets_more_than_the_platform_team_allows() {
    let asked = Asked::read();
    if asked.is_postgres {
        let setup = SpreadSetup::new("tenants").await;
        admit(setup.plane(), crate::spread::NAMESPACE);
        let mut operator = setup.operate();
        eventually("the Secrets of the relays", DEADLINE, || setup.has_relay_secrets().then_some(()));
        let (mut relay, port) = setup.relay("relay-0");
        relay.wait_ready();
        run(setup.plane(), SocketAddr::from(([127, 0, 0, 1], port)), &asked).await;
        relay.stop();
        operator.stop();
    } else {
        let cluster = Cluster::install().await;
        let home = &cluster.stage.home;
        let franking = home.start();
        run(&cluster.stage.plane, home.relay, &asked).await;
        assert_eq!(franking.stop(), 0, "{}", home.log());
        let (balanced, said) = home.check();
        assert!(balanced, "{said}");
    }
}

async fn run(plane: &ControlPlane, relay: SocketAddr, asked: &Asked) {
    println!(
        "a random tenant: TENANT_SEED={} {} on {}",
        asked.seed,
        match (asked.histories, asked.minutes) {
            (Some(histories), _) => format!("TENANT_HISTORIES={histories}"),
            (None, minutes) => format!("TENANT_MINUTES={}", minutes.unwrap_or_default()),
        },
        if asked.is_postgres { "PostgreSQL" } else { "SQLite" }
    );
    let place = settle_in(plane, relay).await;
    let started = Instant::now();
    let histories = futures::stream::iter(asked.seeds()).map(|seed| history(&place, seed)).buffer_unordered(AT_ONCE);
    let (count, tally) = histories
        .fold((0_u32, Tally::default()), async |(count, mut sum), tally| {
            sum += tally;
            (count + 1, sum)
        })
        .await;
    println!("{count} histories in {} s: {tally:?}", started.elapsed().as_secs());
    // A tenant who gets nothing done shows nothing.
    let Tally { accepted, short, moved, removed, forbidden, adopted, sender_refused, dead_passwords } = tally;
    for figure in [accepted / 4, 2 * short, 2 * moved, removed, forbidden, adopted, 4 * sender_refused, dead_passwords]
    {
        assert!(figure >= count, "too little happened: {tally:?}");
    }
}

/// The people, and what they may do on every plan.
async fn settle_in(plane: &ControlPlane, relay: SocketAddr) -> Place {
    let admin = plane.admin_client().await;
    let (api, name) = ("rbac.authorization.k8s.io", "tenants-use");
    let rule = json!({"apiGroups": ["franking.io"], "resources": ["creditpolicies"], "verbs": ["use"]});
    let role = json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
                      "rules": [rule]});
    api::apply(&admin, &role).await.expect("the administrator may");
    let mut people = Vec::new();
    for who in Who::ALL {
        let user = town::user(who);
        people.push(api::client_of(plane, user).await);
        if who != Who::Manager {
            let metadata = json!({"name": format!("{name}-{user}")});
            let binding = binding("ClusterRoleBinding", &metadata, name, &User::new(user));
            api::apply(&admin, &binding).await.expect("the administrator may");
            let right = ResourceAttributes {
                group: Some("franking.io".to_owned()),
                resource: Some("creditpolicies".to_owned()),
                verb: Some("use".to_owned()),
                ..ResourceAttributes::default()
            };
            let known =
                api::until("the verb use", async || Ok(api::may(&admin, user, right.clone()).await?.then_some(())));
            known.await.expect("the API server knows of it");
        }
    }
    let people = people.try_into().unwrap_or_else(|_| panic!("three people"));
    Place { relay, admin, people }
}

/// Plays one history. Fails the test with the seed and all steps where a rule does not hold.
async fn history(place: &Place, seed: u64) -> Tally {
    let mut log = Vec::new();
    played(place, seed, &mut log).await.unwrap_or_else(|error| {
        let log = log.join("\n");
        panic!("TENANT_SEED={seed} TENANT_HISTORIES=1: {error}\nafter these steps:\n{log}")
    })
}

async fn played(place: &Place, seed: u64, log: &mut Vec<String>) -> api::Found<Tally> {
    let (mut town, mut rng) = Town::found(place, seed).await?;
    let policies = town.policies.clone();
    let mut steps = VecDeque::from(Draw { rng: &mut rng, policies: &policies }.opening());
    let mut number = 0;
    while number < STEPS || !steps.is_empty() {
        if steps.is_empty() {
            steps.extend(Draw { rng: &mut rng, policies: &policies }.play());
        }
        let Some(step) = steps.pop_front() else { continue };
        number += 1;
        log.push(format!("{number:3} {step:?}"));
        let said = town.act(&step, &mut rng).await?;
        log.push(format!("    {said}"));
    }
    log.push("    end".to_owned());
    town.end().await
}
