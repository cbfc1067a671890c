//! Log lines of a moment ago: a thousand followers that fail at once, for one reason, make one line.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::observation::Observation;

/// How long the same line is not logged again.
const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// How many lines are remembered.
const REMEMBERED_MAX: usize = 64;

/// The last lines, each with the time at which it was logged.
#[derive(Default)]
pub struct RecentLines(Mutex<VecDeque<(String, Instant)>>);

impl RecentLines {
    /// Whether to log an observation: if many fail together for one reason, one line is enough.
    pub fn is_worth_a_line(&self, observation: &Observation) -> bool {
        match observation {
            Observation::StoreFailed { by, error, is_news: true, .. } => self.is_news(format!("{by}: {error}")),
            Observation::DatabaseFound { by } => self.is_news(format!("{by}: found")),
            // Whatever the address: there may be thousands.
            Observation::ConnectionRefused { setting, .. } => self.is_news((*setting).to_owned()),
            Observation::BodyRefused => self.is_news("bodies".to_owned()),
            _ => true,
        }
    }

    /// Whether a line was not logged lately; notes that it is now.
    pub fn is_news(&self, line: String) -> bool {
        let mut recent = self.0.lock();
        let now = Instant::now();
        recent.retain(|(_, at)| now.duration_since(*at) < REPEAT_AFTER);
        if recent.iter().any(|(known, _)| *known == line) {
            return false;
        }
        if recent.len() == REMEMBERED_MAX {
            recent.pop_front();
        }
        recent.push_back((line, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::observation::{FailureKind, Observation};
    use crate::telemetry::Observer;

    #[test]
    fn the_same_is_said_once_and_what_is_remembered_is_bounded() {
        let recent = RecentLines::default();
        assert!(recent.is_news("a".into()));
        assert!(!recent.is_news("a".into()));
        for number in 0..REMEMBERED_MAX {
            assert!(recent.is_news(number.to_string()));
        }
        assert_eq!(recent.0.lock().len(), REMEMBERED_MAX);
        assert!(recent.is_news("a".into()));
    }

    #[test]
    fn agents_that_fail_together_for_one_reason_are_one_line() {
        let observer = Observer::new();
        let is_said = |by: &str, error: &str| {
            let (by, error) = (by.to_owned(), error.to_owned());
            observer.inner.recent.is_worth_a_line(&Observation::StoreFailed {
                by,
                kind: FailureKind::Outage,
                error,
                is_news: true,
            })
        };
        assert!(is_said("followers", "away"));
        assert!(!is_said("followers", "away"));
        assert!(is_said("followers", "refused"));
        assert!(is_said("tail", "away"));
    }
}
