//! The state that a transaction and its wire share: the point of no return, the limits of waiting, and the input read.
//!
//! lettre owns the wire, so a transaction controls it through this state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::reply_lines::ReplyLines;

/// Maximum number of octets kept while the capabilities are learned: lettre's own limit for one reply.
const TAP_MAX: usize = 100_000;

/// The point of no return of one message. Both sides race for it: the wire before it takes the final dot, the caller
/// when its deadline has passed. The first one decides for ever.
#[derive(Debug, Default)]
pub(super) struct Point(AtomicU8);

const OPEN: u8 = 0;
const WRITTEN: u8 = 1;
const ABANDONED: u8 = 2;

impl Point {
    /// Claims the right to write the final dot. False if the wire must not write it.
    pub fn commit(&self) -> bool {
        self.0.compare_exchange(OPEN, WRITTEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Gives the message up at the deadline. True if the final dot will never be written.
    pub fn abandon(&self) -> bool {
        self.0.compare_exchange(OPEN, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok() || self.is_abandoned()
    }

    pub fn is_written(&self) -> bool {
        self.0.load(Ordering::Acquire) == WRITTEN
    }

    pub fn is_abandoned(&self) -> bool {
        self.0.load(Ordering::Acquire) == ABANDONED
    }
}

/// The reason why a wire cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Timeout,
    Closed,
    /// The upstream answered before the message was complete; its reply can still be read.
    Early,
    Abandoned,
}

/// The progress of a body.
#[derive(Debug)]
pub(super) enum Body {
    None,
    Open(Arc<Point>),
    /// The whole body was handed over: the final dot comes next.
    Dot(Arc<Point>),
}

/// The shared state of one connection.
#[derive(Debug)]
pub(super) struct Line(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    /// Maximum time of one wait, and the time by which the last one must be over.
    pub stall: Duration,
    pub deadline: Instant,
    /// Number of changes of the two.
    pub terms: u64,
    pub final_reply: Duration,
    /// Everything read so far, until the capabilities are learned.
    tap: Option<Vec<u8>>,
    /// Octets read, but not yet handed to lettre.
    pub ahead: Vec<u8>,
    pub body: Body,
    pub ended: Option<Ended>,
    /// Number of octets read for lettre, and the line that the last of them belongs to.
    delivered: u64,
    reply: ReplyLines,
}

impl Line {
    /// Creates the state. `ahead` is what was read before lettre took over: the greeting of a STARTTLS upstream.
    pub fn new(ahead: Vec<u8>, stall: Duration, deadline: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            stall,
            deadline,
            terms: 0,
            final_reply: stall,
            tap: Some(Vec::new()),
            ahead,
            body: Body::None,
            ended: None,
            delivered: 0,
            reply: ReplyLines::default(),
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Returns everything read until now, and stops recording.
    pub fn tapped(&self) -> Vec<u8> {
        self.state().tap.take().unwrap_or_default()
    }

    /// Limits each wait from here on to at most `stall`, and none goes beyond `deadline`.
    pub fn limit(&self, stall: Duration, deadline: Instant) {
        let mut state = self.state();
        (state.stall, state.deadline) = (stall, deadline);
        state.terms += 1;
    }

    /// Announces a body; its dot needs `point`, and the reply after it may take `final_reply`.
    pub fn body(&self, point: Arc<Point>, final_reply: Duration) {
        let mut state = self.state();
        state.body = Body::Open(point);
        state.final_reply = final_reply;
    }

    /// Announces that the body is complete: the next bytes are the final dot.
    pub fn dot_is_next(&self) {
        let mut state = self.state();
        if let Body::Open(point) = &state.body {
            state.body = Body::Dot(point.clone());
        }
    }

    pub fn ended(&self) -> Option<Ended> {
        self.state().ended
    }

    /// Returns the number of octets read for lettre, if the last of them ended a line; `None` in the middle of one.
    pub fn delivered(&self) -> Option<u64> {
        let state = self.state();
        (state.reply.is_at_line_start() && state.ahead.is_empty() && state.ended.is_none()).then_some(state.delivered)
    }

    /// Counts `fresh` as read, and appends the lines that it completes to `lines`, which lettre is given.
    pub fn deliver(&self, fresh: &[u8], lines: &mut Vec<u8>) {
        let mut state = self.state();
        let before = lines.len();
        state.reply.take(fresh, lines);
        state.delivered += fresh.len() as u64;
        let seen = &lines[before..];
        if let Some(tap) = &mut state.tap
            && tap.len() + seen.len() <= TAP_MAX
        {
            tap.extend(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reaches_the_point_first_is_right_for_ever() {
        let point = Point::default();
        assert!(point.commit());
        assert!(!point.abandon());
        assert!(point.is_written());
        let point = Point::default();
        assert!(point.abandon());
        assert!(point.abandon());
        assert!(!point.commit());
        assert!(!point.is_written());
    }
}
