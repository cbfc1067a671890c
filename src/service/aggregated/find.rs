//! Finding an aggregated stream for a caller: all that it selects may be read, or nothing of it is.

use std::time::Duration;

use super::{AggregatedStream, AggregatedStreams};
use crate::domain::aggregated_stream::Definition;
use crate::domain::scope::{Missing, Rights, Scope};
use crate::domain::selection::Streams;
use crate::store::StoreError;
use crate::store::aggregated_streams::FoundStream;

/// How many aggregated streams are read at once for a list of which some are left out.
const LISTED_AT_ONCE: usize = 200;

/// Why an aggregated stream is not there for a caller.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("aggregated stream {name} not found")]
    NotFound { name: String },
    #[error(transparent)]
    Forbidden(#[from] Missing),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AggregatedStreams {
    /// An aggregated stream by its name, if the caller may read all that it selects.
    pub async fn find(&self, name: &str, rights: &Rights) -> Result<FoundStream, FindError> {
        let not_found = || FindError::NotFound { name: name.to_owned() };
        let is_narrow = *rights != Rights::Everything;
        let found = self.database.aggregated_streams().find(name, is_narrow).await?.ok_or_else(not_found)?;
        if let Some(definition) = &found.definition {
            may_read_streams(name, &selected_by(name, definition)?, rights)?;
        }
        Ok(found)
    }

    /// An aggregated stream with its status.
    pub async fn read(&self, name: &str, rights: &Rights) -> Result<AggregatedStream, FindError> {
        readable(self.get(name).await?, name, rights)
    }

    /// Waits for at most `wait` until everything up to a global position is projected, then answers as [`read`](Self::read).
    pub async fn read_at(
        &self,
        name: &str,
        rights: &Rights,
        min_position: i64,
        wait: Duration,
    ) -> Result<AggregatedStream, FindError> {
        self.check(name, rights).await?;
        readable(self.get_at(name, min_position, wait).await?, name, rights)
    }

    /// Refused unless the caller may read all that an aggregated stream selects.
    pub(super) async fn check(&self, name: &str, rights: &Rights) -> Result<(), FindError> {
        match rights {
            Rights::Everything => Ok(()),
            Rights::Only(_) => self.find(name, rights).await.map(drop),
        }
    }

    /// Aggregated streams that the caller may read, in order of name, after a name; without their partitions.
    pub async fn list(&self, after: &str, limit: usize, rights: &Rights) -> Result<Vec<AggregatedStream>, StoreError> {
        let at_once = if *rights == Rights::Everything { limit } else { limit.max(LISTED_AT_ONCE) };
        let (mut after, mut listed) = (after.to_owned(), Vec::new());
        loop {
            let stored = self.database.aggregated_streams().list(&after, at_once as i64).await?;
            let is_end = stored.len() < at_once;
            if let Some(last) = stored.last() {
                after.clone_from(&last.name);
            }
            for stream in stored.into_iter().map(|stored| self.with_end(stored, Vec::new())) {
                if *rights == Rights::Everything || rights.read_streams(&selection_of(&stream.definition()?)).is_ok() {
                    listed.push(stream);
                }
            }
            if is_end || listed.len() >= limit {
                listed.truncate(limit);
                return Ok(listed);
            }
        }
    }
}

/// What the aggregated stream of this name selects, by its definition as the database has it. That is not kept by its id: in
/// a log that went back another one may have that id.
pub fn selected_by(name: &str, definition: &str) -> Result<Streams, StoreError> {
    let definition: Definition = serde_json::from_str(definition).map_err(|error| {
        StoreError::Bug(format!("the definition of the aggregated stream {name} cannot be read: {error}"))
    })?;
    Ok(selection_of(&definition))
}

fn readable(found: Option<AggregatedStream>, name: &str, rights: &Rights) -> Result<AggregatedStream, FindError> {
    let found = found.ok_or_else(|| FindError::NotFound { name: name.to_owned() })?;
    may_read(name, &found.definition()?, rights)?;
    Ok(found)
}

/// Refused unless the caller may read all that the aggregated stream of this name selects.
pub fn may_read(name: &str, definition: &Definition, rights: &Rights) -> Result<(), Missing> {
    match rights {
        Rights::Everything => Ok(()),
        Rights::Only(_) => may_read_streams(name, &selection_of(definition), rights),
    }
}

fn selection_of(definition: &Definition) -> Streams {
    Streams::new(&definition.stream_wildcards, &definition.categories)
}

/// What is missing is told exactly to a caller that may use the name; to another one it would name the sources.
fn may_read_streams(name: &str, streams: &Streams, rights: &Rights) -> Result<(), Missing> {
    rights.read_streams(streams).map_err(|missing| match rights.subscribe(name) {
        Ok(()) => missing,
        Err(_) => Missing(Scope::read_everything()),
    })
}
