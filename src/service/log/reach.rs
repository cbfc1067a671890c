//! How far one page looks for messages that its reader wants: as far as it takes, until pages do not come in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::pages::PAGE_TIMEOUT;

/// A page looks through as many global positions as this however often pages fail.
const POSITIONS_MIN: i64 = 10_000;
/// A page that was there within this time may be followed by one that looks twice as far.
const QUICK: Duration = PAGE_TIMEOUT.checked_div(8).unwrap();

/// How many global positions a page looks through at most. All readers share it: what makes pages slow is mostly the same
/// for all of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reach {
    positions: Arc<AtomicI64>,
    positions_min: i64,
}

/// The span of one page.
#[derive(Debug)]
pub struct Look<'a> {
    reach: &'a Reach,
    pub after: i64,
    pub up_to: i64,
    is_bounded: bool,
    began: Instant,
}

impl Default for Reach {
    fn default() -> Self {
        Self::at_least(POSITIONS_MIN)
    }
}

impl Reach {
    pub fn at_least(positions_min: i64) -> Self {
        Self { positions: Arc::new(i64::MAX.into()), positions_min }
    }

    /// How far a page looks after a global position, with a settled position that it would go to.
    pub fn look(&self, after: i64, settled: i64) -> Look<'_> {
        let farthest = after.saturating_add(self.positions.load(Ordering::Relaxed));
        let up_to = settled.min(farthest);
        Look { reach: self, after, up_to, is_bounded: up_to < settled, began: Instant::now() }
    }
}

impl Look<'_> {
    /// Whether there is more after what it looks through.
    pub fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    /// The page was read: where that was quick, the next ones look farther.
    pub fn worked(self) {
        if self.is_bounded && self.began.elapsed() < QUICK {
            let looked = self.up_to - self.after;
            self.reach.positions.fetch_max(looked.saturating_mul(2), Ordering::Relaxed);
        }
    }

    /// The page was not had: the next ones look half as far.
    pub fn failed(self) {
        let half = (self.up_to.saturating_sub(self.after) / 2).max(self.reach.positions_min);
        self.reach.positions.fetch_min(half, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_look_half_as_far_after_each_that_fails_and_farther_again_after_those_that_are_quick() {
        let reach = Reach::default();
        assert_eq!(reach.look(100, i64::MAX - 1).up_to, i64::MAX - 1);
        // Those that fail at the same time do not add up.
        let (one, other) = (reach.look(0, 80_000), reach.look(0, 80_000));
        one.failed();
        other.failed();
        let up_to = |after| reach.look(after, 80_000).up_to;
        assert_eq!((up_to(0), up_to(1_000), up_to(70_000)), (40_000, 41_000, 80_000));
        for _ in 0..5 {
            reach.look(0, 80_000).failed();
        }
        assert_eq!(up_to(0), POSITIONS_MIN);
        // One that has seen all there is says nothing of how far it could have gone.
        reach.look(79_999, 80_000).worked();
        assert_eq!(up_to(0), POSITIONS_MIN);
        for _ in 0..3 {
            assert!(reach.look(0, 80_000).is_bounded());
            reach.look(0, 80_000).worked();
        }
        assert!(!reach.look(0, 80_000).is_bounded());
    }
}
