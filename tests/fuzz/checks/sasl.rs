//! Logins: an exchange ends after two answers at most, and a login is what the client's octets said.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use franking::relay::smtp::sasl::{Login, Mechanism, Step, start};

/// Answers that a mechanism may ask for: LOGIN wants a name and a password.
const ANSWERS_MAX: usize = 2;

/// The first octet chooses the mechanism and whether the first line comes with AUTH; the lines are the client's.
pub fn check(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let mechanism = if choice & 1 == 0 { Mechanism::Plain } else { Mechanism::Login };
    let mut lines = text.split('\n');
    let initial = if choice & 2 == 0 { None } else { lines.next() };
    let mut step = start(mechanism, initial);
    let mut answers = usize::from(initial.is_some());
    let login = loop {
        match step {
            Step::Prompt(prompt, exchange) => {
                assert!(BASE64.decode(prompt).is_ok(), "{prompt}");
                assert!(answers < ANSWERS_MAX, "{mechanism:?} asks again after {answers} answers");
                let Some(line) = lines.next() else { return };
                step = exchange.respond(line);
                answers += 1;
            }
            Step::Done(login) => break login,
            Step::Cancelled | Step::Malformed => return,
        }
    };
    let Login { username, password } = &login;
    assert!(username.len() <= 1024 && password.expose().len() <= 1024 && !username.contains('\0'));
    let plain = BASE64.encode(format!("\0{username}\0{}", password.expose()));
    assert_eq!(start(Mechanism::Plain, Some(&plain)), Step::Done(login), "said in another way it is another login");
}
