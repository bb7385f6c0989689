//! The relay's certificates: read from files, checked for changes, and taken over live.
//!
//! ECDSA and RSA work side by side: the client's signature schemes decide, so a printer that knows only RSA is served
//! like every other client. TLS 1.2 and 1.3, with session tickets that every relay of the fleet can open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, ServerConfig, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ProtocolVersion, SignatureAlgorithm, version};

use crate::runtime::relay_config::{CertificateFiles, Tls};

/// Maximum size of a certificate or key file: a chain of ten RSA-4096 certificates has 20 kB.
const FILE_MAX: u64 = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is larger than {FILE_MAX} octets")]
    TooLarge { path: PathBuf },
    #[error("reading the PEM in {path}")]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("using the key in {path} with its certificate")]
    Unusable {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("preparing TLS")]
    Rustls(#[source] rustls::Error),
}

/// The TLS configuration of the listeners. The certificates change inside it.
pub struct Certificates {
    chosen: Arc<Chosen>,
    server: Arc<ServerConfig>,
    /// Content of the files that are in use, to detect changes.
    seen: ArcSwap<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Chosen(ArcSwap<Vec<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Chosen {
    /// Returns the first certificate whose key can sign in a way that the client understands.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.load();
        keys.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some()).cloned()
    }
}

impl Certificates {
    pub fn load(tls: &Tls, tickets: Arc<dyn ProducesTickets>) -> Result<Self, Error> {
        let provider = Arc::new(default_provider());
        let files = read_all(tls)?;
        let chosen = Arc::new(Chosen(ArcSwap::from_pointee(keys(tls, &files, &provider)?)));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(Error::Rustls)?
            .with_no_client_auth()
            .with_cert_resolver(chosen.clone());
        server.ticketer = tickets;
        // One ticket for the next connection, which brings the next one. Sessions that are never resumed are not
        // remembered.
        server.send_tls13_tickets = 1;
        Ok(Self { chosen, server: Arc::new(server), seen: ArcSwap::from_pointee(files) })
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Reads the files again and takes over what changed; true if anything did. On an error the running certificates
    /// stay.
    pub fn reload(&self, tls: &Tls) -> Result<bool, Error> {
        let files = read_all(tls)?;
        if **self.seen.load() == files {
            return Ok(false);
        }
        let keys = keys(tls, &files, self.server.crypto_provider())?;
        self.chosen.0.store(Arc::new(keys));
        self.seen.store(Arc::new(files));
        Ok(true)
    }
}

/// The parameters agreed in a handshake, as labels for a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    pub version: &'static str,
    pub cipher: &'static str,
    pub resumed: &'static str,
}

impl Agreed {
    /// Reads the agreed parameters. `None` before the handshake is finished.
    pub fn of(connection: &ServerConnection) -> Option<Self> {
        let version = match connection.protocol_version()? {
            ProtocolVersion::TLSv1_3 => "1.3",
            ProtocolVersion::TLSv1_2 => "1.2",
            // Only these two are spoken.
            _ => "other",
        };
        let cipher = connection.negotiated_cipher_suite()?.suite().as_str().unwrap_or("other");
        let resumed = match connection.handshake_kind()? {
            HandshakeKind::Resumed => "yes",
            HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => "no",
        };
        Some(Self { version, cipher, resumed })
    }
}

/// Reads all files: certificate, key, certificate, key, …
fn read_all(tls: &Tls) -> Result<Vec<Vec<u8>>, Error> {
    let paths = tls.certificates.iter().flat_map(|files| [&files.certificate_file, &files.key_file]);
    paths.map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |source| Error::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(wrong)?.len() > FILE_MAX {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    std::fs::read(path).map_err(wrong)
}

/// Returns the certificates, ECDSA first: it is cheaper to sign, and a client that cannot verify it says so.
fn keys(tls: &Tls, files: &[Vec<u8>], provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, Error> {
    let pairs = tls.certificates.iter().zip(files.chunks_exact(2));
    let mut keys = pairs
        .map(|(paths, files)| certified(paths, &files[0], &files[1], provider))
        .collect::<Result<Vec<_>, Error>>()?;
    keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
    Ok(keys)
}

fn certified(
    paths: &CertificateFiles,
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Pem { path, source }
    };
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem(&paths.certificate_file))?;
    if chain.is_empty() {
        return Err(Error::Empty { path: paths.certificate_file.clone() });
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem(&paths.key_file))?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|source| Error::Unusable { path: paths.key_file.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::tickets::Tickets;
    use crate::runtime::clock::ManualClock;
    use crate::runtime::relay_config::KeyBytes;
    use rcgen::{CertificateParams, CertifiedKey as Generated, KeyPair, PKCS_ED25519, generate_simple_self_signed};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection, SignatureScheme};

    fn load(tls: &Tls) -> Result<Certificates, Error> {
        let clock = ManualClock::new("2026-11-20T10:00:00Z".parse().expect("a time"));
        Certificates::load(tls, Arc::new(Tickets::new(&KeyBytes([8; 32]), Arc::new(clock))))
    }

    fn write(folder: &Path, name: &str) -> CertificateFiles {
        let Generated { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let files = CertificateFiles { certificate_file: folder.join("tls.crt"), key_file: folder.join("tls.key") };
        std::fs::write(&files.certificate_file, cert.pem()).expect("a file");
        std::fs::write(&files.key_file, signing_key.serialize_pem()).expect("a file");
        files
    }

    fn leaf(certificates: &Certificates, index: usize) -> Vec<u8> {
        certificates.chosen.0.load()[index].cert[0].to_vec()
    }

    #[test]
    fn a_changed_certificate_is_taken_over_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = Tls { certificates: vec![write(folder.path(), "a.example")] };
        let certificates = load(&tls).expect("certificates");
        let first = leaf(&certificates, 0);
        assert!(!certificates.reload(&tls).expect("the same files"));

        write(folder.path(), "b.example");
        assert!(certificates.reload(&tls).expect("a new pair"));
        let second = leaf(&certificates, 0);
        assert_ne!(first, second);

        std::fs::write(&tls.certificates[0].certificate_file, "no certificate").expect("a file");
        let error = certificates.reload(&tls).expect_err("a broken file").to_string();
        assert!(error.contains("tls.crt"), "{error}");
        assert_eq!(leaf(&certificates, 0), second);
    }

    /// Returns the certificate shown to a client that can verify only one kind of signature.
    fn seen_with(certificates: &Certificates, scheme: SignatureScheme) -> Vec<u8> {
        let mut provider = default_provider();
        let known = &mut provider.signature_verification_algorithms;
        known.mapping = known.mapping.iter().filter(|(known, _)| *known == scheme).copied().collect::<Vec<_>>().leak();
        let mut roots = RootCertStore::empty();
        for index in 0..2 {
            roots.add(leaf(certificates, index).into()).expect("a root");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("the TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "a.example".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut server = ServerConnection::new(certificates.server()).expect("a server");
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).expect("memory");
            }
            server.read_tls(&mut &bytes[..]).expect("memory");
            server.process_new_packets().expect("the client's messages");
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).expect("memory");
            }
            client.read_tls(&mut &bytes[..]).expect("memory");
            client.process_new_packets().expect("the server's messages");
        }
        client.peer_certificates().expect("a certificate")[0].to_vec()
    }

    #[test]
    fn a_client_is_served_the_certificate_that_it_can_verify() {
        let folder = tempfile::tempdir().expect("a folder");
        let ecdsa = write(folder.path(), "a.example");
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let params = CertificateParams::new(["a.example".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let paths = ["other.crt", "other.key"].map(|name| folder.path().join(name));
        std::fs::write(&paths[0], certificate.pem()).expect("a file");
        std::fs::write(&paths[1], key.serialize_pem()).expect("a file");
        let [certificate_file, key_file] = paths;
        let tls = Tls { certificates: vec![ecdsa, CertificateFiles { certificate_file, key_file }] };
        let certificates = load(&tls).expect("certificates");
        assert_eq!(seen_with(&certificates, SignatureScheme::ECDSA_NISTP256_SHA256), leaf(&certificates, 0));
        assert_eq!(seen_with(&certificates, SignatureScheme::ED25519), leaf(&certificates, 1));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = Tls { certificates: vec![write(folder.path(), "a.example")] };
        let other = generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        std::fs::write(&tls.certificates[0].key_file, other.signing_key.serialize_pem()).expect("a file");
        assert!(matches!(load(&tls), Err(Error::Unusable { .. })));
    }
}
