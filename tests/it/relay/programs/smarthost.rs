//! Postfix as the upstream: what most installations have behind the relay, as a durable queue.

use std::cell::Cell;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use franking::domain::directory::{Entry, Sealed, UpstreamSecret, UpstreamTls};
use franking::ledger::seal::Sealer;
use franking::runtime::relay_config::KeyBytes;

use super::MESSAGE;
use crate::relay::scene::{FROM, MAIL, POLICY, SOON, Scene, TO, certificate, policy};
use crate::support::franking::free_port;
use crate::support::postfix::Postfix;

/// A relay whose upstream is a Postfix that takes mail by TLS and hands it to the scene's sink.
async fn behind(tls: UpstreamTls, more: &str) -> (Scene, Postfix) {
    let (scene, postfix, _) = logged_in_to(tls, None, &[("more.cf", more)]).await;
    (scene, postfix)
}

/// What the relay has sealed for its upstream.
fn sealed(login: Option<(&str, &str)>, ca_pem: &str) -> Option<Sealed> {
    let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
    let secret = UpstreamSecret { login, ca_pem: Some(ca_pem.to_owned()), ..UpstreamSecret::default() };
    let plain = serde_json::to_vec(&secret).expect("JSON");
    Some(Sealer::new(&KeyBytes([8; 32])).seal(&format!("upstream/{POLICY}"), &plain, [1; 12]))
}

/// The same with a login; `files` lie beside its settings, of which the first has more. And the authority to trust.
async fn logged_in_to(
    tls: UpstreamTls,
    login: Option<(&str, &str)>,
    files: &[(&str, &str)],
) -> (Scene, Postfix, String) {
    let port = free_port();
    let folder = tempfile::tempdir().expect("a folder");
    let ca_pem = certificate(folder.path());
    let scene = Scene::with(
        |_| {},
        |rows| {
            let upstream = rows.policy.upstream.as_mut().expect("an upstream");
            (upstream.host, upstream.port, upstream.tls) = ("localhost".to_owned(), port, tls);
            upstream.secret = sealed(login, &ca_pem);
        },
    )
    .await;
    let read = |name| std::fs::read_to_string(folder.path().join(name)).expect("a file");
    let wrapped = if tls == UpstreamTls::Implicit { "yes" } else { "no" };
    let more = files[0].1;
    let settings = format!(
        "relayhost = [127.0.0.1]:{}\n\
         smtpd_tls_security_level = encrypt\n\
         smtpd_tls_wrappermode = {wrapped}\n\
         smtpd_tls_chain_files = $config_directory/tls.key, $config_directory/tls.crt\n\
         smtpd_recipient_restrictions = check_recipient_access inline:{{gone@elsewhere.example=REJECT}}, permit_mynetworks\n\
         {more}",
        scene.sink.address().port()
    );
    let (key, crt) = (read("tls.key"), read("tls.crt"));
    let files = [&[("tls.key", key.as_str()), ("tls.crt", crt.as_str())], files].concat();
    let postfix = Postfix::start(port, "smarthost.example", &settings, &files).await;
    (scene, postfix, ca_pem)
}

/// A file of passwords as Cyrus SASL reads them, which Postfix can read.
fn passwords(folder: &Path, user: &str, password: &str) -> PathBuf {
    let file = folder.join("sasldb2");
    let program = ["saslpasswd2", "/usr/sbin/saslpasswd2"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["-p", "-c", "-u", "smarthost.example", "-f"]).arg(&file).arg(user);
        command.stdin(Stdio::piped()).spawn().ok()
    });
    let mut program = program.expect("there is no saslpasswd2 on this machine; install the package sasl2-bin");
    program.stdin.take().expect("its input").write_all(password.as_bytes()).expect("written");
    assert!(program.wait().expect("our own child").success());
    for (path, mode) in [(folder, 0o755), (file.as_path(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    }
    file
}

#[tokio::test]
async fn the_relay_logs_in_to_postfix_and_a_wrong_password_is_nobodys_bounce() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = passwords(folder.path(), "franking", "upstream-password");
    let sasl = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {}\n",
        database.display()
    );
    let more = "smtpd_sasl_auth_enable = yes\n\
         smtpd_sasl_local_domain = smarthost.example\n\
         cyrus_sasl_config_path = $config_directory/sasl\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject\n";
    let files = [("more.cf", more), ("sasl/smtpd.conf", sasl.as_str())];
    let login = Some(("franking", "upstream-password"));
    let (scene, postfix, ca_pem) = logged_in_to(UpstreamTls::StartTls, login, &files).await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    assert_eq!(scene.sink.wait_for(1, SOON).await.len(), 1);
    postfix.until_logged(&["sasl_method=PLAIN", "sasl_username=franking"]).await;

    let mut policy = policy(postfix.address.port());
    let upstream = policy.upstream.as_mut().expect("an upstream");
    (upstream.host, upstream.tls) = ("localhost".to_owned(), UpstreamTls::StartTls);
    upstream.secret = sealed(Some(("franking", "yesterdays-password")), &ca_pem);
    scene.put(&[Entry::Policy(policy)]).await;
    // Some may go before the change is known.
    let sent = Cell::new(1);
    scene
        .until("the wrong password is refused", async |scene| {
            let reply = scene.client().await.deliver(FROM, &[TO], MAIL).await;
            sent.set(sent.get() + i64::from(reply.code == 250));
            reply.text.starts_with("4.3.5")
        })
        .await;
    postfix.until_logged(&["SASL PLAIN authentication failed"]).await;
    scene.until_usage([sent.get(), sent.get(), 1, 0, 0]).await;
}

#[tokio::test]
async fn a_message_goes_through_postfix_byte_for_byte() {
    for tls in [UpstreamTls::StartTls, UpstreamTls::Implicit] {
        let (scene, postfix) = behind(tls, "").await;
        let mut client = scene.client().await;
        let stuffed = MESSAGE.replace("\r\n.", "\r\n..");
        let message = stuffed.strip_suffix("\r\n").expect("a line end");
        // On one connection to the upstream, with several recipients too.
        client.deliver(FROM, &[TO], message).await.is("250 2.0.0 relayed");
        client.deliver(FROM, &[TO, "second@elsewhere.example"], message).await.is("250 2.0.0 relayed");
        let received = scene.sink.wait_for(2, SOON).await;
        for message in &received {
            assert!(message.body.ends_with(MESSAGE.as_bytes()), "{tls:?}: {}", message.body.escape_ascii());
        }
        assert_eq!(received.iter().map(|message| message.to.len()).sum::<usize>(), 3);
        // The first was the test's, to see that it listens.
        let connects = postfix.log().matches(": connect from localhost").count();
        assert_eq!(connects, 2, "{tls:?}: {}", postfix.log());
        scene.until_usage([3, 3, 0, 0, 0]).await;
    }
}

#[tokio::test]
async fn what_postfix_refuses_is_passed_on_and_costs_nothing() {
    let (scene, _postfix) = behind(UpstreamTls::StartTls, "message_size_limit = 20000\n").await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO, "gone@elsewhere.example"], MAIL).await.is("550 5.7.1 gone@elsewhere.example: ");
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(300));
    client.deliver(FROM, &[TO], &large).await.is("552 5.3.4");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    // What is too large for Postfix is refused before anything is charged.
    scene.until_usage([1, 1, 2, 0, 0]).await;
    assert_eq!(scene.sink.wait_for(1, SOON).await.len(), 1);
}

#[tokio::test]
async fn a_postfix_that_hangs_up_on_idle_connections_loses_no_message() {
    let (scene, postfix) = behind(UpstreamTls::Implicit, "smtpd_timeout = 1s\n").await;
    let mut client = scene.client().await;
    for sent in 1..=3_u64 {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        scene.sink.wait_for(sent, SOON).await;
        // The first to hang up was the test, when it had seen that it listens.
        let hung_up = format!("Postfix hangs up #{sent}");
        scene.until(&hung_up, async |_| postfix.log().matches("disconnect from localhost").count() as u64 > sent).await;
    }
    scene.until_usage([3, 3, 0, 0, 0]).await;
}
