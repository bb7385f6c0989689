//! Detects thresholds in the figures.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::crd::{CheckedAlerts, CheckedPolicy};
use crate::domain::alert::Thresholds;
use crate::domain::credit::Meter;
use crate::domain::id::{Holder, PolicyId};
use crate::ledger::report::{Channel, NOTICES_MAX, Topic};
use crate::ledger::store::Balance;
use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::alert::{self, Audience, Heard, Known};
use crate::operator::watch::references::References;

/// Holders whose notices are cached without asking the ledger.
const KNOWN_MAX: usize = 200_000;

/// Detector of crossed thresholds, with the notices already reported.
#[derive(Default)]
pub struct Watch {
    known: HashMap<Holder, HashMap<Meter, Known>>,
}

impl Watch {
    /// Announces the thresholds that these figures cross. If that fails, they are detected again.
    pub async fn look(&mut self, context: &Context, balances: &[Balance], now: Timestamp) -> Result<()> {
        self.learn(context, balances).await?;
        let (mut plans, of_accounts) = (HashMap::new(), Thresholds::of_accounts());
        let (mut seen, mut found) = (HashMap::new(), Vec::new());
        for balance in balances {
            let holder = balance.lot.holder;
            let Some(Watched { policy, name, names_people }) = watched(context, holder) else { continue };
            let alerts = plans.entry(policy).or_insert_with(|| alerts_of(&context.references, &name));
            let mut known = self.known.get(&holder).cloned().unwrap_or_default();
            let heard = Heard { platform: &alerts.thresholds, account: names_people.then_some(&of_accounts) };
            let notices = alert::look(balance, policy, heard, &mut known, now);
            seen.insert(holder, known);
            found.extend(notices.into_iter().map(|(notice, audiences)| (notice, ways(alerts, &audiences))));
        }
        for some in found.chunks(NOTICES_MAX) {
            let fresh = context.ledger.announce(some).await.map_err(Error::ledger("announcing thresholds"))?;
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
        let told = context.ledger.store().told(&limits).await;
        let told = told.map_err(Error::ledger("asking which thresholds were told"))?;
        for ((holder, meter), told) in limits.into_iter().zip(told) {
            self.known.entry(holder).or_default().insert(meter, Known::new(told));
        }
        Ok(())
    }
}

/// A holder that has thresholds.
struct Watched {
    policy: PolicyId,
    /// The policy's name.
    name: String,
    /// True for an account whose alerts name recipients of its own.
    names_people: bool,
}

fn watched(context: &Context, holder: Holder) -> Option<Watched> {
    let (name, names_people) = match context.ids.object_of(holder)? {
        Ref::Policy(name) => (name.name, false),
        Ref::Account(name) => {
            let account = context.references.account(&name)?;
            let email = account.spec.alerts.as_ref().and_then(|alerts| alerts.email.as_ref());
            (account.spec.policy_ref.name.clone(), email.is_some())
        }
        Ref::Key(_) => return None,
    };
    match context.ids.holder_of(&context.references, &Ref::Policy(Name::new("", &name)))? {
        Holder::Policy(policy) => Some(Watched { policy, name, names_people }),
        Holder::Account(_) | Holder::Key(_) => None,
    }
}

pub(super) fn spec_of(references: &References, name: &str) -> Option<CheckedPolicy> {
    references.policy(name)?.spec.check().ok()
}

/// Returns the policy's alerts, or the defaults while it is invalid: a typing error must not suppress an Event.
fn alerts_of(references: &References, name: &str) -> CheckedAlerts {
    spec_of(references, name).map(|spec| spec.alerts).unwrap_or_default()
}

/// Returns the channels for these audiences; none for a mark.
fn ways(alerts: &CheckedAlerts, audiences: &[Audience]) -> Vec<Channel> {
    let of = |audience: &Audience| match audience {
        Audience::Platform => {
            let mail = alerts.mail.as_ref().map(|_| Channel::Mail);
            let webhook = alerts.webhook.as_ref().map(|_| Channel::Webhook);
            [Some(Channel::Event), mail, webhook]
        }
        Audience::Account => [Some(Channel::AccountMail), None, None],
    };
    audiences.iter().flat_map(of).flatten().collect()
}
