//! TLS as clients of all ages do it, and sessions that any relay of the fleet resumes.

use std::sync::Arc;

use franking::runtime::relay_config::{CertificateFiles, RelayConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::scene::{FROM, MAIL, PASSWORD, Scene, TO, username};
use crate::support::client::{Agreed, Client, client_config};

/// ring makes no RSA keys, so the tests bring one. Nothing else is signed with it.
const RSA_KEY: &str = include_str!("rsa-key-of-the-tests.pem");

/// Adds a certificate with an RSA key beside the other one.
fn with_rsa(config: &mut RelayConfig) {
    let folder = config.tls.certificates[0].key_file.parent().expect("a folder").to_owned();
    let key = KeyPair::from_pem(RSA_KEY).expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let files = CertificateFiles { certificate_file: folder.join("rsa.crt"), key_file: folder.join("rsa.key") };
    std::fs::write(&files.certificate_file, certificate.pem()).expect("the certificate");
    std::fs::write(&files.key_file, RSA_KEY).expect("the key");
    config.tls.certificates.push(files);
}

async fn connect(scene: &Scene, config: &Arc<ClientConfig>) -> (Client, Agreed) {
    let client = Client::open(scene.address("implicit")).await;
    let (mut client, agreed) = client.encrypt_as(config.clone()).await.expect("the TLS handshake");
    client.reply().await.is("220");
    (client, agreed)
}

#[tokio::test]
async fn a_client_that_knows_only_rsa_is_served_beside_one_that_knows_ecdsa() {
    let scene = Scene::with(with_rsa, |_| {}).await;
    let rsa_pem = std::fs::read_to_string(scene.folder.path().join("rsa.crt")).expect("the certificate");
    let both = format!("{}{rsa_pem}", scene.ca_pem);
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec();
    let is_rsa = |scheme: SignatureScheme| {
        !matches!(
            scheme,
            SignatureScheme::ECDSA_NISTP256_SHA256
                | SignatureScheme::ECDSA_NISTP384_SHA384
                | SignatureScheme::ECDSA_NISTP521_SHA512
                | SignatureScheme::ED25519
        )
    };
    for version in [&TLS12, &TLS13] {
        let old = client_config(&both, &[version], |provider| {
            let known = &mut provider.signature_verification_algorithms;
            known.mapping =
                known.mapping.iter().filter(|(scheme, _)| is_rsa(*scheme)).copied().collect::<Vec<_>>().leak();
        });
        let (mut client, agreed) = connect(&scene, &Arc::new(old)).await;
        assert_eq!(agreed.certificate, der(&rsa_pem));
        assert_eq!(agreed.version, version.version);
        client.ask("EHLO printer").await.is("250");
        client.login(&username(1), PASSWORD).await.is("235");
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        let new = Arc::new(client_config(&both, &[version], |_| {}));
        assert_eq!(connect(&scene, &new).await.1.certificate, der(&scene.ca_pem), "ECDSA is preferred");
    }
    let metrics = scene.metrics();
    for cipher in ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] {
        let line =
            format!("franking_relay_tls_handshakes_total{{cipher=\"{cipher}\",resumed=\"no\",version=\"1.2\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let line =
        "franking_relay_tls_handshakes_total{cipher=\"TLS13_AES_256_GCM_SHA384\",resumed=\"no\",version=\"1.3\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_session_of_one_relay_is_resumed_by_another_of_the_installation_and_by_no_stranger() {
    let (one, two) = (Scene::new().await, Scene::new().await);
    let stranger = Scene::with(|config| config.keys.seal.0 = [9; 32], |_| {}).await;
    // Each has a certificate of its own here, so what is shared is the key of the tickets and nothing else.
    let all = [&one, &two, &stranger].map(|scene| scene.ca_pem.clone()).concat();
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(client_config(&all, &[version], |_| {}));
        let mut resumed = Vec::new();
        for scene in [&one, &two, &two, &one, &stranger] {
            let (mut client, agreed) = connect(scene, &config).await;
            client.ask("EHLO x").await.is("250");
            client.login(&username(1), PASSWORD).await.is("235");
            client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
            client.ask("QUIT").await.is("221");
            resumed.push(agreed.resumed);
        }
        assert_eq!(resumed, [false, true, true, true, false], "{version:?}");
    }
    let metrics = two.metrics();
    for (cipher, version) in [("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "1.2"), ("TLS13_AES_256_GCM_SHA384", "1.3")] {
        let line = format!(
            "franking_relay_tls_handshakes_total{{cipher=\"{cipher}\",resumed=\"yes\",version=\"{version}\"}} 2"
        );
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_ticket_is_good_for_a_day_at_most() {
    let scene = Scene::new().await;
    let config = Arc::new(client_config(&scene.ca_pem, &[], |_| {}));
    let half_day = 12 * 60 * 60;
    assert!(!connect(&scene, &config).await.1.resumed);
    scene.clock.advance(half_day);
    assert!(connect(&scene, &config).await.1.resumed, "the key before is still known");
    scene.clock.advance(2 * half_day);
    assert!(!connect(&scene, &config).await.1.resumed);
}

#[tokio::test]
async fn nothing_older_than_tls_1_2_is_spoken() {
    let scene = Scene::new().await;
    for minor in [1_u8, 2] {
        // A ClientHello of TLS 1.0 or 1.1: ECDHE-RSA-AES128-SHA, no compression, and the extensions signature_algorithms,
        // supported_groups and ec_point_formats.
        let mut hello = vec![3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0, 0, 22]);
        hello.extend([0, 13, 0, 4, 0, 2, 4, 1, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0]);
        let length = u8::try_from(hello.len()).expect("short");
        let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
        record.extend(hello);
        let mut socket = TcpStream::connect(scene.address("implicit")).await.expect("a connection");
        socket.write_all(&record).await.expect("written");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("an answer");
        // One fatal alert: protocol_version (RFC 8446 §6.2).
        assert_eq!((answer[0], &answer[5..]), (0x15, &[2, 70][..]), "{answer:?}");
    }
    let oldest = Arc::new(client_config(&scene.ca_pem, &[&TLS12], |_| {}));
    assert_eq!(connect(&scene, &oldest).await.1.version, ProtocolVersion::TLSv1_2);
}
