//! Failures in a row, of which only the first is logged.

/// Knows whether the last try failed.
#[derive(Debug, Default)]
pub struct FailureStreak(bool);

impl FailureStreak {
    /// Takes over the result of a try. Returns its error if it is the first failure since a success.
    pub fn first<'a, T, E>(&mut self, result: &'a Result<T, E>) -> Option<&'a E> {
        let goes_on = std::mem::replace(&mut self.0, result.is_err());
        result.as_ref().err().filter(|_| !goes_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_of_each_streak_is_reported() {
        let mut failures = FailureStreak::default();
        let tries: [Result<(), u8>; 7] = [Ok(()), Err(1), Err(2), Ok(()), Ok(()), Err(3), Err(4)];
        let reported: Vec<u8> = tries.iter().filter_map(|result| failures.first(result).copied()).collect();
        assert_eq!(reported, [1, 3]);
    }
}
