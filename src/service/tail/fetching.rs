//! Reads the text of new messages for the tail: no more than arrives in a moment, the small messages first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::Fetched;
use crate::store::settled::NewRow;
use crate::store::{Session, StoreError};

/// The bounds of one read in bytes, between which it has as many as the connection carries in [`READ_TIME`].
const BYTES_MIN: usize = 16 << 10;
const BYTES_FIRST: usize = 1 << 20;
const BYTES_MAX: usize = 16 << 20;
/// The longest that a read should take: all followers wait for it, whatever they follow.
const READ_TIME: Duration = Duration::from_millis(200);
/// How many bytes a message takes beside its texts.
const OVERHEAD: usize = 200;

/// How many bytes a read may have.
#[derive(Debug)]
pub struct FetchBudget {
    bytes: usize,
    bytes_max: usize,
}

impl FetchBudget {
    /// `cache_bytes_max`: what is read beyond it would be forgotten at once.
    pub fn new(cache_bytes_max: usize) -> Self {
        let bytes_max = cache_bytes_max.clamp(BYTES_MIN, BYTES_MAX);
        Self { bytes: BYTES_FIRST.min(bytes_max), bytes_max }
    }

    /// Takes in how long a read took, so that the next one has more bytes, or fewer.
    fn took(&mut self, bytes: usize, time: Duration) {
        if time > READ_TIME {
            self.bytes /= 2;
        } else if bytes > self.bytes / 2 && time < READ_TIME / 4 {
            self.bytes *= 2;
        }
        self.bytes = self.bytes.clamp(BYTES_MIN, self.bytes_max);
    }

    fn failed(&mut self) {
        self.bytes = (self.bytes / 4).max(BYTES_MIN);
    }

    /// Reads these messages as far as they fit. The others are left to their followers: a single large message, or many at
    /// once, would keep all other followers waiting.
    ///
    /// If the read fails, all of them are left to their followers, and the next read is smaller: the same one would fail
    /// again.
    pub async fn fetch(&mut self, session: &Session, wanted: Vec<NewRow>) -> (Fetched, Result<(), StoreError>) {
        let positions = self.choose(&wanted);
        let mut messages = Vec::new();
        let mut outcome = Ok(());
        if !positions.is_empty() {
            let began = Instant::now();
            match session.messages_at(&positions, self.bytes).await {
                Ok(read) => {
                    self.took(read.iter().map(|message| message.json().len()).sum(), began.elapsed());
                    messages = read.into_iter().map(Arc::new).collect();
                    messages.sort_unstable_by_key(|message| message.global_position);
                }
                Err(error) => {
                    self.failed();
                    outcome = Err(error);
                }
            }
        }
        let is_read = |at: &i64| messages.binary_search_by_key(at, |message| message.global_position).is_ok();
        let left_out = wanted.into_iter().filter(|row| !is_read(&row.global_position));
        let left_out = left_out.map(|row| (row.global_position, row.stream_name)).collect();
        (Fetched { messages, left_out }, outcome)
    }

    /// The positions of the messages that fit by their sizes in the table, the smallest first.
    fn choose(&self, wanted: &[NewRow]) -> Vec<i64> {
        let mut by_size: Vec<&NewRow> = wanted.iter().collect();
        by_size.sort_by_key(|row| row.stored_bytes);
        let mut bytes = 0;
        let fits = |row: &&NewRow| {
            bytes += row.stored_bytes + OVERHEAD;
            bytes <= self.bytes
        };
        by_size.into_iter().take_while(fits).map(|row| row.global_position).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(global_position: i64, stored_bytes: usize) -> NewRow {
        NewRow { global_position, id: Uuid::nil(), stream_name: "a-1".into(), stored_bytes }
    }

    #[test]
    fn the_small_ones_go_first_and_a_large_one_is_left_out() {
        let budget = FetchBudget::new(BYTES_MAX);
        assert_eq!(budget.choose(&[row(1, BYTES_FIRST), row(2, 10), row(3, 5)]), [3, 2]);
        assert!(budget.choose(&[row(1, BYTES_FIRST)]).is_empty());
    }

    #[test]
    fn what_takes_long_or_fails_is_made_smaller_and_what_is_quick_larger() {
        let mut budget = FetchBudget::new(BYTES_MAX);
        budget.took(BYTES_FIRST, Duration::from_millis(10));
        assert_eq!(budget.bytes, 2 * BYTES_FIRST);
        budget.took(10, Duration::from_millis(10));
        assert_eq!(budget.bytes, 2 * BYTES_FIRST, "a small read says nothing");
        budget.took(2 * BYTES_FIRST, Duration::from_secs(1));
        budget.failed();
        assert_eq!(budget.bytes, BYTES_FIRST / 4);
        for _ in 0..20 {
            budget.failed();
        }
        assert_eq!(budget.bytes, BYTES_MIN);
        for _ in 0..20 {
            budget.took(budget.bytes, Duration::from_millis(1));
        }
        assert_eq!(budget.bytes, BYTES_MAX);
        // No larger than what keeps it.
        let mut small = FetchBudget::new(BYTES_FIRST / 2);
        assert_eq!(small.bytes, BYTES_FIRST / 2);
        small.took(small.bytes, Duration::from_millis(1));
        assert_eq!(small.bytes, BYTES_FIRST / 2);
    }
}
