//! Credits: the meters that a message must pass, and the one decision that both engines use.
//!
//! A credit is the right to have one recipient accepted. A message must pass all meters of its key, its account and its
//! policy; it is charged to all of them or to none. Each holder has exactly one period lot at any instant, even without
//! a limit. A limit that begins within its period starts with what was used in it before. Besides period lots there are
//! those of other sources: money for life, grants, top-ups.

mod decide;
mod limit;
mod lot;
mod meter;
mod prepaid;
mod rate;
mod refused;
mod reservation;

pub use decide::{BatchRows, Charge, Holding, PERIOD_PARTS, RateState, Stock, decide, take_rate};
pub use limit::{CREDITS_MAX, GRANT_ID_MAX, GRANTS_MAX, Grant, Limit, Overage, Prepaid, TopUp, WhenExhausted};
pub use lot::{Lot, LotId, Part, Source, Topped};
pub use meter::Meter;
pub use prepaid::{Added, in_order_of_use, next_top_up, top_up};
pub use rate::{Arrivals, Rate, RateScope};
pub use refused::{REFUSED_PER_HOUR, Refused};
pub use reservation::{Blocked, Chain, Outcome, Reservation, Verdict};
