//! Checks the content of an upstream's Secrets, raw → checked. Error messages never quote the content.

use k8s_openapi::api::core::v1::Secret;

use crate::domain::directory::{ClientCertificate, UpstreamSecret};

/// Reads the login, and the upstream's own CA if the Secret has one.
pub fn credentials(secret: &Secret, into: &mut UpstreamSecret) -> Result<(), String> {
    let lacks = |key: &str| format!("lacks {key}; write both username and password");
    let login = match (text(secret, "username")?, text(secret, "password")?) {
        (Some(username), Some(password)) => (username, password),
        (None, _) => return Err(lacks("username")),
        (Some(_), None) => return Err(lacks("password")),
    };
    (into.login, into.ca_pem) = (Some(login), text(secret, "ca.crt")?);
    Ok(())
}

/// Reads the certificate that is shown to the upstream. A ca.crt beside it is the authority of this certificate, as
/// cert-manager writes it, and does not apply to the upstream's.
pub fn client_certificate(secret: &Secret, into: &mut UpstreamSecret) -> Result<(), String> {
    let lacks = |key: &str| format!("lacks {key}; write both tls.crt and tls.key");
    let certificate_pem = text(secret, "tls.crt")?.ok_or_else(|| lacks("tls.crt"))?;
    let key_pem = text(secret, "tls.key")?.ok_or_else(|| lacks("tls.key"))?;
    let parsed = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes());
    if !parsed.is_ok_and(|(_, block)| block.parse_x509().is_ok()) {
        return Err("has something under tls.crt that is not a certificate; write PEM".to_owned());
    }
    if !(key_pem.contains("-----BEGIN ") && key_pem.contains("PRIVATE KEY-----")) {
        return Err("has something under tls.key that is not a private key; write PEM".to_owned());
    }
    into.client = Some(ClientCertificate { certificate_pem, key_pem });
    Ok(())
}

/// Returns the text under a key; `None` if it is empty.
fn text(secret: &Secret, key: &str) -> Result<Option<String>, String> {
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
    match String::from_utf8(bytes.0.clone()) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(_) => Err(format!("has something under {key} that is not text; write UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn a_secret_that_lacks_something_is_refused_by_its_key_and_not_quoted() {
        let made = rcgen::generate_simple_self_signed(["us".to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let cases = [
            (secret(&[("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &certificate)]), None),
            (secret(&[("tls.key", &key)]), Some("lacks tls.crt")),
            (secret(&[("tls.crt", &certificate), ("tls.key", "")]), Some("lacks tls.key")),
            (secret(&[("tls.crt", "s3cret"), ("tls.key", &key)]), Some("under tls.crt that is not a certificate")),
            (
                secret(&[("tls.crt", &certificate), ("tls.key", "s3cret")]),
                Some("under tls.key that is not a private key"),
            ),
        ];
        for (secret, refusal) in cases {
            let mut into = UpstreamSecret::default();
            match (client_certificate(&secret, &mut into), refusal) {
                (Ok(()), None) => {
                    assert!(into.client.is_some() && into.ca_pem.is_none(), "its CA is not the upstream's");
                }
                (Err(sentence), Some(refusal)) => {
                    assert!(sentence.contains(refusal) && !sentence.contains("s3cret"), "{sentence}");
                }
                (taken, refusal) => panic!("{taken:?}, not {refusal:?}"),
            }
        }
        let mut into = UpstreamSecret::default();
        assert_eq!(
            credentials(&secret(&[("username", "u")]), &mut into),
            Err("lacks password; write both username and password".into())
        );
        assert_eq!(credentials(&secret(&[("username", "u"), ("password", "p")]), &mut into), Ok(()));
        assert_eq!(into.login, Some(("u".to_owned(), "p".to_owned())));
    }
}
