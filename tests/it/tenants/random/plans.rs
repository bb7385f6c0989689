//! The two plans of a history, and what an account's spec comes to under them.

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Both plans have this price, so that what was used is what was spent, whichever plan an account had.
const MINOR_PER_THOUSAND: u32 = 1000;
pub const CURRENCY: &str = "EUR";
/// The only domain that the plans allow.
pub const DOMAIN: &str = "example.com";
/// Whom the platform team's own account may name.
pub const GRANTED_SENDER: &str = "a@example.com";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plan {
    Strict,
    Lax,
}

impl Plan {
    pub const BOTH: [Self; 2] = [Self::Strict, Self::Lax];
}

/// What the platform team wrote: the limits of one plan. A credit is one recipient.
#[derive(Clone, Debug)]
pub struct Limits {
    pub pool: u32,
    pub max_cap: Option<u32>,
    pub default_cap: Option<u32>,
    pub max_accounts: Option<u32>,
    pub prepaid_required: bool,
    pub spend_limit_required: bool,
    pub senders_required: bool,
}

impl Limits {
    /// The kind of plan goes by the seed, so that few histories have all kinds.
    pub fn strict(seed: u64, rng: &mut StdRng) -> Self {
        let [none, prepaid, spend] = [0, 1, 2].map(|kind| seed % 4 == kind);
        Self {
            pool: rng.random_range(9..=20),
            max_cap: Some(rng.random_range(3..=6)),
            default_cap: None,
            max_accounts: Some(rng.random_range(2..=3)),
            prepaid_required: prepaid || (!none && !spend && rng.random_bool(0.3)),
            spend_limit_required: spend || (!none && !prepaid && rng.random_bool(0.3)),
            senders_required: !none && rng.random_bool(0.2),
        }
    }

    pub fn lax(rng: &mut StdRng) -> Self {
        Self {
            pool: rng.random_range(30..=60),
            max_cap: rng.random_bool(0.2).then(|| rng.random_range(12..=20)),
            default_cap: rng.random_bool(0.2).then(|| rng.random_range(6..=12)),
            max_accounts: None,
            prepaid_required: false,
            spend_limit_required: false,
            senders_required: false,
        }
    }

    pub fn spec(&self, upstream_port: u16) -> Value {
        let cap = |credits: Option<u32>| credits.map(|credits| json!({"credits": credits}));
        let required = |is_required: bool| if is_required { "Required" } else { "Optional" };
        let mut per_account = json!({
            "maxCap": cap(self.max_cap), "defaultCap": cap(self.default_cap),
            "maxAccountsPerNamespace": self.max_accounts,
            "prepaid": required(self.prepaid_required), "spendLimit": required(self.spend_limit_required),
            "allowedSenders": required(self.senders_required),
        });
        per_account.as_object_mut().expect("a map").retain(|_, value| !value.is_null());
        json!({
            "pool": {"credits": self.pool},
            "perAccount": per_account,
            "pricing": pricing(CURRENCY),
            "senders": {"domains": [DOMAIN]},
            "upstream": {"host": "127.0.0.1", "port": upstream_port, "tls": "None"},
        })
    }
}

pub fn pricing(currency: &str) -> Value {
    json!({"currency": currency, "pricePerThousandMinor": MINOR_PER_THOUSAND})
}

/// What of an account's spec limits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub plan: Plan,
    pub cap: Option<u32>,
    /// The sum of its grants.
    pub prepaid: Option<u32>,
    pub spend_limit: Option<u32>,
    pub senders: Vec<String>,
}

impl Terms {
    /// Reads a spec whose policy is one of these, by plan.
    pub fn read(spec: &Value, policies: &[String; 2]) -> Self {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let grants = |prepaid: &Value| {
            let grants = prepaid["grants"].as_array().into_iter().flatten();
            grants.filter_map(|grant| number(&grant["credits"])).sum()
        };
        let senders = spec["allowedSenders"].as_array().into_iter().flatten();
        Self {
            plan: if spec["policyRef"]["name"] == policies[0] { Plan::Strict } else { Plan::Lax },
            cap: number(&spec["cap"]["credits"]),
            prepaid: spec.get("prepaid").filter(|prepaid| !prepaid.is_null()).map(grants),
            spend_limit: number(&spec["spendLimitMinor"]),
            senders: senders.filter_map(|sender| Some(sender.as_str()?.to_owned())).collect(),
        }
    }

    /// The most that an account with these terms may have used when a message of it is accepted: in its period, which is
    /// over at midnight at the earliest, and in its life. `None` = no limit. A balance that is not `fixed` may have been
    /// given after some of it was used, and then allows more than its sum.
    pub fn most(&self, limits: &Limits, days: u32, is_fixed: bool) -> Option<u32> {
        let cap = self.cap.or(limits.default_cap).into_iter().chain(limits.max_cap).min();
        let prepaid = match self.prepaid {
            Some(credits) => is_fixed.then_some(credits),
            None => limits.prepaid_required.then_some(0),
        };
        let spend_limit = self.spend_limit.or(limits.spend_limit_required.then_some(0));
        let nobody = (limits.senders_required && self.senders.is_empty()).then_some(0);
        cap.map(|cap| cap * days).into_iter().chain(prepaid).chain(spend_limit).chain(nobody).min()
    }
}
