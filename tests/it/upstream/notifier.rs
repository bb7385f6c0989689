//! Notices on the real wire.

use franking::domain::id::AccountId;
use franking::domain::webhook::{HookUrl, SigningKey};
use franking::runtime::notifier::{AlertMail, Call, Delivery, Hook, Notifier as _, OnBehalfOf, Via};
use franking::upstream::SmtpNotifier;
use jiff::Timestamp;
use uuid::Uuid;

use super::{Scene, address};
use crate::support::receiver::Receiver;
use crate::support::sink::{Act, At, SinkOptions, SinkTls};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn mail(to: &[&str]) -> AlertMail {
    AlertMail {
        from: address("franking@example.com"),
        to: to.iter().map(|text| address(text)).collect(),
        on_behalf_of: OnBehalfOf::Platform,
        subject: "Credits of acme at 90 %".to_owned(),
        text: "A line.\n.\nAnother.\n".to_owned(),
        id: "notice-1".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn via(scene: &Scene) -> Via {
    Via { policy: scene.target.policy, entry: scene.target.entry.clone(), secret: scene.target.secret.clone() }
}

#[tokio::test]
async fn a_notice_goes_through_the_policys_own_upstream_to_each_recipient() {
    let login = Some(("user".to_owned(), "password".to_owned()));
    let scene = Scene::new(SinkOptions { tls: SinkTls::Implicit, login, ..SinkOptions::default() }).await;
    let post = SmtpNotifier::new("relay.example.com");
    let sent = post.mail(via(&scene), &mail(&["one@example.net", "two@example.net"])).await;
    assert_eq!(sent, Delivery::Sent);
    let received = scene.sink.messages();
    let to: Vec<_> = received.iter().map(|mail| (mail.from.as_str(), mail.to.join(" "))).collect();
    let from = "franking@example.com";
    assert_eq!(to, [(from, "one@example.net".to_owned()), (from, "two@example.net".to_owned())]);
    let text = String::from_utf8_lossy(&received[0].body);
    assert!(text.contains("\r\nMessage-ID: <notice-1@relay.example.com>\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nA line.\r\n.\r\nAnother.\r\n"), "{text}");
}

#[tokio::test]
async fn a_notice_is_sent_when_one_recipient_takes_it_and_failed_when_none_does() {
    let scene = Scene::new(SinkOptions::default()).await;
    let post = SmtpNotifier::new("relay.example.com");
    scene.sink.once(At::Recipient(0), Act::Reply("550 5.1.1 nobody of this name"));
    let sent = post.mail(via(&scene), &mail(&["gone@example.net", "there@example.net"])).await;
    assert_eq!((sent, scene.sink.count()), (Delivery::Sent, 1));
    scene.sink.once(At::Recipient(0), Act::Reply("550 5.1.1 gone@example.net is nobody"));
    let Delivery::Failed(problem) = post.mail(via(&scene), &mail(&["gone@example.net"])).await else {
        panic!("it was taken")
    };
    assert!(problem.contains("550") && !problem.contains("gone"), "{problem}");
}

#[tokio::test]
async fn addresses_of_an_account_that_are_refused_hold_up_no_notice_to_others() {
    let scene = Scene::new(SinkOptions::default()).await;
    let post = SmtpNotifier::new("relay.example.com");
    let of = |account: u128| AlertMail {
        on_behalf_of: OnBehalfOf::Account { account: AccountId(Uuid::from_u128(account)), namespace: "shop".into() },
        ..mail(&["gone@example.net"])
    };
    scene.sink.always(At::Recipient(0), Act::Reply("550 5.1.1 nobody of this name"));
    for _ in 0..20 {
        let refused = post.mail(via(&scene), &of(1)).await;
        assert!(matches!(&refused, Delivery::Failed(problem) if !problem.contains("gone")), "{refused:?}");
    }
    scene.sink.behave();
    assert_eq!(post.mail(via(&scene), &of(2)).await, Delivery::Sent);
    assert_eq!(post.mail(via(&scene), &mail(&["ops@example.net"])).await, Delivery::Sent);
}

#[test]
fn a_notice_in_a_log_names_no_address() {
    assert_eq!(format!("{:?}", mail(&["gone@example.net"])), "AlertMail(notice-1, 1 recipients)");
}

fn hook(receiver: &Receiver, ca_pem: Option<String>) -> Hook {
    let url = HookUrl::parse(&format!("https://localhost:{}/hooks?plan=a", receiver.address.port())).expect("a url");
    Hook { url, key: SigningKey::parse(SECRET).expect("a secret"), ca_pem }
}

fn call() -> Call {
    Call { id: "notice-1".to_owned(), at: Timestamp::UNIX_EPOCH, body: br#"{"threshold":90}"#.to_vec() }
}

#[tokio::test]
async fn a_webhook_arrives_signed_under_its_own_name() {
    let receiver = Receiver::start().await;
    let post = SmtpNotifier::new("relay.example.com");
    let hook = hook(&receiver, Some(receiver.ca_pem.clone()));
    assert_eq!(post.call(&hook, &call()).await, Delivery::Sent);
    let posted = receiver.posted().remove(0);
    assert_eq!((posted.path.as_str(), posted.header("content-type")), ("/hooks?plan=a", "application/json"));
    assert_eq!((posted.header("webhook-id"), posted.header("webhook-timestamp")), ("notice-1", "0"));
    let key = SigningKey::parse(SECRET).expect("a secret");
    assert_eq!(posted.header("webhook-signature"), key.sign("notice-1", Timestamp::UNIX_EPOCH, &posted.body));
    let other = SigningKey::parse(&SECRET.replace('0', "1")).expect("a secret");
    assert_ne!(posted.header("webhook-signature"), other.sign("notice-1", Timestamp::UNIX_EPOCH, &posted.body));
}

#[tokio::test]
async fn what_the_receiver_answers_decides_whether_it_is_tried_again() {
    let receiver = Receiver::start().await;
    let post = SmtpNotifier::new("relay.example.com");
    let hook = hook(&receiver, Some(receiver.ca_pem.clone()));
    for (status, expected) in [(200, Ok(())), (202, Ok(())), (302, Err("302")), (404, Err("404")), (503, Err("503"))] {
        receiver.next(&[status]);
        match (post.call(&hook, &call()).await, expected) {
            (Delivery::Sent, Ok(())) => {}
            (Delivery::Failed(problem), Err(named)) => assert!(problem.contains(named), "{problem}"),
            (delivery, _) => panic!("{status}: {delivery:?}"),
        }
    }
    receiver.next(&[410]);
    assert_eq!(post.call(&hook, &call()).await, Delivery::Unwanted);
    assert_eq!(receiver.posted().len(), 6, "a redirect is not followed");
}

#[tokio::test]
async fn a_receiver_with_another_authoritys_certificate_is_told_nothing() {
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let post = SmtpNotifier::new("relay.example.com");
    for ca_pem in [None, Some(other.ca_pem.clone())] {
        let delivery = post.call(&hook(&receiver, ca_pem), &call()).await;
        assert!(matches!(&delivery, Delivery::Failed(problem) if problem.contains("TLS")), "{delivery:?}");
    }
    assert_eq!(receiver.posted().len(), 0);
}

#[tokio::test]
async fn a_webhook_to_nobody_fails() {
    let receiver = Receiver::start().await;
    let hook = hook(&receiver, None);
    drop(receiver);
    // A port that nobody listens on any more, or a listener that is just going away.
    let delivery = SmtpNotifier::new("relay.example.com").call(&hook, &call()).await;
    assert!(matches!(delivery, Delivery::Failed(_)), "{delivery:?}");
}
