//! Thresholds in the figures.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::crd::{CheckedAlerts, CheckedPolicy};
use crate::domain::credit::Meter;
use crate::domain::id::{Holder, PolicyId};
use crate::ledger::report::{Channel, NOTICES_MAX, Topic};
use crate::ledger::store::Balance;
use crate::operator::error::{Error, Result};
use crate::operator::observe::Context;
use crate::operator::plan::alert::{self, Known};
use crate::operator::references::Ref;
use crate::operator::watch::Name;

/// Holders whose notices are remembered without asking the ledger.
const KNOWN_MAX: usize = 200_000;

/// Sees thresholds in the figures.
#[derive(Default)]
pub struct Watch {
    known: HashMap<Holder, HashMap<Meter, Known>>,
}

impl Watch {
    /// Announces what these figures cross. Where that fails nothing was seen.
    pub async fn look(&mut self, context: &Context, balances: &[Balance], now: Timestamp) -> Result<()> {
        self.learn(context, balances).await?;
        let mut plans = HashMap::new();
        let (mut seen, mut found) = (HashMap::new(), Vec::new());
        for balance in balances {
            let holder = balance.lot.holder;
            let Some((policy, name)) = policy_of(context, holder) else { continue };
            let alerts = plans.entry(policy).or_insert_with(|| alerts_of(context, &name));
            let mut known = self.known.get(&holder).cloned().unwrap_or_default();
            let notices = alert::look(balance, policy, &alerts.thresholds, &mut known, now);
            seen.insert(holder, known);
            found.extend(notices.into_iter().map(|notice| {
                // A mark is remembered and sent nowhere.
                let ways = if notice.threshold == 0 { Vec::new() } else { ways(alerts) };
                (notice, ways)
            }));
        }
        for some in found.chunks(NOTICES_MAX) {
            let fresh = context.books.announce(some).await.map_err(Error::ledger("announcing thresholds"))?;
            let new = some.iter().zip(fresh).filter(|((notice, _), fresh)| *fresh && notice.threshold > 0);
            for ((notice, _), _) in new {
                let threshold = notice.threshold.to_string();
                context.notices.crossed.with_label_values(&[notice.topic.meter.as_str(), &threshold]).inc();
                context.notices.announced.send_modify(|count| *count += 1);
            }
            for (notice, _) in some {
                let Topic { holder, meter, .. } = &notice.topic;
                seen.entry(*holder).or_default().entry(*meter).or_default().take(notice);
            }
        }
        self.known.extend(seen);
        Ok(())
    }

    async fn learn(&mut self, context: &Context, balances: &[Balance]) -> Result<()> {
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        let fresh = balances.iter().map(|balance| balance.lot.holder).filter(|holder| !self.known.contains_key(holder));
        let limits: Vec<(Holder, Meter)> =
            fresh.flat_map(|holder| alert::meters(holder).iter().map(move |meter| (holder, *meter))).collect();
        if limits.is_empty() {
            return Ok(());
        }
        let told = context.books.store().told(&limits).await;
        let told = told.map_err(Error::ledger("asking which thresholds were told"))?;
        for ((holder, meter), told) in limits.into_iter().zip(told) {
            self.known.entry(holder).or_default().insert(meter, Known::new(told));
        }
        Ok(())
    }
}

/// The policy of a holder whose thresholds are told of, with its name.
fn policy_of(context: &Context, holder: Holder) -> Option<(PolicyId, String)> {
    let name = match context.object_of(holder)? {
        Ref::Policy(name) => name.name,
        Ref::Account(name) => context.references.account(&name)?.spec.policy_ref.name.clone(),
        Ref::Key(_) => return None,
    };
    match context.holder_of(&Ref::Policy(Name::new("", &name)))? {
        Holder::Policy(id) => Some((id, name)),
        Holder::Account(_) | Holder::Key(_) => None,
    }
}

pub(super) fn spec_of(context: &Context, name: &str) -> Option<CheckedPolicy> {
    context.references.policy(name)?.spec.check().ok()
}

/// Those of a policy that is wrong at present are the usual ones: nobody shall miss an Event for a typing error.
fn alerts_of(context: &Context, name: &str) -> CheckedAlerts {
    spec_of(context, name).map(|spec| spec.alerts).unwrap_or_default()
}

fn ways(alerts: &CheckedAlerts) -> Vec<Channel> {
    let mail = alerts.mail.as_ref().map(|_| Channel::Mail);
    let webhook = alerts.webhook.as_ref().map(|_| Channel::Webhook);
    [Some(Channel::Event), mail, webhook].into_iter().flatten().collect()
}
