//! A tail without a reader: a simulation does with it what the reader would.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::cache::Cache;
use super::{Tail, TailSettings};
use crate::service::hints::Signals;
use crate::service::log::model::Script;
use crate::service::log::pages::PageReader;
use crate::service::replicas::Replicas;
use crate::store::{Database, DatabaseSettings};
use crate::telemetry::Observer;

impl Tail {
    /// One whose database is not there.
    pub fn without_reader(cache_bytes_max: usize) -> Self {
        let settings = DatabaseSettings {
            url: "postgres://nobody@127.0.0.1:1/none".into(),
            connections_max: 4,
            pooler_url: None,
            connect_timeout: Duration::from_secs(1),
            silence_timeout: Duration::from_secs(1),
        };
        let settings_of_tail = TailSettings {
            cache_bytes_max,
            history_cache_bytes_max: cache_bytes_max,
            poll_interval: Duration::from_secs(1),
            held_back_warning: Duration::from_secs(1),
            catch_up_reads_max: 3,
        };
        let database = Database::open(settings).unwrap();
        Self::new(database, Replicas::none(), Signals::default(), settings_of_tail, Observer::new()).0
    }

    /// One whose pages come from a script.
    pub fn scripted(cache_bytes_max: usize, script: Script) -> Self {
        let mut tail = Self::without_reader(cache_bytes_max);
        let inner = Arc::get_mut(&mut tail.inner).unwrap();
        inner.pages = PageReader::scripted(inner.database.clone(), inner.settings.catch_up_reads_max, script);
        tail.script_generation();
        tail
    }

    pub fn scripted_cache(&self) -> MutexGuard<'_, Cache> {
        self.cache()
    }

    /// There is another log from now on, settled up to a position.
    pub fn begin_another_log(&self, settled: i64, number: i64) {
        self.begin_at(settled, settled, number, false);
        self.script_generation();
    }
}
