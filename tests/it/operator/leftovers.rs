//! What a test left behind that was stopped in the middle: the next operator on that control plane would work on it, so that
//! what another test waits for and counts would be none of its own.

use franking::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::harness::alone;
use super::lifecycle::own;
use super::waits::gone;

/// Removes all objects of the three kinds.
pub async fn remove(client: &Client) {
    let namespace = |namespace: Option<String>| namespace.expect("a namespaced object");
    remove_all(Api::all(client.clone()), |key: &SubAccountApiKey| {
        Api::namespaced(client.clone(), &namespace(key.namespace()))
    })
    .await;
    remove_all(Api::all(client.clone()), |account: &SubAccount| {
        Api::namespaced(client.clone(), &namespace(account.namespace()))
    })
    .await;
    remove_all(Api::all(client.clone()), |_: &CreditPolicy| Api::all(client.clone())).await;
}

async fn remove_all<K>(all: Api<K>, api_of: impl Fn(&K) -> Api<K>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    for object in all.list(&ListParams::default()).await.expect("a list") {
        let (api, name) = (api_of(&object), object.name_any());
        // The operator that held it is gone.
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        if unless_gone(api.patch(&name, &PatchParams::default(), &free).await).is_some() {
            unless_gone(api.delete(&name, &DeleteParams::default()).await);
        }
        gone(api, &name).await;
    }
}

/// Returns the answer about an object; `None` where it is gone.
fn unless_gone<T>(answer: kube::Result<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_a_test_left_behind_is_no_work_of_the_next_ones_operator() {
    let turn = alone().await;
    let (world, running, _folder, _) = own("left-behind", None).await;
    world.ready_key().await;
    running.kill().await;
    drop(turn);
    let _turn = alone().await;
    for left in [
        world.keys().get_opt("key").await.expect("the API server answers").map(|_| "the key"),
        world.accounts().get_opt("account").await.expect("the API server answers").map(|_| "the account"),
        world.policies().get_opt("left-behind").await.expect("the API server answers").map(|_| "the policy"),
    ] {
        assert_eq!(left, None);
    }
    super::waits::delete(&world.namespaces(), "left-behind").await;
}
