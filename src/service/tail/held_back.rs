//! A hole that somebody may still fill: it holds the settled position back, and is looked at again soon.

use std::time::{Duration, Instant};

use super::Tail;
use crate::domain::observation::Observation;
use crate::domain::settling::{Holder, Settling};

/// Between two looks at a hole: the first, and the longest.
const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(100);

/// What keeps the settled position back.
#[derive(Debug, Clone)]
pub struct HeldBack {
    /// The first global position that may still appear.
    pub at: i64,
    pub since: Instant,
    /// The transactions that may still fill it.
    pub holders: Vec<Holder>,
}

/// The hole behind the settled position, if there is one.
pub(super) struct Hole {
    since: Option<Instant>,
    /// Its holders were named in the log.
    warned: bool,
    poll: Duration,
}

impl Default for Hole {
    fn default() -> Self {
        Self { since: None, warned: false, poll: POLL_MIN }
    }
}

impl Hole {
    pub fn is_open(&self) -> bool {
        self.since.is_some()
    }

    /// After this it is looked at again.
    pub fn poll(&self) -> Duration {
        self.poll
    }

    /// It is still open: the next look is later.
    pub fn next_poll(&mut self) -> Duration {
        self.poll = (self.poll * 2).min(POLL_MAX);
        self.poll
    }

    /// The settled position is right before it.
    pub fn holds_back(&mut self, tail: &Tail, settling: &Settling) {
        let since = *self.since.get_or_insert_with(Instant::now);
        let held = since.elapsed();
        let at = settling.settled().saturating_add(1);
        let holders: Vec<Holder> = settling.holders().cloned().collect();
        let pids = holders.iter().filter_map(|holder| holder.pid).collect();
        *tail.inner.held_back.lock() = Some(HeldBack { at, since, holders });
        let warn = !self.warned && held >= tail.inner.settings.held_back_warning;
        self.warned |= warn;
        tail.inner.observer.record(Observation::HeldBack { seconds: held.as_secs_f64(), at, pids, warn });
    }

    /// There is none any more.
    pub fn closed(&mut self, tail: &Tail) {
        let Self { since, warned, .. } = std::mem::take(self);
        if let Some(since) = since {
            *tail.inner.held_back.lock() = None;
            tail.inner.observer.record(Observation::Released { seconds: since.elapsed().as_secs_f64(), warned });
        }
    }
}
