//! Reads the Secrets that objects depend on: an upstream's login, and those that a key writes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};
use rand::Rng as _;

use crate::crd::{CreditPolicy, SubAccountApiKey};
use crate::domain::directory::{PolicyEntry, Sealed, UpstreamSecret};
use crate::domain::id::PolicyId;
use crate::ledger::Sealer;
use crate::ledger::seal::upstream_context;
use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::Name;
use crate::operator::observe::upstream_secret;
use crate::operator::plan::adoption::Adoption;
use crate::operator::plan::credit_policy::{Login, Wanted};
use crate::operator::plan::meta;
use crate::operator::watch::references::References;

/// Secrets under earlier names that one pass reads. Each one that it clears wakes the next pass, and a tenant that
/// marks a thousand Secrets of a namespace as one key's must not make that key's passes exceed their deadline.
const EARLIER_MAX: usize = 8;

impl Context {
    pub(super) async fn login(
        &self,
        policy: &CreditPolicy,
        id: PolicyId,
        entry: Option<&PolicyEntry>,
    ) -> Result<Login> {
        let upstream = &policy.spec.upstream;
        let mut wanted = UpstreamSecret::default();
        for (which, reference) in [
            (Wanted::Credentials, &upstream.credentials_secret_ref),
            (Wanted::ClientCertificate, &upstream.client_certificate_secret_ref),
        ] {
            let Some(reference) = reference else { continue };
            let namespace = &self.settings.namespace;
            let Some(secret) = self.references.login(namespace, &reference.name) else {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                let doing = format!("reading the Secret \"{}\"", reference.name);
                let live = api.get_metadata_opt(&reference.name).await.map_err(Error::cluster(doing))?;
                return Ok(if live.is_some() { Login::Unlabelled(which) } else { Login::Missing(which) });
            };
            let taken = match which {
                Wanted::Credentials => upstream_secret::credentials(&secret, &mut wanted),
                Wanted::ClientCertificate => upstream_secret::client_certificate(&secret, &mut wanted),
            };
            if let Err(sentence) = taken {
                return Ok(Login::Unusable(which, sentence));
            }
        }
        if wanted == UpstreamSecret::default() {
            return Ok(Login::None);
        }
        self.sealed(id, &wanted, entry).map(Login::Sealed)
    }

    /// Seals the login. An unchanged login keeps its sealed form, because no two sealings are alike.
    fn sealed(&self, id: PolicyId, wanted: &UpstreamSecret, entry: Option<&PolicyEntry>) -> Result<Sealed> {
        let context = upstream_context(id);
        let standing = entry.and_then(|entry| entry.upstream.as_ref()?.secret.as_ref());
        if let Some(sealed) = standing
            && let Some(text) = self.sealer.open(&context, sealed)
            && serde_json::from_slice::<UpstreamSecret>(&text).is_ok_and(|standing| standing == *wanted)
        {
            return Ok(sealed.clone());
        }
        let text = serde_json::to_vec(wanted).map_err(|error| Error::Seal { problem: error.to_string() })?;
        let mut nonce = [0; 12];
        self.seeds.rng().fill_bytes(&mut nonce);
        Ok(self.sealer.seal(&context, &text, nonce))
    }
}

/// Opens an upstream's login as sealed in its policy's entry.
pub fn opened(sealer: &Sealer, policy: PolicyId, sealed: &Sealed) -> Option<UpstreamSecret> {
    let text = sealer.open(&upstream_context(policy), sealed)?;
    serde_json::from_slice(&text).ok()
}

/// The Secrets of a key, read live.
#[derive(Default)]
pub(super) struct KeySecrets {
    pub secret: Option<Secret>,
    pub others: Vec<Secret>,
    pub existing: Option<Secret>,
    pub is_existing_a_login: bool,
    pub forbidden: Option<String>,
}

impl KeySecrets {
    /// Reads them; of a key that is `leaving`, those that it shares.
    pub async fn read(
        client: &Client,
        references: &References,
        key: &SubAccountApiKey,
        name: &Name,
        leaving: bool,
    ) -> Result<Self> {
        if leaving {
            let others = adopted_secrets(client, references, name, shared_name(key).as_deref()).await?;
            return Ok(Self { others, ..Self::default() });
        }
        let Ok(spec) = key.spec.check(&name.name) else { return Ok(Self::default()) };
        let (secret, others) = secrets(client, references, key, name, &spec.secret.name).await?;
        let existing = match &spec.secret.existing {
            Some(existing) => read(client, name, &existing.name).await?,
            None => None,
        };
        let is_login = |existing: &Secret| {
            let (place, secret) = (Name::of(existing), existing.name_any());
            references.login(&place.namespace, &secret).is_some() && !references.policies_with_login(&secret).is_empty()
        };
        let is_existing_a_login = existing.as_ref().is_some_and(is_login);
        Ok(Self { secret, others, existing, is_existing_a_login, forbidden: None })
    }

    /// The API server refuses to show them.
    pub fn forbidden(error: &Error) -> Self {
        let refused = error.refused().unwrap_or_else(|| error.to_string());
        Self { forbidden: Some(format!("{refused}; until it is allowed, the password stays")), ..Self::default() }
    }
}

/// Reads a Secret of the key's namespace.
async fn read(client: &Client, key: &Name, secret: &str) -> Result<Option<Secret>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    api.get_opt(secret).await.map_err(Error::cluster(format!("reading the Secret \"{secret}\"")))
}

/// Reads the key's Secret and those under its earlier names: a Secret missing from a cache proves nothing.
async fn secrets(
    client: &Client,
    references: &References,
    key: &SubAccountApiKey,
    name: &Name,
    current: &str,
) -> Result<(Option<Secret>, Vec<Secret>)> {
    let secret = read(client, name, current).await?;
    let owner = meta::controller_of(key);
    let mut others = Vec::new();
    let names = references.index(|index| index.secrets_of_key(name));
    for old in names.into_iter().filter(|old| old != current).take(EARLIER_MAX) {
        others.extend(read(client, name, &old).await?.filter(|secret| {
            let controller = meta::controlling_key(&secret.metadata, &owner.kind);
            // An earlier key of this name did not release the Secret that it shared.
            let adopted = controller.is_none() && is_adopted_by(secret, &name.name);
            (adopted || controller.is_some_and(|controller| controller.uid == owner.uid))
                && !meta::deleting(&secret.metadata)
        }));
    }
    Ok((secret, others))
}

/// Reads the foreign Secrets that a key of this name shares, live; the one named `wanted` in any case.
pub async fn adopted_secrets(
    client: &Client,
    references: &References,
    name: &Name,
    wanted: Option<&str>,
) -> Result<Vec<Secret>> {
    let known = references.index(|index| index.adopted_by(name));
    let names: BTreeSet<String> = known.into_iter().chain(wanted.map(str::to_owned)).collect();
    let mut found = Vec::new();
    for secret in names.into_iter().take(EARLIER_MAX) {
        found.extend(read(client, name, &secret).await?.filter(|secret| is_adopted_by(secret, &name.name)));
    }
    Ok(found)
}

fn is_adopted_by(secret: &Secret, key: &str) -> bool {
    Adoption::of(&secret.metadata).is_some_and(|adoption| adoption.key == key)
}

/// Returns the name of the Secret that a key wants to share.
fn shared_name(key: &SubAccountApiKey) -> Option<String> {
    let secret = key.spec.secret.as_ref().filter(|secret| secret.adopt)?;
    Some(secret.name.clone().unwrap_or_else(|| key.name_any()))
}
