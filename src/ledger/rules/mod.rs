//! The rulebook: which lots a holder has, what changes them, and what a message is answered. Pure, and the same for
//! every engine.
//!
//! An engine reads rows under its locks, calls a rule here with them, and writes the result. It decides nothing itself,
//! so two engines cannot disagree about credits. A rule must never read a row, a clock or a setting.
//!
//! | file | rule |
//! | --- | --- |
//! | reserve | the order in which a message is judged: known, standing, copy, rate, charge |
//! | pending | whether messages under way could give back what a message lacks |
//! | dedup | the answer to a message that its client sends again, and what the outcome of that copy changes |
//! | lots | the lots of one holder: made, changed by an edit, left behind by a removal |
//! | sources | the lots of other sources than the period: spend limit, grants, top-ups |
//! | holding | the state of a holder that a batch is judged by |
//! | balance | the balance that a status shows |
//! | settle | which outcome of a message holds, and which lots get credits back |
//! | history | the earlier use that counts for a limit that begins within its period, and for the bound on refusals |
//! | time | which clock rates, expiries and periods are judged by, and how early a removed key is forgotten |
//! | first_login | which logins are news for the audit trail, and which networks of a key are kept |
//! | floors | usage known from elsewhere, put into an accepted ledger |

pub mod balance;
pub mod dedup;
pub mod first_login;
pub mod floors;
pub mod history;
pub mod holding;
pub mod lots;
pub mod pending;
pub mod reserve;
pub mod settle;
pub mod sources;
pub mod time;
