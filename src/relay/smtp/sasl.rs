//! AUTH PLAIN and AUTH LOGIN (RFC 4954, RFC 4616), as an exchange of lines.
//!
//! The prompts of LOGIN are exactly those that devices compare with: another spelling broke copiers, Go and curl.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::domain::credential::Password;

/// A lenient decoder: old firmware forgets the padding or the last bits, and wrong bits only make a wrong password.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// `Username:`
const USERNAME_PROMPT: &str = "VXNlcm5hbWU6";
/// `Password:`
const PASSWORD_PROMPT: &str = "UGFzc3dvcmQ6";
/// Maximum length of a user name or password. Ours are far shorter, adopted ones at most this.
const FIELD_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
}

impl Mechanism {
    pub fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("PLAIN") {
            Some(Self::Plain)
        } else if name.eq_ignore_ascii_case("LOGIN") {
            Some(Self::Login)
        } else {
            None
        }
    }
}

/// The user name and password that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: Password,
}

/// The response that the exchange waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    Plain,
    Username,
    Password { username: String },
}

/// The next step after a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this prompt and hand in the next line.
    Prompt(&'static str, Exchange),
    Done(Login),
    /// The client sent `*`.
    Cancelled,
    Malformed,
}

/// Starts the exchange of an AUTH command.
pub fn start(mechanism: Mechanism, initial: Option<&str>) -> Step {
    match (mechanism, initial) {
        (Mechanism::Plain, None) => Step::Prompt("", Exchange::Plain),
        (Mechanism::Login, None) => Step::Prompt(USERNAME_PROMPT, Exchange::Username),
        (Mechanism::Plain, Some(response)) => Exchange::Plain.respond(response),
        // Konica Minolta, Veeam and Python send the user name at once.
        (Mechanism::Login, Some(response)) => Exchange::Username.respond(response),
    }
}

impl Exchange {
    /// Takes the client's next line, without its end.
    pub fn respond(self, line: &str) -> Step {
        let line = line.trim_matches([' ', '\t']);
        if line == "*" {
            return Step::Cancelled;
        }
        let Some(bytes) = decode(line) else { return Step::Malformed };
        match self {
            Self::Plain => plain(&bytes),
            Self::Username => match field(&bytes) {
                Some(username) => Step::Prompt(PASSWORD_PROMPT, Self::Password { username }),
                None => Step::Malformed,
            },
            Self::Password { username } => match field(&bytes) {
                Some(password) => Step::Done(Login { username, password: Password::given(password) }),
                None => Step::Malformed,
            },
        }
    }
}

fn decode(line: &str) -> Option<Vec<u8>> {
    // RFC 4954 §4: "=" is an empty response.
    if line == "=" {
        return Some(Vec::new());
    }
    LENIENT.decode(line).ok()
}

fn field(bytes: &[u8]) -> Option<String> {
    // Some devices include the NUL that ends a C string.
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.len() > FIELD_MAX || bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes.to_vec()).ok()
}

/// Reads `authorization NUL user NUL password`. Acting for another user is not offered: the first must be empty or the
/// same as the second.
fn plain(bytes: &[u8]) -> Step {
    let mut parts = bytes.split(|&byte| byte == 0);
    let (Some(authorization), Some(username), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Step::Malformed;
    };
    if !authorization.is_empty() && authorization != username {
        return Step::Malformed;
    }
    match (field(username), field(password)) {
        (Some(username), Some(password)) => Step::Done(Login { username, password: Password::given(password) }),
        (Some(_) | None, Some(_) | None) => Step::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    fn done(username: &str, password: &str) -> Step {
        Step::Done(Login { username: username.into(), password: Password::given(password) })
    }

    #[test]
    fn plain_works_with_and_without_an_initial_response() {
        let response = STANDARD.encode("\0user\0secret");
        assert_eq!(start(Mechanism::Plain, Some(&response)), done("user", "secret"));
        assert_eq!(start(Mechanism::Plain, None), Step::Prompt("", Exchange::Plain));
        assert_eq!(Exchange::Plain.respond(&response), done("user", "secret"));
        assert_eq!(Exchange::Plain.respond(&STANDARD.encode("user\0user\0secret")), done("user", "secret"));
        assert_eq!(Exchange::Plain.respond(response.trim_end_matches('=')), done("user", "secret"));
    }

    #[test]
    fn login_prompts_are_what_devices_compare_with() {
        let Step::Prompt(prompt, exchange) = start(Mechanism::Login, None) else { panic!("no prompt") };
        assert_eq!(prompt, "VXNlcm5hbWU6");
        let Step::Prompt(prompt, exchange) = exchange.respond(&STANDARD.encode("user")) else { panic!("no prompt") };
        assert_eq!(prompt, "UGFzc3dvcmQ6");
        assert_eq!(exchange.respond(&STANDARD.encode("secret")), done("user", "secret"));
    }

    #[test]
    fn login_takes_an_inline_user_name() {
        let step = start(Mechanism::Login, Some(&STANDARD.encode("user\0")));
        assert_eq!(step, Step::Prompt("UGFzc3dvcmQ6", Exchange::Password { username: "user".into() }));
    }

    #[test]
    fn a_star_cancels_and_nonsense_is_malformed() {
        assert_eq!(Exchange::Username.respond("*"), Step::Cancelled);
        assert_eq!(start(Mechanism::Plain, Some("*")), Step::Cancelled);
        for nonsense in
            ["!!", "YQ==", &STANDARD.encode("\0a"), &STANDARD.encode("x\0a\0b"), &STANDARD.encode("\0a\0b\0c")]
        {
            assert_eq!(Exchange::Plain.respond(nonsense), Step::Malformed, "{nonsense}");
        }
        assert_eq!(Exchange::Username.respond(&STANDARD.encode([0xff, 0xfe])), Step::Malformed);
    }
}
