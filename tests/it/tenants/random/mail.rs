//! Mail with one of the passwords that were ever issued.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::client::{Client, Reply};

/// A password that a Secret held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Password {
    pub username: String,
    pub password: String,
    pub certificates: String,
}

/// What is sent, and to how many.
#[derive(Clone, Debug)]
pub struct TenantMessage {
    pub token: String,
    pub from: &'static str,
    pub header_from: &'static str,
    pub recipients: u32,
}

impl TenantMessage {
    fn text(&self) -> String {
        let Self { token, header_from, .. } = self;
        format!(
            "From: {header_from}\r\nTo: reader@example.net\r\nSubject: {token}\r\nMessage-ID: <{token}@example.com>\r\n\
             Date: Mon, 30 Nov 2026 08:00:00 +0000\r\n\r\nGood morning."
        )
    }

    /// The token and the header's sender of a message as it arrived.
    pub fn read(body: &[u8]) -> (String, String) {
        let text = String::from_utf8_lossy(body);
        let field = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found.expect("our messages have it").trim().to_owned()
        };
        (field("Subject:"), field("From:"))
    }
}

/// An address of this machine that nobody used before: a wrong password slows down an address, and the next is another's.
fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, b, c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 1 + b % 250, c, 1 + d % 250).into()
}

/// A session, or the reply that refused the login.
pub async fn log_in(relay: SocketAddr, password: &Password) -> Result<Client, Reply> {
    let mut client = Client::open_from(own_address(), relay).await.encrypt(&password.certificates).await;
    let greeting = client.reply().await;
    if greeting.code != 220 {
        return Err(greeting);
    }
    client.ask("EHLO app.example.com").await;
    let reply = client.login(&password.username, &password.password).await;
    if reply.code == 235 { Ok(client) } else { Err(reply) }
}

/// The reply to the first command that was refused, or to the final dot. `None`: the relay hung up.
pub async fn deliver(client: &mut Client, message: &TenantMessage) -> Option<Reply> {
    let recipients = (0..message.recipients).map(|number| format!("RCPT TO:<r{number}@example.net>"));
    for line in [format!("MAIL FROM:<{}>", message.from)].into_iter().chain(recipients).chain(["DATA".to_owned()]) {
        let reply = client.try_ask(&line).await?;
        if !matches!(reply.code, 250 | 354) {
            client.try_ask("RSET").await;
            return Some(reply);
        }
    }
    client.try_ask(&format!("{}\r\n.", message.text())).await
}
