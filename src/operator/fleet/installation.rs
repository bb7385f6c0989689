//! The identity of this installation: ConfigMap and Secret `franking-installation` in the operator's namespace.
//!
//! The ConfigMap names the ledger that belongs to it, and whether one was ever made. The Secret has the keys that hash
//! and seal, and the CA of the self-signed certificate. Both are made once, by a live GET and then a create, so that if
//! two processes race, the first wins and the second takes the existing object. Neither is made again if it is missing
//! while the other exists: new keys would lock every program out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
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

use crate::ledger::identity::{Because, Progress, State};
use crate::ledger::incarnation::{Known, Naming};
use crate::operator::fleet::certificate::{self, Authority};
use crate::runtime::relay_config::{InstallationKeys, KeyBytes};

/// Name of the ConfigMap and of the Secret.
pub const NAME: &str = "franking-installation";
const FIELD_MANAGER: &str = "franking";

const INSTALLATION: &str = "installation";
const INCARNATION: &str = "incarnation";
const CLUSTER: &str = "cluster";
const LEDGER_MADE_AT: &str = "ledgerMadeAt";
const LEDGER_MARK: &str = "ledgerMark";
/// On the ConfigMap: an administrator's acceptance of a replaced ledger, by the name of the finding.
pub const ACCEPT: &str = "franking.io/accept-ledger";
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
    #[error("{object} has no usable \"{key}\": {why}; restore the old value")]
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

/// An installation, as read from its two objects.
#[derive(Clone, Debug)]
pub struct Installation {
    pub namespace: String,
    pub id: Uuid,
    /// The ledger that belongs to it.
    pub incarnation: Uuid,
    /// The incarnation that relays must use, shared by all clones of the installation: none (nil) while the ledger
    /// belongs to another installation, and a new one after an acceptance.
    pub serving: Serving,
    /// The ledger's progress when it was last noted.
    pub progress: Progress,
    /// UID of `kube-system`.
    pub cluster: String,
    /// True if a ledger was ever made for this incarnation: from then on an empty one is a lost one.
    pub ledger_made: bool,
    pub keys: InstallationKeys,
    pub authority: Authority,
}

/// The incarnation for the relays. Cheap to clone; all clones share one value.
#[derive(Clone, Debug)]
pub struct Serving(Arc<ArcSwap<Uuid>>);

impl Serving {
    pub fn new(incarnation: Uuid) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(incarnation)))
    }

    pub fn get(&self) -> Uuid {
        **self.0.load()
    }

    pub fn set(&self, incarnation: Uuid) {
        self.0.store(Arc::new(incarnation));
    }
}

impl Installation {
    pub fn known(&self) -> Known {
        let (installation, cluster) = (self.id, self.cluster.clone());
        Known { installation, cluster, incarnation: self.incarnation, progress: self.progress }
    }

    /// Returns the identity for a new ledger. A ledger made where there was one before is held: the used credits are
    /// lost with the old one.
    pub fn naming(&self, rng: &mut impl Rng) -> Naming {
        let (incarnation, state) = if self.ledger_made {
            (random_uuid(rng), State::Held(Because::Empty))
        } else {
            (self.incarnation, State::Open)
        };
        Naming { installation: self.id, cluster: self.cluster.clone(), incarnation, state }
    }
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
    // The Secret first: then a ConfigMap always means that there were keys.
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

/// Reads the installation that `prepare` made.
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

/// Records that the ledger of this incarnation exists.
pub async fn note_ledger(client: &Client, installation: &mut Installation, now: Timestamp) -> Result<(), Error> {
    let data = json!({INCARNATION: installation.incarnation, LEDGER_MADE_AT: now.to_string()});
    patch(client, &installation.namespace, data).await?;
    installation.ledger_made = true;
    Ok(())
}

/// Records that another ledger was accepted, and drops what was known of the old one.
pub async fn note_incarnation(
    client: &Client,
    namespace: &str,
    incarnation: Uuid,
    progress: Progress,
) -> Result<(), Error> {
    patch(client, namespace, json!({INCARNATION: incarnation, LEDGER_MARK: format_progress(progress)})).await
}

/// Records the ledger's progress.
pub async fn note_progress(client: &Client, namespace: &str, progress: Progress) -> Result<(), Error> {
    patch(client, namespace, json!({LEDGER_MARK: format_progress(progress)})).await
}

/// Formats a progress as three numbers that people can read and correct in a ConfigMap.
fn format_progress(progress: Progress) -> String {
    format!("{} {} {}", progress.config_epoch, progress.event, progress.moved)
}

fn read_progress(text: &str) -> Option<Progress> {
    let mut numbers = text.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Progress { config_epoch: next()?, event: next()?, moved: next()? })
}

/// Reads an administrator's acceptance on the ConfigMap, if there is one, and who gave it.
pub async fn acceptance(client: &Client, namespace: &str) -> Result<Option<(Uuid, String)>, Error> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let Some(map) = get(&maps, "ConfigMap", namespace).await? else { return Ok(None) };
    let word = map.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCEPT));
    let Some(name) = word.and_then(|word| word.trim().parse().ok()) else { return Ok(None) };
    let path = format!("/f:metadata/f:annotations/f:{}", ACCEPT.replace('/', "~1"));
    let mut entries = map.metadata.managed_fields.iter().flatten();
    let by = entries.find(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(&path).is_some()));
    let actor = by.and_then(|entry| entry.manager.clone()).unwrap_or_else(|| "an administrator".to_owned());
    Ok(Some((name, actor)))
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

/// Creates an object; if another process was faster, returns the existing one.
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
    // Base64 inside base64, so that a person can copy a key; a trailing newline from an editor is accepted.
    let key_bytes = |key: &'static str| {
        let bytes = BASE64.decode(text(key)?.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(KeyBytes).ok_or_else(|| unusable("Secret", namespace, key, "it is not 32 octets in base64"))
    };
    let incarnation = id(INCARNATION)?;
    // Absent until the first one was recorded. An unreadable one is an error, not none.
    let progress = match map.data.as_ref().and_then(|data| data.get(LEDGER_MARK)) {
        None => Progress::default(),
        Some(text) => read_progress(text)
            .ok_or_else(|| unusable("ConfigMap", namespace, LEDGER_MARK, "it is not three numbers"))?,
    };
    Ok(Installation {
        namespace: namespace.to_owned(),
        id: id(INSTALLATION)?,
        incarnation,
        serving: Serving::new(incarnation),
        progress,
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
        assert_eq!(
            (installation.progress, installation.serving.get()),
            (Progress::default(), installation.incarnation)
        );
        let progress = Progress { config_epoch: 1, event: 22, moved: 333 };
        assert_eq!(read_progress(&format_progress(progress)), Some(progress));
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
        for (key, broken, why) in [(INSTALLATION, "x", "not a UUID"), (LEDGER_MARK, "1 2", "three numbers")] {
            let (mut map, secret) = made();
            map.data.as_mut().expect("data").insert(key.into(), broken.into());
            assert!(read("mail", &map, &secret).expect_err(key).to_string().contains(why));
        }
    }
}
