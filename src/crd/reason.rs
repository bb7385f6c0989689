//! Reasons of conditions and Events, and their remedies.
//!
//! [`Reason::remedy`] has the rows of `docs/reference/conditions.md`, which `make generate` writes.

use super::condition_type::ConditionType;

/// Declares the enum, its words and the list of all of them from one list, so that no reason can be missing from
/// another.
macro_rules! reasons {
    ($(#[$attribute:meta])* pub enum $Name:ident { $($(#[$doc:meta])* $Variant:ident,)+ }) => {
        $(#[$attribute])*
        pub enum $Name { $($(#[$doc])* $Variant,)+ }

        impl $Name {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$Variant,)+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$Variant => stringify!($Variant),)+ }
            }
        }
    };
}

reasons! {
    /// The reason of a condition or an Event. These words are part of the API: people alert on them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reason {
        /// Everything is as the spec says.
        Ready,
        /// The resource may be used.
        Accepted,
        /// The directory holds the resource.
        Programmed,
        /// Work is under way.
        Progressing,
        /// The spec is wrong; the message names the field.
        Invalid,
        /// The policy that an account names does not exist.
        PolicyNotFound,
        /// The policy exists but is not accepted itself.
        PolicyNotReady,
        /// The policy's `allowedNamespaces` does not select the namespace.
        NotAllowedByPolicy,
        /// The cap is above the policy's `maxCap`.
        CapAboveCeiling,
        /// The cap has another period than the policy's `maxCap`.
        CapPeriodMismatch,
        /// The account has a spend limit but its policy has no pricing.
        PricingMissing,
        /// The policy's pricing is in a currency other than that of what was spent under it.
        CurrencyChanged,
        /// The namespace already has `maxAccountsPerNamespace` accounts of the policy.
        TooManyAccounts,
        /// Another account of the policy has the same `externalId`.
        DuplicateExternalId,
        /// The policy requires a field that the account does not mention, so that nothing can be sent.
        RequiredByPolicy,
        /// Accounts of the policy have limits that it does not require of each account.
        SelfServiceUnbounded,
        /// Too many accounts and keys have no resource for the operator to revoke them before an administrator has
        /// looked.
        SweepStopped,
        /// A clock ran ahead, so the ledger's time is ahead of the clock until that has caught up.
        LedgerAhead,
        /// The account that a key names does not exist.
        AccountNotFound,
        /// The account exists but is not accepted itself.
        AccountNotReady,
        /// A policy lists no sender domain, so that none of its accounts can send.
        NoSenderDomains,
        /// None of the `allowedSenders` of an account or a key is permitted by the levels above it.
        SendersNotPermitted,
        /// A Secret that a spec names does not exist.
        SecretNotFound,
        /// A Secret that a spec names lacks the label `franking.io/use: "true"`.
        SecretNotLabelled,
        /// A Secret that a spec names lacks what it should hold.
        SecretInvalid,
        /// A Secret of that name belongs to another owner.
        SecretConflict,
        /// A shared Secret was made immutable, and keeps what a key added. For Events.
        SecretImmutable,
        /// A rotation was requested while the last one's overlap runs.
        RotationWaiting,
        /// A credential was replaced because its Secret was edited or deleted.
        CredentialReplaced,
        /// Messages were refused for their sender. For Events, because the fault is the message's and not the
        /// resource's.
        SenderDenied,
        /// Credits are used up. For Events, because it is no fault of the resource.
        CreditsExhausted,
        /// Used-up credits are available again.
        CreditsAvailable,
        /// The use of a limit has reached one of the policy's thresholds.
        ThresholdReached,
        /// `spec.suspended` is set.
        Suspended,
        /// The policy is suspended.
        ParentSuspended,
        /// `spec.revoked` is set.
        Revoked,
        /// `spec.expiresAt` has passed.
        Expired,
        /// The ledger did not answer; the operator tries again.
        LedgerUnavailable,
        /// The ledger is not the one that this installation knows; the message says which it is and how to accept it.
        LedgerReplaced,
        /// An administrator accepted a replaced ledger.
        LedgerAccepted,
        /// The Kubernetes API refused a write; the message says which.
        ApplyFailed,
        /// The relay's settings are refused; the relays keep the last good ones.
        RelayInvalid,
        /// No relay serves.
        RelayNotReady,
        /// No relay finds the upstream unavailable.
        UpstreamAvailable,
        /// The upstream answers but refuses us: its login, its quota.
        UpstreamRefusesUs,
        /// The upstream cannot be reached or used.
        UpstreamUnreachable,
        /// Deletion waits for the resources that still use it.
        InUse,
    }
}

/// The place where a reason is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// As the reason of `Ready`, and of the conditions that follow from it.
    OnReady,
    /// As the reason of another condition.
    On(ConditionType),
    /// As the reason of a condition that is a warning with the same name.
    Warning,
    /// As the reason of an Event alone.
    Event,
}

/// Kinds of objects that have the reason, as the documentation names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    All,
    Policy,
    Account,
    Key,
    AccountAndKey,
    PolicyAndKey,
    /// The ConfigMap in which an administrator accepts a replaced ledger.
    Installation,
}

/// Row of the documentation: a reason's meaning and its remedy. Reasons with the same remedy share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remedy {
    shown: Shown,
    of: Of,
    /// In Markdown, without a full stop.
    means: &'static str,
    /// In Markdown, without a full stop.
    remedy: &'static str,
}

impl Remedy {
    const fn new(shown: Shown, of: Of, means: &'static str, remedy: &'static str) -> Self {
        Self { shown, of, means, remedy }
    }

    const fn on_ready(of: Of, means: &'static str, remedy: &'static str) -> Self {
        Self::new(Shown::OnReady, of, means, remedy)
    }
}

impl Reason {
    /// Returns the row of the documentation.
    fn remedy(self) -> Remedy {
        match self {
            Self::Ready => Remedy::on_ready(Of::All, "the spec is in force", "nothing"),
            Self::Accepted => Remedy::new(
                Shown::On(ConditionType::Accepted),
                Of::All,
                "the spec is valid, and everything that it refers to exists and permits it",
                "nothing",
            ),
            Self::Programmed => Remedy::new(
                Shown::On(ConditionType::Programmed),
                Of::All,
                "the relays know its current spec; for a policy, they also run with the current settings",
                "nothing",
            ),
            Self::Progressing => Remedy::on_ready(
                Of::Key,
                "the Secret of an earlier key of this name is still being deleted",
                "wait; if it stays, look at its finalizers",
            ),
            Self::Invalid => Remedy::on_ready(Of::All, "a field has an invalid value; the message names it", "edit it"),
            Self::PolicyNotFound | Self::AccountNotFound => Remedy::on_ready(
                Of::AccountAndKey,
                "the referenced policy or account does not exist",
                "apply it, or correct the name",
            ),
            Self::PolicyNotReady | Self::AccountNotReady => Remedy::on_ready(
                Of::AccountAndKey,
                "the policy or account that it refers to exists and is not ready itself: it is refused (then this one is \
                 Stalled with it), it is being deleted, its upstream's login or its sender domains are missing, or the relays do \
                 not know it yet. The message repeats that object's message",
                "look at that object's conditions; if the relays do not know it yet, wait a moment",
            ),
            Self::NotAllowedByPolicy => Remedy::on_ready(
                Of::Account,
                "`allowedNamespaces` does not select this namespace",
                "ask the platform team",
            ),
            Self::CapAboveCeiling | Self::CapPeriodMismatch => Remedy::on_ready(
                Of::Account,
                "the cap is above the policy's `maxCap`, or has another period",
                "lower it; use the same period",
            ),
            Self::PricingMissing => Remedy::on_ready(
                Of::Account,
                "`spendLimitMinor` needs the policy's `pricing`, because a message has no price without it",
                "ask the platform team for a price, or remove the limit",
            ),
            Self::CurrencyChanged => Remedy::on_ready(
                Of::Policy,
                "`pricing` was removed and written again in another currency; earlier spending is counted in the old one",
                "write the old currency, or make a new policy",
            ),
            Self::TooManyAccounts => Remedy::on_ready(
                Of::Account,
                "the namespace has `maxAccountsPerNamespace` accounts of the policy; accounts that were removed or moved away in this \
                 period count",
                "ask for a higher limit; deleting accounts frees no place before the next period",
            ),
            Self::DuplicateExternalId => Remedy::on_ready(
                Of::Account,
                "an older account of the policy has the same `externalId`",
                "choose another",
            ),
            Self::RequiredByPolicy => Remedy::on_ready(
                Of::Account,
                "the policy requires `prepaid`, `spendLimitMinor` or `allowedSenders` of each account, and this one lacks it: \
                 no mail is sent",
                "ask a user with `grant` on the policy to set it",
            ),
            Self::SelfServiceUnbounded => Remedy::new(
                Shown::Warning,
                Of::Policy,
                "accounts of the policy are prepaid, have a spend limit or list their senders, and a tenant that may attach \
                 accounts can attach one without these limits",
                "set `perAccount.prepaid`, `perAccount.spendLimit` and `perAccount.allowedSenders` to `Required`, or to \
                 `Optional` if only the platform team attaches accounts",
            ),
            Self::SweepStopped => Remedy::new(
                Shown::Warning,
                Of::Policy,
                "accounts or keys in the ledger have no resource any more, more than 5 % of a namespace or in too many \
                 namespaces at once; they keep working, because their loss may be a mistake",
                "apply the resources again, or revoke them with the command in the message; `charts/franking/RUNBOOK.md`",
            ),
            Self::LedgerAhead => Remedy::new(
                Shown::Warning,
                Of::Policy,
                "a clock ran ahead and was corrected: the ledger's time is ahead of the clock, and periods do not advance \
                 until the clock has caught up; rates and expiries follow the clock",
                "correct the clocks; `charts/franking/RUNBOOK.md`",
            ),
            Self::NoSenderDomains => Remedy::on_ready(
                Of::Policy,
                "`senders.domains` lists nothing, so the relays refuse every message of its accounts",
                "list the domains that its accounts send from",
            ),
            Self::SendersNotPermitted => Remedy::on_ready(
                Of::AccountAndKey,
                "none of its `allowedSenders` is in a domain of the policy's `senders.domains` or, for a key, permitted by \
                 the account's `allowedSenders`: the relays refuse every message",
                "list senders that they permit; only the platform team can change the policy's domains",
            ),
            Self::SecretNotFound | Self::SecretNotLabelled | Self::SecretInvalid => Remedy::on_ready(
                Of::PolicyAndKey,
                "the Secret with the upstream's credentials or the client certificate of a policy, or the Secret that \
                 `secret.existing` of a key names, is missing, lacks the label `franking.io/use: \"true\"`, or is \
                 incomplete, such as a password of fewer than 16 characters",
                "correct the Secret, which is in the operator's namespace for a policy, and in the key's for a key",
            ),
            Self::SecretConflict => Remedy::on_ready(
                Of::Key,
                "a Secret of that name belongs to another owner, or already holds one of Franking's entries, and is never \
                 overwritten. (A Secret that only lost its `ownerReferences` and still has the labels and the password of \
                 this key is taken back unchanged.)",
                "change `secret.name`, or share a Secret without Franking's entries by `secret.adopt: true`",
            ),
            Self::SecretImmutable => Remedy::new(
                Shown::Event,
                Of::Key,
                "a Secret that the key shared (`secret.adopt`) was made immutable, so the key's entries stay in it; the note \
                 names it",
                "recreate that Secret; the password in it ends with the key",
            ),
            Self::RotationWaiting => Remedy::on_ready(
                Of::Key,
                "the overlap of the last rotation has not ended",
                "wait, or `rotation.force: true`",
            ),
            Self::CredentialReplaced => Remedy::new(
                Shown::Event,
                Of::Key,
                "a new password was issued, because the Secret was edited or deleted or a rotation was due; the old one works \
                 until the overlap ends",
                "restart the programs that read the old one; edit the key's `secret`, not the Secret",
            ),
            Self::SenderDenied => Remedy::new(
                Shown::Event,
                Of::Key,
                "the relay refused messages because of their sender; the note counts them and names the list that lacks it",
                "let the program send as an address that is permitted, or have the list extended",
            ),
            Self::CreditsExhausted => Remedy::new(
                Shown::Event,
                Of::All,
                "credits are used up; the column `SENDING` shows until when",
                "wait for the next period, or have the limit raised",
            ),
            Self::CreditsAvailable => {
                Remedy::new(Shown::Event, Of::All, "credits are available again after they were used up", "nothing")
            }
            Self::ThresholdReached => Remedy::new(
                Shown::Event,
                Of::All,
                "the use of a limit has reached one of the policy's `alerts.thresholdsPercent`",
                "have the limit raised before it is used up",
            ),
            Self::Suspended | Self::ParentSuspended | Self::Revoked | Self::Expired => Remedy::on_ready(
                Of::All,
                "its own spec says so, or that of the account or policy that the message names; an Event shows since when",
                "change that spec",
            ),
            Self::LedgerUnavailable | Self::ApplyFailed => Remedy::on_ready(
                Of::All,
                "the ledger or the API server did not answer, or the API server refused a write (a quota, an admission \
                 policy, an immutable Secret: the message quotes it and names the object). An Event reports the beginning and \
                 the end. An object that was ready before shows a refusal at once, and a fault that may be temporary after \
                 the third failure in a row. The message tells when it is tried again",
                "raise the quota; look at the operator's log. An edit of the object causes a new try at once",
            ),
            Self::LedgerReplaced => Remedy::on_ready(
                Of::All,
                "the ledger is lost, older than it was, or another installation's; nothing is sent",
                "follow the message, which names the finding and the command to accept it; `charts/franking/RUNBOOK.md`",
            ),
            Self::LedgerAccepted => Remedy::new(
                Shown::Event,
                Of::Installation,
                "an administrator accepted a replaced ledger, as the note says; it is rebuilt from the resources",
                "nothing",
            ),
            Self::RelayInvalid | Self::RelayNotReady => Remedy::new(
                Shown::On(ConditionType::Programmed),
                Of::Policy,
                "the relays' settings are refused and the last good ones are in force, as the message says; or no relay serves",
                "correct the values; look at the relays' pods",
            ),
            Self::UpstreamAvailable => Remedy::new(
                Shown::On(ConditionType::UpstreamAvailable),
                Of::Policy,
                "no relay finds the upstream unavailable",
                "nothing",
            ),
            Self::UpstreamRefusesUs | Self::UpstreamUnreachable => Remedy::new(
                Shown::On(ConditionType::UpstreamAvailable),
                Of::Policy,
                "the upstream keeps failing, and the relays try it only now and then. Clients are told 451, no credits are \
                 charged, and `Ready` stays true, because the settings are in force. The message tells since when, why, and how \
                 many relays report it",
                "correct its credentials, quota or address; the condition clears with the next message that is accepted",
            ),
            Self::InUse => Remedy::on_ready(
                Of::Policy,
                "deletion waits for accounts of the policy",
                "delete the accounts it names; as a last resort the platform team annotates `franking.io/force-delete: \
                 \"true\"` (it takes the verb `force-delete` on CreditPolicies, and has no effect while the ledger is held: \
                 accept the ledger first)",
            ),
        }
    }

    /// Writes the documentation's table: a row for each remedy, with all its reasons.
    pub fn table() -> String {
        let mut rows: Vec<(Vec<&str>, Remedy)> = Vec::new();
        for reason in Self::ALL {
            let remedy = reason.remedy();
            match rows.iter_mut().find(|(_, other)| *other == remedy) {
                Some((reasons, _)) => reasons.push(reason.as_str()),
                None => rows.push((vec![reason.as_str()], remedy)),
            }
        }
        let mut table = "| reason | on | of | means | do |\n| --- | --- | --- | --- | --- |\n".to_owned();
        for (reasons, Remedy { shown, of, means, remedy }) in rows {
            let row = [&reasons.join(", "), &shown.words(), of.words(), means, remedy];
            table.extend(["| ", &row.join(" | "), " |\n"]);
        }
        table
    }
}

impl Shown {
    fn words(self) -> String {
        match self {
            Self::OnReady => "`Ready`".to_owned(),
            Self::On(condition) => format!("`{}`", condition.as_str()),
            Self::Warning => "a condition of its own, a warning".to_owned(),
            Self::Event => "an Event".to_owned(),
        }
    }
}

impl Of {
    fn words(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Policy => "policy",
            Self::Account => "account",
            Self::Key => "key",
            Self::AccountAndKey => "account, key",
            Self::PolicyAndKey => "policy, key",
            Self::Installation => "ConfigMap of the installation",
        }
    }
}
