//! `secret.template`: text with fields such as `{{ .username }}`.
//!
//! A small language on purpose: only known fields, no functions, no conditions. The check of the spec parses it, so
//! that rendering cannot fail while a Secret is being written.

use std::fmt::Write as _;

/// Maximum fields in one template. Each may stand for a whole certificate chain of some 10 kB, and a Secret holds 1
/// MiB: without this bound a spec of 128 kB could ask for 80 MB.
const FIELDS_MAX: usize = 32;

/// A field that a template may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Host,
    Port,
    Username,
    Password,
    Uri,
    Certificates,
    AccountId,
    /// Empty for a key that may not use the plain listener, as the port is.
    PlainHost,
    PlainPort,
}

impl Field {
    pub const ALL: [Self; 9] = [
        Self::Host,
        Self::Port,
        Self::Username,
        Self::Password,
        Self::Uri,
        Self::Certificates,
        Self::AccountId,
        Self::PlainHost,
        Self::PlainPort,
    ];

    /// Returns the name in a template, without the dot.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Port => "port",
            Self::Username => "username",
            Self::Password => "password",
            Self::Uri => "uri",
            Self::Certificates => "certificates",
            Self::AccountId => "accountId",
            Self::PlainHost => "plainHost",
            Self::PlainPort => "plainPort",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.as_str() == name)
    }
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut fields = 0;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (inside, after) =
                after.split_once("}}").ok_or_else(|| "a {{ has no }}; close it, as in {{ .username }}".to_owned())?;
            let name = inside.trim();
            let field = name
                .strip_prefix('.')
                .and_then(Field::parse)
                .ok_or_else(|| format!("{{{{ {name} }}}} is not a field; use one of {}", known_fields()))?;
            pieces.push(Piece::Field(field));
            fields += 1;
            if fields > FIELDS_MAX {
                return Err(format!("a template names at most {FIELDS_MAX} fields; split it into several keys"));
            }
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Returns the text with each field replaced by its `value`.
    pub fn render<'a>(&self, value: impl Fn(Field) -> &'a str) -> String {
        self.0.iter().fold(String::new(), |mut text, piece| {
            text.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Field(field) => value(*field),
            });
            text
        })
    }
}

fn known_fields() -> String {
    Field::ALL.iter().enumerate().fold(String::new(), |mut list, (index, field)| {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(list, "{comma}{{{{ .{} }}}}", field.as_str());
        list
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_fields_are_replaced_and_the_rest_is_kept() {
        let template = Template::parse("{{.username}}:{{ .password }}@{{ .host }}\n} { }} x").expect("a template");
        assert_eq!(template.render(Field::as_str), "username:password@host\n} { }} x");
        assert_eq!(Template::parse("").expect("empty").render(Field::as_str), "");
    }

    #[test]
    fn what_is_not_a_known_field_is_refused_with_the_list() {
        for bad in ["{{ .token }}", "{{ username }}", "{{ .username | b64enc }}", "{{ }}", "{{{ .host }}}"] {
            let error = Template::parse(bad).expect_err(bad);
            assert!(error.contains("{{ .accountId }}"), "{error}");
        }
        assert!(Template::parse("a {{ .host").expect_err("open").contains("close it"));
        assert!(Template::parse(&"{{.host}}".repeat(FIELDS_MAX)).is_ok());
        assert!(Template::parse(&"{{.host}}".repeat(FIELDS_MAX + 1)).expect_err("too many").contains("split"));
    }
}
