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
            Self::Ready => Remedy::on_ready(Of::All, "all is as the spec says", "nothing"),
            Self::Accepted => Remedy::new(
                Shown::On(ConditionType::Accepted),
                Of::All,
                "the spec is valid, and what it refers to exists and permits it",
                "nothing",
            ),
            Self::Programmed => Remedy::new(
                Shown::On(ConditionType::Programmed),
                Of::All,
                "the relays know it as the spec says; of a policy also that they run with the present settings",
                "nothing",
            ),
            Self::Progressing => Remedy::on_ready(
                Of::Key,
                "the Secret of an earlier key of this name is still being deleted",
                "wait; where it stays, look at its finalizers",
            ),
            Self::Invalid => {
                Remedy::on_ready(Of::All, "a field has an impossible value; the message names it", "edit it")
            }
            Self::PolicyNotFound | Self::AccountNotFound => Remedy::on_ready(
                Of::AccountAndKey,
                "what the reference names is not there",
                "apply it, or correct the name",
            ),
            Self::PolicyNotReady | Self::AccountNotReady => Remedy::on_ready(
                Of::AccountAndKey,
                "the policy or account that it refers to exists and is not ready itself: it is refused (then this one is \
                 Stalled with it), is being deleted, its upstream's login or its sender domains are missing, or the relays do not \
                 know it yet. The message repeats its sentence",
                "look at its own condition; the last of these passes in a moment",
            ),
            Self::NotAllowedByPolicy => Remedy::on_ready(
                Of::Account,
                "`allowedNamespaces` does not select this namespace",
                "ask the platform team",
            ),
            Self::CapAboveCeiling | Self::CapPeriodMismatch => Remedy::on_ready(
                Of::Account,
                "the cap is above the policy's `maxCap`, or of another period",
                "lower it; use the same period",
            ),
            Self::PricingMissing => Remedy::on_ready(
                Of::Account,
                "`spendLimitMinor` without the policy's `pricing`: nobody knows what a message costs",
                "have the policy priced, or remove the limit",
            ),
            Self::CurrencyChanged => Remedy::on_ready(
                Of::Policy,
                "`pricing` is in another currency than it was before it was removed; what was spent is counted in that one",
                "write the old currency, or make a new policy",
            ),
            Self::TooManyAccounts => Remedy::on_ready(
                Of::Account,
                "`maxAccountsPerNamespace`; accounts that were removed or moved away in this period count",
                "ask for a higher ceiling; deleting accounts frees no place in this period",
            ),
            Self::DuplicateExternalId => {
                Remedy::on_ready(Of::Account, "an older account of the policy has it", "choose another")
            }
            Self::RequiredByPolicy => Remedy::on_ready(
                Of::Account,
                "the policy requires `prepaid`, `spendLimitMinor` or `allowedSenders` of each account, and this one does not \
                 mention it: nothing is sent",
                "have it written by somebody with `grant` on the policy",
            ),
            Self::SelfServiceUnbounded => Remedy::new(
                Shown::Warning,
                Of::Policy,
                "accounts of the policy are prepaid, have a spend limit or say whom they send as, and whoever may attach \
                 another can do without",
                "`perAccount.prepaid`, `perAccount.spendLimit`, `perAccount.allowedSenders`: `Required`, or `Optional` where \
                 only the platform team attaches accounts",
            ),
            Self::SweepStopped => Remedy::new(
                Shown::Warning,
                Of::Policy,
                "accounts or keys in the ledger have no resource any more, more than 5 % of a namespace or in too many \
                 namespaces at once; they go on working, because that may be a mistake",
                "apply the resources again, or revoke them with the command in the message; `charts/franking/RUNBOOK.md`",
            ),
            Self::LedgerAhead => Remedy::new(
                Shown::Warning,
                Of::Policy,
                "a clock ran ahead and was put right: the ledger's time is ahead of the clock, and periods stand until that \
                 has caught up; rates and expiries go by the clock",
                "correct the clocks; `charts/franking/RUNBOOK.md`",
            ),
            Self::NoSenderDomains => Remedy::on_ready(
                Of::Policy,
                "`senders.domains` lists nothing, so the relays refuse every message of its accounts",
                "list the domains that its accounts send from",
            ),
            Self::SendersNotPermitted => Remedy::on_ready(
                Of::AccountAndKey,
                "none of its `allowedSenders` is in a domain of the policy's `senders.domains` or, of a key, permitted by \
                 the account's `allowedSenders`: the relays refuse every message",
                "name senders that they permit; the policy's domains are the platform team's to change",
            ),
            Self::SecretNotFound | Self::SecretNotLabelled | Self::SecretInvalid => Remedy::on_ready(
                Of::PolicyAndKey,
                "of a policy, the upstream's credentials or the client certificate for it; of a key, the Secret that \
                 `secret.existing` names: missing, without the label `franking.io/use: \"true\"`, or incomplete, such as a \
                 password of fewer than 16 characters",
                "make it right in the operator's namespace, or in the key's",
            ),
            Self::SecretConflict => Remedy::on_ready(
                Of::Key,
                "a Secret of that name is somebody else's, or has a key of ours already, which is never overwritten. (One \
                 that merely lost its `ownerReferences`, and has the labels and the password of this very key, is taken back \
                 as it is)",
                "rename `secret.name`; `secret.adopt: true` shares a Secret that has none of our keys",
            ),
            Self::SecretImmutable => Remedy::new(
                Shown::Event,
                Of::Key,
                "a Secret that the key shared (`secret.adopt`) was made immutable, so it keeps what the key had added; the note \
                 names it",
                "make that Secret anew; the password in it is the key's, and ends with it",
            ),
            Self::RotationWaiting => {
                Remedy::on_ready(Of::Key, "the last rotation's overlap still runs", "wait, or `rotation.force: true`")
            }
            Self::CredentialReplaced => Remedy::new(
                Shown::Event,
                Of::Key,
                "a new password was issued, because the Secret was edited or deleted or a rotation was due; the old one works \
                 until the overlap ends",
                "restart what read the old one; edit the key's `secret`, not the Secret",
            ),
            Self::SenderDenied => Remedy::new(
                Shown::Event,
                Of::Key,
                "the relay refused messages for their sender; the note counts them and names the list that lacks it",
                "let the program send as an address that is permitted, or have the list extended",
            ),
            Self::CreditsExhausted => Remedy::new(
                Shown::Event,
                Of::All,
                "credits are used up; the column `SENDING` says until when",
                "wait for the next period, or have the limit raised",
            ),
            Self::CreditsAvailable => {
                Remedy::new(Shown::Event, Of::All, "credits that were used up are there again", "nothing")
            }
            Self::ThresholdReached => Remedy::new(
                Shown::Event,
                Of::All,
                "a limit is used up to one of the policy's `alerts.thresholdsPercent`",
                "have the limit raised before it is used up",
            ),
            Self::Suspended | Self::ParentSuspended | Self::Revoked | Self::Expired => Remedy::on_ready(
                Of::All,
                "a spec says so: its own, or that of the account or policy that the message names; an Event says since when",
                "undo it there",
            ),
            Self::LedgerUnavailable | Self::ApplyFailed => Remedy::on_ready(
                Of::All,
                "the ledger or the API server did not answer, or the API server refused a write (a quota, an admission \
                 policy, an immutable Secret: the message has its words and names the object), also where all was well \
                 before: an Event tells of it, and of its end. An object that had converged shows a refusal at once, and a \
                 fault that may pass by itself from the third failure in a row on. It is tried again within the time that the message \
                 names",
                "raise the quota; look at the operator's log. An edit of the object is a try at once",
            ),
            Self::LedgerReplaced => Remedy::on_ready(
                Of::All,
                "the ledger is lost, older than it was, or another installation's; nothing is sent",
                "the message says what was found and how it is accepted; `charts/franking/RUNBOOK.md`",
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
                "relays have given up on the upstream and only try it now and then; mail waits with 451, nobody is charged, \
                 and `Ready` stays true: the plan is as it should be. The message says since when, why, and how many relays see it",
                "correct its credentials, quota or address; the condition clears with the next message that passes",
            ),
            Self::InUse => Remedy::on_ready(
                Of::Policy,
                "deletion waits for accounts of the policy",
                "delete the accounts it names; as a last resort the platform team annotates `franking.io/force-delete: \
                 \"true\"` (it takes the verb `force-delete` on CreditPolicies, and does nothing while the ledger is held: \
                 accept it)",
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
