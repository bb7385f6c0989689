//! Decides which thresholds a holder's figures have crossed, and words the notices.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::json;

use crate::domain::alert::{Filling, Thresholds};
use crate::domain::credit::Meter;
use crate::domain::id::{Holder, PolicyId};
use crate::domain::money::{MICRO, amount};
use crate::ledger::report::{Queued, ThresholdNotice, Told, Topic};
use crate::ledger::store::{Balance, PrepaidBalance};

/// Notices that one mail names; further ones are only counted.
const NAMED_MAX: usize = 100;

/// The reported state of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub told: Option<Told>,
    /// For prepaid balances: the part of all credits ever granted that was used when last seen.
    used: Option<i64>,
}

impl Known {
    pub fn new(told: Option<Told>) -> Self {
        Self { told, used: None }
    }

    /// Records a notice that was accepted for sending.
    pub fn take(&mut self, notice: &ThresholdNotice) {
        match &mut self.told {
            Some(told) if told.period == notice.topic.period => told.threshold = told.threshold.max(notice.threshold),
            Some(_) | None => {
                let (period, threshold) = (notice.topic.period.clone(), notice.threshold);
                self.told = Some(Told { period, threshold, granted: notice.granted, used: notice.used });
            }
        }
    }

    fn told_in(&self, period: &str) -> Option<u8> {
        self.told.as_ref().filter(|told| told.period == period).map(|told| told.threshold)
    }
}

/// Returns the meters of a holder that have thresholds. A key is a device of an account and has none.
pub fn meters(holder: Holder) -> &'static [Meter] {
    match holder {
        Holder::Key(_) => &[],
        Holder::Account(_) => &[Meter::AccountSpend, Meter::AccountCap, Meter::AccountPrepaid],
        Holder::Policy(_) => &[Meter::PolicyPrepaid, Meter::PolicyPool],
    }
}

/// The recipients of notices about a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The recipients in the policy's alerts.
    Platform,
    /// The recipients in the account's alerts.
    Account,
}

/// The thresholds of each audience.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub platform: &'a Thresholds,
    /// `None`: the account names no recipients.
    pub account: Option<&'a Thresholds>,
}

impl Heard<'_> {
    /// Returns the thresholds newly crossed, each with its audiences; several may share one. One record serves both
    /// audiences: it holds the highest threshold reported to either, so none above it has been reported.
    fn crossed(&self, used: i64, granted: i64, told: Option<u8>) -> Vec<(u8, Vec<Audience>)> {
        let of = |thresholds: Option<&Thresholds>| thresholds?.crossed(used, granted, told);
        match (of(Some(self.platform)), of(self.account)) {
            (None, None) => Vec::new(),
            (Some(platform), Some(account)) if platform == account => {
                vec![(platform, vec![Audience::Platform, Audience::Account])]
            }
            (platform, account) => {
                let heard = [(platform, Audience::Platform), (account, Audience::Account)];
                let heard = heard.into_iter().filter_map(|(threshold, audience)| Some((threshold?, vec![audience])));
                let mut heard: Vec<_> = heard.collect();
                // The lower one first: if the ledger accepts only that, the other one is still above the recorded
                // threshold.
                heard.sort_unstable_by_key(|(threshold, _)| *threshold);
                heard
            }
        }
    }
}

/// Returns the notices that a balance gives rise to, each with its audiences. A mark (threshold 0) has no audience; it
/// is only recorded.
pub fn look(
    balance: &Balance,
    policy: PolicyId,
    heard: Heard<'_>,
    known: &mut HashMap<Meter, Known>,
    now: Timestamp,
) -> Vec<(ThresholdNotice, Vec<Audience>)> {
    let (lot, mut notices) = (&balance.lot, Vec::new());
    let holder = lot.holder;
    if meters(holder).is_empty() {
        return notices;
    }
    let topic = |meter: Meter, period: String| Topic { holder, meter, period };
    let mut judge = |topic: &Topic, [used, granted]: [i64; 2], reached: i64, told: Option<u8>| {
        for (threshold, audiences) in heard.crossed(reached, granted, told) {
            notices.push((ThresholdNotice { topic: topic.clone(), threshold, policy, granted, used }, audiences));
        }
    };
    if let Some(granted) = lot.granted {
        let topic = topic(lot.meter(), lot.window.key.to_string());
        let told = known.entry(topic.meter).or_default().told_in(&topic.period);
        judge(&topic, [lot.used(), granted], lot.used(), told);
    }
    if let Some(spend) = balance.spend {
        // The limit has no period, so another limit is another count.
        let topic = topic(Meter::AccountSpend, format!("limit-{}", spend.limit_micro / MICRO));
        let told = known.entry(topic.meter).or_default().told_in(&topic.period);
        // If the rest buys no further credit, all of it counts as used; otherwise the end would never be reported.
        let is_exhausted = balance.exhausted().is_some_and(|exhausted| exhausted.meter == Meter::AccountSpend);
        let reached = if is_exhausted { spend.limit_micro.max(spend.used_micro) } else { spend.used_micro };
        judge(&topic, [spend.used_micro, spend.limit_micro], reached, told);
    }
    if let (Some(prepaid), Some(meter)) = (balance.prepaid, Meter::of_prepaid(holder)) {
        let known = known.entry(meter).or_default();
        // Without any grant nothing can be used up.
        if prepaid.granted == 0 && known.told.is_none() {
            return notices;
        }
        let (filling, period) = filling(known, prepaid, now);
        let topic = topic(meter, period);
        let told = known.told_in(&topic.period);
        let (used, full) = filling.used(prepaid.remaining);
        for (threshold, audiences) in heard.crossed(used, full, told) {
            // If everything has expired, the filling is empty and so is the used part.
            let (granted, used) = (filling.full, used.min(filling.full));
            notices.push((ThresholdNotice { topic: topic.clone(), threshold, policy, granted, used }, audiences));
        }
        if told.is_none() {
            // First, so that the filling can be read back from it.
            let Filling { granted, full } = filling;
            let mark = ThresholdNotice { topic, threshold: 0, policy, granted, used: full };
            notices.insert(0, (mark, Vec::new()));
        }
    }
    notices
}

/// Returns the current filling with its name.
fn filling(known: &mut Known, prepaid: PrepaidBalance, now: Timestamp) -> (Filling, String) {
    let seen = known.used.replace(prepaid.granted - prepaid.remaining);
    // The mark of a filling stores the credits ever granted in `granted`, and the full balance in `used`.
    let before = known.told.as_ref().map(|told| Filling { granted: told.granted, full: told.used });
    let filling = Filling::next(before.map(|before| (before, seen)), prepaid.granted, prepaid.remaining);
    match &known.told {
        Some(told) if before == Some(filling) => (filling, told.period.clone()),
        Some(_) | None => (filling, format!("filled-{}", now.as_second())),
    }
}

/// The owner of a limit, as people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Policy,
    Account { namespace: String, name: String },
}

impl Whose {
    /// Returns a name such as `policy acme` or `account team/billing`.
    pub fn named(&self, policy: &str) -> String {
        match self {
            Self::Policy => format!("policy {policy}"),
            Self::Account { namespace, name } => format!("account {namespace}/{name}"),
        }
    }
}

/// The names and units for the text of a notice.
pub struct Words<'a> {
    pub policy: &'a str,
    pub whose: Whose,
    pub currency: Option<&'a str>,
}

impl Words<'_> {
    fn limit(meter: Meter) -> &'static str {
        match meter {
            Meter::KeyCap | Meter::AccountCap => "cap",
            Meter::AccountSpend => "spend limit",
            Meter::AccountPrepaid | Meter::PolicyPrepaid => "prepaid credits",
            Meter::PolicyPool => "pool",
        }
    }

    /// Returns used and granted in the units that people count in: credits, or minor units of money.
    fn figures(notice: &ThresholdNotice) -> (i64, i64) {
        match notice.topic.meter {
            Meter::AccountSpend => (notice.used / MICRO, notice.granted / MICRO),
            Meter::KeyCap | Meter::AccountCap | Meter::AccountPrepaid | Meter::PolicyPrepaid | Meter::PolicyPool => {
                (notice.used, notice.granted)
            }
        }
    }

    pub fn sentence(&self, notice: &ThresholdNotice) -> String {
        let (used, granted) = Self::figures(notice);
        let figures = match (notice.topic.meter, self.currency) {
            (Meter::AccountSpend, Some(currency)) => {
                format!("{} of {} {currency}", amount(used, currency), amount(granted, currency))
            }
            (Meter::AccountSpend, None) => format!("{used} of {granted} minor units"),
            (_, _) => format!("{used} of {granted} credits"),
        };
        let whose = self.whose.named(self.policy);
        let limit = Self::limit(notice.topic.meter);
        if granted == 0 {
            return format!("{whose}: no {limit} are left");
        }
        if notice.threshold == 100 && used < granted {
            return format!("{whose}: {limit} used up ({figures}; the rest does not pay for another credit)");
        }
        format!("{whose}: {limit} used up to {} % ({figures})", notice.threshold)
    }

    /// Returns the body of a webhook.
    pub fn body(&self, queued: &Queued) -> Vec<u8> {
        let notice = &queued.notice;
        let (used, granted) = Self::figures(notice);
        let (namespace, account) = match &self.whose {
            Whose::Policy => (None, None),
            Whose::Account { namespace, name } => (Some(namespace), Some(name)),
        };
        let body = json!({
            "type": "credits.threshold",
            "timestamp": queued.at,
            "data": {
                "policy": self.policy, "namespace": namespace, "account": account,
                "meter": notice.topic.meter.as_str(), "period": notice.topic.period,
                "thresholdPercent": notice.threshold, "used": used, "granted": granted,
                "currency": self.currency.filter(|_| notice.topic.meter == Meter::AccountSpend),
            },
        });
        body.to_string().into_bytes()
    }
}

/// Returns the subject and text of a mail about one policy or account, such as `policy acme` or `account team/billing`.
pub fn alert_mail(place: &str, sentences: &[String]) -> (String, String) {
    let subject = match sentences {
        [one] => format!("[franking] {one}"),
        many => format!("[franking] {place}: {} limits run short", many.len()),
    };
    let mut text: String = sentences.iter().take(NAMED_MAX).map(|sentence| format!("- {sentence}\n")).collect();
    if sentences.len() > NAMED_MAX {
        text.push_str(&format!("- and {} more\n", sentences.len() - NAMED_MAX));
    }
    text.push_str(
        "\nEach threshold is reported once in its period. The figures are from the time when it was crossed.\n",
    );
    (subject, text)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::credit::{Lot, LotId, Overage};
    use crate::domain::id::AccountId;
    use crate::domain::period::Calendar;
    use crate::ledger::store::{SpendBalance, Usage};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn policy() -> PolicyId {
        PolicyId(Uuid::from_u128(1))
    }

    fn balance(granted: Option<i64>, used: i64, day: &str) -> Balance {
        let window = Calendar::monthly_utc().window(at(day));
        let holder = Holder::Account(AccountId(Uuid::from_u128(2)));
        let mut lot = Lot::of_period(holder, window, granted);
        lot.id = LotId(1);
        lot.charge(used);
        Balance { lot, usage: Usage::default(), overage: Overage::Deny, prepaid: None, spend: None }
    }

    fn prepaid(granted: i64, remaining: i64) -> Balance {
        let prepaid = PrepaidBalance { granted, remaining, next_top_up: None, next_expiry: None };
        Balance { prepaid: Some(prepaid), ..balance(None, 0, NOVEMBER) }
    }

    const NOVEMBER: &str = "2026-11-10T00:00:00Z";
    const DECEMBER: &str = "2026-12-10T00:00:00Z";

    /// Detects notices as the operator does, recording those that were accepted.
    struct Watcher(HashMap<Meter, Known>, i64);

    impl Watcher {
        fn sees(&mut self, balance: &Balance) -> Vec<(Meter, u8, i64, i64)> {
            self.1 += 60;
            let now = Timestamp::from_second(self.1).expect("a time");
            let heard = Heard { platform: &Thresholds::default(), account: None };
            let notices = look(balance, policy(), heard, &mut self.0, now);
            for (notice, _) in &notices {
                self.0.entry(notice.topic.meter).or_default().take(notice);
            }
            let told = notices.into_iter().map(|(notice, _)| notice).filter(|notice| notice.threshold > 0);
            told.map(|notice| (notice.topic.meter, notice.threshold, notice.used, notice.granted)).collect()
        }

        /// Keeps only what the ledger remembers.
        fn restarts(&mut self) {
            for known in self.0.values_mut() {
                *known = Known::new(known.told.take());
            }
        }
    }

    #[test]
    fn a_cap_is_told_of_once_in_a_period_also_when_it_was_raised() {
        let mut watcher = Watcher(HashMap::new(), 0);
        let cap = Meter::AccountCap;
        assert_eq!(watcher.sees(&balance(Some(100), 10, NOVEMBER)), []);
        assert_eq!(watcher.sees(&balance(Some(100), 80, NOVEMBER)), [(cap, 75, 80, 100)]);
        watcher.restarts();
        assert_eq!(watcher.sees(&balance(Some(100), 80, NOVEMBER)), []);
        assert_eq!(watcher.sees(&balance(Some(200), 160, NOVEMBER)), [], "a raised limit");
        assert_eq!(watcher.sees(&balance(Some(200), 180, NOVEMBER)), [(cap, 90, 180, 200)]);
        assert_eq!(watcher.sees(&balance(Some(200), 0, DECEMBER)), []);
        assert_eq!(watcher.sees(&balance(Some(200), 100, DECEMBER)), [(cap, 50, 100, 200)]);
        assert_eq!(watcher.sees(&balance(None, 1_000, DECEMBER)), [], "no limit");
    }

    #[test]
    fn a_prepaid_balance_is_told_of_once_for_each_filling() {
        let mut watcher = Watcher(HashMap::new(), 0);
        let meter = Meter::AccountPrepaid;
        assert_eq!(watcher.sees(&prepaid(100, 100)), []);
        assert_eq!(watcher.sees(&prepaid(100, 40)), [(meter, 50, 60, 100)]);
        assert_eq!(watcher.sees(&prepaid(100, 0)), [(meter, 100, 100, 100)]);
        assert_eq!(watcher.sees(&prepaid(100, 0)), []);
        // A top-up adds a hundred to the lot that granted a hundred.
        assert_eq!(watcher.sees(&prepaid(200, 95)), []);
        assert_eq!(watcher.sees(&prepaid(200, 50)), [(meter, 50, 50, 100)]);
        watcher.restarts();
        assert_eq!(watcher.sees(&prepaid(200, 25)), [(meter, 75, 75, 100)]);
        // Filled between two observations: the balance found counts as the full one.
        watcher.restarts();
        assert_eq!(watcher.sees(&prepaid(300, 80)), []);
        assert_eq!(watcher.sees(&prepaid(300, 40)), [(meter, 50, 40, 80)]);
        assert_eq!(watcher.sees(&prepaid(0, 0)), [(meter, 100, 0, 0)], "all expired");
    }

    #[test]
    fn a_prepaid_balance_to_which_nothing_was_granted_is_not_used_up() {
        let mut watcher = Watcher(HashMap::new(), 0);
        assert_eq!(watcher.sees(&prepaid(0, 0)), []);
        watcher.restarts();
        assert_eq!(watcher.sees(&prepaid(0, 0)), []);
        assert_eq!(watcher.sees(&prepaid(100, 40)), [(Meter::AccountPrepaid, 50, 60, 100)]);
    }

    #[test]
    fn a_spend_limit_is_told_of_in_money_and_another_limit_anew() {
        let mut watcher = Watcher(HashMap::new(), 0);
        let spent = |limit: i64, used: i64| {
            let spend = SpendBalance { limit_micro: limit * MICRO, used_micro: used * MICRO, unit_price: 1 };
            Balance { spend: Some(spend), ..balance(None, 0, NOVEMBER) }
        };
        let told = watcher.sees(&spent(100, 95));
        assert_eq!(told, [(Meter::AccountSpend, 90, 95 * MICRO, 100 * MICRO)]);
        assert_eq!(watcher.sees(&spent(100, 96)), []);
        assert_eq!(watcher.sees(&spent(1000, 500)), [(Meter::AccountSpend, 50, 500 * MICRO, 1000 * MICRO)]);
    }

    #[test]
    fn a_spend_limit_that_buys_no_credit_more_is_used_up() {
        let mut watcher = Watcher(HashMap::new(), 0);
        let spent = |used| {
            let spend = SpendBalance { limit_micro: 100 * MICRO, used_micro: used * MICRO, unit_price: 30 * MICRO };
            Balance { spend: Some(spend), ..balance(None, 0, NOVEMBER) }
        };
        let meter = Meter::AccountSpend;
        assert_eq!(watcher.sees(&spent(60)), [(meter, 50, 60 * MICRO, 100 * MICRO)]);
        assert_eq!(watcher.sees(&spent(90)), [(meter, 100, 90 * MICRO, 100 * MICRO)]);
        assert_eq!(watcher.sees(&spent(90)), []);
    }

    #[test]
    fn an_account_hears_of_its_own_thresholds_whatever_its_policy_says() {
        // Thresholds with P for the platform's recipients and A for the account's, by the use observed.
        let hears = |percents: &[i32], account: Option<&Thresholds>, used: &[i64]| {
            let platform = Thresholds::new(percents.iter().copied()).expect("percents");
            let (mut known, mut all) = (HashMap::new(), Vec::new());
            for used in used {
                let heard = Heard { platform: &platform, account };
                for (notice, audiences) in
                    look(&balance(Some(100), *used, NOVEMBER), policy(), heard, &mut known, at(NOVEMBER))
                {
                    known.entry(notice.topic.meter).or_default().take(&notice);
                    let letters = audiences.iter().map(|audience| match audience {
                        Audience::Platform => 'P',
                        Audience::Account => 'A',
                    });
                    all.push(format!("{}{}", notice.threshold, letters.collect::<String>()));
                }
            }
            all.join(" ")
        };
        let own = Thresholds::of_accounts();
        let usual = [50, 75, 90, 100];
        let cases: [(&str, &[i32], &[i64], &str); 6] = [
            ("the usual ones", &usual, &[50, 75, 95, 100], "50P 75PA 90PA 100PA"),
            ("a policy that tells nothing", &[], &[50, 80, 100], "75A 100A"),
            ("others of the policy", &[60, 95], &[70, 97], "60P 90A 95P"),
            ("the account first", &[80], &[76, 81], "75A 80P"),
            ("the policy first", &[70], &[70, 76], "70P 75A"),
            ("used up at once", &[100], &[100, 100], "100PA"),
        ];
        for (what, policy, used, expected) in cases {
            assert_eq!(hears(policy, Some(&own), used), expected, "{what}");
        }
        assert_eq!(hears(&usual, None, &[80, 100]), "75P 100P", "an account that names nobody");
    }

    #[test]
    fn it_is_said_whose_limit_and_how_much() {
        let topic = Topic {
            holder: Holder::Account(AccountId(Uuid::from_u128(2))),
            meter: Meter::AccountCap,
            period: "2026-11".to_owned(),
        };
        let notice = ThresholdNotice { topic, threshold: 90, policy: policy(), granted: 200, used: 181 };
        let whose = Whose::Account { namespace: "team".to_owned(), name: "billing".to_owned() };
        let words = Words { policy: "acme", whose, currency: Some("EUR") };
        let sentence = "account team/billing: cap used up to 90 % (181 of 200 credits)";
        assert_eq!(words.sentence(&notice), sentence);
        let expired = Topic { meter: Meter::AccountPrepaid, ..notice.topic.clone() };
        let expired = ThresholdNotice { topic: expired, threshold: 100, granted: 0, used: 0, ..notice.clone() };
        assert_eq!(words.sentence(&expired), "account team/billing: no prepaid credits are left");
        let money = Topic { meter: Meter::AccountSpend, ..notice.topic.clone() };
        let money = ThresholdNotice { topic: money, granted: 2500 * MICRO, used: 2300 * MICRO, ..notice.clone() };
        assert!(words.sentence(&money).ends_with("spend limit used up to 90 % (23.00 of 25.00 EUR)"));
        let dear = ThresholdNotice { threshold: 100, ..money.clone() };
        let dear = words.sentence(&dear);
        assert!(dear.ends_with("spend limit used up (23.00 of 25.00 EUR; the rest does not pay for another credit)"));
        let (subject, text) = alert_mail("policy acme", &[sentence.to_owned()]);
        assert_eq!(subject, format!("[franking] {sentence}"));
        assert!(text.starts_with(&format!("- {sentence}\n")));
        let (subject, text) = alert_mail("policy acme", &vec![sentence.to_owned(); NAMED_MAX + 5]);
        assert!(subject.contains("105 limits") && text.contains("and 5 more"));
        let queued = Queued { id: 1, notice, at: at(NOVEMBER), tries: 1 };
        let body: serde_json::Value = serde_json::from_slice(&words.body(&queued)).expect("json");
        assert_eq!((&body["type"], &body["timestamp"]), (&json!("credits.threshold"), &json!(NOVEMBER)));
        assert_eq!(body["data"]["account"], "billing");
        assert_eq!((&body["data"]["thresholdPercent"], &body["data"]["used"]), (&json!(90), &json!(181)));
    }
}
