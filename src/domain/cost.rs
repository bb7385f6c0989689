//! The cost of a billing period, and each payer's part of it.
//!
//! A policy's base price is split by share of the credits that were used; the price of each credit, as it was when the
//! credit was charged, comes on top. The parts are whole minor units (cents) and add up to the total exactly: what
//! rounding leaves over goes to the lines that it took most from (the largest remainder).
//!
//! If no credits were used, there is no share to split by, so the parent pays the base price. It bought the plan, and
//! an account that sent nothing must not get a bill.

use std::collections::BTreeMap;

use super::id::AccountId;
use super::money;

/// Micro-units, in which money is counted until the bill rounds it. The highest base price times all credits that a
/// column can hold stays under 2^123.
const MICRO: i128 = money::MICRO as i128;

/// The payer of a line. The order decides ties, so it is part of the bill: accounts by id, the parent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payer {
    Account(AccountId),
    /// The parent, for mail with its own keys and for a base price that no account shares.
    Parent,
}

/// The use of a payer in the period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Credits charged and not given back.
    pub credits: i64,
    /// Cost of these credits by the prices at their reservations, in micro-units.
    pub priced_micro: i128,
}

/// A line of the bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub payer: Payer,
    pub credits: i64,
    pub amount_minor: i64,
}

/// The lines, by payer, and their totals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    pub credits: i64,
    pub total_minor: i64,
    pub lines: Vec<Line>,
}

impl Bill {
    /// Returns the amount of a payer; 0 without a line.
    pub fn amount(&self, payer: Payer) -> i64 {
        self.lines.binary_search_by_key(&payer, |line| line.payer).map_or(0, |found| self.lines[found].amount_minor)
    }
}

/// An exact part: whole micro-units, and a rest in fractions of the period's credits.
struct Part {
    payer: Payer,
    credits: i64,
    micro: i128,
    rest: i128,
}

/// Splits the base price and adds the price of the credits used. Negative figures count as 0. The total is rounded to
/// the nearest minor unit, a half upwards.
pub fn allocate(base_price_minor: i64, used: impl IntoIterator<Item = (Payer, Used)>) -> Bill {
    let base = i128::from(base_price_minor.clamp(0, money::MINOR_MAX)) * MICRO;
    let used = merged(used);
    let credits: i128 = used.values().map(|used| i128::from(used.credits)).sum();
    let mut parts: Vec<Part> = used
        .into_iter()
        .map(|(payer, used)| {
            let (share, rest) = match credits {
                0 if payer == Payer::Parent => (base, 0),
                0 => (0, 0),
                _ => (base * i128::from(used.credits) / credits, base * i128::from(used.credits) % credits),
            };
            Part { payer, credits: used.credits, micro: share + used.priced_micro, rest }
        })
        .collect();
    if credits == 0 && base > 0 && parts.last().is_none_or(|part| part.payer != Payer::Parent) {
        parts.push(Part { payer: Payer::Parent, credits: 0, micro: base, rest: 0 });
    }
    // The rests of the base price add up to whole micro-units, so this is exact.
    let exact: i128 = parts.iter().map(|part| part.micro).sum::<i128>()
        + parts.iter().map(|part| part.rest).sum::<i128>() / credits.max(1);
    round(&parts, (exact + MICRO / 2) / MICRO, credits)
}

/// Returns one entry for each payer, with 0 for negative figures.
fn merged(used: impl IntoIterator<Item = (Payer, Used)>) -> BTreeMap<Payer, Used> {
    let mut merged: BTreeMap<Payer, Used> = BTreeMap::new();
    for (payer, used) in used {
        let sum = merged.entry(payer).or_default();
        sum.credits = sum.credits.saturating_add(used.credits);
        sum.priced_micro = sum.priced_micro.saturating_add(used.priced_micro);
    }
    for used in merged.values_mut() {
        used.credits = used.credits.max(0);
        used.priced_micro = used.priced_micro.max(0);
    }
    merged
}

/// Rounds each part down (largest remainder), and gives the minor units that are left over one each to the parts that
/// lost most, among equals to the first. There are never more left than parts that lost something.
fn round(parts: &[Part], total: i128, credits: i128) -> Bill {
    let down: i128 = parts.iter().map(|part| part.micro / MICRO).sum();
    let left = usize::try_from(total - down).unwrap_or(0);
    let mut order: Vec<usize> = (0..parts.len()).collect();
    let lost = |index: &usize| (parts[*index].micro % MICRO, parts[*index].rest);
    // A stable sort keeps equals in the order of payers.
    order.sort_by_key(|index| std::cmp::Reverse(lost(index)));
    let mut lines: Vec<Line> = parts
        .iter()
        .map(|part| Line { payer: part.payer, credits: part.credits, amount_minor: minor(part.micro / MICRO) })
        .collect();
    for index in order.into_iter().take(left) {
        lines[index].amount_minor = lines[index].amount_minor.saturating_add(1);
    }
    Bill { credits: minor(credits), total_minor: minor(total), lines }
}

/// Converts to 64 bits, whose maximum is far above any price times any number of credits that the schema takes.
fn minor(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn account(n: u128) -> Payer {
        Payer::Account(AccountId(Uuid::from_u128(n)))
    }

    fn used(credits: i64, micro_per_credit: i64) -> Used {
        Used { credits, priced_micro: i128::from(credits) * i128::from(micro_per_credit) }
    }

    fn amounts(bill: &Bill) -> Vec<i64> {
        bill.lines.iter().map(|line| line.amount_minor).collect()
    }

    #[test]
    fn parts_add_up_and_the_rest_goes_to_who_lost_most() {
        let cases = [
            // name, base, credits, micro per credit, amounts, total
            ("three equal shares of ten", 10, vec![1, 1, 1], 0, vec![4, 3, 3], 10),
            ("shares by credits", 100, vec![1, 1, 2], 0, vec![25, 25, 50], 100),
            ("the largest remainder gets the cent", 100, vec![10, 17, 73], 0, vec![10, 17, 73], 100),
            ("two of three thirds", 11, vec![1, 1, 1], 0, vec![4, 4, 3], 11),
            ("price per credit alone, a half upwards", 0, vec![1, 0], 500_000, vec![1, 0], 1),
            ("price per credit alone, under a half", 0, vec![1, 0], 499_999, vec![0, 0], 0),
            ("base and price", 1000, vec![250, 750], 1_000_000, vec![500, 1500], 2000),
        ];
        for (what, base, credits, price, expected, total) in cases {
            let lines = credits.iter().enumerate().map(|(n, credits)| (account(n as u128), used(*credits, price)));
            let bill = allocate(base, lines);
            assert_eq!((amounts(&bill), bill.total_minor), (expected, total), "{what}");
        }
    }

    #[test]
    fn nobody_used_anything_so_the_parent_pays_the_base_price() {
        let bill = allocate(4900, [(account(1), Used::default())]);
        assert_eq!((bill.amount(account(1)), bill.amount(Payer::Parent), bill.total_minor), (0, 4900, 4900));
        let bill = allocate(4900, []);
        assert_eq!(bill.lines, [Line { payer: Payer::Parent, credits: 0, amount_minor: 4900 }]);
        assert_eq!(allocate(0, []), Bill::default());
    }

    #[test]
    fn the_parents_own_sending_is_a_line_like_any_other() {
        let bill = allocate(100, [(Payer::Parent, used(1, 0)), (account(1), used(3, 0))]);
        assert_eq!((bill.amount(account(1)), bill.amount(Payer::Parent)), (75, 25));
    }

    #[test]
    fn the_largest_figures_do_not_overflow() {
        let all = (0..1000).map(|n| (account(n), used(1_000_000_000_000, 1_000_000_000)));
        let bill = allocate(1_000_000_000_000, all);
        assert_eq!(bill.total_minor, 1_000_000_000_000 + 1_000_000_000_000_000_000);
        assert_eq!(amounts(&bill).iter().sum::<i64>(), bill.total_minor);
    }

    /// Payers with what they used at one or several prices.
    fn anybody() -> impl Strategy<Value = (i64, Vec<(Payer, Used)>)> {
        let payer = (0_u128..12).prop_map(|n| if n == 0 { Payer::Parent } else { account(n) });
        let some = (0_i64..2_000, 0_i64..3_000_000).prop_map(|(credits, price)| used(credits, price));
        (0_i64..100_000, proptest::collection::vec((payer, some), 0..20))
    }

    proptest! {
        #[test]
        fn parts_are_exact_and_none_is_negative((base, lines) in anybody()) {
            let bill = allocate(base, lines.clone());
            prop_assert_eq!(amounts(&bill).iter().sum::<i64>(), bill.total_minor);
            prop_assert!(bill.lines.iter().all(|line| line.amount_minor >= 0));
            let exact = i128::from(base) * MICRO + lines.iter().map(|(_, used)| used.priced_micro).sum::<i128>();
            prop_assert!((i128::from(bill.total_minor) * MICRO - exact).abs() <= MICRO / 2);
            prop_assert_eq!(bill.credits, lines.iter().map(|(_, used)| used.credits).sum::<i64>());
        }

        #[test]
        fn no_line_is_a_minor_unit_away_from_its_exact_part((base, lines) in anybody()) {
            let merged = merged(lines.clone());
            let credits: i128 = merged.values().map(|used| i128::from(used.credits)).sum();
            prop_assume!(credits > 0);
            for line in &allocate(base, lines).lines {
                let used = merged[&line.payer];
                // Both sides times the credits, so that the share needs no fraction.
                let exact = i128::from(base) * MICRO * i128::from(used.credits) + used.priced_micro * credits;
                let charged = i128::from(line.amount_minor) * MICRO * credits;
                prop_assert!((charged - exact).abs() < MICRO * credits, "{:?}", line);
            }
        }

        #[test]
        fn the_order_of_the_lines_changes_nothing((base, mut lines) in anybody(), turn in 0_usize..20) {
            let bill = allocate(base, lines.clone());
            lines.reverse();
            let middle = turn.min(lines.len());
            lines.rotate_left(middle);
            prop_assert_eq!(allocate(base, lines), bill);
        }

        #[test]
        fn who_used_more_at_one_price_never_pays_less(
            base in 0_i64..100_000, price in 0_i64..3_000_000, credits in proptest::collection::vec(0_i64..50, 1..30)
        ) {
            let lines = credits.iter().enumerate().map(|(n, credits)| (account(n as u128), used(*credits, price)));
            let bill = allocate(base, lines);
            for one in &bill.lines {
                for other in bill.lines.iter().filter(|other| other.credits > one.credits) {
                    prop_assert!(other.amount_minor >= one.amount_minor);
                }
            }
        }
    }
}
