//! Command lines: what is understood is safe to say to somebody else, what is not is refused with one reply.

use franking::domain::sender::Address;
use franking::relay::smtp::command::{Command, LINE_MAX, Mail, Recipient, parse};

use super::written;

/// Each line is one command.
pub fn check(bytes: &[u8]) {
    for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.len() <= LINE_MAX) {
        one(line);
    }
}

fn one(line: &[u8]) {
    match parse(line) {
        Ok(Command::Mail(mail)) => {
            if let Some(address) = &mail.from {
                is_harmless(address);
                assert!(mail.utf8 || address.is_ascii(), "{address} without SMTPUTF8");
            }
            let again = said(&mail);
            assert_eq!(parse(again.as_bytes()), Ok(Command::Mail(mail)), "{again}");
        }
        Ok(Command::Rcpt(Recipient::Mailbox(address))) => {
            is_harmless(&address);
            let again = format!("RCPT TO:<{address}>\r\n");
            assert_eq!(parse(again.as_bytes()), Ok(Command::Rcpt(Recipient::Mailbox(address))), "{again}");
        }
        Ok(Command::Auth { initial, .. }) => {
            assert!(initial.is_none_or(
                |response| !response.is_empty() && !response.contains(|c: char| c.is_ascii_control() && c != '\t')
            ));
        }
        Ok(
            Command::Rcpt(Recipient::Postmaster)
            | Command::Helo
            | Command::Ehlo
            | Command::StartTls
            | Command::Data
            | Command::Rset
            | Command::Noop
            | Command::Quit
            | Command::Vrfy
            | Command::Help,
        ) => {}
        Err(reply) => {
            written(&reply);
            assert!((500..560).contains(&reply.code()), "{reply:?} refuses a command");
        }
    }
}

/// The command as the relay itself would say it.
fn said(mail: &Mail) -> String {
    let from = mail.from.as_ref().map(Address::to_string).unwrap_or_default();
    let size = if mail.size == 0 { String::new() } else { format!(" SIZE={}", mail.size) };
    let body = if mail.eight_bit { " BODY=8BITMIME" } else { "" };
    let utf8 = if mail.utf8 { " SMTPUTF8" } else { "" };
    format!("MAIL FROM:<{from}>{size}{body}{utf8}\r\n")
}

/// It stands in the upstream's command line as it is: one path, however a server looks for its end.
fn is_harmless(address: &Address) {
    let text = address.to_string();
    assert!(!text.contains(|c: char| c.is_control() || "<>".contains(c)), "{text:?}");
    if !text.starts_with('"') {
        let harmless = |c: char| !c.is_whitespace() && !"\"\\(),;".contains(c);
        assert!(text.chars().all(harmless) && text.matches('@').count() == 1, "{text:?}");
    }
}
