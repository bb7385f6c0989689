//! Messages that were refused because of their sender, from count to report.

use super::world::{Place, World, key_id};
use franking::domain::denied_sender::{DeniedReport, DeniedSenders, TELL_EVERY};
use franking::domain::sender::{MailDomain, SenderFault, Unlisted};
use franking::ledger::store::{Error, Role};
use franking::runtime::clock::Clock as _;

pub async fn refused_senders_are_reported_once_an_hour_for_a_key_and_reason(place: &impl Place) {
    let world = World::with(place, None, None, None).await;
    let store = &world.store;
    let relays = [
        store.open_session(Role::Relay, "denied-a").await.expect("a session"),
        store.open_session(Role::Relay, "denied-b").await.expect("a session"),
    ];
    let domain = |text| Some(MailDomain::parse(text).expect("a domain"));
    let (policy, unreadable) = (SenderFault::Unlisted(Unlisted::Policy), SenderFault::Unreadable);
    let counted = |key, fault, messages, domain| DeniedSenders { key: key_id(key), fault, messages, domain };
    let first = [counted(1, policy, 3, domain("evil.example")), counted(1, unreadable, 1, None)];
    store.count_denied_senders(&relays[0], &first).await.expect("counted");
    let second = [counted(1, policy, 2, domain("other.example")), counted(2, policy, 1, domain("evil.example"))];
    store.count_denied_senders(&relays[1], &second).await.expect("counted");
    let report = async |limit| {
        let mut all = store.report_denied_senders(&world.session, TELL_EVERY, limit).await.expect("a report");
        all.sort_by_key(|report| (report.key.0, report.fault));
        all
    };
    let now = world.clock.now();
    let told = |key, fault, messages, total, domain| DeniedReport {
        key: key_id(key),
        fault,
        messages,
        total,
        domain,
        last_at: now,
    };
    let mut all = report(1).await;
    assert_eq!(all.len(), 1, "as many as are asked for");
    all.extend(report(10).await);
    all.sort_by_key(|report| (report.key.0, report.fault));
    let expected = [
        told(1, policy, 5, 6, domain("other.example")),
        told(1, unreadable, 1, 6, None),
        told(2, policy, 1, 1, domain("evil.example")),
    ];
    assert_eq!(all, expected);
    assert!(report(10).await.is_empty(), "each is told once");

    // More of the same within the hour waits; another reason does not.
    store.count_denied_senders(&relays[0], &[counted(1, policy, 4, domain("evil.example"))]).await.expect("counted");
    store.count_denied_senders(&relays[0], &[counted(2, unreadable, 1, None)]).await.expect("counted");
    let soon = report(10).await;
    assert_eq!(soon, [told(2, unreadable, 1, 2, None)]);
    world.clock.advance(3_600);
    let later = report(10).await;
    assert_eq!(later, [told(1, policy, 4, 10, domain("evil.example"))]);
    assert!(report(10).await.is_empty());

    // A relay that was replaced no longer counts anything.
    store.open_session(Role::Relay, "denied-a").await.expect("a session");
    let fenced = store.count_denied_senders(&relays[0], &first).await;
    assert!(matches!(fenced, Err(Error::Fenced)), "{fenced:?}");
}
