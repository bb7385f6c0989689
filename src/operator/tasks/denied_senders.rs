//! Reports to the owners of keys that messages were refused for their sender: an Event on the key, at most one an hour
//! for each reason, and the count in its status.

use std::time::Duration;

use tokio::time::sleep;

use crate::crd::Reason;
use crate::domain::denied_sender::{DENIED_MAX, DeniedReport, TELL_EVERY};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::domain::sender::{MailDomain, SenderFault, Unlisted};
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::EventNote;
use crate::operator::report::Report;
use crate::operator::state::denied_senders::Denied;
use crate::operator::state::guard::Guard;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::watch::references::References;
use crate::operator::watch::work_queue::WorkQueues;
use crate::runtime::clock::Clock;
use crate::runtime::failure_streak::FailureStreak;

/// Interval between queries of the ledger, short enough for a user who looks for the reason.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The task, with what it uses of the operator.
pub struct SenderDenials<'a> {
    pub ledger_guard: &'a Guard,
    pub ledger: &'a LedgerClient,
    pub denied: &'a Denied,
    pub references: &'a References,
    pub report: &'a Report,
    pub queues: &'a WorkQueues,
    pub clock: &'a dyn Clock,
}

impl SenderDenials<'_> {
    /// Runs until the future is dropped.
    pub async fn run(&self) {
        let mut failures = FailureStreak::default();
        loop {
            // Not while the ledger is held or being rebuilt.
            self.ledger_guard.opened().await;
            let reports = self.ledger.report_denied_senders(TELL_EVERY, DENIED_MAX).await;
            if let Some(error) = failures.first(&reports) {
                tracing::warn!(error = error as &dyn std::error::Error, "asking for refused senders");
            }
            for report in reports.unwrap_or_default() {
                self.tell(report).await;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn tell(&self, report: DeniedReport) {
        // Names come from the ledger, which knows them before the first reconcile of a new process does.
        let Ok(Some(Entry::Key(entry))) = self.ledger.entry(Holder::Key(report.key)).await else { return };
        let name = Name::new(entry.namespace.as_str(), entry.name.as_str());
        let Some(key) = self.references.key(&name) else { return };
        let event_note = EventNote { warning: true, reason: Reason::SenderDenied, note: sentence(&report) };
        self.report.publish(key.as_ref(), &event_note, self.clock.now()).await;
        self.denied.remember(report);
        self.queues.wake(&Ref::Key(name));
    }
}

/// Builds the message for the key's owner. It names the domain and no address.
fn sentence(report: &DeniedReport) -> String {
    let DeniedReport { fault, messages, domain, .. } = report;
    let count = if *messages == 1 { "1 message was".to_owned() } else { format!("{messages} messages were") };
    let last = domain.as_ref().map(|domain: &MailDomain| format!(", last of {domain},")).unwrap_or_default();
    match fault {
        SenderFault::Unlisted(Unlisted::Policy) => format!(
            "{count} refused: the sender's domain{last} is not in status.senderDomains of the SubAccount; send as one that \
             is, or have the policy's senders.domains extended"
        ),
        SenderFault::Unlisted(Unlisted::Account) => {
            format!("{count} refused: the sender{last} is not in spec.allowedSenders of the SubAccount")
        }
        SenderFault::Unlisted(Unlisted::Key) => {
            format!("{count} refused: the sender{last} is not in spec.allowedSenders of this key")
        }
        SenderFault::Unreadable => {
            format!("{count} refused: the addresses in From, Sender, Resent-From or Resent-Sender cannot be understood")
        }
        SenderFault::FromCount => format!("{count} refused: a message needs exactly one From header"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::KeyId;

    #[test]
    fn each_reason_has_its_sentence_with_the_count_and_the_domain() {
        let report = |fault, messages| DeniedReport {
            key: KeyId(Uuid::nil()),
            fault,
            messages,
            total: messages,
            domain: MailDomain::parse("bank.example").ok(),
            last_at: Timestamp::UNIX_EPOCH,
        };
        for (fault, words) in [
            (
                SenderFault::Unlisted(Unlisted::Policy),
                "the sender's domain, last of bank.example, is not in status.sender",
            ),
            (SenderFault::Unlisted(Unlisted::Account), "bank.example, is not in spec.allowedSenders of the SubAccount"),
            (SenderFault::Unlisted(Unlisted::Key), "bank.example, is not in spec.allowedSenders of this key"),
            (SenderFault::Unreadable, "cannot be understood"),
            (SenderFault::FromCount, "exactly one From"),
        ] {
            let sentence = sentence(&report(fault, 3));
            assert!(sentence.starts_with("3 messages were refused: ") && sentence.contains(words), "{sentence}");
        }
        assert!(sentence(&report(SenderFault::FromCount, 1)).starts_with("1 message was refused: "));
    }
}
