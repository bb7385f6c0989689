//! Postfix as a satellite system: a server's own mail program hands everything to the relay, with a key's login.

use super::{MESSAGE, Way};
use crate::relay::scene::{ACCOUNT, FROM, PASSWORD, SOON, Scene, TO, monthly, username};
use crate::support::franking::free_port;
use crate::support::postfix::Postfix;

/// One whose mail goes through the relay.
async fn satellite(scene: &Scene, way: Way, password: &str) -> Postfix {
    let (listener, wrapped) = match way {
        Way::StartTls => ("submission", "no"),
        Way::Implicit => ("implicit", "yes"),
    };
    let relay = format!("[localhost]:{}", scene.address(listener).port());
    let settings = format!(
        "relayhost = {relay}\n\
         smtp_sasl_auth_enable = yes\n\
         smtp_sasl_password_maps = texthash:$config_directory/passwords\n\
         smtp_sasl_security_options = noanonymous\n\
         smtp_tls_security_level = secure\n\
         smtp_tls_wrappermode = {wrapped}\n\
         smtp_tls_CAfile = $config_directory/relay.pem\n\
         queue_run_delay = 1s\n\
         minimal_backoff_time = 1s\n\
         maximal_backoff_time = 2s\n"
    );
    let login = format!("{relay} {}:{password}\n", username(1));
    let files = [("passwords", login.as_str()), ("relay.pem", &scene.ca_pem)];
    Postfix::start(free_port(), "satellite.example", &settings, &files).await
}

/// Hands a message to the satellite as the machine's programs do: it is queued whatever becomes of it.
async fn hand_over(satellite: &Postfix, from: &str) {
    let stuffed = MESSAGE.replace("\r\n.", "\r\n..");
    let message = stuffed.strip_suffix("\r\n").expect("a line end");
    satellite.client().await.deliver(from, &[TO], message).await.is("250 2.0.0 Ok: queued as");
}

#[tokio::test]
async fn a_satellite_hands_over_what_it_was_given() {
    for way in [Way::StartTls, Way::Implicit] {
        let scene = Scene::new().await;
        let satellite = satellite(&scene, way, PASSWORD).await;
        hand_over(&satellite, FROM).await;
        satellite.until_logged(&["status=sent", "relayed, id "]).await;
        let received = scene.sink.wait_for(1, SOON).await.pop().expect("a message");
        assert_eq!((received.from.as_str(), &received.to[..]), (FROM, &[TO.to_owned()][..]));
        let added = received.body.strip_suffix(MESSAGE.as_bytes());
        let added = added.unwrap_or_else(|| panic!("{way:?}: {}", received.body.escape_ascii()));
        // Ours in front of Postfix's own.
        let fields: Vec<&[u8]> = added.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"\t")).collect();
        let ours =
            fields.len() == 3 && fields[0].starts_with(b"Received: by relay.example.com (Franking) with ESMTPSA");
        assert!(ours && fields[1].starts_with(b"Received: from program.example"), "{}", added.escape_ascii());
        scene.until_usage([1, 1, 0, 0, 0]).await;
    }
}

#[tokio::test]
async fn a_satellite_bounces_a_forged_sender_and_waits_where_credits_are_gone() {
    let mut cap = None;
    let scene = Scene::with(
        |_| {},
        |rows| {
            rows.account.cap = monthly(Some(1));
            cap = Some(rows.account.clone());
        },
    )
    .await;
    let satellite = satellite(&scene, Way::StartTls, PASSWORD).await;
    hand_over(&satellite, "alerts@evil.example").await;
    satellite.until_logged(&["status=bounced", "550 5.7.1"]).await;
    hand_over(&satellite, FROM).await;
    scene.sink.wait_for(1, SOON).await;
    hand_over(&satellite, FROM).await;
    satellite.until_logged(&["status=deferred", "452 4.7.1 credits: the account's cap of 1 has 0 left"]).await;
    // What waits in its queue goes out by itself once there are credits again.
    let mut account = cap.expect("the account's row");
    assert_eq!(account.id, ACCOUNT);
    account.cap = monthly(Some(2));
    scene.put(&[franking::domain::directory::Entry::Account(account)]).await;
    scene.sink.wait_for(2, SOON).await;
    scene.until_usage([2, 2, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_satellite_with_a_wrong_password_keeps_its_mail() {
    let scene = Scene::new().await;
    let satellite = satellite(&scene, Way::Implicit, "wrong").await;
    hand_over(&satellite, FROM).await;
    satellite.until_logged(&["status=deferred", "535 5.7.8"]).await;
    assert_eq!(scene.sink.count(), 0);
}
