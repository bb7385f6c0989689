//! Decides how many of the directory's entries without a resource are written off without an administrator's approval.
//!
//! A cluster that lost its objects by mistake looks like one whose objects were deleted on purpose. So more than a few
//! of one namespace at once are kept, and all are kept if many namespaces lost some. Namespaces are counted separately:
//! no tenant stops the sweep for another.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest;

use super::meta;
use crate::domain::id::{Holder, Kind, PolicyId};
use crate::operator::object_ref::Name;

/// Orphans per namespace, and namespaces, that may always be written off: 5 % of a few is less than one.
const FLOOR: usize = 10;
/// One in twenty, 5 %.
const SHARE: usize = 20;
/// Maximum number of namespaces that a message names.
const NAMED_MAX: usize = 10;

/// An entry whose resource is gone while its namespace still exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub holder: Holder,
    pub name: Name,
    pub policy: Option<PolicyId>,
}

/// The findings of one sweep.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Accounts and keys in service per namespace, the orphans included.
    pub totals: BTreeMap<String, usize>,
    pub orphans: Vec<Orphan>,
    /// Values of the annotation [`meta::REVOKE_ORPHANS`] by namespace.
    pub approvals: BTreeMap<String, String>,
    /// The operator's own namespace, where the annotation approves for all others.
    pub home: String,
}

/// The decision about the orphans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub write_off: Vec<Orphan>,
    /// Number of orphans that are kept as they are.
    pub kept: usize,
    /// Messages for the policies of kept orphans.
    pub sentences: BTreeMap<PolicyId, String>,
}

/// Decides which orphans are written off.
pub fn judge(census: &Census) -> Verdict {
    let mut by_namespace: BTreeMap<&str, Vec<&Orphan>> = BTreeMap::new();
    for orphan in &census.orphans {
        by_namespace.entry(&orphan.name.namespace).or_default().push(orphan);
    }
    let approved = |place: &str, finding: &str| census.approvals.get(place).is_some_and(|said| said == finding);
    let all = finding(census.orphans.iter());
    let by_mistake = is_too_many(by_namespace.len(), census.totals.len()) && !approved(&census.home, &all);
    let mut verdict = Verdict::default();
    let mut kept: BTreeMap<PolicyId, BTreeSet<String>> = BTreeMap::new();
    for (namespace, orphans) in &by_namespace {
        let total = census.totals.get(*namespace).copied().unwrap_or_default();
        let name = finding(orphans.iter().copied());
        let stopped = by_mistake || (is_too_many(orphans.len(), total) && !approved(namespace, &name));
        if !stopped {
            verdict.write_off.extend(orphans.iter().copied().cloned());
            continue;
        }
        verdict.kept += orphans.len();
        let sentence = format!("{}, in the namespace {namespace}", counted(orphans, total));
        let fix = if by_mistake { sentence } else { format!("{sentence}: {}", command(namespace, &name)) };
        for policy in orphans.iter().filter_map(|orphan| orphan.policy) {
            kept.entry(policy).or_default().insert(fix.clone());
        }
    }
    let remedy = by_mistake.then(|| command(&census.home, &all));
    verdict.sentences =
        kept.into_iter().map(|(policy, places)| (policy, sentence(&places, remedy.as_deref()))).collect();
    verdict
}

fn is_too_many(gone: usize, total: usize) -> bool {
    gone > FLOOR.max(total / SHARE)
}

/// Returns counts such as `3 of 4 entries (accounts: 1, keys: 2) have no resource`.
fn counted(orphans: &[&Orphan], total: usize) -> String {
    let count = |kind: Kind| orphans.iter().filter(|orphan| orphan.holder.kind() == kind).count();
    let (accounts, keys) = (count(Kind::Account), count(Kind::Key));
    format!("{} of {total} entries (accounts: {accounts}, keys: {keys}) have no resource", orphans.len())
}

/// Returns the command by which an administrator approves the revocation.
fn command(namespace: &str, finding: &str) -> String {
    format!("kubectl annotate namespace {namespace} --overwrite {}={finding}", meta::REVOKE_ORPHANS)
}

fn sentence(places: &BTreeSet<String>, remedy: Option<&str>) -> String {
    let named: Vec<&str> = places.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = match places.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!("; and {more} more namespaces"),
    };
    let remedy = remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
    format!(
        "credentials without a resource keep working until an administrator decides, because more than 5 % at once may be \
         a mistake: apply the resources again, or revoke them as named here; {}{more}{remedy}",
        named.join("; ")
    )
}

/// Names a finding by a hash, so that an approval applies to it and to no later one.
fn finding<'a>(orphans: impl Iterator<Item = &'a Orphan>) -> String {
    let ids: BTreeSet<[u8; 16]> = orphans.map(|orphan| orphan.holder.uuid().into_bytes()).collect();
    let mut context = digest::Context::new(&digest::SHA256);
    ids.iter().for_each(|id| context.update(id));
    context.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::{AccountId, KeyId};

    fn policy(n: u128) -> PolicyId {
        PolicyId(Uuid::from_u128(n))
    }

    /// Builds namespaces, each with its entries in service and how many of them are orphans, all keys of policy 1.
    fn census(namespaces: &[(&str, usize, usize)]) -> Census {
        let mut found = Census { home: "franking-system".into(), ..Census::default() };
        for (namespace, total, gone) in namespaces {
            found.totals.insert((*namespace).to_owned(), *total);
            for n in 0..*gone {
                let id = Uuid::from_u128((found.orphans.len() + 1) as u128);
                let (holder, name) = (Holder::Key(KeyId(id)), Name::new(*namespace, format!("key-{n}")));
                found.orphans.push(Orphan { holder, name, policy: Some(policy(1)) });
            }
        }
        found
    }

    fn gone(verdict: &Verdict) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for orphan in &verdict.write_off {
            *count.entry(orphan.name.namespace.as_str()).or_default() += 1;
        }
        count
    }

    #[test]
    fn ten_of_a_namespace_may_always_go_and_five_in_a_hundred_of_many() {
        for (gone, total, stops) in [(10, 10, false), (11, 11, true), (50, 1000, false), (51, 1000, true)] {
            let verdict = judge(&census(&[("team", total, gone)]));
            assert_eq!(verdict.kept > 0, stops, "{gone} of {total}");
        }
    }

    #[test]
    fn a_namespace_that_lost_many_stops_no_other() {
        let mut found = census(&[("flood", 12, 12), ("other", 40, 2)]);
        found.orphans[0].holder = Holder::Account(AccountId(Uuid::from_u128(1)));
        let verdict = judge(&found);
        assert_eq!((gone(&verdict), verdict.kept), (BTreeMap::from([("other", 2)]), 12));
        let sentence = &verdict.sentences[&policy(1)];
        for words in ["12 of 12 entries (accounts: 1, keys: 11)", "namespace flood", "kubectl annotate namespace flood"]
        {
            assert!(sentence.contains(words), "{sentence}");
        }
        // An approval applies to this finding, and to no later one.
        let name = sentence.rsplit('=').next().expect("the finding's name").to_owned();
        found.approvals.insert("flood".into(), name);
        assert_eq!(judge(&found).kept, 0);
        found.orphans.push(Orphan { holder: Holder::Key(KeyId(Uuid::from_u128(99))), ..found.orphans[1].clone() });
        assert_eq!(judge(&found).kept, 13);
    }

    #[test]
    fn where_many_namespaces_lost_some_nothing_goes_without_an_administrator() {
        let names: Vec<String> = (0..30).map(|n| format!("team-{n:02}")).collect();
        let lost = |count: usize| -> Vec<(&str, usize, usize)> {
            names.iter().enumerate().map(|(n, name)| (name.as_str(), 3, usize::from(n < count))).collect()
        };
        assert_eq!(judge(&census(&lost(10))).kept, 0);
        let mut found = census(&lost(11));
        let verdict = judge(&found);
        assert_eq!((verdict.kept, verdict.write_off.len()), (11, 0));
        let sentence = &verdict.sentences[&policy(1)];
        assert!(sentence.contains("and 1 more namespaces: kubectl annotate namespace franking-system"), "{sentence}");
        let name = sentence.rsplit('=').next().expect("the finding's name").to_owned();
        found.approvals.insert("franking-system".into(), name);
        assert_eq!(judge(&found).write_off.len(), 11);
    }
}
