//! What the one loop needs to know of a kind. A new kind is one plan file, one `observe` and one entry here.

use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt as _};
use rand::rngs::StdRng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Result;
use super::observe::Context;
use super::plan::usage::Metered;
use super::plan::{self, Plan};
use super::references::{Ref, References, WorkQueues};
use super::watch::Name;
use super::work_queue::WorkQueue;
use crate::crd::{
    CreditPolicy, CreditPolicyStatus, SubAccount, SubAccountApiKey, SubAccountApiKeyStatus, SubAccountStatus,
};

/// One of the three kinds.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static
{
    type Status: Metered + Default + DeserializeOwned + Serialize + Debug + Send + Sync;
    type Observed: Send + Sync;

    fn reference(&self) -> Ref {
        Self::named(Name::of(self))
    }

    /// An object of this kind by its name.
    fn named(name: Name) -> Ref;
    fn queue(queues: &WorkQueues) -> &Arc<WorkQueue>;
    fn api(client: &Client, namespace: Option<&str>) -> Api<Self>;
    fn store(references: &References) -> &Store<Self>;
    fn status(&self) -> Option<&Self::Status>;
    fn conditions(status: &Self::Status) -> &[Condition];
    fn set_conditions(status: &mut Self::Status, conditions: Vec<Condition>);
    /// Sets the column SENDING.
    fn set_sending(status: &mut Self::Status, sending: &str);
    fn observed_generation(status: &Self::Status) -> Option<i64>;
    fn observe(&self, context: &Context) -> impl Future<Output = Result<Self::Observed>> + Send;
    fn plan(&self, observed: &Self::Observed, now: Timestamp, rng: &mut StdRng) -> Plan<Self::Status>;
    /// The version of the awaited Secret that was judged.
    fn judged_secret(observed: &Self::Observed) -> Option<String>;
}

macro_rules! status_of {
    ($status:ty) => {
        type Status = $status;

        fn status(&self) -> Option<&Self::Status> {
            self.status.as_ref()
        }

        fn conditions(status: &Self::Status) -> &[Condition] {
            &status.conditions
        }

        fn set_conditions(status: &mut Self::Status, conditions: Vec<Condition>) {
            status.conditions = conditions;
        }

        fn set_sending(status: &mut Self::Status, sending: &str) {
            status.sending = Some(sending.to_owned());
        }

        fn observed_generation(status: &Self::Status) -> Option<i64> {
            status.observed_generation
        }
    };
}

impl Kind for CreditPolicy {
    type Observed = plan::credit_policy::Observed;

    status_of!(CreditPolicyStatus);

    fn named(name: Name) -> Ref {
        Ref::Policy(name)
    }

    fn queue(queues: &WorkQueues) -> &Arc<WorkQueue> {
        &queues.policies
    }

    fn api(client: &Client, _: Option<&str>) -> Api<Self> {
        Api::all(client.clone())
    }

    fn store(references: &References) -> &Store<Self> {
        &references.policies
    }

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

impl Kind for SubAccount {
    type Observed = plan::sub_account::Observed;

    status_of!(SubAccountStatus);

    fn named(name: Name) -> Ref {
        Ref::Account(name)
    }

    fn queue(queues: &WorkQueues) -> &Arc<WorkQueue> {
        &queues.accounts
    }

    fn api(client: &Client, namespace: Option<&str>) -> Api<Self> {
        Api::namespaced(client.clone(), namespace.unwrap_or_default())
    }

    fn store(references: &References) -> &Store<Self> {
        &references.accounts
    }

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

impl Kind for SubAccountApiKey {
    type Observed = plan::api_key::Observed;

    status_of!(SubAccountApiKeyStatus);

    fn named(name: Name) -> Ref {
        Ref::Key(name)
    }

    fn queue(queues: &WorkQueues) -> &Arc<WorkQueue> {
        &queues.keys
    }

    fn api(client: &Client, namespace: Option<&str>) -> Api<Self> {
        Api::namespaced(client.clone(), namespace.unwrap_or_default())
    }

    fn store(references: &References) -> &Store<Self> {
        &references.keys
    }

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
