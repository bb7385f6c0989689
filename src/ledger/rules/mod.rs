//! The rulebook: which lots a holder has, what changes them, and what a message is answered. Pure, and the same for
//! every engine.
//!
//! An engine reads rows under its locks, calls a rule here with them, and writes what comes out. It decides nothing
//! itself, so two engines cannot disagree about credits. What it must never do: read a row, a clock or a setting.
//!
//! | file | rule |
//! | --- | --- |
//! | reserve | the order in which a message is judged: known, standing, copy, rate, charge |
//! | pending | whether messages under way could give back what a message lacks |
//! | dedup | what a message is answered that its client sends again |
//! | lots | the lots of one holder: made, changed by an edit, left behind by a removal |
//! | sources | the lots beside the period's: spend limit, grants, top-ups |
//! | holding | what a batch is judged by |
//! | balance | what a status shows |
//! | settle | which outcome of a message holds, and where it gives back |
//! | history | what a limit counts that begins within its period |
//! | time | by which time what is judged |
//! | first_login | which logins are news for the audit trail, and which networks of a key are kept |
//! | floors | what is known to be used, put into an accepted ledger |

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
