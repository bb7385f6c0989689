//! What the platform team's limits allow, whatever a tenant does. Pure: it is told what was written, what of it holds, and
//! what was accepted.

use std::collections::BTreeMap;

use super::plans::{DOMAIN, Limits, Plan, Terms};

/// A resource by the number of its namespace and its name.
pub type Id = (usize, String);

/// How many copies of a message whose outcome is not known are sent without a charge.
const FREE_COPIES: u32 = 2;

#[derive(Default)]
struct Account {
    /// Those that may hold: what held, and what was written since.
    terms: Vec<Terms>,
    /// Whether the resource is there.
    stands: bool,
    /// Whether it is the platform team's own, whose terms nobody else may change.
    is_granted: bool,
    used: u32,
    /// All that its allowedSenders ever was.
    senders: Vec<Vec<String>>,
}

#[derive(Default)]
struct Key {
    caps: Vec<Option<u32>>,
    used: u32,
}

/// A message that arrived at an upstream.
pub struct Arrival<'a> {
    pub account: Id,
    pub key: Id,
    /// Unique to the message; a copy has the same.
    pub token: &'a str,
    pub recipients: u32,
    /// The envelope's sender, and that of the header.
    pub senders: [&'a str; 2],
}

pub struct Model {
    pub limits: [Limits; 2],
    /// Days that the history touched: no period is shorter.
    pub days: u32,
    accounts: BTreeMap<Id, Account>,
    keys: BTreeMap<Id, Key>,
    /// Credits of each plan that were certainly charged to it.
    pools: [u32; 2],
    /// The same of the strict plan, by namespace.
    namespaces: BTreeMap<usize, u32>,
    copies: BTreeMap<String, u32>,
}

impl Model {
    pub fn new(limits: [Limits; 2]) -> Self {
        Self {
            limits,
            days: 1,
            accounts: BTreeMap::new(),
            keys: BTreeMap::new(),
            pools: [0; 2],
            namespaces: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }

    pub fn granted(&mut self, id: &Id) {
        self.accounts.entry(id.clone()).or_default().is_granted = true;
    }

    /// An account was written; what held may hold for a while.
    pub fn account_written(&mut self, id: &Id, terms: Terms) {
        let account = self.accounts.entry(id.clone()).or_default();
        if !account.stands {
            account.terms.clear();
        }
        account.stands = true;
        if !account.senders.contains(&terms.senders) {
            account.senders.push(terms.senders.clone());
        }
        account.terms.push(terms);
    }

    /// The account says that it is ready with this spec, and nothing else was written since.
    pub fn account_ready(&mut self, id: &Id, terms: Terms) {
        if let Some(account) = self.accounts.get_mut(id) {
            account.terms = vec![terms];
        }
    }

    pub fn account_gone(&mut self, id: &Id) {
        if let Some(account) = self.accounts.get_mut(id) {
            account.stands = false;
        }
    }

    pub fn key_written(&mut self, id: &Id, cap: Option<u32>) {
        self.keys.entry(id.clone()).or_default().caps.push(cap);
    }

    pub fn key_ready(&mut self, id: &Id, cap: Option<u32>) {
        self.keys.entry(id.clone()).or_default().caps = vec![cap];
    }

    /// Judges a message that was let through.
    pub fn arrived(&mut self, arrival: &Arrival) -> Result<(), String> {
        let copies = self.copies.entry(arrival.token.to_owned()).or_default();
        *copies += 1;
        let is_free = (2..=1 + FREE_COPIES).contains(copies);
        self.senders(arrival)?;
        if is_free { Ok(()) } else { self.charged(arrival) }
    }

    fn senders(&self, Arrival { account: id, senders, .. }: &Arrival) -> Result<(), String> {
        let account = self.accounts.get(id).ok_or_else(|| format!("{id:?} sent and was never made"))?;
        for sender in senders {
            let may = |list: &Vec<String>| list.is_empty() || list.iter().any(|pattern| fits(pattern, sender));
            if !sender.ends_with(&format!("@{DOMAIN}")) || !account.senders.iter().any(may) {
                return Err(format!("{id:?} sent as {sender}; it may send as {:?}", account.senders));
            }
        }
        Ok(())
    }

    fn charged(&mut self, arrival: &Arrival) -> Result<(), String> {
        let Arrival { account: id, key, recipients, .. } = arrival;
        let (limits, days) = (&self.limits, self.days);
        let account = self.accounts.entry(id.clone()).or_default();
        if !account.stands {
            return Err(format!("{id:?} sent while there is no such account"));
        }
        account.used += recipients;
        let most = |terms: &Terms| terms.most(&limits[terms.plan as usize], days, account.is_granted);
        within(&format!("{id:?}, one of {:?},", account.terms), account.used, account.terms.iter().map(most))?;
        let key_state = self.keys.entry(key.clone()).or_default();
        key_state.used += recipients;
        let caps = key_state.caps.iter().map(|cap| cap.map(|cap| cap * days));
        within(&format!("key {key:?}"), key_state.used, caps)?;
        // Where two plans may hold, neither is charged for certain.
        let Some(plan) = account.terms.first().map(|terms| terms.plan) else { return Ok(()) };
        if account.terms.iter().any(|terms| terms.plan != plan) {
            return Ok(());
        }
        let pool = &mut self.pools[plan as usize];
        *pool += recipients;
        within(&format!("the pool of the {plan:?} plan"), *pool, [Some(limits[plan as usize].pool * days)])?;
        if plan == Plan::Strict {
            let used = self.namespaces.entry(id.0).or_default();
            *used += recipients;
            let used = *used;
            return within(&format!("namespace {} of the strict plan", id.0), used, [self.most_of_namespace(id.0)]);
        }
        Ok(())
    }

    /// The platform team's own account has one of the places, and its own limits.
    fn most_of_namespace(&self, namespace: usize) -> Option<u32> {
        let limits = &self.limits[Plan::Strict as usize];
        let granted = self.accounts.iter().filter(|((at, _), account)| *at == namespace && account.is_granted);
        let granted: Vec<&Terms> = granted.filter_map(|(_, account)| account.terms.first()).collect();
        let own = granted.iter().map(|terms| terms.most(limits, self.days, true)).sum::<Option<u32>>()?;
        let places = limits.max_accounts? - u32::try_from(granted.len()).expect("few");
        Some(own + places * limits.max_cap? * self.days)
    }

    /// Credits that were charged, for the report.
    pub fn used(&self) -> u32 {
        self.accounts.values().map(|account| account.used).sum()
    }
}

/// Whether one of the limits that may hold allows it.
fn within(what: &str, used: u32, mosts: impl IntoIterator<Item = Option<u32>>) -> Result<(), String> {
    let mosts: Vec<Option<u32>> = mosts.into_iter().collect();
    let allowed = mosts.iter().any(|most| most.is_none_or(|most| used <= most));
    if allowed { Ok(()) } else { Err(format!("{what} used {used} credits; the limits allow {mosts:?}")) }
}

fn fits(pattern: &str, sender: &str) -> bool {
    pattern == sender || pattern.strip_prefix('*').is_some_and(|rest| sender.ends_with(rest))
}
