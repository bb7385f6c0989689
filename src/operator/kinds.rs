//! The three kinds and their common interface.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::plan::usage::Metered;
use crate::crd::{
    CreditPolicy, CreditPolicyStatus, SubAccount, SubAccountApiKey, SubAccountApiKeyStatus, SubAccountStatus,
};
use crate::operator::object_ref::{Name, Ref};
use crate::operator::watch::references::References;
use crate::operator::watch::work_queue::{WorkQueue, WorkQueues};

/// A resource of one of the three kinds.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static
{
    type Status: Metered + Default + DeserializeOwned + Serialize + Debug + Send + Sync;
    fn reference(&self) -> Ref {
        Self::named(Name::of(self))
    }

    /// Returns a reference to the object of this kind with this name.
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
}

impl Kind for SubAccount {
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
}

impl Kind for SubAccountApiKey {
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
}
