//! Who this installation is: ConfigMap and Secret `franking-installation` in the operator's namespace.
//!
//! The ConfigMap says which ledger belongs to it, and whether there ever was one. The Secret has the keys that hash and
//! seal, and the CA of the self-signed certificate. Both are made once, by a live GET and then a create, so that of two
//! that race the first one wins and the second takes what is there. Neither is ever made again because it is missing
//! while the other one exists: new keys would lock every program out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use rand::Rng;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

use super::certificate::{self, Authority};
use crate::domain::relay_config::{InstallationKeys, KeyBytes};

/// Name of the ConfigMap and of the Secret.
pub const NAME: &str = "franking-installation";
const FIELD_MANAGER: &str = "franking";

const INSTALLATION: &str = "installation";
const INCARNATION: &str = "incarnation";
const CLUSTER: &str = "cluster";
const LEDGER_MADE_AT: &str = "ledgerMadeAt";
const HASH_KEY: &str = "hash.key";
const SEAL_KEY: &str = "seal.key";
const AUTHORITY_CERTIFICATE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {object}")]
    Kubernetes {
        doing: &'static str,
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{object} has no usable \"{key}\": {why}; put back what was there")]
    Unusable { object: String, key: &'static str, why: String },
    #[error("ConfigMap {namespace}/{NAME} is missing: run `franking prepare` first")]
    NotPrepared { namespace: String },
    #[error(
        "Secret {namespace}/{NAME} is gone, and with it the keys that every password and upstream login was stored \
         under: restore it from a backup, or delete ConfigMap {namespace}/{NAME} and the ledger to begin anew"
    )]
    KeysGone { namespace: String },
    #[error(
        "ConfigMap {namespace}/{NAME} belongs to cluster {known} and this is cluster {found}: two clusters must not \
         share an installation, delete it with Secret {namespace}/{NAME} and the ledger to begin anew here"
    )]
    OtherCluster { namespace: String, known: String, found: String },
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
}

/// An installation, as its two objects say.
#[derive(Clone, Debug)]
pub struct Installation {
    pub namespace: String,
    pub id: Uuid,
    /// The ledger that it knows.
    pub incarnation: Uuid,
    /// UID of `kube-system`.
    pub cluster: String,
    /// Whether a ledger was ever made for this incarnation: from then on an empty one is a lost one.
    pub ledger_made: bool,
    pub keys: InstallationKeys,
    pub authority: Authority,
}

/// Finds the installation, or makes it.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    now: Timestamp,
    rng: &mut (impl Rng + Send),
) -> Result<Installation, Error> {
    let cluster = cluster(client).await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let known = get(&maps, "ConfigMap", namespace).await?;
    // The Secret first: a ConfigMap then always means that there were keys.
    let secret = match get(&secrets, "Secret", namespace).await? {
        Some(secret) => secret,
        None if known.is_some() => return Err(Error::KeysGone { namespace: namespace.to_owned() }),
        None => create(&secrets, "Secret", namespace, &new_secret(namespace, now, rng)?).await?,
    };
    let map = match known {
        Some(map) => map,
        None => create(&maps, "ConfigMap", namespace, &new_map(namespace, &cluster, rng)).await?,
    };
    let installation = read(namespace, &map, &secret)?;
    if installation.cluster != cluster {
        let known = installation.cluster;
        return Err(Error::OtherCluster { namespace: namespace.to_owned(), known, found: cluster });
    }
    Ok(installation)
}

/// The installation that `prepare` made.
pub async fn load(client: &Client, namespace: &str) -> Result<Installation, Error> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let Some(map) = get(&maps, "ConfigMap", namespace).await? else {
        return Err(Error::NotPrepared { namespace: namespace.to_owned() });
    };
    let Some(secret) = get(&secrets, "Secret", namespace).await? else {
        return Err(Error::KeysGone { namespace: namespace.to_owned() });
    };
    read(namespace, &map, &secret)
}

/// Notes that the ledger of this incarnation exists.
pub async fn note_ledger(client: &Client, installation: &mut Installation, now: Timestamp) -> Result<(), Error> {
    let data = json!({INCARNATION: installation.incarnation, LEDGER_MADE_AT: now.to_string()});
    patch(client, &installation.namespace, data).await?;
    installation.ledger_made = true;
    Ok(())
}

/// Begins a new incarnation, whose ledger is not made yet: what the old one knew is given up.
pub async fn begin_incarnation(
    client: &Client,
    installation: &mut Installation,
    rng: &mut (impl Rng + Send),
) -> Result<(), Error> {
    let incarnation = random_uuid(rng);
    patch(client, &installation.namespace, json!({INCARNATION: incarnation, LEDGER_MADE_AT: null})).await?;
    installation.incarnation = incarnation;
    installation.ledger_made = false;
    Ok(())
}

async fn cluster(client: &Client) -> Result<String, Error> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let kube_system = namespaces.get("kube-system").await.map_err(|source| Error::Kubernetes {
        doing: "reading",
        object: "Namespace kube-system".to_owned(),
        source: Box::new(source),
    })?;
    kube_system.metadata.uid.ok_or_else(|| Error::Unusable {
        object: "Namespace kube-system".to_owned(),
        key: "metadata.uid",
        why: "it is missing".to_owned(),
    })
}

async fn get<K>(api: &Api<K>, kind: &str, namespace: &str) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    api.get_opt(NAME).await.map_err(|source| failed("reading", kind, namespace, source))
}

/// Creates it; when somebody was faster, theirs is the one.
async fn create<K>(api: &Api<K>, kind: &str, namespace: &str, object: &K) -> Result<K, Error>
where
    K: Resource + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, object).await {
        Ok(created) => Ok(created),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.get(NAME).await.map_err(|source| failed("reading", kind, namespace, source))
        }
        Err(source) => Err(failed("creating", kind, namespace, source)),
    }
}

async fn patch(client: &Client, namespace: &str, data: serde_json::Value) -> Result<(), Error> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match maps.patch(NAME, &params, &Patch::Merge(json!({"data": data}))).await {
        Ok(_) => Ok(()),
        Err(source) => Err(failed("updating", "ConfigMap", namespace, source)),
    }
}

fn failed(doing: &'static str, kind: &str, namespace: &str, source: kube::Error) -> Error {
    Error::Kubernetes { doing, object: format!("{kind} {namespace}/{NAME}"), source: Box::new(source) }
}

fn metadata(namespace: &str) -> ObjectMeta {
    let labels = [("app.kubernetes.io/managed-by", "franking"), ("app.kubernetes.io/name", "franking")];
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    }
}

fn new_map(namespace: &str, cluster: &str, rng: &mut impl Rng) -> ConfigMap {
    let data = BTreeMap::from([
        (INSTALLATION.to_owned(), random_uuid(rng).to_string()),
        (INCARNATION.to_owned(), random_uuid(rng).to_string()),
        (CLUSTER.to_owned(), cluster.to_owned()),
    ]);
    ConfigMap { metadata: metadata(namespace), data: Some(data), ..ConfigMap::default() }
}

fn new_secret(namespace: &str, now: Timestamp, rng: &mut impl Rng) -> Result<Secret, Error> {
    let mut key = || {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        String::from(KeyBytes(bytes)).into_bytes()
    };
    let (hash, seal) = (key(), key());
    let authority = Authority::mint(random_uuid(rng), now)?;
    let data = [
        (HASH_KEY, hash),
        (SEAL_KEY, seal),
        (AUTHORITY_CERTIFICATE, authority.certificate.into_bytes()),
        (AUTHORITY_KEY, authority.key.into_bytes()),
    ];
    Ok(Secret {
        metadata: metadata(namespace),
        type_: Some("Opaque".to_owned()),
        data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value))).into()),
        ..Secret::default()
    })
}

fn random_uuid(rng: &mut impl Rng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn read(namespace: &str, map: &ConfigMap, secret: &Secret) -> Result<Installation, Error> {
    let entry = |key: &'static str| {
        let value = map.data.as_ref().and_then(|data| data.get(key));
        value.ok_or_else(|| unusable("ConfigMap", namespace, key, "it is missing"))
    };
    let id =
        |key: &'static str| entry(key)?.parse().map_err(|_| unusable("ConfigMap", namespace, key, "it is not a UUID"));
    let text = |key: &'static str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        let value = value.ok_or_else(|| unusable("Secret", namespace, key, "it is missing"))?;
        String::from_utf8(value.0.clone()).map_err(|_| unusable("Secret", namespace, key, "it is not text"))
    };
    // Base64 inside base64, so that a person can copy a key; a trailing line end from an editor is forgiven.
    let key_bytes = |key: &'static str| {
        let bytes = BASE64.decode(text(key)?.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(KeyBytes).ok_or_else(|| unusable("Secret", namespace, key, "it is not 32 octets in base64"))
    };
    Ok(Installation {
        namespace: namespace.to_owned(),
        id: id(INSTALLATION)?,
        incarnation: id(INCARNATION)?,
        cluster: entry(CLUSTER)?.clone(),
        ledger_made: map.data.as_ref().is_some_and(|data| data.contains_key(LEDGER_MADE_AT)),
        keys: InstallationKeys { hash: key_bytes(HASH_KEY)?, seal: key_bytes(SEAL_KEY)? },
        authority: Authority { certificate: text(AUTHORITY_CERTIFICATE)?, key: text(AUTHORITY_KEY)? },
    })
}

fn unusable(kind: &str, namespace: &str, key: &'static str, why: &str) -> Error {
    Error::Unusable { object: format!("{kind} {namespace}/{NAME}"), key, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn made() -> (ConfigMap, Secret) {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        (new_map("mail", "cluster-uid", &mut rng), new_secret("mail", now, &mut rng).expect("a secret"))
    }

    #[test]
    fn what_is_made_is_read_back_and_never_prints_its_keys() {
        let (map, secret) = made();
        let installation = read("mail", &map, &secret).expect("an installation");
        assert_eq!(installation.cluster, "cluster-uid");
        assert!(!installation.ledger_made);
        assert_ne!(installation.keys.hash, installation.keys.seal);
        assert_ne!(installation.id, installation.incarnation);
        let printed = format!("{installation:?}");
        assert!(!printed.contains("PRIVATE") && printed.contains("InstallationKeys(…)"), "{printed}");
    }

    #[test]
    fn each_part_that_is_missing_or_broken_is_named() {
        for key in [INSTALLATION, INCARNATION, CLUSTER] {
            let (mut map, secret) = made();
            map.data.as_mut().expect("data").remove(key);
            assert!(read("mail", &map, &secret).expect_err(key).to_string().contains(key));
        }
        for key in [HASH_KEY, SEAL_KEY, AUTHORITY_CERTIFICATE, AUTHORITY_KEY] {
            let (map, mut secret) = made();
            secret.data.as_mut().expect("data").remove(key);
            assert!(read("mail", &map, &secret).expect_err(key).to_string().contains(key));
        }
        let (map, mut secret) = made();
        secret.data.as_mut().expect("data").insert(HASH_KEY.into(), ByteString(b"c2hvcnQ=".to_vec()));
        assert!(read("mail", &map, &secret).expect_err("short").to_string().contains("32 octets"));
        let (mut map, secret) = made();
        map.data.as_mut().expect("data").insert(INSTALLATION.into(), "x".into());
        assert!(read("mail", &map, &secret).expect_err("no id").to_string().contains("not a UUID"));
    }
}
