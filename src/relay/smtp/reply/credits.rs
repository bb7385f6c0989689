//! The replies to a sender when a meter is used up, or when it sends too fast.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::domain::credit::{Meter, Rate, RateScope, WhenExhausted};

type Parts = (u16, &'static str, Cow<'static, str>);

/// The limit that lacked credits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub meter: Meter,
    pub granted: i64,
    pub remaining: i64,
    pub reopens_at: Option<Timestamp>,
}

/// The rate that was exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateExceeded {
    pub scope: RateScope,
    pub rate: Rate,
    /// Time until one message passes.
    pub seconds: i64,
}

impl RateExceeded {
    /// Converts `retry_at` to whole seconds from `now`, at least one: a client that retries then is not refused again.
    pub fn new(scope: RateScope, rate: Rate, retry_at: Timestamp, now: Timestamp) -> Self {
        let wait = retry_at.duration_since(now);
        let seconds = wait.as_secs() + i64::from(wait.subsec_nanos() > 0);
        Self { scope, rate, seconds: seconds.max(1) }
    }

    pub fn parts(&self) -> Parts {
        let Self { rate: Rate { messages, per_seconds }, seconds, .. } = self;
        let limit = match self.scope {
            RateScope::Key => format!("too fast: the key may send {messages} messages"),
            RateScope::Account => format!("too fast: the account may send {messages} messages"),
            RateScope::Refused => format!("too many were refused: the account may have {messages} messages refused"),
        };
        let text = format!("{limit} in {per_seconds} s; try again in {seconds} s");
        (452, "4.4.5", Cow::Owned(text))
    }
}

impl Shortage {
    pub fn parts(&self, when: WhenExhausted) -> Parts {
        let Self { granted, remaining, .. } = self;
        let which = match self.meter {
            Meter::KeyCap => format!("the key's cap of {granted} has {remaining} left"),
            Meter::AccountSpend => format!("the account's spend limit pays for {remaining} more"),
            Meter::AccountCap => format!("the account's cap of {granted} has {remaining} left"),
            Meter::AccountPrepaid => format!("the account's prepaid balance has {remaining} left"),
            Meter::PolicyPrepaid => format!("the policy's prepaid balance has {remaining} left"),
            Meter::PolicyPool => format!("the policy's pool of {granted} has {remaining} left"),
        };
        let opens = match (self.meter, self.reopens_at.map(whole_seconds)) {
            (Meter::KeyCap | Meter::AccountCap | Meter::PolicyPool, Some(at)) => format!("it opens again at {at}"),
            (Meter::AccountPrepaid | Meter::PolicyPrepaid | Meter::AccountSpend, Some(at)) => {
                format!("the next top-up comes at {at}")
            }
            (Meter::AccountSpend, None) => "an administrator must raise it".to_owned(),
            (Meter::KeyCap | Meter::AccountCap | Meter::PolicyPool, None)
            | (Meter::AccountPrepaid | Meter::PolicyPrepaid, None) => "an administrator must add credits".to_owned(),
        };
        let (code, enhanced) = match when {
            WhenExhausted::Defer => (452, "4.7.1"),
            WhenExhausted::Reject => (550, "5.7.1"),
        };
        (code, enhanced, Cow::Owned(format!("credits: {which}; {opens}")))
    }
}

/// Drops the fraction of a second, which a reader has no use for.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    /// The rows of the page's table, from the replies themselves.
    fn rows() -> Vec<(String, Parts)> {
        let opens = at("2026-12-01T00:00:00.5Z");
        let short = |meter, granted, reopens_at| Shortage { meter, granted, remaining: 2, reopens_at };
        let (ten, of_hour) = (Rate { messages: 10, per_seconds: 60 }, Rate { messages: 1_000, per_seconds: 3_600 });
        let fast = [(RateScope::Key, ten), (RateScope::Account, ten), (RateScope::Refused, of_hour)];
        let fast =
            fast.map(|(scope, rate)| (scope, RateExceeded::new(scope, rate, opens, at("2026-11-30T23:59:55.2Z"))));
        let mut rows: Vec<(String, Parts)> =
            fast.map(|(scope, exceeded)| (scope.as_str().to_owned(), exceeded.parts())).into();
        for meter in Meter::ALL {
            let shortages = match meter {
                Meter::KeyCap | Meter::AccountCap => vec![short(meter, 100, Some(opens))],
                Meter::PolicyPool => vec![short(meter, 50_000, Some(opens))],
                Meter::AccountSpend => vec![short(meter, 100, None)],
                Meter::AccountPrepaid | Meter::PolicyPrepaid => {
                    vec![short(meter, 100, Some(opens)), short(meter, 100, None)]
                }
            };
            rows.extend(
                shortages.into_iter().map(|short| (meter.as_str().to_owned(), short.parts(WhenExhausted::Defer))),
            );
        }
        rows
    }

    #[test]
    fn the_docs_say_for_each_meter_what_the_sender_hears() {
        let page = include_str!("../../../../docs/replies-and-conditions.md");
        for (word, (code, enhanced, text)) in rows() {
            let row = format!("| `{word}` | `{code} {enhanced} {text}` |");
            assert!(page.contains(&row), "docs/replies-and-conditions.md lacks a row that begins {row}");
        }
    }

    #[test]
    fn every_word_fits_a_reply_line() {
        for meter in Meter::ALL {
            for reopens_at in [None, Some(Timestamp::MAX)] {
                let shortage = Shortage { meter, granted: i64::MAX, remaining: i64::MAX, reopens_at };
                assert!(shortage.parts(WhenExhausted::Reject).2.len() < crate::relay::smtp::reply::text::TEXT_MAX);
            }
        }
    }

    #[test]
    fn who_waits_as_long_as_it_is_told_is_not_too_early() {
        let rate = Rate { messages: 1, per_seconds: 60 };
        let now = at("2026-11-20T10:00:00Z");
        for (retry_at, seconds) in [
            ("2026-11-20T10:00:00Z", 1),
            ("2026-11-20T10:00:00.001Z", 1),
            ("2026-11-20T10:00:59.2Z", 60),
            // The relay's clock may be ahead of the ledger's.
            ("2026-11-20T09:59:00Z", 1),
        ] {
            assert_eq!(RateExceeded::new(RateScope::Key, rate, at(retry_at), now).seconds, seconds, "{retry_at}");
        }
    }
}
