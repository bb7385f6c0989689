//! What is there before the tenant comes: namespaces, plans, rights, the platform team's accounts, other Secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::authorization::v1::ResourceAttributes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::api::{Found, Objects, apply, may, named, ready, until};
use super::model::Model;
use super::plans::{GRANTED_SENDER, Limits, Plan, Terms};
use super::town::{Place, Tally, Town, today, user};
use super::verbs::{DROPPED, FOREIGN, GRANTED, Kind, Who};
use crate::support::sink::{Act, At, Sink, SinkOptions};
use crate::tenants::{User, binding};

const RBAC: &str = "rbac.authorization.k8s.io";

impl<'a> Town<'a> {
    /// Makes the namespaces, the plans, the people's rights and what else is there before the tenant comes.
    pub async fn found(place: &'a Place, seed: u64) -> Found<(Self, StdRng)> {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = [Limits::strict(seed, &mut rng), Limits::lax(&mut rng)];
        let sinks = [Sink::start(SinkOptions::default()).await, Sink::start(SinkOptions::default()).await];
        let namespaces = ["north", "south"].map(|name| format!("tenant-{seed}-{name}"));
        let policies = ["strict", "lax"].map(|name| format!("tenant-{seed}-{name}"));
        for plan in Plan::BOTH {
            let (sink, index) = (&sinks[plan as usize], plan as usize);
            sink.always(At::FinalOf(DROPPED), Act::Drop);
            let spec = limits[index].spec(sink.address().port());
            let mut policy = named("CreditPolicy", "", &policies[index], &spec);
            policy["metadata"] = json!({"name": policies[index]});
            apply(&place.admin, &policy).await?;
        }
        let credits = rng.random_range(2..=4);
        let granted = json!({
            "policyRef": {"name": policies[0]}, "prepaid": {"grants": [{"id": "paid", "credits": credits}]},
            "spendLimitMinor": rng.random_range(2..=6), "allowedSenders": [GRANTED_SENDER],
        });
        let mut town = Self {
            place,
            namespaces,
            policies,
            model: Model::new(limits),
            issued: Vec::new(),
            tally: Tally::default(),
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            sinks,
            seen: [0; 2],
            uids: BTreeMap::new(),
            foreign: Vec::new(),
            granted: [granted.clone(), granted],
            first_day: today(),
        };
        for namespace in [0, 1] {
            town.furnish(namespace).await?;
        }
        town.give_grant(seed).await?;
        town.look().await?;
        Ok((town, rng))
    }

    async fn furnish(&mut self, index: usize) -> Found {
        let (admin, namespace) = (&self.place.admin, self.namespaces[index].clone());
        apply(admin, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await?;
        for (who, roles) in [
            (Who::Tenant, ["edit", "franking-self-service"].as_slice()),
            (Who::Granter, &["edit", "franking-self-service"]),
            (Who::Manager, &["franking-manager"]),
        ] {
            for role in roles {
                let name = format!("{}-{role}", user(who));
                let metadata = json!({"name": name, "namespace": namespace});
                apply(admin, &binding("RoleBinding", &metadata, role, &User::new(user(who)))).await?;
            }
        }
        let secret = |name: &str, labels: Value, data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": data,
                   "metadata": {"name": name, "namespace": namespace, "labels": labels,
                                "annotations": {"note": "the application's"}}})
        };
        for object in [
            secret(FOREIGN[0], json!({"team": "shop"}), json!({"password": "hunter2 hunter2 hunter2", "host": "db"})),
            secret(FOREIGN[1], json!({"team": "shop"}), json!({"colour": "blue"})),
            secret(FOREIGN[2], json!({"app.kubernetes.io/managed-by": "Helm"}), json!({"colour": "red"})),
        ] {
            apply(admin, &object).await?;
            let name = object["metadata"]["name"].as_str().expect("a name");
            let made = Objects::secrets(admin, &namespace).get(name).await?.ok_or("a Secret is not there")?;
            self.foreign.push((index, made));
        }
        let id = (index, GRANTED.to_owned());
        let spec = &self.granted[index];
        self.model.granted(&id);
        self.model.account_written(&id, Terms::read(spec, &self.policies));
        apply(admin, &named("SubAccount", &namespace, GRANTED, spec)).await?;
        let accounts = Objects::ours(admin, Kind::Account, &namespace);
        until("the platform team's account", async || {
            Ok(accounts.get(GRANTED).await?.filter(|account| ready(account) == Some(true)))
        })
        .await
        .map(drop)
    }

    /// Gives the granter `grant` on the lax plan, and waits until the API server knows of that and of the roles.
    async fn give_grant(&self, seed: u64) -> Found {
        let (admin, name) = (&self.place.admin, format!("tenant-{seed}-grant"));
        let rule = json!({"apiGroups": ["franking.io"], "resources": ["creditpolicies"],
                          "resourceNames": [self.policies[1]], "verbs": ["grant"]});
        let role = json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
                          "metadata": {"name": name}, "rules": [rule]});
        apply(admin, &role).await?;
        let metadata = json!({"name": name});
        apply(admin, &binding("ClusterRoleBinding", &metadata, &name, &User::new(user(Who::Granter)))).await?;
        let asked = |verb: &str, resource: &str, namespace: Option<&String>, name: Option<&String>| {
            let group = (resource != "secrets").then(|| "franking.io".to_owned());
            let (verb, resource) = (Some(verb.to_owned()), Some(resource.to_owned()));
            let (namespace, name) = (namespace.cloned(), name.cloned());
            ResourceAttributes { group, verb, resource, namespace, name, ..ResourceAttributes::default() }
        };
        let mut rights = vec![(Who::Granter, asked("grant", "creditpolicies", None, Some(&self.policies[1])))];
        for namespace in &self.namespaces {
            for who in [Who::Tenant, Who::Granter] {
                rights.push((who, asked("create", "subaccounts", Some(namespace), None)));
                rights.push((who, asked("update", "secrets", Some(namespace), None)));
            }
            rights.push((Who::Manager, asked("create", "subaccountapikeys", Some(namespace), None)));
        }
        for (who, right) in rights {
            until("the people's rights", async || Ok(may(admin, user(who), right.clone()).await?.then_some(())))
                .await?;
        }
        Ok(())
    }
}
