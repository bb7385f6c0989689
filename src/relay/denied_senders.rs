//! Counts messages that are refused for their sender, and reports the counts to the ledger once a second. The operator
//! passes them on to the key's owner.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::telling::Telling;
use crate::domain::denied_sender::{DENIED_MAX, DeniedSenders};
use crate::domain::id::KeyId;
use crate::domain::sender::{MailDomain, SenderFault};
use crate::ledger::Ledger;

type Counts = HashMap<(KeyId, SenderFault), (u32, Option<MailDomain>)>;

/// The counts that are not reported yet.
#[derive(Default)]
pub struct DeniedCounts(Mutex<Counts>);

impl DeniedCounts {
    /// Counts messages. Keys and reasons beyond what one report holds wait for their next message.
    pub fn add(&self, key: KeyId, fault: SenderFault, messages: u32, domain: Option<MailDomain>) {
        let mut counts = self.counts();
        if counts.len() >= DENIED_MAX && !counts.contains_key(&(key, fault)) {
            return;
        }
        let (count, last) = counts.entry((key, fault)).or_default();
        *count = count.saturating_add(messages);
        *last = domain;
    }

    fn take(&self) -> Vec<DeniedSenders> {
        let counts = std::mem::take(&mut *self.counts());
        let row = |((key, fault), (messages, domain))| DeniedSenders { key, fault, messages, domain };
        counts.into_iter().map(row).collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock()
    }
}

/// Reports until `stop`, and then the rest. An Event comes once an hour, so its first may wait for a second.
pub async fn tell(counts: Arc<DeniedCounts>, ledger: Ledger, stop: CancellationToken) {
    let mut telling = Telling::of("refused senders", stop);
    while telling.next_turn().await {
        let denied = counts.take();
        if denied.is_empty() {
            continue;
        }
        let session = ledger.session().await;
        let told = ledger.store().count_denied_senders(&session, &denied).await;
        telling.note(&told);
        if told.is_err() {
            // If only the ledger's reply was lost they count twice, which costs nothing.
            for DeniedSenders { key, fault, messages, domain } in denied {
                counts.add(key, fault, messages, domain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn messages_are_counted_by_key_and_reason_as_far_as_there_is_room() {
        let counts = DeniedCounts::default();
        let key = |n| KeyId(Uuid::from_u128(n));
        let evil = MailDomain::parse("evil.example").ok();
        for n in 0..DENIED_MAX + 5 {
            counts.add(key(n as u128), SenderFault::Unreadable, 1, None);
        }
        counts.add(key(0), SenderFault::Unreadable, 2, evil.clone());
        counts.add(key(0), SenderFault::FromCount, 1, None);
        let taken = counts.take();
        assert_eq!(taken.len(), DENIED_MAX);
        let first = DeniedSenders { key: key(0), fault: SenderFault::Unreadable, messages: 3, domain: evil };
        assert!(taken.contains(&first));
        assert!(counts.take().is_empty());
    }
}
