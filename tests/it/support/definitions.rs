//! Franking's definitions in the test cluster.

use std::time::Duration;

use franking::crd;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Client, ResourceExt as _};

/// The API server serves a new kind in less than a second; the rest is for a busy machine.
const ESTABLISHED_DEADLINE: Duration = Duration::from_secs(30);

/// Installs the three kinds, or finds them installed, and waits until the API server serves them.
pub async fn install(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in crd::all() {
        let name = definition.name_any();
        let parameters = PatchParams::apply("franking-tests").force();
        definitions.patch(&name, &parameters, &Patch::Apply(&definition)).await.expect("the API server takes it");
        let established = await_condition(definitions.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(ESTABLISHED_DEADLINE, established)
            .await
            .unwrap_or_else(|_| panic!("{name} is not served after {ESTABLISHED_DEADLINE:?}"))
            .expect("the watch of the definition");
    }
}
