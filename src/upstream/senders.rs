//! Records how an upstream treats each sender's mail, and what that says about the upstream. Pure: `now` is passed in.
//!
//! A sender chooses its addresses and its content, so a failure in its own transaction counts against its account
//! alone, which is paused when it keeps failing. That the upstream refuses *us* is concluded only from its own reply
//! ([`reply::judge`](super::reply::judge)), or if several namespaces get the same refusal and the upstream took mail of
//! some of them within the hour. Senders whose mail it takes go on all the while, and so find out when it takes mail
//! again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::{Breaker, FAILURES_TO_OPEN, Health, Pass};
use super::message::{Cause, Forwarded, Stage, Tenant};
use super::reply::likeness;

/// Time that a namespace counts as one whose mail the upstream takes.
const LATELY: Duration = Duration::from_secs(3600);
/// Number of accounts, in at least [`NAMESPACES_ALIKE`] namespaces, that must get the same refusal before it counts as
/// a refusal of us.
const ACCOUNTS_ALIKE: usize = 3;
const NAMESPACES_ALIKE: usize = 2;
/// Maximum number of different refusals remembered until the upstream takes a message.
const REFUSALS_MAX: usize = 16;
/// Maximum numbers of accounts with failures, and of namespaces, remembered for one upstream.
const ACCOUNTS_MAX: usize = 10_000;
const NAMESPACES_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Senders {
    /// Accounts that failed since their last success.
    pauses: HashMap<Uuid, Breaker>,
    /// Time when the upstream last took mail of each namespace.
    taken: HashMap<Arc<str>, Instant>,
    /// Refusals since the upstream last took a message, by their text.
    refusals: HashMap<String, Heard>,
    /// Failures since the last success, in the transactions of any sender.
    failing: Failing,
}

/// The senders that got a refusal; no more of them than matter.
#[derive(Debug, Default)]
struct Heard {
    accounts: Vec<Uuid>,
    namespaces: Vec<Arc<str>>,
    /// The upstream took mail of one of them within the hour before.
    any_was_taken: bool,
}

#[derive(Debug, Default)]
struct Failing {
    count: u32,
    /// Number of those failures that are about us by the upstream's own reply.
    by_its_words: u32,
    /// At most [`NAMESPACES_ALIKE`].
    namespaces: Vec<Arc<str>>,
}

/// A message's outcome, judged together with those of other senders.
pub(super) struct Judged {
    pub forwarded: Forwarded,
    pub health: Health,
}

impl Senders {
    /// Returns the pass for a message of `tenant`, unless its own failures have it paused.
    pub fn admits(&mut self, tenant: &Tenant, now: Instant) -> Option<Pass> {
        self.pauses.get_mut(&tenant.account).map_or(Some(Pass::Trusted), |pause| pause.admits(now))
    }

    /// True if the last of the failures for which `tenant` is paused was a refusal of us.
    pub fn is_refused(&self, tenant: &Tenant) -> bool {
        self.pauses.get(&tenant.account).is_some_and(Breaker::is_refused)
    }

    /// Gives back a probe that was not made.
    pub fn not_tried(&mut self, tenant: &Tenant, pass: Pass, now: Instant) {
        self.pause(tenant, pass, Health::Silent, now);
    }

    /// Records a transaction that had a connection, and judges its outcome by those of other senders.
    pub fn note(&mut self, tenant: &Tenant, pass: Pass, forwarded: Forwarded, now: Instant) -> Judged {
        let by_its_words = matches!(forwarded, Forwarded::RefusesUs { .. });
        let forwarded = self.judge(tenant, forwarded, now);
        let health = health(&forwarded);
        match health {
            Health::Bad { .. } => self.failing.add(tenant, by_its_words),
            // A refused sender says nothing about whether the upstream takes mail.
            Health::Good if !is_refused_sender(&forwarded) => self.failing = Failing::default(),
            Health::Good | Health::Silent => {}
        }
        if matches!(forwarded, Forwarded::Relayed { .. }) {
            self.refusals.clear();
            self.took(tenant, now);
        }
        self.pause(tenant, pass, health, now);
        Judged { forwarded, health }
    }

    /// Distinguishes a refusal of us from a refusal of the message.
    fn judge(&mut self, tenant: &Tenant, forwarded: Forwarded, now: Instant) -> Forwarded {
        let Some(likeness) = likeness(&forwarded) else { return forwarded };
        let ours = self.heard_by_several(likeness, tenant, now);
        // A refused sender may be the policy's own fault as well, and while the upstream takes no mail at all that is
        // unclear.
        let unclear = is_refused_sender(&forwarded) && !self.takes_mail(now);
        match forwarded {
            Forwarded::Refused { code, text, .. } if ours || unclear => {
                Forwarded::RefusesUs { text: format!("{code} {text}") }
            }
            forwarded => forwarded,
        }
    }

    fn heard_by_several(&mut self, likeness: String, tenant: &Tenant, now: Instant) -> bool {
        if self.refusals.len() >= REFUSALS_MAX && !self.refusals.contains_key(&likeness) {
            self.refusals.clear();
        }
        let heard = self.refusals.entry(likeness).or_default();
        add(&mut heard.accounts, &tenant.account, ACCOUNTS_ALIKE);
        add(&mut heard.namespaces, &tenant.namespace, NAMESPACES_ALIKE);
        heard.any_was_taken |= is_lately(&self.taken, &tenant.namespace, now);
        let Heard { accounts, namespaces, any_was_taken } = heard;
        accounts.len() >= ACCOUNTS_ALIKE && namespaces.len() >= NAMESPACES_ALIKE && *any_was_taken
    }

    fn took(&mut self, tenant: &Tenant, now: Instant) {
        if let Some(at) = self.taken.get_mut(&tenant.namespace) {
            *at = now;
            return;
        }
        if self.taken.len() >= NAMESPACES_MAX {
            self.taken.retain(|_, at| now < *at + LATELY);
        }
        if self.taken.len() < NAMESPACES_MAX {
            self.taken.insert(tenant.namespace.clone(), now);
        }
    }

    /// True if the upstream took any sender's mail within the hour.
    fn takes_mail(&self, now: Instant) -> bool {
        self.taken.values().any(|at| now < *at + LATELY)
    }

    fn pause(&mut self, tenant: &Tenant, pass: Pass, health: Health, now: Instant) {
        let known = self.pauses.contains_key(&tenant.account);
        match health {
            Health::Good | Health::Silent if !known => return,
            Health::Bad { .. } if !known && self.pauses.len() >= ACCOUNTS_MAX => self.pauses.clear(),
            Health::Good | Health::Silent | Health::Bad { .. } => {}
        }
        let pause = self.pauses.entry(tenant.account).or_default();
        pause.note(pass, health, now);
        if pause.is_untouched() {
            self.pauses.remove(&tenant.account);
        }
    }

    /// True if the upstream does not take mail: by the failures of several senders, by its own replies, or because no
    /// other sender's mail was taken within the hour. One sender's failures amid other senders' mail say nothing.
    pub fn say_that_it_fails(&self, now: Instant) -> bool {
        let Failing { count, namespaces, by_its_words } = &self.failing;
        let lately = |namespace: &Arc<str>| is_lately(&self.taken, namespace, now);
        let several = || namespaces.len() >= NAMESPACES_ALIKE && namespaces.iter().any(lately);
        let nobody_else = || {
            let mut others = self.taken.iter().filter(|(namespace, _)| !namespaces.contains(namespace));
            !others.any(|(_, at)| now < *at + LATELY)
        };
        *by_its_words >= FAILURES_TO_OPEN || *count >= FAILURES_TO_OPEN && (several() || nobody_else())
    }
}

impl Failing {
    fn add(&mut self, tenant: &Tenant, by_its_words: bool) {
        self.count = self.count.saturating_add(1);
        self.by_its_words = self.by_its_words.saturating_add(u32::from(by_its_words));
        add(&mut self.namespaces, &tenant.namespace, NAMESPACES_ALIKE);
    }
}

fn add<T: Clone + PartialEq>(list: &mut Vec<T>, one: &T, most: usize) {
    if list.len() < most && !list.contains(one) {
        list.push(one.clone());
    }
}

fn is_lately(taken: &HashMap<Arc<str>, Instant>, namespace: &Arc<str>, now: Instant) -> bool {
    taken.get(namespace).is_some_and(|at| now < *at + LATELY)
}

/// True if the message was refused permanently at MAIL, where only the sender's address was sent. 552 is about its
/// size.
fn is_refused_sender(forwarded: &Forwarded) -> bool {
    matches!(forwarded, Forwarded::Refused { stage: Stage::Mail, code: 500..=551 | 553..=599, .. })
}

/// Returns the health that an outcome shows for its sender's mail.
fn health(forwarded: &Forwarded) -> Health {
    match forwarded {
        Forwarded::Relayed { .. } => Health::Good,
        Forwarded::Refused { stage: Stage::Announced, .. } => Health::Silent,
        Forwarded::Refused { .. } => Health::Good,
        Forwarded::RefusesUs { .. } => Health::Bad { refuses_us: true },
        Forwarded::NotOffered { cause } | Forwarded::Unknown { cause } | Forwarded::Open { cause, .. } => match cause {
            Cause::Unreachable | Cause::Timeout | Cause::Tls | Cause::Closed | Cause::Protocol => {
                Health::Bad { refuses_us: false }
            }
            Cause::Busy | Cause::BreakerOpen | Cause::RefusedBefore | Cause::SenderPaused => Health::Silent,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::reply::{Reply, judge};

    fn tenant(account: u128, namespace: &str) -> Tenant {
        Tenant { account: Uuid::from_u128(account), namespace: Arc::from(namespace) }
    }

    fn says(stage: Stage, code: u16, text: &str) -> Forwarded {
        judge(stage, Reply::new(code, [text]))
    }

    fn relayed() -> Forwarded {
        Forwarded::Relayed { reply: "250 ok".to_owned() }
    }

    /// One upstream, as its senders see it.
    struct Upstream {
        senders: Senders,
        now: Instant,
    }

    impl Upstream {
        fn new() -> Self {
            Self { senders: Senders::default(), now: Instant::now() }
        }

        /// `None` if it was not tried.
        fn tries(&mut self, tenant: &Tenant, outcome: Forwarded) -> Option<Forwarded> {
            let pass = self.senders.admits(tenant, self.now)?;
            Some(self.senders.note(tenant, pass, outcome, self.now).forwarded)
        }

        #[track_caller]
        fn hears(&mut self, tenant: &Tenant, outcome: Forwarded) -> Forwarded {
            self.tries(tenant, outcome).expect("it is asked")
        }

        fn is_said_to_fail(&self) -> bool {
            self.senders.say_that_it_fails(self.now)
        }
    }

    fn is_about_us(forwarded: &Forwarded) -> bool {
        matches!(forwarded, Forwarded::RefusesUs { .. })
    }

    const REFUSED_SENDER: (Stage, u16, &str) = (Stage::Mail, 553, "5.1.8 no such sender");
    const REFUSED_CONTENT: (Stage, u16, &str) = (Stage::Message, 554, "5.7.1 your address is on a list");

    #[test]
    fn one_tenants_refused_senders_and_contents_are_its_own_affair() {
        let mut upstream = Upstream::new();
        let victim = tenant(1, "victim");
        upstream.hears(&victim, relayed());
        for (stage, code, text) in [REFUSED_SENDER, REFUSED_CONTENT] {
            for round in 0..40 {
                let attacker = tenant(10 + round % 3, "attacker");
                let heard = upstream.hears(&attacker, says(stage, code, text));
                assert!(!is_about_us(&heard), "{text}, round {round}");
                assert!(!upstream.is_said_to_fail());
            }
            assert_eq!(upstream.senders.admits(&victim, upstream.now), Some(Pass::Trusted));
        }
    }

    #[test]
    fn what_ends_in_a_senders_own_transaction_pauses_that_account_alone() {
        let mut upstream = Upstream::new();
        let (victim, attacker, sibling) = (tenant(1, "victim"), tenant(2, "attacker"), tenant(3, "attacker"));
        upstream.hears(&victim, relayed());
        for _ in 0..FAILURES_TO_OPEN {
            upstream.hears(&attacker, Forwarded::NotOffered { cause: Cause::Closed });
        }
        assert!(upstream.tries(&attacker, relayed()).is_none());
        assert!(!upstream.senders.is_refused(&attacker) && !upstream.is_said_to_fail());
        for tenant in [&victim, &sibling] {
            upstream.hears(tenant, relayed());
        }
        assert!(upstream.tries(&attacker, relayed()).is_none(), "others' success does not end its pause");
        upstream.now += Duration::from_secs(2);
        upstream.hears(&attacker, relayed());
        assert!(upstream.senders.pauses.is_empty(), "what goes well is forgotten");
    }

    #[test]
    fn the_same_refusal_of_several_namespaces_is_about_us_where_it_took_mail_of_one_lately() {
        let refusal = || says(REFUSED_CONTENT.0, REFUSED_CONTENT.1, REFUSED_CONTENT.2);
        let tenants = [tenant(1, "one"), tenant(2, "one"), tenant(3, "two")];
        let about_us = |upstream: &mut Upstream, tenants: &[Tenant]| -> Vec<bool> {
            tenants.iter().map(|tenant| is_about_us(&upstream.hears(tenant, refusal()))).collect()
        };
        let mut upstream = Upstream::new();
        assert_eq!(about_us(&mut upstream, &tenants), [false; 3], "it took mail of nobody");

        let mut upstream = Upstream::new();
        upstream.hears(&tenants[2], relayed());
        assert_eq!(about_us(&mut upstream, &tenants), [false, false, true]);
        upstream.hears(&tenants[0], relayed());
        assert_eq!(about_us(&mut upstream, &tenants[..2]), [false; 2], "it takes mail again");

        let mut upstream = Upstream::new();
        upstream.hears(&tenants[2], relayed());
        upstream.now += LATELY;
        assert_eq!(about_us(&mut upstream, &tenants), [false; 3], "that was too long ago");

        let mut upstream = Upstream::new();
        upstream.hears(&tenants[0], relayed());
        let same_namespace = [1, 2, 3, 4].map(|account| tenant(account, "one"));
        assert_eq!(about_us(&mut upstream, &same_namespace), [false; 4]);
    }

    #[test]
    fn a_refused_sender_is_no_bounce_while_the_upstream_takes_nobodys_mail() {
        let refusal = || says(REFUSED_SENDER.0, REFUSED_SENDER.1, REFUSED_SENDER.2);
        let mut upstream = Upstream::new();
        let (one, two) = (tenant(1, "one"), tenant(2, "two"));
        assert!(is_about_us(&upstream.hears(&one, refusal())));
        upstream.hears(&two, relayed());
        assert!(!is_about_us(&upstream.hears(&one, refusal())));
        upstream.now += LATELY;
        assert!(is_about_us(&upstream.hears(&one, refusal())));
    }

    #[test]
    fn that_it_fails_is_said_by_its_words_or_by_several_or_where_nobody_elses_mail_is_taken() {
        let (one, two, three) = (tenant(1, "one"), tenant(2, "two"), tenant(3, "three"));
        let quota = || says(Stage::Message, 454, "Daily message quota exceeded");
        let closed = || Forwarded::Unknown { cause: Cause::Closed };
        let rounds = FAILURES_TO_OPEN as usize;

        let mut upstream = Upstream::new();
        upstream.hears(&two, relayed());
        for round in 0..rounds {
            assert!(!upstream.is_said_to_fail(), "round {round}");
            upstream.hears(&one, quota());
        }
        assert!(upstream.is_said_to_fail(), "by its words");
        upstream.hears(&two, relayed());
        assert!(!upstream.is_said_to_fail());

        let mut upstream = Upstream::new();
        for tenant in [&one, &three] {
            upstream.hears(tenant, relayed());
        }
        for tenant in [&one, &two].into_iter().cycle().take(rounds) {
            assert!(!upstream.is_said_to_fail());
            upstream.hears(tenant, closed());
        }
        assert!(upstream.is_said_to_fail(), "by several, of one of which it took mail");

        let mut upstream = Upstream::new();
        upstream.hears(&one, relayed());
        for _ in 0..rounds {
            upstream.hears(&one, closed());
        }
        assert!(upstream.is_said_to_fail(), "nobody else uses it");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut upstream = Upstream::new();
        for n in 0..2 * ACCOUNTS_MAX as u128 {
            let tenant = tenant(n, &n.to_string());
            upstream.tries(&tenant, relayed());
            upstream.tries(&tenant, says(Stage::Message, 554, &"x".repeat(1 + n as usize % 50)));
            upstream.tries(&tenant, Forwarded::NotOffered { cause: Cause::Closed });
        }
        let Senders { pauses, taken, refusals, .. } = &upstream.senders;
        assert!(pauses.len() <= ACCOUNTS_MAX && taken.len() <= NAMESPACES_MAX && refusals.len() <= REFUSALS_MAX);
    }
}
