//! Counts what is in the store, by category and type and by time, when somebody asks for it: from where the last count
//! ended, for a while. What is not counted by then is counted by later requests.

use std::time::{Duration, Instant};

use super::tail::Tail;
use crate::domain::filter::Filter;
use crate::store::read::Span;
use crate::store::time_window::TimeWindow;
use crate::store::{Database, StoreError};

/// How many messages are counted in one transaction.
const COUNTED_AT_ONCE: i64 = 20_000;
/// How long one request may count. Later requests count the rest.
const COUNTING_TIME_MAX: Duration = Duration::from_millis(250);
/// So many messages a reader by time looks at rather than have them counted.
const UNCOUNTED_MAX: i64 = 10_000;

/// Cheap to clone.
#[derive(Clone)]
pub struct Counting {
    database: Database,
    tail: Tail,
}

impl Counting {
    pub fn new(database: Database, tail: Tail) -> Self {
        Self { database, tail }
    }

    /// Counts new messages, for a while. Answers the settled position, up to which all are counted in the end.
    pub async fn catch_up(&self) -> Result<i64, StoreError> {
        let settled = self.tail.refresh().await;
        let deadline = Instant::now() + COUNTING_TIME_MAX;
        while let Some(counted) = self.database.reports().count_messages(settled, COUNTED_AT_ONCE).await? {
            if counted >= settled || Instant::now() >= deadline {
                break;
            }
        }
        Ok(settled)
    }

    /// Where to look for messages that pass a filter: in a stream, if one is given, at its positions.
    pub async fn spans(&self, filter: &Filter, stream_name: Option<&str>) -> Result<Spans, StoreError> {
        if filter.from_time.is_none() && filter.to_time.is_none() {
            return Ok(Spans(None));
        }
        let window = self.database.messages().time_window(filter, stream_name).await?;
        if self.tail.settled() - window.counted_position <= UNCOUNTED_MAX {
            return Ok(Spans(Some(window)));
        }
        self.catch_up().await?;
        Ok(Spans(Some(self.database.messages().time_window(filter, stream_name).await?)))
    }
}

/// The spans of a log that a reader by time has to read; all of it for other readers.
#[derive(Debug, Clone, Copy)]
pub struct Spans(Option<TimeWindow>);

impl Spans {
    /// What is to be read next from a position on, and whether nothing is to be read after that.
    pub fn next(self, from: i64, backward: bool) -> (Span, bool) {
        let Some(window) = self.0 else {
            let to = if backward { 0 } else { i64::MAX };
            return (Span { from, to, backward }, true);
        };
        let TimeWindow { first, last, uncounted_from, .. } = window;
        match backward {
            false if from <= last => (Span { from: from.max(first), to: last, backward }, false),
            false => (Span { from: from.max(uncounted_from), to: i64::MAX, backward }, true),
            true if from >= uncounted_from => (Span { from, to: uncounted_from, backward }, false),
            true => (Span { from: from.min(last), to: first, backward }, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All positions that are read from one on.
    fn read(spans: Spans, from: i64, backward: bool) -> Vec<i64> {
        let (mut from, mut positions) = (from, Vec::new());
        loop {
            let (span, is_last) = spans.next(from, backward);
            let to = span.to.min(30);
            match backward {
                true => positions.extend((to..=span.from).rev()),
                false => positions.extend(span.from..=to),
            }
            if is_last {
                return positions;
            }
            from = if backward { span.to - 1 } else { span.to + 1 };
        }
    }

    #[test]
    fn what_cannot_have_the_time_is_passed_over_in_both_directions() {
        let window = |first, last| Spans(Some(TimeWindow { first, last, uncounted_from: 28, counted_position: 27 }));
        for (spans, from, forward) in [
            (window(10, 12), 0, vec![10, 11, 12, 28, 29, 30]),
            (window(10, 12), 11, vec![11, 12, 28, 29, 30]),
            (window(10, 12), 13, vec![28, 29, 30]),
            (window(10, 12), 29, vec![29, 30]),
            (window(28, 27), 0, vec![28, 29, 30]),
            (Spans(None), 28, vec![28, 29, 30]),
        ] {
            assert_eq!(read(spans, from, false), forward, "{spans:?} from {from}");
        }
        for (spans, from, backward) in [
            (window(10, 12), 30, vec![30, 29, 28, 12, 11, 10]),
            (window(10, 12), 11, vec![11, 10]),
            (window(10, 12), 9, vec![]),
            (window(28, 27), 29, vec![29, 28]),
            (Spans(None), 2, vec![2, 1, 0]),
        ] {
            assert_eq!(read(spans, from, true), backward, "{spans:?} from {from}");
        }
    }
}
