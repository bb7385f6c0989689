//! The API server as one user sees it.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::verbs::Kind;
use crate::support::control_plane::ControlPlane;

/// Everything here takes milliseconds on a quiet machine.
pub const DEADLINE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(30);

/// What a history found out, or why it ends.
pub type Found<T = ()> = Result<T, String>;

/// The API server's answer to a change.
#[derive(Debug)]
pub enum Answer {
    /// The object as it stands now, where there is one.
    Done(Value),
    Refused {
        code: u16,
        words: String,
    },
}

impl Answer {
    fn of(answer: Result<Value, kube::Error>) -> Found<Self> {
        match answer {
            Ok(object) => Ok(Self::Done(object)),
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                Ok(Self::Refused { code: status.code, words: status.message.clone() })
            }
            Err(error) => Err(format!("asking the API server: {error}")),
        }
    }
}

/// A client that impersonates this user.
pub async fn client_of(plane: &ControlPlane, user: &str) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(plane.admin_kubeconfig()).expect("a kubeconfig");
    for named in &mut kubeconfig.auth_infos {
        let info = named.auth_info.as_mut().expect("a user");
        info.impersonate = Some(user.to_owned());
        info.impersonate_groups = Some(vec!["system:authenticated".to_owned()]);
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

fn kind_of(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Objects of one kind, in a namespace where there is one.
pub struct Objects {
    api: Api<DynamicObject>,
}

impl Objects {
    pub fn new(client: &Client, api_version: &str, kind: &str, namespace: Option<&str>) -> Self {
        let (client, resource) = (client.clone(), kind_of(api_version, kind));
        Self {
            api: match namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, &resource),
                None => Api::all_with(client, &resource),
            },
        }
    }

    pub fn ours(client: &Client, kind: Kind, namespace: &str) -> Self {
        let kind = match kind {
            Kind::Account => "SubAccount",
            Kind::Key => "SubAccountApiKey",
        };
        Self::new(client, "franking.io/v1alpha1", kind, Some(namespace))
    }

    pub fn secrets(client: &Client, namespace: &str) -> Self {
        Self::new(client, "v1", "Secret", Some(namespace))
    }

    pub async fn create(&self, object: &Value) -> Found<Answer> {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        Answer::of(self.api.create(&PostParams::default(), &object).await.map(value))
    }

    pub async fn merge(&self, name: &str, patch: &Value) -> Found<Answer> {
        Answer::of(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(value))
    }

    /// The verb `update`.
    pub async fn replace(&self, name: &str, object: &Value) -> Found<Answer> {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        Answer::of(self.api.replace(name, &PostParams::default(), &object).await.map(value))
    }

    pub async fn delete(&self, name: &str) -> Found<Answer> {
        Answer::of(self.api.delete(name, &DeleteParams::default()).await.map(|_| Value::Null))
    }

    pub async fn delete_all(&self) -> Found<Answer> {
        let all = self.api.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        Answer::of(all.map(|_| Value::Null))
    }

    pub async fn get(&self, name: &str) -> Found<Option<Value>> {
        let found = self.api.get_opt(name).await.map_err(|error| format!("reading {name}: {error}"))?;
        Ok(found.map(value))
    }

    pub async fn list(&self) -> Found<Vec<Value>> {
        let found = self.api.list(&ListParams::default()).await.map_err(|error| format!("listing: {error}"))?;
        Ok(found.items.into_iter().map(value).collect())
    }
}

fn value(object: DynamicObject) -> Value {
    serde_json::to_value(object).expect("JSON")
}

/// Makes an object as the administrator, or changes it to this.
pub async fn apply(admin: &Client, object: &Value) -> Found {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let (api_version, kind) = (text("/apiVersion").expect("a version"), text("/kind").expect("a kind"));
    let objects = Objects::new(admin, api_version, kind, text("/metadata/namespace"));
    let name = text("/metadata/name").expect("a name");
    let parameters = PatchParams::apply("platform").force();
    match Answer::of(objects.api.patch(name, &parameters, &Patch::Apply(object)).await.map(value))? {
        Answer::Done(_) => Ok(()),
        Answer::Refused { code, words } => Err(format!("applying {kind} {name}: {code} {words}")),
    }
}

/// Whether this user has this verb on this resource, as the API server's authorizer knows by now.
pub async fn may(admin: &Client, user: &str, attributes: ResourceAttributes) -> Found<bool> {
    let spec = SubjectAccessReviewSpec {
        user: Some(user.to_owned()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = Api::<SubjectAccessReview>::all(admin.clone()).create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| format!("asking what {user} may: {error}"))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Waits until `condition` gives a value.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Found<Option<T>>) -> Found<T> {
    let mut ticks = tokio::time::interval(POLL);
    let waited = async {
        loop {
            ticks.tick().await;
            if let Some(value) = condition().await? {
                return Ok(value);
            }
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waited).await;
    waited.unwrap_or_else(|_| Err(format!("waited {} s for {what}", DEADLINE.as_secs())))
}

/// The condition Ready, once the operator has looked at this very spec.
fn condition(object: &Value) -> Option<&Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    (ready["observedGeneration"] == object["metadata"]["generation"]).then_some(ready)
}

/// Whether the object is ready, once the operator has looked at this very spec.
pub fn ready(object: &Value) -> Option<bool> {
    condition(object).map(|ready| ready["status"] == "True")
}

/// The reason that Ready gives.
pub fn reason(object: &Value) -> Option<&str> {
    condition(object)?["reason"].as_str()
}

pub fn named(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "franking.io/v1alpha1", "kind": kind,
           "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}
