//! The examples with a database: what CloudNativePG and the chart are told, and that the two mean the same database.

use serde_json::Value;

use crate::examples::{SYSTEM, folder, plane};
use crate::support::chart::{CHART, object, objects, utf8};
use crate::support::control_plane::succeeded;

/// The parts of CloudNativePG's definition (1.25 and newer) that the example uses, and no others: with strict validation a
/// misspelt field or an unknown word is an error. The real definition is 7,000 lines of a project that is not ours.
pub const CLUSTERS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: clusters.postgresql.cnpg.io}
spec:
  group: postgresql.cnpg.io
  names: {kind: Cluster, listKind: ClusterList, plural: clusters, singular: cluster}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [instances]
              properties:
                instances: {type: integer, minimum: 1}
                bootstrap:
                  type: object
                  properties:
                    initdb: {type: object, properties: {database: {type: string}, owner: {type: string}}}
                postgresql:
                  type: object
                  properties:
                    parameters: {type: object, additionalProperties: {type: string}}
                    synchronous:
                      type: object
                      required: [method, number]
                      properties:
                        method: {type: string, enum: [any, first]}
                        number: {type: integer}
                        dataDurability: {type: string, enum: [required, preferred]}
                affinity:
                  type: object
                  properties: {podAntiAffinityType: {type: string}, topologyKey: {type: string}}
                storage: &volume {type: object, properties: {size: {type: string}}}
                walStorage: *volume
                resources:
                  type: object
                  properties:
                    requests: &quantities
                      type: object
                      additionalProperties: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                    limits: *quantities
";

fn read(path: &str) -> Vec<Value> {
    objects(&std::fs::read_to_string(folder().join(path)).expect("an example can be read"))
}

/// The chart rendered with the example's values, taken by the API server.
fn rendered(path: &str) -> Vec<Value> {
    let values = utf8(&folder().join(path));
    let helm = ["template", "franking", CHART, "--namespace", SYSTEM, "--values", &values];
    let manifests = succeeded(plane().helm(&helm));
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    let output = plane().kubectl_stdin(&apply, &manifests);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("Warning"), "{output:?}");
    succeeded(output);
    objects(&manifests)
}

/// What the operator's pod mounts as the database's URI, and the settings beside it.
fn database(objects: &[Value]) -> (String, String, String) {
    let pod = &object(objects, "Deployment", "franking-operator")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().expect("volumes");
    let secret = &volumes.iter().find(|volume| volume["name"] == "database").expect("the database")["secret"];
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let settings = text(&object(objects, "ConfigMap", "franking")["data"]["franking.yaml"]);
    (text(&secret["secretName"]), text(&secret["items"][0]["key"]), settings)
}

#[test]
fn the_cluster_of_the_example_loses_nothing_and_is_the_one_that_the_values_name() {
    succeeded(plane().kubectl_stdin(&["apply", "--server-side", "-f", "-"], CLUSTERS));
    let established = ["wait", "--for=condition=Established", "crd/clusters.postgresql.cnpg.io", "--timeout=60s"];
    succeeded(plane().kubectl(&established));
    let path = "postgres/cloudnative-pg/cluster.yaml";
    let file = utf8(&folder().join(path));
    succeeded(plane().kubectl(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", &file]));

    let cluster = &read(path)[0];
    assert_eq!((&cluster["spec"]["instances"], &cluster["metadata"]["namespace"]), (&3.into(), &SYSTEM.into()));
    let synchronous = serde_json::json!({"method": "any", "number": 1, "dataDurability": "required"});
    assert_eq!(cluster["spec"]["postgresql"]["synchronous"], synchronous);
    let (secret, key, settings) = database(&rendered("postgres/cloudnative-pg/values.yaml"));
    // As CloudNativePG calls the Secret of a cluster's application.
    assert_eq!(secret, format!("{}-app", cluster["metadata"]["name"].as_str().expect("a name")));
    assert_eq!(key, "uri");
    assert!(settings.contains("singleNode: false"), "{settings}");
}

#[test]
fn the_fixture_of_the_definition_finds_a_mistake() {
    succeeded(plane().kubectl_stdin(&["apply", "--server-side", "-f", "-"], CLUSTERS));
    let established = ["wait", "--for=condition=Established", "crd/clusters.postgresql.cnpg.io", "--timeout=60s"];
    succeeded(plane().kubectl(&established));
    let text = std::fs::read_to_string(folder().join("postgres/cloudnative-pg/cluster.yaml")).expect("the example");
    for (right, wrong) in
        [("dataDurability", "durability"), ("method: any", "method: some"), ("instances: 3", "count: 3")]
    {
        assert!(text.contains(right), "{right} is not in the example");
        let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = plane().kubectl_stdin(&apply, &text.replacen(right, wrong, 1));
        assert!(!output.status.success(), "{wrong} was taken");
    }
}

#[test]
fn the_single_server_has_the_secret_that_the_values_name_and_passes_as_restricted() {
    let manifests = read("postgres/single/postgres.yaml");
    let set = object(&manifests, "StatefulSet", "franking-ledger");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let (secret, key, settings) = database(&rendered("postgres/single/values.yaml"));
    assert!(container["env"].to_string().contains(&format!("\"name\":\"{secret}\"")), "another Secret");
    assert_eq!(key, "uri");
    assert!(settings.contains("singleNode: true"), "{settings}");
    let pod_labels = &set["spec"]["template"]["metadata"]["labels"];
    let service = object(&manifests, "Service", "franking-ledger");
    assert_eq!(&service["spec"]["selector"], pod_labels);
    // The same promises as our own pods make.
    let restricted = "{apiVersion: v1, kind: Namespace, metadata: {name: single-restricted, \
                      labels: {pod-security.kubernetes.io/enforce: restricted}}}";
    succeeded(plane().kubectl_stdin(&["apply", "--server-side", "-f", "-"], restricted));
    let mut pod = set["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "franking-ledger-0".into();
    pod["metadata"]["namespace"] = "single-restricted".into();
    let claim = serde_json::json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-franking-ledger-0"}});
    pod["spec"]["volumes"].as_array_mut().expect("volumes").push(claim);
    // The service account is made by a controller, a moment after its namespace.
    let account = ["wait", "--for=create", "serviceaccount/default", "-n", "single-restricted", "--timeout=60s"];
    succeeded(plane().kubectl(&account));
    let create = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    succeeded(plane().kubectl_stdin(&create, &pod.to_string()));
}
