//! Credits: what a message must pass, and the one decision both engines use.
//!
//! A credit is the right to have one recipient accepted. A message must pass the meters that exist for its key, its
//! account and its policy, all or none. Each holder has exactly one period lot at any instant, also where nothing limits
//! it. A limit that begins within its period begins with what was used in it before. Beside it are the lots of other
//! sources: money for life, grants, top-ups.

mod decide;
mod limit;
mod lot;
mod meter;
mod prepaid;
mod rate;
mod refused;
mod reservation;

pub use decide::{Books, Charge, Holding, PERIOD_PARTS, Stock, Tempo, decide, pace};
pub use limit::{CREDITS_MAX, GRANT_ID_MAX, GRANTS_MAX, Grant, Limit, Overage, Prepaid, TopUp, WhenExhausted};
pub use lot::{Lot, LotId, Part, Source, Topped};
pub use meter::Meter;
pub use prepaid::{Added, in_order_of_use, next_top_up, top_up};
pub use rate::{Arrivals, Pace, Rate};
pub use refused::{REFUSED_PER_HOUR, Refused};
pub use reservation::{Blocked, Chain, Outcome, Reservation, Verdict};
