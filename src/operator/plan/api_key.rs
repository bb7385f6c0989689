//! The plan of a key: its credential, its Secret, and its directory entry.
//!
//! A new credential is made in this order: stage its hash → write the Secret → read it back → promote, which starts the
//! overlap of the old one. Wherever this is interrupted, the password in the Secret works.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt as _;
use rand::Rng;

use super::adoption::{self, Adoption};
use super::existing;
use super::figures;
use super::gauge::Gauge;
use super::key_removal::{leaving, release, removal};
use super::key_status::base_status;
use super::present::{Present, present};
use super::secret::{self, Access, Judgement, Known, SecretOwnership};
use super::secret_patch::Content;
use super::usage::{self, Metered};
use super::{Plan, Readiness, Step, meta, sending};
use crate::crd::{
    CheckedCap, CheckedKey, CredentialStatus, LocalRef, Reason, SubAccountApiKey, SubAccountApiKeyStatus,
};
use crate::domain::credential::{self, Credential, Password, Stage, Username};
use crate::domain::directory::{Entry, KeyEntry};
use crate::domain::period::Calendar;
use crate::domain::sender::{SenderPattern, may_ever_send};
use crate::operator::plan::figures::Figures;
use crate::operator::plan::key_observed::{Account, KeyPlan, Observed};

impl Metered for SubAccountApiKeyStatus {
    fn shown(&self) -> Option<(Figures, Timestamp)> {
        let (usage, credits) = (self.usage.as_ref()?, self.credits.as_ref()?);
        Some((Figures::of_key(&usage.period, credits), self.observed_at.as_ref()?.0))
    }

    fn carry(&mut self, from: &Self) {
        self.usage.clone_from(&from.usage);
        self.credits.clone_from(&from.credits);
        self.last_used_at.clone_from(&from.last_used_at);
        self.observed_at.clone_from(&from.observed_at);
    }
}

pub fn plan(key: &SubAccountApiKey, observed: &Observed, now: Timestamp, rng: &mut impl Rng) -> KeyPlan {
    if meta::deleting(&key.metadata) {
        return removal(key, observed, now);
    }
    if observed.namespace.terminating {
        return leaving(observed, now);
    }
    let mut plan = Plan::nothing();
    if let Some(entry) = observed.entry.as_ref().filter(|entry| is_to_be_revoked(key, entry)) {
        plan.steps.push(Step::Put(Box::new(Entry::Key(KeyEntry { revoked: true, ..entry.clone() }))));
        plan.repeat_pass = true;
        return plan;
    }
    if !meta::holds(&key.metadata) {
        plan.steps.push(Step::AddFinalizer);
    }
    let spec = match key.spec.check(&key.name_any()) {
        Ok(spec) => spec,
        Err(problem) => {
            let readiness = Readiness::refused(Reason::Invalid, problem.to_string());
            return refuse(plan, key, observed, readiness, now);
        }
    };
    let Some(account) = &observed.account else {
        let fix = format!(
            "spec.subAccountRef.name: there is no SubAccount \"{}\" in this namespace; create it, or make a key for another",
            spec.account
        );
        return refuse(plan, key, observed, Readiness::refused(Reason::AccountNotFound, fix), now);
    };
    let owner = meta::controller_of(key);
    let work = Work { key, observed, spec: &spec, account, owner, now };
    if let Some(problem) = &observed.forbidden {
        plan.requeue_by(Some(now + FORBIDDEN_RETRY));
        return work.hold(plan, Readiness::waiting(Reason::ApplyFailed, problem.clone()));
    }
    let given = match work.given() {
        Ok(given) => given,
        Err(readiness) => return work.hold(plan, readiness),
    };
    match work.present() {
        Ok(present) => work.plan(plan, present, given.as_ref(), rng),
        Err(readiness) => {
            plan.awaited_secret = Some(spec.secret.name.clone());
            work.hold(plan, readiness)
        }
    }
}

/// Delay until Secrets are asked for again that the API server forbids to read: no event tells that a right was granted.
const FORBIDDEN_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// True if the directory still admits a key that its spec revokes. The revocation is written before anything else is
/// read or judged, so that it does not wait for a busy API server.
pub fn is_to_be_revoked(key: &SubAccountApiKey, entry: &KeyEntry) -> bool {
    key.spec.revoked && !entry.revoked
}

/// The inputs for writing one key.
struct Work<'a> {
    key: &'a SubAccountApiKey,
    observed: &'a Observed,
    spec: &'a CheckedKey,
    account: &'a Account,
    owner: OwnerReference,
    now: Timestamp,
}

impl<'a> Work<'a> {
    /// Returns the existing Secret to write to, if there is one, or the refusal.
    fn present(&self) -> Result<Option<Present<'a>>, Readiness> {
        // Only the names matter here.
        let named = || self.shared(self.content(&Password::given(""), None));
        let username = self.username();
        present(self.observed.secret.as_ref(), &self.owner, &self.spec.secret, self.known(&username), named)
    }

    /// Returns the password of the user's own, if the spec names its Secret, or the refusal.
    fn given(&self) -> Result<Option<Password>, Readiness> {
        let Some(place) = &self.spec.secret.existing else { return Ok(None) };
        existing::refuse_our_own(place, self.observed.is_existing_a_login)?;
        existing::password(place, self.observed.existing.as_ref(), &self.owner.kind).map(Some)
    }

    fn plan(
        &self,
        mut plan: KeyPlan,
        present: Option<Present<'_>>,
        given: Option<&Password>,
        rng: &mut impl Rng,
    ) -> KeyPlan {
        let (observed, now) = (self.observed, self.now);
        let mut entry = self.entry();
        let dead = self.dead();
        // Only a Secret of ours is judged; one about to be adopted holds nothing of ours yet.
        let named = present.map(Present::secret).filter(|secret| self.holds(secret));
        if observed.rebuilding {
            let shown = self.key.status.as_ref().and_then(|status| status.credential.as_ref());
            secret::restore(&mut entry.credentials, named, &observed.others, shown, &observed.hash_key, now);
        }
        let rotation = &self.spec.rotation;
        let judgement = match given {
            Some(given) => existing::judge(&entry.credentials, given, &observed.hash_key),
            None => secret::judge(&entry.credentials, named, &observed.others, rotation, &observed.hash_key, now),
        };
        let (entry, waits_until) = match judgement {
            Judgement::Keep { password, promote, rotation_waits_until } => {
                let mut kept = entry.clone();
                match promote {
                    Some(hash) => {
                        credential::promote(&mut kept.credentials, hash, now, self.overlap_end());
                        self.put(&mut plan, &kept);
                        self.write(&mut plan, present, &password, self.followed(named, rotation_waits_until));
                    }
                    None => {
                        // Another leader's write to the Secret may still be on its way.
                        kept.credentials.retain(|c| c.usable(now) && c.given_up_at().is_none_or(|at| now < at));
                        self.put(&mut plan, &kept);
                        self.write(&mut plan, present, &password, self.followed(named, rotation_waits_until));
                    }
                }
                (kept, rotation_waits_until)
            }
            // A revoked or expired key gets no new password.
            Judgement::Issue(_) if dead.is_some() => {
                self.put(&mut plan, &entry);
                (entry, None)
            }
            Judgement::Issue(cause) => {
                plan.events.extend(match &self.spec.secret.existing {
                    Some(place) => existing::event(cause, place),
                    None => cause.event(&self.spec.secret.name),
                });
                let password = given.cloned().unwrap_or_else(|| Password::mint(rng));
                (self.issue(&mut plan, entry, present, &password), None)
            }
        };
        self.clear_old_names(&mut plan);
        let readiness = dead.unwrap_or_else(|| self.readiness(waits_until));
        plan.requeue_by(secret::previous_until(&entry.credentials, now));
        plan.requeue_by(self.rotates_at(&entry, waits_until).map(|at| at.max(now)));
        plan.requeue_by(entry.credentials.iter().filter_map(Credential::given_up_at).filter(|at| now < *at).min());
        plan.requeue_by(entry.expires_at.filter(|expiry| now < *expiry));
        // An account without a status yet is about to be reconciled and wakes this key: report nothing until then.
        let too_early = !self.account.programmed && self.account.refusal.is_none() && self.key.status.is_none();
        if too_early {
            return plan;
        }
        let next = self.status(&entry, &readiness, waits_until);
        plan.events.extend(usage::news(self.key.status.as_ref(), &next, observed.gauge.as_ref()));
        plan.status = Some(next);
        // A new password is reported now; the figures of a cap that changes with it follow in the next pass.
        let recapped = observed.entry.as_ref().is_some_and(|old| old.cap != entry.cap);
        plan.repeat_pass = recapped && plan.events.is_empty() && meta::holds(&self.key.metadata);
        plan
    }

    /// Checks whether the Secret is this key's, made or adopted, even if its owner reference or adoption mark was
    /// removed.
    fn holds(&self, secret: &Secret) -> bool {
        match secret::ownership(Some(secret), &self.owner) {
            SecretOwnership::Ours(_) | SecretOwnership::Adopted(_) => true,
            SecretOwnership::Foreign(secret) => self.known(&self.username()).is_in(secret),
            SecretOwnership::Absent | SecretOwnership::Leaving => false,
        }
    }

    /// Returns what the ledger knows of this key's credential.
    fn known<'k>(&'k self, username: &'k Username) -> Known<'k> {
        let credentials = self.observed.entry.as_ref().map(|entry| entry.credentials.as_slice()).unwrap_or_default();
        Known { username, credentials, hash_key: &self.observed.hash_key, now: self.now }
    }

    /// Handles a Secret that is not ours to write. The spec still applies to the existing credentials: revoking or
    /// narrowing a key does not wait for a Secret.
    fn hold(&self, mut plan: KeyPlan, readiness: Readiness) -> KeyPlan {
        if self.observed.entry.is_some() {
            self.put(&mut plan, &self.entry());
        }
        plan.requeue_by(self.spec.expires_at.filter(|expiry| self.now < *expiry));
        let readiness = self.dead().unwrap_or(readiness);
        shown_refused(plan, self.key, self.observed, readiness, self.now)
    }

    /// Issues a new credential: stage → write → read back → promote.
    fn issue(
        &self,
        plan: &mut KeyPlan,
        entry: KeyEntry,
        present: Option<Present<'_>>,
        password: &Password,
    ) -> KeyEntry {
        let hash = self.observed.hash_key.hash(password);
        let mut staged = entry;
        credential::stage(&mut staged.credentials, hash, self.now);
        self.put(plan, &staged);
        self.write(plan, present, password, self.spec.rotation.restarted_at);
        let name = self.spec.secret.name.clone();
        plan.steps.push(Step::ReadBack { name, password: password.clone() });
        let mut promoted = staged;
        credential::promote(&mut promoted.credentials, hash, self.now, self.overlap_end());
        plan.steps.push(Step::Put(Box::new(Entry::Key(promoted.clone()))));
        promoted
    }

    fn put(&self, plan: &mut KeyPlan, entry: &KeyEntry) {
        if self.observed.entry.as_ref() != Some(entry) {
            plan.steps.push(Step::Put(Box::new(Entry::Key(entry.clone()))));
        }
    }

    fn content(&self, password: &Password, mark: Option<Timestamp>) -> Content {
        let username = self.username();
        let access = Access {
            endpoint: &self.observed.endpoint,
            username: &username,
            account: self.account.id,
            is_plain: self.spec.plain_listener,
        };
        let from = self.key.spec.allowed_senders.iter().find(|sender| !sender.starts_with(['*', '@']));
        secret::content(&self.spec.secret, access, from.map(String::as_str), password, mark)
    }

    fn shared(&self, content: Content) -> Content {
        adoption::shared(content, &self.spec.secret.labels)
    }

    fn write(&self, plan: &mut KeyPlan, present: Option<Present<'_>>, password: &Password, mark: Option<Timestamp>) {
        let (shape, content) = (&self.spec.secret, self.content(password, mark));
        let patch = match present {
            None => {
                let namespace = self.key.namespace().unwrap_or_default();
                let fresh = secret::fresh(shape, content, &namespace, &self.owner);
                plan.steps.push(Step::CreateSecret(Box::new(fresh)));
                None
            }
            Some(Present::Ours(secret)) => secret::difference(secret, &content, &self.owner),
            Some(Present::Shared(secret)) => adoption::difference(secret, &self.shared(content), &self.owner),
        };
        plan.steps.extend(patch.map(|patch| Step::PatchSecret { name: shape.name.clone(), patch }));
    }

    /// Returns the `restartedAt` that the kept password was made for: the Secret's own mark while a rotation waits.
    fn followed(&self, named: Option<&Secret>, waits_until: Option<Timestamp>) -> Option<Timestamp> {
        match waits_until {
            Some(_) => named.and_then(secret::marked),
            None => self.spec.rotation.restarted_at,
        }
    }

    /// Deletes Secrets under earlier names, once the new one exists; a shared one is released.
    fn clear_old_names(&self, plan: &mut KeyPlan) {
        for old in &self.observed.others {
            if let Some(adoption) = Adoption::of(&old.metadata) {
                release(plan, old, &adoption);
                continue;
            }
            let (Some(uid), Some(resource_version)) = (old.uid(), old.resource_version()) else { continue };
            plan.steps.push(Step::DeleteSecret { name: old.name_any(), uid, resource_version });
        }
    }

    fn username(&self) -> Username {
        Username::of(&self.key.name_any(), self.observed.id)
    }

    fn overlap_end(&self) -> Timestamp {
        self.now.checked_add(self.spec.rotation.overlap).unwrap_or(Timestamp::MAX)
    }

    /// Builds the directory entry from the spec, with the existing credentials.
    fn entry(&self) -> KeyEntry {
        let (spec, standing) = (self.spec, self.observed.entry.as_ref());
        let calendar = self.account.calendar.clone().or_else(|| Some(standing?.cap.calendar.clone()));
        KeyEntry {
            id: self.observed.id,
            account: self.account.id,
            namespace: self.key.namespace().unwrap_or_default(),
            name: self.key.name_any(),
            username: self.username(),
            credentials: standing.map(|entry| entry.credentials.clone()).unwrap_or_default(),
            allow_from: spec.allow_from.clone(),
            allowed_senders: spec.allowed_senders.clone(),
            plain_listener: spec.plain_listener,
            cap: CheckedCap::limit(spec.cap, &calendar.unwrap_or_else(Calendar::monthly_utc)),
            rate: spec.rate,
            expires_at: spec.expires_at,
            revoked: spec.revoked,
            settings: self.key.spec.settings().kept(standing.map(|entry| &entry.settings)),
            removed_at: None,
        }
    }

    /// Returns the refusal of a revoked or expired key.
    fn dead(&self) -> Option<Readiness> {
        if self.spec.revoked {
            let message =
                "spec.revoked: no login with this key succeeds; remove the field to accept the same password again";
            return Some(Readiness::refused(Reason::Revoked, message));
        }
        let expired = self.spec.expires_at.filter(|expiry| *expiry <= self.now)?;
        let message = format!("spec.expiresAt: this key ended at {expired}; write a later time, or remove the field");
        Some(Readiness::refused(Reason::Expired, message))
    }

    fn readiness(&self, waits_until: Option<Timestamp>) -> Readiness {
        if !self.account.programmed {
            let why = self.account.refusal.as_deref().unwrap_or("it has not been reconciled yet");
            if self.account.stalled {
                let message = format!("the SubAccount \"{}\" is refused: {why}", self.spec.account);
                return Readiness::refused(Reason::AccountNotReady, message);
            }
            let message = format!("waiting for the SubAccount \"{}\": {why}", self.spec.account);
            return Readiness::waiting(Reason::AccountNotReady, message);
        }
        if let Some(readiness) = self.mute() {
            return readiness;
        }
        if let Some((reason, message)) = &self.account.obstacle {
            return Readiness::held(*reason, message.as_str());
        }
        match waits_until {
            Some(until) => Readiness::Ready {
                reason: Reason::RotationWaiting,
                message: format!(
                    "spec.rotation: the password changes at {}, when the one before it ends; set \
                     spec.rotation.force to change it now",
                    figures::second(until)
                ),
            },
            None => Readiness::ready(format!("the Secret \"{}\" holds a password that works", self.spec.secret.name)),
        }
    }

    /// Returns the refusal of a key none of whose senders is permitted: it can log in, but every message is refused. If
    /// its account may not send as any sender, whatever the key names, the account reports that.
    fn mute(&self) -> Option<Readiness> {
        let (domains, account) = self.account.senders.as_ref()?;
        let may = |senders: &[SenderPattern]| may_ever_send(domains, account.as_deref(), senders);
        if may(&self.spec.allowed_senders) || !may(&[]) {
            return None;
        }
        let message = format!(
            "spec.allowedSenders: nothing can be sent, because the SubAccount \"{}\" and its policy permit none of these \
             senders; name senders in a domain that the policy's senders.domains lists, within the account's allowedSenders",
            self.spec.account
        );
        Some(Readiness::refused(Reason::SendersNotPermitted, message))
    }

    /// Returns when the password changes next, including a requested rotation that waits until `waits_until`. `None`:
    /// never, or the key ends before.
    fn rotates_at(&self, entry: &KeyEntry, waits_until: Option<Timestamp>) -> Option<Timestamp> {
        let by_itself = || secret::rotates_at(&entry.credentials, &self.spec.rotation, self.now);
        let outlives = |at: &Timestamp| self.spec.expires_at.is_none_or(|expiry| *at < expiry);
        waits_until.or_else(by_itself).filter(|at| self.dead().is_none() && outlives(at))
    }

    fn status(
        &self,
        entry: &KeyEntry,
        readiness: &Readiness,
        waits_until: Option<Timestamp>,
    ) -> SubAccountApiKeyStatus {
        let issued = entry.credentials.iter().find_map(|c: &Credential| match c.stage {
            Stage::Current { since } => Some(since),
            Stage::Staged { .. } | Stage::Previous { .. } => None,
        });
        let waiting = matches!(readiness, Readiness::Ready { reason: Reason::RotationWaiting, .. });
        let restarted_at = if waiting {
            let credential = self.key.status.as_ref().and_then(|status| status.credential.as_ref());
            credential.and_then(|credential| credential.restarted_at.clone())
        } else {
            self.key.spec.rotation.as_ref().and_then(|rotation| rotation.restarted_at.clone())
        };
        let credential = issued.map(|since| CredentialStatus {
            issued_at: Time(figures::second(since)),
            rotates_at: self.rotates_at(entry, waits_until).map(|at| Time(figures::second(at))),
            previous_valid_until: secret::previous_until(&entry.credentials, self.now)
                .map(|at| Time(figures::second(at))),
            restarted_at,
        });
        let gauge = self.observed.gauge.clone().unwrap_or_else(|| Gauge::untouched(&entry.cap, self.now));
        let accepted = !matches!(readiness, Readiness::Refused { .. });
        let open = matches!(readiness, Readiness::Ready { .. });
        let aside = sending::aside(Some(&gauge), "its account", self.account.sending.as_deref());
        let readiness = readiness.clone().beside(aside);
        let figures = (Some(gauge), open, credential);
        let mut next = base_status(self.key, self.observed, &readiness, (accepted, true), figures, self.now);
        next.username = Some(entry.username.to_string());
        next.binding = issued.map(|_| LocalRef { name: self.spec.secret.name.clone() });
        usage::settle(next, self.key.status.as_ref(), self.observed.figures_permitted)
    }
}

/// Leaves the directory entry unchanged: a mistake in an edit stops no mail. (A revocation has been written by now.)
/// But a key without its account is taken out of service: a force-deleted account may still be in the directory.
fn refuse(
    mut plan: KeyPlan,
    key: &SubAccountApiKey,
    observed: &Observed,
    readiness: Readiness,
    now: Timestamp,
) -> KeyPlan {
    if let Some(entry) = &observed.entry {
        let next = if observed.account.is_none() { entry.out_of_service(now) } else { entry.clone() };
        if next != *entry {
            plan.steps.push(Step::Put(Box::new(Entry::Key(next))));
        }
    }
    shown_refused(plan, key, observed, readiness, now)
}

fn shown_refused(
    mut plan: KeyPlan,
    key: &SubAccountApiKey,
    observed: &Observed,
    readiness: Readiness,
    now: Timestamp,
) -> KeyPlan {
    // A mistake in an edit stops no mail: the directory entry stays in force.
    let lives = |entry: &KeyEntry| !entry.revoked && entry.removed_at.is_none();
    let expired = matches!(readiness, Readiness::Refused { reason: Reason::Revoked | Reason::Expired, .. });
    let serves = |account: &Account| account.programmed && account.obstacle.is_none();
    let open = observed.entry.as_ref().is_some_and(lives) && !expired && observed.account.as_ref().is_some_and(serves);
    // No password changes while this lasts.
    let credential = key.status.as_ref().and_then(|standing| standing.credential.clone());
    let credential = credential.map(|credential| CredentialStatus { rotates_at: None, ..credential });
    let figures = (observed.gauge.clone(), open, credential);
    let mut next = base_status(key, observed, &readiness, (false, false), figures, now);
    if let Some(standing) = &key.status {
        next.username.clone_from(&standing.username);
        next.binding.clone_from(&standing.binding);
    }
    plan.status = Some(usage::settle(next, key.status.as_ref(), observed.figures_permitted));
    plan
}
