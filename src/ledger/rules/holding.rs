//! The state of a holder that a batch is judged by.

use jiff::Timestamp;

use super::sources::{Planned, added, find};
use crate::domain::credit::{Holding, Lot, RateState, Source, Stock, in_order_of_use, next_top_up};
use crate::domain::directory::HolderTerms;

/// A holder as a batch is judged by it, with its lots of other sources as they are at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    pub holding: Holding,
    pub lots: Vec<Lot>,
    /// The lot among them that received a top-up: it is to be written before any message is refused.
    pub topped_up: Option<Planned>,
}

/// Puts a holder together: `period` is its running lot, `lots` those of other sources that are not taken back, and
/// `arrival` its theoretical arrival. A holder that has none of these ([`HolderTerms::has_more`], [`HolderTerms::rate`]) needs no
/// rows.
pub fn open(
    terms: &HolderTerms<'_>,
    period: &Lot,
    lots: Vec<Lot>,
    arrival: Option<Timestamp>,
    now: Timestamp,
) -> Opened {
    let mut lots = lots;
    let mut topped_up = None;
    let recurring = terms.prepaid.and_then(|prepaid| prepaid.recurring.as_ref());
    let mut stock = terms.prepaid.map(|_| Stock::default());
    if let (Some(rule), Some(stock), Some(lot)) =
        (recurring, &mut stock, lots.iter_mut().find(|lot| lot.source == Source::TopUp))
    {
        let note = added(rule, terms, lot, now);
        topped_up = note.map(|note| Planned { lot: lot.clone(), notes: vec![note] });
        stock.next_top_up = lot.topped.and_then(|topped| next_top_up(rule, topped));
    }
    in_order_of_use(&mut lots);
    if let Some(stock) = &mut stock {
        let usable = lots.iter().filter(|lot| match lot.source {
            Source::Grant(_) | Source::TopUp => lot.holds_at(now) && lot.granted != Some(0),
            Source::Period | Source::Spend => false,
        });
        stock.lots = usable.map(|lot| lot.id).collect();
    }
    let counts = terms.priced || terms.spend_limit.is_some();
    let spend = find(&lots, &Source::Spend).filter(|_| counts).map(|lot| lot.id);
    let rate_state = terms.rate.map(|rate| RateState { rate, arrival, moved: false });
    let holding = Holding { overage: terms.overage, spend, prepaid: stock, rate_state, ..Holding::plain(period.id) };
    Opened { holding, lots, topped_up }
}
