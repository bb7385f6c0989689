//! lettre's own transport, which programs in Rust send with.

use std::error::Error as _;

use lettre::address::Envelope;
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncTransport as _, Tokio1Executor};

use super::{Attempt, Heard, MESSAGE, Way, sends_and_hears_why_not};

async fn lettre(attempt: Attempt) -> Heard {
    let ca = Certificate::from_pem(&std::fs::read(&attempt.ca).expect("a certificate")).expect("PEM");
    let parameters = TlsParameters::builder("localhost".to_owned())
        .certificate_store(CertificateStore::None)
        .add_root_certificate(ca)
        .build()
        .expect("parameters");
    let (tls, mechanism) = match attempt.way {
        Way::StartTls => (Tls::Required(parameters), Mechanism::Plain),
        Way::Implicit => (Tls::Wrapper(parameters), Mechanism::Login),
    };
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("localhost")
        .port(attempt.port)
        .tls(tls)
        .credentials(Credentials::new(attempt.username, attempt.password))
        .authentication(vec![mechanism])
        .build();
    let [from, to] = [attempt.from, attempt.to].map(|address| address.parse().expect("an address"));
    let envelope = Envelope::new(Some(from), vec![to]).expect("an envelope");
    // It ends every body with a line end of its own.
    let message = MESSAGE.strip_suffix("\r\n").expect("a line end");
    match transport.send_raw(&envelope, message.as_bytes()).await {
        Ok(reply) => Heard { accepted: reply.is_positive(), said: format!("{reply:?}") },
        Err(error) => {
            let source = error.source().map(ToString::to_string).unwrap_or_default();
            Heard { accepted: false, said: format!("{error} {source}") }
        }
    }
}

#[tokio::test]
async fn lettre_sends_and_hears_why_not() {
    sends_and_hears_why_not(lettre).await;
}
