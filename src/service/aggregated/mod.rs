//! Aggregated streams: their definitions, the projector that fills their partitions, and reads of these.

mod catch_up;
pub mod feed;
mod find;
pub mod log;
pub mod projector;
mod round;
mod term;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::feed::{FeedMember, Feeds};
use self::log::{AggregatedLog, AggregatedSource};
use self::projector::ProjectorHandle;
use super::auth::Caller;
use super::log::follower::Follower;
use super::log::{Log, Place};
use super::long_poll::LongPoll;
use super::read::{EXAMINED_AT_ONCE, EXAMINED_MAX, PlaceError};
use super::tail::Tail;
use crate::domain::Violation;
use crate::domain::aggregated_stream::Definition;
use crate::domain::filter::Filter;
use crate::domain::scope::{Missing, Rights};
use crate::domain::time::Timestamp;
use crate::store::aggregated_streams::{
    Created, NewAggregatedStream, PartitionPage, PartitionState, StoredAggregatedStream,
};
pub use crate::store::aggregated_streams::{FoundStream, PartitionName};
use crate::store::keyed_streams::StoredKey;
use crate::store::read::PageLimit;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;
pub use find::{FindError, may_read, selected_by};

/// The pause between two looks at a stream whose progress is known here and not written yet.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Attempts to define a stream that other requests define and delete at the same moment.
const DEFINE_ATTEMPTS: usize = 5;

/// Everything about aggregated streams. Cheap to clone.
#[derive(Clone)]
pub struct AggregatedStreams {
    database: Database,
    tail: Tail,
    pub feeds: Feeds,
    projector: ProjectorHandle,
    draining: CancellationToken,
    observer: Observer,
    bounds: Bounds,
}

/// The bounds of aggregated streams.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many aggregated streams there may be.
    pub aggregated_streams_max: usize,
    /// How many of these one credential may define; 0: as many as there may be.
    pub aggregated_streams_per_credential_max: usize,
    /// How many bytes of messages one page of a partition may have; the message that reaches them is its last.
    pub page_bytes_max: usize,
}

/// An aggregated stream with its status.
#[derive(Debug)]
pub struct AggregatedStream {
    pub stored: StoredAggregatedStream,
    pub partitions: Vec<PartitionState>,
    /// The settled position of the log.
    pub settled_position: i64,
}

/// What came of defining.
#[derive(Debug)]
pub enum Defined {
    New(AggregatedStream),
    /// There was one with the same definition already.
    Same(AggregatedStream),
}

/// Why a definition is refused.
#[derive(Debug, thiserror::Error)]
pub enum DefineError {
    #[error("the definition is not valid")]
    Invalid(Vec<Violation>),
    /// There is one of this name with other fields.
    #[error("the name exists with another definition")]
    Differs(Vec<String>),
    #[error("the limit of {max} aggregated streams is reached")]
    TooMany { max: usize },
    #[error("the limit of {max} aggregated streams of one credential is reached")]
    TooManyOfCredential { max: usize },
    #[error(transparent)]
    Forbidden(#[from] Missing),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A request for a page of a partition.
#[derive(Debug)]
pub struct PartitionRequest {
    /// `None`: the first position that there is.
    pub from: Option<i64>,
    pub limit: usize,
    pub filter: Filter,
    /// How long an empty page waits for a message.
    pub wait: Duration,
}

/// A page of a partition, and where to go on.
#[derive(Debug)]
pub struct PartitionRead {
    pub page: PartitionPage,
    /// What to pass as `from` to go on.
    pub next: i64,
    pub at_end: bool,
}

impl PartitionRead {
    /// It stays the same, but for erasures and trims, as long as the projection is the same: only what is settled is
    /// projected, and something follows.
    pub fn is_settled(&self) -> bool {
        !self.at_end && !self.page.messages.is_empty()
    }
}

/// A page of keys.
#[derive(Debug)]
pub struct KeyPage {
    pub keys: Vec<StoredKey>,
    /// The key after these.
    pub next: Option<String>,
}

/// A place in the log.
#[derive(Debug, Clone, Copy)]
pub enum PositionsAt {
    GlobalPosition(i64),
    Time(Timestamp),
}

impl AggregatedStreams {
    pub fn new(
        database: Database,
        tail: Tail,
        feeds: Feeds,
        projector: ProjectorHandle,
        draining: CancellationToken,
        observer: Observer,
        bounds: Bounds,
    ) -> Self {
        Self { database, tail, feeds, projector, draining, observer, bounds }
    }

    /// Defines an aggregated stream: the messages in the log are projected, then new ones as they come.
    pub async fn define(&self, name: &str, definition: &Definition, caller: &Caller) -> Result<Defined, DefineError> {
        let aggregation = definition.compile().map_err(DefineError::Invalid)?;
        caller.rights().read_streams(aggregation.streams())?;
        // A definition has texts, numbers and lists only, so that this cannot fail.
        let text = serde_json::to_string(definition).unwrap_or_default();
        for _ in 0..DEFINE_ATTEMPTS {
            if let Some(stream) = self.get(name).await? {
                let existing = stream.definition()?;
                // Before they are compared: in which fields they differ says what is behind the name.
                may_read(name, &existing, caller.rights())?;
                let differences = existing.differences(definition);
                return if differences.is_empty() {
                    Ok(Defined::Same(stream))
                } else {
                    Err(DefineError::Differs(differences))
                };
            }
            let new = NewAggregatedStream {
                name,
                definition: &text,
                created_by: caller.credential().map(|name| &**name),
                max: self.bounds.aggregated_streams_max as i64,
                max_of_credential: self.bounds.aggregated_streams_per_credential_max as i64,
            };
            if self.database.aggregated_streams().create(new).await? == Created::Yes {
                self.projector.reload();
                if let Some(stream) = self.get(name).await? {
                    return Ok(Defined::New(stream));
                }
            }
        }
        let Bounds { aggregated_streams_max: max, aggregated_streams_per_credential_max: max_of_credential, .. } =
            self.bounds;
        let of_credential = match caller.credential() {
            Some(credential) => self.database.aggregated_streams().count_by(credential).await?,
            None => 0,
        };
        Err(match max_of_credential > 0 && of_credential >= max_of_credential as i64 {
            true => DefineError::TooManyOfCredential { max: max_of_credential },
            false => DefineError::TooMany { max },
        })
    }

    async fn get(&self, name: &str) -> Result<Option<AggregatedStream>, StoreError> {
        let Some(mut stored) = self.database.aggregated_streams().get(name).await? else { return Ok(None) };
        // Progress may be known here before it is written. The counts of what came with it are in reads after this.
        let known = self.feeds.known(stored.id);
        if stored.current.is_live && known.up_to() > stored.current.projected_position {
            let id = stored.id;
            let Some(again) = self.database.aggregated_streams().get(name).await? else { return Ok(None) };
            stored = again;
            if stored.id == id && stored.current.is_live {
                stored.current.projected_position = known.or(stored.current.projected_position);
            }
        }
        let partitions = self.database.aggregated_streams().partitions(stored.id).await?;
        Ok(Some(self.with_end(stored, partitions)))
    }

    /// Waits for at most `wait` until everything up to a global position is projected, then answers as [`get`](Self::get).
    async fn get_at(
        &self,
        name: &str,
        min_position: i64,
        wait: Duration,
    ) -> Result<Option<AggregatedStream>, StoreError> {
        let poll = LongPoll::new(&self.tail, &self.draining, wait);
        let _interest = self.feeds.register_progress_interest();
        let mut member: Option<FeedMember> = None;
        loop {
            let Some(stream) = self.get(name).await? else { return Ok(None) };
            let is_there = stream.stored.current.projected_position >= min_position;
            if is_there || poll.is_over() {
                return Ok(Some(stream));
            }
            let id = stream.stored.id;
            // Joining has the stream looked at, which wakes all members: once is enough.
            if member.as_ref().is_none_or(|member| member.id() != id) {
                member = Some(self.feeds.join(id));
            }
            // The stream has gone on since the look, or its progress is known here and not written yet.
            let is_known = self.feeds.known(id).up_to() >= min_position;
            let pause = if is_known { LOOK_PAUSE } else { wait };
            let progressed = async {
                match &mut member {
                    Some(member) => drop(tokio::time::timeout(pause, member.progressed()).await),
                    None => tokio::time::sleep(pause).await,
                }
            };
            if !poll.wait_for(progressed).await {
                return Ok(Some(stream));
            }
        }
    }

    /// Waits for at most `wait` until what is settled by now is projected; does not wait for a stream that is paused or
    /// stopped.
    pub async fn project_what_is_settled(&self, name: &str, wait: Duration) -> Result<(), StoreError> {
        let settled = self.tail.refresh().await;
        let stored = self.database.aggregated_streams().get(name).await?;
        if stored.is_some_and(|stored| !stored.is_paused && stored.current.error.is_none()) {
            self.get_at(name, settled, wait).await?;
        }
        Ok(())
    }

    pub async fn delete(&self, name: &str, rights: &Rights) -> Result<(), FindError> {
        self.check(name, rights).await?;
        self.changed(name, self.database.aggregated_streams().delete(name).await)
    }

    pub async fn pause(&self, name: &str, rights: &Rights) -> Result<(), FindError> {
        self.check(name, rights).await?;
        self.changed(name, self.database.aggregated_streams().pause(name).await)
    }

    pub async fn resume(&self, name: &str, rights: &Rights) -> Result<(), FindError> {
        self.check(name, rights).await?;
        self.changed(name, self.database.aggregated_streams().resume(name).await)
    }

    pub async fn rebuild(&self, name: &str, rights: &Rights) -> Result<(), FindError> {
        self.check(name, rights).await?;
        self.changed(name, self.database.aggregated_streams().rebuild(name).await)
    }

    /// A page of a partition; if it would be empty, waits for a message. `None`: there is no such stream.
    pub async fn partition_page(
        &self,
        id: i64,
        partition: PartitionName<'_>,
        request: &PartitionRequest,
    ) -> Result<Option<PartitionRead>, PlaceError> {
        let PartitionRequest { from, limit: wanted, wait, ref filter } = *request;
        let mut from = from.unwrap_or(0);
        let bytes = self.bounds.page_bytes_max;
        let limit = match filter.is_empty() {
            true => PageLimit { messages: wanted as i64, bytes },
            false => {
                PageLimit { messages: EXAMINED_AT_ONCE.messages_max, bytes: bytes.min(EXAMINED_AT_ONCE.bytes_max) }
            }
        };
        let mut examined = 0;
        // The feed is joined before the first look, so that no message falls between the two.
        let mut member = (!wait.is_zero()).then(|| self.feeds.join(id));
        let poll = LongPoll::new(&self.tail, &self.draining, wait);
        loop {
            let page = self.database.aggregated_streams().partition_page(id, partition, from, limit).await?;
            let Some(mut page) = page else { return Ok(None) };
            if request.from.is_some_and(|from| from < page.first_position) {
                return Ok(Some(PartitionRead { at_end: false, next: page.first_position, page }));
            }
            let mut next = page.last_position.map_or(from.max(page.trimmed_up_to), |last| last + 1);
            examined += page.messages.len();
            page.messages.retain(|one| filter.passes(&one.message));
            if let Some(first_left_out) = page.messages.get(wanted) {
                next = first_left_out.position;
                page.messages.truncate(wanted);
            }
            let read = PartitionRead { at_end: next >= page.message_count, next, page };
            if read.page.messages.is_empty() && !read.at_end && !filter.is_empty() && examined < EXAMINED_MAX {
                from = next;
                continue;
            }
            // An empty page that is not the last has links whose messages were deleted.
            let is_to_wait = read.page.messages.is_empty() && read.at_end;
            let Some(member) = member.as_mut().filter(|_| is_to_wait) else { return Ok(Some(read)) };
            if !poll.wait_in_log(member.changed(), from).await? {
                return Ok(Some(read));
            }
            // Messages that did not pass the filter need not be looked at again.
            from = read.next;
        }
    }

    /// For every partition that has messages, its first position at or after a place.
    pub async fn positions(&self, id: i64, at: PositionsAt) -> Result<Vec<(i32, i64)>, StoreError> {
        let global_position = self.global_position_of(at).await?;
        self.database.aggregated_streams().positions(id, global_position).await
    }

    /// The keys with a prefix, from a key on, in the order of their bytes; and the one after them.
    pub async fn keys(&self, id: i64, prefix: &str, from: &str, limit: usize) -> Result<KeyPage, StoreError> {
        let mut keys = self.database.aggregated_streams().keys(id, prefix, from, limit as i64 + 1).await?;
        let next = if keys.len() > limit { keys.pop().map(|next| next.key) } else { None };
        Ok(KeyPage { keys, next })
    }

    /// For each of these keys that has messages: itself, its partition, and its first position at or after a place.
    pub async fn key_positions(
        &self,
        id: i64,
        keys: &[String],
        at: PositionsAt,
    ) -> Result<Vec<(String, i32, i64)>, StoreError> {
        let global_position = self.global_position_of(at).await?;
        self.database.aggregated_streams().key_positions(id, keys, global_position).await
    }

    async fn global_position_of(&self, at: PositionsAt) -> Result<i64, StoreError> {
        match at {
            PositionsAt::GlobalPosition(position) => Ok(position),
            PositionsAt::Time(time) => self.database.messages().first_global_position_at(time).await,
        }
    }

    /// The log of an aggregated stream; `with_progress`: its reader is also woken by progress without a message.
    pub fn log(&self, source: AggregatedSource, with_progress: bool) -> Log {
        Log::Aggregated(Box::new(AggregatedLog::new(&self.feeds, &self.tail, source, with_progress)))
    }

    /// Follows an aggregated stream from a place on.
    pub fn follow(&self, source: AggregatedSource, with_progress: bool, place: Place, filter: Filter) -> Follower {
        Follower::new(self.log(source, with_progress), place, filter, self.observer.clone())
    }

    fn with_end(&self, stored: StoredAggregatedStream, partitions: Vec<PartitionState>) -> AggregatedStream {
        let settled_position = self.tail.settled().max(stored.current.projected_position);
        AggregatedStream { stored, partitions, settled_position }
    }

    fn changed(&self, name: &str, outcome: Result<bool, StoreError>) -> Result<(), FindError> {
        self.projector.reload();
        self.feeds.kick();
        if outcome? { Ok(()) } else { Err(FindError::NotFound { name: name.to_owned() }) }
    }
}

impl AggregatedStream {
    /// Reads the stored definition. A newer version may have written one that this one does not know.
    pub fn definition(&self) -> Result<Definition, StoreError> {
        serde_json::from_str(&self.stored.definition)
            .map_err(|error| StoreError::Bug(format!("the definition of {} cannot be read: {error}", self.stored.name)))
    }
}
