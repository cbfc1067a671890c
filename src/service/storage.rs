//! Measures what the store takes on disk and how fast it grows, when somebody asks, and not again for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::domain::time::Timestamp;
pub use crate::store::storage::{DatabaseSize, TableSize};
use crate::store::{Database, StoreError, in_time};

/// A measurement is good for this long, and so is an attempt that failed.
const MEASURED_FOR: Duration = Duration::from_secs(15);
/// The longest that a measurement may take: a table that is locked as a whole keeps it waiting.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(2);
/// The table of the messages.
const MESSAGES: &str = "message_store.messages";
/// A shorter time says nothing of growth.
const GROWTH_TIME_MIN: Duration = Duration::from_secs(60);
const DAY_SECONDS: f64 = 86_400.0;

/// What the store takes.
#[derive(Debug, Clone)]
pub struct Storage {
    pub measured_at: Timestamp,
    pub database: DatabaseSize,
    pub tables: Vec<TableSize>,
}

/// What is added in a day, on average over the time of the messages that are there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    pub messages_per_day: f64,
    /// Of the table of messages with its indexes.
    pub bytes_per_day: f64,
}

impl Storage {
    /// `None`: there are no messages, or they are all of the last minute.
    pub fn growth(&self) -> Option<Growth> {
        let messages = self.tables.iter().find(|table| table.name == MESSAGES)?;
        let micros = self.measured_at.0.checked_sub(self.database.first_time?.0)?;
        let seconds = micros as f64 / 1e6;
        if seconds < GROWTH_TIME_MIN.as_secs_f64() {
            return None;
        }
        let per_day = |count: i64| count as f64 * DAY_SECONDS / seconds;
        Some(Growth {
            messages_per_day: per_day(messages.rows_estimated),
            bytes_per_day: per_day(messages.bytes + messages.index_bytes),
        })
    }
}

/// Measures for all who ask; while one measurement is under way, the others wait for it.
pub struct StorageMeter {
    database: Database,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    tried_at: Option<Instant>,
    found: Option<Result<Arc<Storage>, StoreError>>,
    /// Of the last measurement that succeeded.
    server_version: Option<String>,
}

impl StorageMeter {
    pub fn new(database: Database) -> Self {
        Self { database, last: Mutex::default() }
    }

    pub async fn measure(&self) -> Result<Arc<Storage>, StoreError> {
        let mut last = self.last.lock().await;
        if last.tried_at.is_some_and(|at| at.elapsed() < MEASURED_FOR)
            && let Some(found) = &last.found
        {
            return found.clone();
        }
        let measuring = async {
            let reports = self.database.reports();
            let (tables, database) = (reports.table_sizes().await?, reports.database_size().await?);
            Ok::<_, StoreError>(Arc::new(Storage { measured_at: Timestamp::now(), database, tables }))
        };
        let found = in_time(MEASURE_TIMEOUT, "measuring the storage", measuring).await;
        if let Ok(storage) = &found {
            last.server_version = Some(storage.database.server_version.clone());
        }
        (last.tried_at, last.found) = (Some(Instant::now()), Some(found.clone()));
        found
    }

    /// The version of the server; of the last one that answered, if none does now.
    pub async fn server_version(&self) -> Option<String> {
        let _ = self.measure().await;
        self.last.lock().await.server_version.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(first_time: Option<i64>, measured_at: i64) -> Storage {
        let server_version = "15.8".to_owned();
        let first_time = first_time.map(|seconds| Timestamp(seconds * 1_000_000));
        Storage {
            measured_at: Timestamp(measured_at * 1_000_000),
            database: DatabaseSize { bytes: 1, server_version, first_time, last_time: None },
            tables: vec![TableSize { name: MESSAGES.into(), bytes: 3_000, index_bytes: 1_000, rows_estimated: 20 }],
        }
    }

    #[test]
    fn growth_is_the_average_since_the_first_message_that_is_there() {
        let half_a_day = Growth { messages_per_day: 40.0, bytes_per_day: 8_000.0 };
        assert_eq!(storage(Some(1_000), 1_000 + 43_200).growth(), Some(half_a_day));
        assert_eq!(storage(None, 43_200).growth(), None);
        assert_eq!(storage(Some(1_000), 1_030).growth(), None);
        // Writers may give any time.
        assert_eq!(storage(Some(1_000_000), 1_000).growth(), None);
        assert_eq!(storage(Some(i64::MIN / 1_000_000), i64::MAX / 1_000_000).growth(), None);
    }
}
