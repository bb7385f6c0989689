//! What a status says of the running bill.

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cost<S> {
    /// The policy has no pricing, or is not known.
    #[default]
    None,
    /// It has, and was not reckoned yet since we started.
    Unknown,
    Known(S),
}

impl<S: Clone> Cost<S> {
    /// What is shown. A restart takes no figure away.
    pub fn status(&self, standing: Option<&S>) -> Option<S> {
        match self {
            Self::None => None,
            Self::Unknown => standing.cloned(),
            Self::Known(cost) => Some(cost.clone()),
        }
    }
}

/// Another amount is a figure like others and waits for the budget; that there is one at all, or none any more, is news.
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
