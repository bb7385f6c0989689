//! Programs that are given one URI: a key's `uri` and `SMTP_URL`, and the `EMAIL_URL` of Django's.
//!
//! The parsers of Node, Python, Ruby and PHP do not decode what is percent-encoded, and programs log in with what they
//! give back.

use std::path::Path;

use franking::crd::{Field, Template};
use franking::domain::credential::Password;
use franking::operator::plan::secret::uri;

use super::{Attempt, Heard, MESSAGE, Way, arrived, run, scripts, unix_message};
use crate::relay::scene::{SOON, Scene};

/// The URI by which `attempt` is made.
fn uri_of(attempt: &Attempt) -> String {
    uri("smtps", &attempt.username, &Password::given(attempt.password.as_str()), "localhost", attempt.port)
}

/// RFC 3986: what is reserved, and what may not stand in a URI, is encoded; what is unreserved never.
#[test]
fn a_uri_encodes_what_is_reserved_and_nothing_else() {
    let made = |password| uri("smtps", "key-1", &Password::given(password), "relay.example.com", 465);
    assert_eq!(made("Az09-._~"), "smtps://key-1:Az09-._~@relay.example.com:465");
    assert_eq!(
        made(":/?#[]@!$&'()*+,;= %\u{e9}"),
        "smtps://key-1:%3A%2F%3F%23%5B%5D%40%21%24%26%27%28%29%2A%2B%2C%3B%3D%20%25%C3%A9@relay.example.com:465"
    );
}

/// A program logs in with the parts of the URI and sends [`MESSAGE`]; with another password it hears why not.
async fn logs_in_by_uri(program: &str, options: &[&str], script: &str, message: &str, install: &str) {
    let scene = Scene::new().await;
    let send = async |attempt: &Attempt| -> Heard {
        let script = scripts().join(script);
        let [script, ca] = [&script, &attempt.ca].map(|path| path.to_str().expect("a path in UTF-8"));
        let uri = uri_of(attempt);
        let (script_and_options, rest) =
            ([script].into_iter().chain(options.iter().copied()), [uri.as_str(), ca, &attempt.from, &attempt.to]);
        run(program, script_and_options.chain(rest), message, install).await
    };
    let honest = Attempt::new(&scene, Way::Implicit);
    assert!(honest.username.contains('-') && honest.password.contains('-'), "what parsers do not decode");
    let wrong = Attempt { password: "wrong".to_owned(), ..honest.clone() };
    send(&wrong).await.was_told("535", "5.7.8");
    let heard = send(&honest).await;
    assert!(heard.accepted, "{program}; {heard}");
    let received = scene.sink.wait_for(1, SOON).await.pop().expect("a message");
    arrived(&received.body, "ESMTPSA");
}

#[tokio::test]
async fn node_logs_in_with_what_new_url_finds_in_the_uri() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules/nodemailer");
    assert!(library.is_dir(), "there is no nodemailer below target/clients; install it with `make clients`");
    let library = library.to_str().expect("a path in UTF-8");
    logs_in_by_uri("node", &[library], "uri_nodemailer.js", MESSAGE, "install the package nodejs").await;
}

#[tokio::test]
async fn python_logs_in_with_what_urlparse_finds_in_the_uri() {
    logs_in_by_uri("python3", &[], "uri_smtplib.py", MESSAGE, "install the package python3").await;
}

#[tokio::test]
async fn ruby_logs_in_with_what_uri_finds_in_the_uri() {
    logs_in_by_uri("ruby", &[], "uri_net_smtp.rb", &unix_message(), "install the package ruby").await;
}

#[tokio::test]
async fn php_logs_in_with_what_parse_url_finds_in_the_uri() {
    logs_in_by_uri("php", &[], "uri_stream.php", MESSAGE, "install the package php-cli").await;
}

/// The templates of `docs/sending.md`: the reader, the way, and the scheme and query for it.
const EMAIL_URLS: [(&str, Way, &str, &str); 4] = [
    ("django-environ", Way::Implicit, "smtp+ssl", ""),
    ("django-environ", Way::StartTls, "smtp+tls", ""),
    ("dj-email-url", Way::Implicit, "smtp", "/?ssl=True"),
    ("dj-email-url", Way::StartTls, "submit", ""),
];

#[tokio::test]
async fn django_sends_with_the_email_urls_of_the_docs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/python");
    assert!(folder.is_dir(), "there is no Django below target/clients; install it with `make clients`");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sending.md");
    let page = std::fs::read_to_string(page).expect("docs/sending.md");
    let scene = Scene::new().await;
    for (sent, (reader, way, scheme, query)) in (1..).zip(EMAIL_URLS) {
        let attempt = Attempt::new(&scene, way);
        let text = format!("{scheme}://{{{{ .username }}}}:{{{{ .password }}}}@{{{{ .host }}}}:{{{{ .port }}}}{query}");
        assert!(page.contains(&format!("`{text}`")), "docs/sending.md has no `{text}` for {reader}");
        let port = attempt.port.to_string();
        let url = Template::parse(&text).expect("a template").render(|field| match field {
            Field::Host => "localhost",
            Field::Port => &port,
            Field::Username => &attempt.username,
            Field::Password => &attempt.password,
            Field::Uri | Field::Certificates | Field::AccountId | Field::PlainHost | Field::PlainPort => {
                panic!("not in {text}")
            }
        });
        let script = scripts().join("email_url.py");
        let ca = format!("SSL_CERT_FILE={}", attempt.ca.display());
        let path = format!("PYTHONPATH={}", folder.display());
        let script = script.to_str().expect("a path in UTF-8");
        let arguments = [&ca, &path, "python3", script, reader, &url, &attempt.from, &attempt.to];
        let heard = run("env", arguments, "", "install the package python3").await;
        assert!(heard.accepted, "{reader} {way:?}; {heard}");
        let received = scene.sink.wait_for(sent, SOON).await.pop().expect("a message");
        assert!(String::from_utf8_lossy(&received.body).contains("from Django"), "{reader} {way:?}");
    }
}
