//! The capabilities that the upstreams announced, and those that all have in common: no more may be promised to a
//! client whose upstream is not known yet.
//!
//! The common capabilities are needed for every connection, so they are a value that is read without a lock, and
//! computed anew only when an upstream announces something else, or is no longer one of ours.

use std::collections::HashMap;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use super::connection::Capabilities;
use super::message::Target;
use crate::domain::directory::UpstreamEntry;
use crate::domain::id::PolicyId;

/// Message size that every server takes (RFC 5321 §4.5.3.1.7). An upstream that announces less limits its own policy's
/// messages, and not what is promised to the clients of all policies.
const SIZE_MIN: usize = 64 * 1024;

/// The capabilities that all upstreams have, as far as they were connected to. One not yet connected to limits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    /// The smallest limit that one of them announced.
    pub size: Option<usize>,
}

impl Common {
    const EVERYTHING: Self = Self { eight_bit_mime: true, smtputf8: true, size: None };

    fn and(self, seen: Capabilities) -> Self {
        let size = seen.size.filter(|limit| *limit > 0).map(|limit| limit.max(SIZE_MIN));
        Self {
            eight_bit_mime: self.eight_bit_mime && seen.eight_bit_mime,
            smtputf8: self.smtputf8 && seen.smtputf8,
            size: self.size.into_iter().chain(size).min(),
        }
    }
}

/// The announced capabilities, one entry for each policy whose upstream was ever connected to.
pub(super) struct SeenCapabilities {
    known: Mutex<HashMap<PolicyId, (UpstreamEntry, Capabilities)>>,
    common: ArcSwap<Common>,
}

impl Default for SeenCapabilities {
    fn default() -> Self {
        Self { known: Mutex::default(), common: ArcSwap::from_pointee(Common::EVERYTHING) }
    }
}

impl SeenCapabilities {
    /// Records the capabilities that an upstream announced. Called for every new connection, so known ones cost only a
    /// comparison.
    pub fn announced(&self, target: &Target, capabilities: Capabilities) {
        let mut known = self.known();
        let same = |(entry, seen): &(UpstreamEntry, Capabilities)| *entry == target.entry && *seen == capabilities;
        if !known.get(&target.policy).is_some_and(same) {
            known.insert(target.policy, (target.entry.clone(), capabilities));
            self.agree(&known);
        }
    }

    /// Forgets the upstreams that are not `ours` any more.
    pub fn retain(&self, ours: impl Fn(PolicyId, &UpstreamEntry) -> bool) {
        let mut known = self.known();
        let before = known.len();
        known.retain(|policy, (entry, _)| ours(*policy, entry));
        if known.len() != before {
            self.agree(&known);
        }
    }

    pub fn common(&self) -> Common {
        **self.common.load()
    }

    fn agree(&self, known: &HashMap<PolicyId, (UpstreamEntry, Capabilities)>) {
        let common = known.values().fold(Common::EVERYTHING, |common, (_, seen)| common.and(*seen));
        self.common.store(std::sync::Arc::new(common));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PolicyId, (UpstreamEntry, Capabilities)>> {
        self.known.lock()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::directory::UpstreamTls;

    const ALL: Capabilities = Capabilities { pipelining: true, eight_bit_mime: true, smtputf8: true, size: None };

    fn target(policy: u128, port: u16) -> Target {
        let host = "smtp.example.com".to_owned();
        let entry = UpstreamEntry { host, port, tls: UpstreamTls::Implicit, secret: None, max_recipients: 100 };
        Target { policy: PolicyId(Uuid::from_u128(policy)), entry, secret: None }
    }

    #[test]
    fn only_what_all_have_is_common_and_an_upstream_that_was_not_asked_limits_nothing() {
        let seen = SeenCapabilities::default();
        assert_eq!(seen.common(), Common::EVERYTHING);
        seen.announced(&target(1, 465), Capabilities { size: Some(2_000_000), ..ALL });
        assert_eq!(seen.common(), Common { size: Some(2_000_000), ..Common::EVERYTHING });
        seen.announced(&target(2, 465), Capabilities { smtputf8: false, size: Some(1_000_000), ..ALL });
        let both = Common { smtputf8: false, size: Some(1_000_000), eight_bit_mime: true };
        assert_eq!(seen.common(), both);
        seen.announced(&target(3, 465), Capabilities { size: Some(0), ..ALL });
        assert_eq!(seen.common(), both, "an upstream that names no limit, or 0, has none");
        seen.announced(&target(3, 465), Capabilities { size: Some(10), eight_bit_mime: false, ..ALL });
        assert_eq!(seen.common().size, Some(SIZE_MIN), "less than every server must take limits its own policy alone");
        seen.announced(&target(3, 465), ALL);
        assert_eq!(seen.common(), both, "the latest word of an upstream counts");
    }

    #[test]
    fn an_upstream_that_is_not_ours_any_more_limits_nothing() {
        let seen = SeenCapabilities::default();
        seen.announced(&target(1, 465), Capabilities { smtputf8: false, ..ALL });
        seen.announced(&target(2, 465), Capabilities { eight_bit_mime: false, ..ALL });
        seen.retain(|_, entry| entry.port == 465);
        assert_eq!(seen.common(), Common { smtputf8: false, eight_bit_mime: false, size: None });
        seen.retain(|policy, _| policy == target(2, 0).policy);
        assert_eq!(seen.common(), Common { eight_bit_mime: false, ..Common::EVERYTHING });
        assert_eq!(seen.known().get(&target(1, 0).policy), None);
        seen.announced(&target(2, 587), ALL);
        assert_eq!(seen.common(), Common::EVERYTHING, "another host or port is another upstream");
    }
}
