//! Checks whether messages under way could give back what a message lacks: then it must not be refused for good.

use jiff::Timestamp;

use super::reserve::{Decision, Step, charge_of};
use super::settle::carries;
use crate::domain::credit::{BatchRows, Chain, LotId, PERIOD_PARTS, Part, Reservation, Verdict, WhenExhausted};
use crate::domain::id::{Holder, IdMap, IdSet};

/// A message that is charged and may still be given back: it has no outcome, or an unknown one while its own
/// transaction is under way.
#[derive(Clone, Debug)]
pub struct Open {
    pub chain: Chain,
    pub parts: Vec<Part>,
    pub at: Timestamp,
}

/// Returns the holders whose open messages have to be known: their policy refuses for good, and one of their messages
/// lacks credits. An account's messages under another policy still count against its own limits.
pub fn lacking(steps: &[Step], decisions: &[Decision]) -> IdSet<Holder> {
    let lacking = steps.iter().zip(decisions).filter_map(|(step, decision)| match (step, &decision.verdict) {
        (Step::Open(sender), Verdict::Short { .. }) => Some(sender),
        _ => None,
    });
    let for_good = lacking.filter(|sender| match sender.policy.when_exhausted {
        WhenExhausted::Reject => true,
        WhenExhausted::Defer => false,
    });
    for_good.flat_map(|sender| sender.chain().holders()).collect()
}

/// Marks each message that lacks credits as pending if `open` messages could give them back. `rows` are as the batch
/// left them, and its charges are among `open`.
pub fn judge(batch: &[Reservation], steps: &[Step], decisions: &mut [Decision], rows: &BatchRows, open: &[Open]) {
    let returned = returned(rows, open);
    for (index, (asked, step)) in batch.iter().zip(steps).enumerate() {
        match step {
            Step::Open(sender) => {
                if let Verdict::Short { pending, .. } = &mut decisions[index].verdict {
                    *pending = rows.would_pass(&charge_of(asked, sender), &returned);
                }
            }
            Step::Repeats(earlier) => decisions[index].verdict = decisions[*earlier].verdict.clone(),
            Step::Answered(_) => {}
        }
    }
}

/// Returns what each lot would get back.
fn returned(rows: &BatchRows, open: &[Open]) -> IdMap<LotId, i64> {
    let mut returned: IdMap<LotId, i64> = IdMap::default();
    for Open { chain, parts, at } in open {
        let holders = chain.holders();
        for (index, Part(id, amount)) in parts.iter().enumerate() {
            *returned.entry(*id).or_default() += amount;
            let holding = holders.get(index).filter(|_| index < PERIOD_PARTS).and_then(|h| rows.holdings.get(h));
            let running = holding.and_then(|holding| rows.lots.get(&holding.period));
            if let Some(running) = running.filter(|running| carries(running, *id, *at)) {
                *returned.entry(running.id).or_default() += amount;
            }
        }
    }
    returned
}
