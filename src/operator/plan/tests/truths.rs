//! What a status says is so: of passes that failed, of a Secret that lost its owner, and along the chain.

use super::*;
use crate::crd::Reason;
use crate::operator::plan::{Interruption, interrupted, was_interrupted};

fn conditions(scene: &mut Scene) -> Vec<Condition> {
    scene.settle();
    scene.plan().status.expect("a status").conditions
}

fn failed(reason: Reason, failures: u32) -> Interruption {
    Interruption {
        reason,
        message: "the words of the API server".to_owned(),
        refused: reason == Reason::ApplyFailed,
        contended: false,
        outstanding: false,
        failures,
    }
}

#[test]
fn a_refusal_is_shown_at_once_and_what_may_pass_by_itself_when_it_lasts() {
    let ready = conditions(&mut Scene::new(json!({})));
    let revoked = conditions(&mut Scene::new(json!({"revoked": true})));
    let ledger = |failures| failed(Reason::LedgerUnavailable, failures);
    let outstanding = |interruption| Interruption { outstanding: true, ..interruption };
    let contended = |interruption| Interruption { contended: true, refused: false, ..interruption };
    let shown = interrupted(&ready, Some(1), now(), &ledger(3));
    let cases = [
        ("refused", &ready, failed(Reason::ApplyFailed, 1), true),
        ("refused, over a revocation whose cause may be gone", &revoked, failed(Reason::ApplyFailed, 1), true),
        ("the ledger, once", &ready, ledger(1), false),
        ("the ledger, again and again", &ready, ledger(3), true),
        ("the ledger, shown already", &shown, ledger(4), true),
        ("a revocation stays one", &revoked, ledger(30), false),
        ("a new spec waits for the ledger", &ready, outstanding(ledger(1)), true),
        ("a new spec of a revoked key", &revoked, outstanding(ledger(1)), true),
        ("another writer, once", &ready, outstanding(contended(failed(Reason::ApplyFailed, 1))), false),
        ("another writer, each time", &ready, contended(failed(Reason::ApplyFailed, 3)), true),
    ];
    for (what, standing, interruption, expected) in cases {
        assert_eq!(interruption.is_shown(standing), expected, "{what}");
    }
}

#[test]
fn a_failed_pass_turns_ready_leaves_what_is_in_the_directory_and_is_told_once_each_way() {
    let ready = conditions(&mut Scene::new(json!({})));
    let interruption = failed(Reason::ApplyFailed, 1);
    let after = interrupted(&ready, Some(1), now(), &interruption);
    assert_eq!(verdict(&after), "ApplyFailed");
    assert!(is_true(&after, ConditionType::Programmed) && is_true(&after, ConditionType::Reconciling));
    assert!(was_interrupted(&after) && !was_interrupted(&ready));
    let unjudged = interrupted(&ready, Some(2), now(), &Interruption { outstanding: true, ..interruption.clone() });
    assert!(!is_true(&unjudged, ConditionType::Programmed), "the new spec is not in the directory");
    assert!(interruption.notice(&ready).is_some_and(|notice| notice.warning && notice.note.contains("the words")));
    assert_eq!(interruption.notice(&after), None);
    assert!(transition(&after, &ready).is_some_and(|notice| !notice.warning && notice.reason == Reason::Ready));
}

/// The Secret without its owner, in this version.
fn disowned(scene: &mut Scene) {
    let secret = scene.seen.secret.as_mut().expect("a secret");
    secret.metadata.owner_references = None;
    secret.metadata.resource_version = Some("7".to_owned());
}

#[test]
fn a_secret_that_lost_its_owner_is_taken_back_with_its_password() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let password = scene.password();
    disowned(&mut scene);
    let plan = scene.settle();
    assert_eq!(letters(&plan), "W");
    assert_eq!(verdict(&plan.status.expect("a status").conditions), "Ready");
    let owners = scene.seen.secret.as_ref().and_then(|secret| secret.metadata.owner_references.clone());
    assert_eq!(owners.expect("an owner")[0].uid, "uid-printer");
    assert_eq!(scene.password(), password);
    assert_eq!(letters(&scene.settle()), "");
}

#[test]
fn a_secret_without_an_owner_is_taken_back_only_with_label_and_content_of_this_very_key() {
    type Fault = fn(&mut Scene);
    let cases: [(&str, Fault); 4] = [
        ("another password", |scene| scene.write("password", "chosen by hand, long enough")),
        ("another key's user name", |scene| scene.write("username", "other-0123456789")),
        ("without our labels", |scene| {
            scene.seen.secret.as_mut().expect("a secret").metadata.labels = None;
        }),
        ("a controller of another kind", |scene| {
            let owner =
                json!([{"apiVersion": "v1", "kind": "Deployment", "name": "x", "uid": "x", "controller": true}]);
            let owners = serde_json::from_value(owner).expect("owners");
            scene.seen.secret.as_mut().expect("a secret").metadata.owner_references = owners;
        }),
    ];
    for (what, fault) in cases {
        let mut scene = Scene::new(json!({}));
        scene.settle();
        disowned(&mut scene);
        fault(&mut scene);
        let plan = scene.plan();
        assert_eq!(letters(&plan), "", "{what}");
        assert_eq!(verdict(&plan.status.expect("a status").conditions), "SecretConflict!", "{what}");
    }
}
