//! The running bill in a status.

/// The known state of the bill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cost<S> {
    /// The policy has no pricing, or is not known.
    #[default]
    None,
    /// The policy has pricing, but the cost has not been computed since we started.
    Unknown,
    Known(S),
}

impl<S: Clone> Cost<S> {
    /// Returns the cost to show. A restart does not remove a figure.
    pub fn status(&self, standing: Option<&S>) -> Option<S> {
        match self {
            Self::None => None,
            Self::Unknown => standing.cloned(),
            Self::Known(cost) => Some(cost.clone()),
        }
    }
}

/// Keeps the cost already shown if both exist. A changed amount waits for the write budget like other figures; a cost
/// that appears or disappears is written at once.
pub fn carry_cost<S: Clone>(next: &mut Option<S>, standing: &Option<S>) {
    if next.is_some() && standing.is_some() {
        next.clone_from(standing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_takes_no_figure_away_and_the_end_of_pricing_does() {
        assert_eq!(Cost::Unknown.status(Some(&5)), Some(5));
        assert_eq!(Cost::<i32>::Unknown.status(None), None);
        assert_eq!(Cost::None.status(Some(&5)), None);
        assert_eq!(Cost::Known(7).status(Some(&5)), Some(7));
    }

    #[test]
    fn an_amount_alone_is_carried() {
        let cases = [(Some(7), Some(5), Some(5)), (Some(7), None, Some(7)), (None, Some(5), None), (None, None, None)];
        for (mut next, standing, expected) in cases {
            carry_cost(&mut next, &standing);
            assert_eq!(next, expected);
        }
    }
}
