//! What was said in the log a moment ago: a thousand who fail at once, for one reason, are one line.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same is not said again for so long.
const SAID_FOR: Duration = Duration::from_secs(10);
/// Lines that are remembered; beyond, the oldest may be said again.
const REMEMBERED_MAX: usize = 64;

/// The last lines, with when they were said.
#[derive(Default)]
pub struct Said(Mutex<VecDeque<(String, Instant)>>);

impl Said {
    /// Whether this was not said lately; from now on it was.
    pub fn is_news(&self, line: String) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        said.retain(|(_, at)| now.duration_since(*at) < SAID_FOR);
        if said.iter().any(|(known, _)| *known == line) {
            return false;
        }
        if said.len() == REMEMBERED_MAX {
            said.pop_front();
        }
        said.push_back((line, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_and_what_is_remembered_is_bounded() {
        let said = Said::default();
        assert!(said.is_news("a".into()));
        assert!(!said.is_news("a".into()));
        for number in 0..REMEMBERED_MAX {
            assert!(said.is_news(number.to_string()));
        }
        assert_eq!(said.0.lock().unwrap().len(), REMEMBERED_MAX);
        assert!(said.is_news("a".into()));
    }
}
