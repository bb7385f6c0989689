//! The rest of a kind's interface to the loop: its observation and its plan. A new kind is one plan file, one
//! observation and one entry here and in [`kinds`](super::kinds).

use jiff::Timestamp;
use kube::ResourceExt as _;
use rand::rngs::StdRng;

use super::context::Context;
use super::error::Result;
use super::kinds::Kind;
use super::plan::{self, Plan};
use crate::crd::{CreditPolicy, SubAccount, SubAccountApiKey};

/// A kind that is reconciled.
pub trait Reconcile: Kind {
    type Observed: Send + Sync;

    fn observe(&self, context: &Context) -> impl Future<Output = Result<Self::Observed>> + Send;
    fn plan(&self, observed: &Self::Observed, now: Timestamp, rng: &mut StdRng) -> Plan<Self::Status>;
    /// Returns the version of the awaited Secret that the plan was based on.
    fn judged_secret(observed: &Self::Observed) -> Option<String>;
}

impl Reconcile for CreditPolicy {
    type Observed = plan::credit_policy::Observed;

    async fn observe(&self, context: &Context) -> Result<Self::Observed> {
        context.observe_policy(self).await
    }

    fn plan(&self, observed: &Self::Observed, now: Timestamp, _: &mut StdRng) -> Plan<Self::Status> {
        plan::credit_policy::plan(self, observed, now)
    }

    fn judged_secret(_: &Self::Observed) -> Option<String> {
        None
    }
}

impl Reconcile for SubAccount {
    type Observed = plan::sub_account::Observed;

    async fn observe(&self, context: &Context) -> Result<Self::Observed> {
        context.observe_account(self).await
    }

    fn plan(&self, observed: &Self::Observed, now: Timestamp, _: &mut StdRng) -> Plan<Self::Status> {
        plan::sub_account::plan(self, observed, now)
    }

    fn judged_secret(_: &Self::Observed) -> Option<String> {
        None
    }
}

impl Reconcile for SubAccountApiKey {
    type Observed = plan::key_observed::Observed;

    async fn observe(&self, context: &Context) -> Result<Self::Observed> {
        context.observe_key(self).await
    }

    fn plan(&self, observed: &Self::Observed, now: Timestamp, rng: &mut StdRng) -> Plan<Self::Status> {
        plan::api_key::plan(self, observed, now, rng)
    }

    fn judged_secret(observed: &Self::Observed) -> Option<String> {
        observed.secret.as_ref().and_then(|secret| secret.resource_version())
    }
}
