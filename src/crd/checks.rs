//! Checks of fields that several kinds have: suspensions, lists of senders, times.

use jiff::Timestamp;

use super::problem::Problem;
use crate::domain::directory::Suspension;
use crate::domain::sender::SenderPattern;

/// Checks a suspension as written in a spec. Senders are told the reason, so it must fit into one line of a reply.
pub(super) fn suspension(suspended: bool, reason: Option<&str>) -> Result<Option<Suspension>, Problem> {
    if reason.is_some_and(|reason| reason.chars().any(char::is_control)) {
        return Err(Problem::new("spec.suspendReason", "write one line without control characters"));
    }
    Ok(suspended.then(|| Suspension { reason: reason.map(str::to_owned) }))
}

/// Admission's rule for `spec.allowedSenders` of an account or a key. `check()` tests the rest.
pub(super) const SENDERS_RULE: &str = r"self.all(sender, sender.matches('^[^@\\s]*@[^@\\s]+$'))";
pub(super) const SENDERS_FIX: &str = "write senders such as alerts@example.com or *@example.com";

/// Parses `spec.allowedSenders` of an account or a key.
pub(super) fn sender_patterns(texts: &[String]) -> Result<Vec<SenderPattern>, Problem> {
    let pattern = |(index, text): (usize, &String)| {
        SenderPattern::parse(text).map_err(|fix| Problem::new(format!("spec.allowedSenders[{index}]"), fix))
    };
    texts.iter().enumerate().map(pattern).collect()
}

/// Parses a time in RFC 3339.
pub(super) fn check_time(text: &str, field: &str) -> Result<Timestamp, Problem> {
    text.parse().map_err(|_| Problem::new(field, "write a time such as 2027-01-01T00:00:00Z"))
}

/// True for a switch that is off: `skip_serializing_if` leaves it out, as a user would.
pub(super) fn is_false(switch: &bool) -> bool {
    !switch
}
