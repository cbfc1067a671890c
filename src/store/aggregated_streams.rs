//! Aggregated streams: definitions, status, pages of partitions, positions.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::keyed_streams::{PARTITION_OF_KEY, key_places, links_of};
use super::outcome::Outcome;
use super::read::{AFTER_COLUMNS, COLUMNS, PageLimit, has_message, message_of};
use super::{AggregatedStreams, StoreError};
use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::keyed::Part;
use crate::domain::time::Timestamp;

/// An aggregated stream by its name.
#[derive(Debug, Clone)]
pub struct FoundStream {
    pub id: i64,
    /// Its partitions are keys.
    pub is_keyed: bool,
    /// The projection that readers see: a rebuild puts another one in its place, nothing else changes here.
    pub projection_id: i64,
    /// JSON, if it was asked for.
    pub definition: Option<String>,
}

/// Which partition is read.
#[derive(Debug, Clone, Copy)]
pub enum PartitionName<'a> {
    Number(i32),
    /// Of a keyed aggregated stream.
    Key(&'a str),
}

/// An aggregated stream as one snapshot has it.
#[derive(Debug)]
pub struct StoredAggregatedStream {
    pub id: i64,
    pub name: String,
    /// JSON.
    pub definition: String,
    pub is_paused: bool,
    /// The one that readers see.
    pub current: ProjectionState,
    pub rebuild: Option<ProjectionState>,
}

/// How far a projection has come.
#[derive(Debug, Clone)]
pub struct ProjectionState {
    pub is_live: bool,
    /// A global position: everything up to here has been looked at.
    pub projected_position: i64,
    /// JSON: why it stopped.
    pub error: Option<String>,
    pub skipped: i64,
    pub substituted: i64,
    pub key_count: i32,
}

/// The counters of a partition that has messages.
#[derive(Debug, Clone)]
pub struct PartitionState {
    pub partition: i32,
    pub message_count: i64,
    pub last_global_position: i64,
    pub last_time: Timestamp,
}

/// A page of a partition.
#[derive(Debug)]
pub struct PartitionPage {
    /// How many messages the whole partition has in the same snapshot.
    pub message_count: i64,
    /// The last position that was looked at. A link whose message was deleted in SQL is passed over.
    pub last_position: Option<i64>,
    /// The first position, where those before it were trimmed; otherwise 0.
    pub first_position: i64,
    /// After the last trimmed position from the beginning of the page on; 0 if there is none.
    pub trimmed_up_to: i64,
    pub messages: Vec<AggregatedMessage>,
}

/// A page of an aggregated stream in global order, and how far the projection was in the same snapshot.
#[derive(Debug)]
pub struct AggregatedPage {
    /// The number of the history that the log had in the same snapshot.
    pub history_number: i64,
    pub projection_id: i64,
    pub projected_position: i64,
    /// The projection has not caught up with the log yet.
    pub is_catching_up: bool,
    /// The global position of the last link that was looked at, if there may be more after it.
    pub more_after: Option<i64>,
    pub messages: Vec<AggregatedMessage>,
}

/// How far an aggregated stream has been projected, for its followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub aggregated_stream_id: i64,
    pub projection_id: i64,
    pub projected_position: i64,
    pub is_catching_up: bool,
    pub is_keyed: bool,
}

/// Whether a definition was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    Yes,
    /// There is one of this name, or there are as many as may be, in all or of the credential.
    No,
}

/// An aggregated stream that is to be made.
pub struct NewAggregatedStream<'a> {
    pub name: &'a str,
    /// JSON.
    pub definition: &'a str,
    /// The credential of the caller, if there is one.
    pub created_by: Option<&'a str>,
    /// How many there may be.
    pub max: i64,
    /// How many of one credential there may be; 0: any number.
    pub max_of_credential: i64,
}

/// The projection that readers see, with its progress: `p` of `s`.
const CURRENT: &str = "SELECT p.id, p.aggregated_stream_id, p.last_position, p.last_id, \
    CASE WHEN p.is_live THEN r.live_position ELSE p.projected_position END AS projected_position, \
    NOT p.is_live AND p.error IS NULL AND NOT s.is_paused AS is_catching_up \
    FROM headwater.projections AS p JOIN headwater.aggregated_streams AS s ON s.id = p.aggregated_stream_id \
    CROSS JOIN headwater.projector AS r WHERE p.is_current";

/// An aggregated stream with its projections, in one snapshot.
struct StateRow {
    id: i64,
    name: String,
    definition: String,
    is_paused: bool,
    is_live: bool,
    projected_position: i64,
    error: Option<String>,
    skipped: i64,
    substituted: i64,
    key_count: i32,
    rebuilt_position: Option<i64>,
    rebuild_error: Option<String>,
    rebuild_skipped: Option<i64>,
    rebuild_substituted: Option<i64>,
    rebuild_key_count: Option<i32>,
}

impl AggregatedStreams<'_> {
    /// Defines an aggregated stream, unless there is one of that name, or there are as many already as there may be.
    pub async fn create(self, new: NewAggregatedStream<'_>) -> Result<Created, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT headwater.aggregated_stream_create($1, $2, $3, $4, $5)",
            new.name,
            new.definition,
            new.max,
            new.created_by,
            new.max_of_credential
        );
        Ok(if id.fetch_one(self.0).await?.is_some() { Created::Yes } else { Created::No })
    }

    /// How many were made with a credential.
    pub async fn count_by(self, credential: &str) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM headwater.aggregated_streams WHERE created_by = $1"#,
            credential
        );
        Ok(count.fetch_one(self.0).await?)
    }

    /// Answers whether there is such a stream.
    pub async fn delete(self, name: &str) -> Result<bool, StoreError> {
        let outcome =
            sqlx::query_scalar!(r#"SELECT headwater.aggregated_stream_delete($1) AS "outcome!: Outcome""#, name);
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// Answers whether there is such a stream.
    pub async fn pause(self, name: &str) -> Result<bool, StoreError> {
        let outcome =
            sqlx::query_scalar!(r#"SELECT headwater.aggregated_stream_pause($1) AS "outcome!: Outcome""#, name);
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// Answers whether there is such a stream.
    pub async fn resume(self, name: &str) -> Result<bool, StoreError> {
        let outcome =
            sqlx::query_scalar!(r#"SELECT headwater.aggregated_stream_resume($1) AS "outcome!: Outcome""#, name);
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// Answers whether there is such a stream.
    pub async fn rebuild(self, name: &str) -> Result<bool, StoreError> {
        let outcome =
            sqlx::query_scalar!(r#"SELECT headwater.aggregated_stream_rebuild($1) AS "outcome!: Outcome""#, name);
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    pub async fn find(self, name: &str, with_definition: bool) -> Result<Option<FoundStream>, StoreError> {
        let found = sqlx::query_as!(
            FoundStream,
            r#"SELECT s.id, s.definition #>> '{partitioner,kind}' = 'key' AS "is_keyed!", p.id AS projection_id,
               CASE WHEN $2 THEN s.definition::text END AS definition
               FROM headwater.aggregated_streams AS s
               JOIN headwater.projections AS p ON p.aggregated_stream_id = s.id AND p.is_current
               WHERE s.name = $1"#,
            name,
            with_definition
        );
        Ok(found.fetch_optional(self.0).await?)
    }

    pub async fn get(self, name: &str) -> Result<Option<StoredAggregatedStream>, StoreError> {
        let row = sqlx::query_as!(
            StateRow,
            r#"SELECT s.id, s.name, s.definition::text AS "definition!", s.is_paused, p.is_live,
               CASE WHEN p.is_live THEN r.live_position ELSE p.projected_position END AS "projected_position!",
               p.error::text, p.skipped, p.substituted, p.key_count, b.projected_position AS "rebuilt_position?",
               b.error::text AS rebuild_error, b.skipped AS "rebuild_skipped?", b.substituted AS "rebuild_substituted?",
               b.key_count AS "rebuild_key_count?"
               FROM headwater.aggregated_streams AS s
               JOIN headwater.projections AS p ON p.aggregated_stream_id = s.id AND p.is_current
               LEFT JOIN headwater.projections AS b ON b.aggregated_stream_id = s.id AND NOT b.is_current
               CROSS JOIN headwater.projector AS r
               WHERE s.name = $1"#,
            name
        );
        Ok(row.fetch_optional(self.0).await?.map(StoredAggregatedStream::from))
    }

    /// Aggregated streams in order of name, after a name.
    pub async fn list(self, after: &str, limit: i64) -> Result<Vec<StoredAggregatedStream>, StoreError> {
        let rows = sqlx::query_as!(
            StateRow,
            r#"SELECT s.id, s.name, s.definition::text AS "definition!", s.is_paused, p.is_live,
               CASE WHEN p.is_live THEN r.live_position ELSE p.projected_position END AS "projected_position!",
               p.error::text, p.skipped, p.substituted, p.key_count, b.projected_position AS "rebuilt_position?",
               b.error::text AS rebuild_error, b.skipped AS "rebuild_skipped?", b.substituted AS "rebuild_substituted?",
               b.key_count AS "rebuild_key_count?"
               FROM headwater.aggregated_streams AS s
               JOIN headwater.projections AS p ON p.aggregated_stream_id = s.id AND p.is_current
               LEFT JOIN headwater.projections AS b ON b.aggregated_stream_id = s.id AND NOT b.is_current
               CROSS JOIN headwater.projector AS r
               WHERE s.name > $1 ORDER BY s.name LIMIT $2"#,
            after,
            limit
        );
        Ok(rows.fetch_all(self.0).await?.into_iter().map(StoredAggregatedStream::from).collect())
    }

    /// The partitions that have messages, in order.
    pub async fn partitions(self, id: i64) -> Result<Vec<PartitionState>, StoreError> {
        let partitions = sqlx::query_as!(
            PartitionState,
            r#"SELECT a.partition, a.message_count, a.last_global_position, a.last_time AS "last_time: Timestamp"
               FROM headwater.aggregated_partitions AS a JOIN headwater.projections AS p ON p.id = a.projection_id
               WHERE p.aggregated_stream_id = $1 AND p.is_current ORDER BY a.partition"#,
            id
        );
        Ok(partitions.fetch_all(self.0).await?)
    }

    /// A partition's messages from a position on. `None`: there is no such stream.
    pub async fn partition_page(
        self,
        id: i64,
        partition: PartitionName<'_>,
        from: i64,
        limit: PageLimit,
    ) -> Result<Option<PartitionPage>, StoreError> {
        let client = self.0.reader().await?;
        let (number, partition): (_, &(dyn ToSql + Sync)) = match &partition {
            PartitionName::Number(number) => ("$2::int", number),
            PartitionName::Key(key) => (PARTITION_OF_KEY, key),
        };
        let sql = format!(
            "SELECT m.message_count, {COLUMNS}, m.link_partition, m.link_position, m.first_position, m.trimmed_up_to FROM (\
             SELECT coalesce(e.position + 1, 0) AS message_count, (SELECT t.last_position + 1 \
             FROM headwater.trimmed_links AS t WHERE t.projection_id = p.id AND t.partition = n.partition \
             AND t.first_position = 0) AS first_position, (SELECT max(t.last_position) + 1 \
             FROM headwater.trimmed_links AS t WHERE t.projection_id = p.id AND t.partition = n.partition \
             AND t.last_position >= $3) AS trimmed_up_to, m.*, a.partition AS link_partition, \
             a.position AS link_position FROM headwater.projections AS p \
             CROSS JOIN LATERAL (SELECT {number} AS partition OFFSET 0) AS n LEFT JOIN LATERAL (\
             SELECT a.position FROM headwater.aggregated_messages AS a WHERE a.projection_id = p.id \
             AND a.partition = n.partition ORDER BY a.position DESC LIMIT 1) AS e ON true LEFT JOIN LATERAL (\
             SELECT * FROM headwater.aggregated_messages AS a WHERE a.projection_id = p.id AND a.partition = n.partition \
             AND a.position >= $3 AND headwater.message_is_unchanged(p.last_position, p.last_id) ORDER BY a.position LIMIT $4) AS a ON true \
             LEFT JOIN message_store.messages AS m ON m.global_position = a.global_position \
             WHERE p.aggregated_stream_id = $1 AND p.is_current ORDER BY a.position OFFSET 0) AS m"
        );
        let statement = client.prepare_cached(&sql).await?;
        let (mut message_count, mut last_position) = (None, None);
        let (mut first_position, mut trimmed_up_to) = (None, None);
        let read = |row: &Row| {
            message_count = Some(row.try_get(0)?);
            last_position = row.try_get(AFTER_COLUMNS + 1)?;
            first_position = row.try_get(AFTER_COLUMNS + 2)?;
            trimmed_up_to = row.try_get(AFTER_COLUMNS + 3)?;
            partitioned(row, false)
        };
        let read =
            client.query_bounded(&statement, &[&id, partition, &from, &limit.messages], limit.bytes, read).await?;
        let messages = read.rows.into_iter().flatten().collect();
        Ok(message_count.map(|message_count| PartitionPage {
            message_count,
            last_position,
            first_position: first_position.unwrap_or(0),
            trimmed_up_to: trimmed_up_to.unwrap_or(0),
            messages,
        }))
    }

    /// Messages of an aggregated stream, or of a part of it, after a global position, in global order.
    /// `None`: there is no such stream.
    pub async fn page(
        self,
        id: i64,
        is_keyed: bool,
        part: &Part,
        after: i64,
        limit: PageLimit,
    ) -> Result<Option<AggregatedPage>, StoreError> {
        let client = self.0.reader().await?;
        let links = links_of(is_keyed, part);
        let keyed = if is_keyed { ", m.partitions, m.positions, m.keys" } else { "" };
        let sql = format!(
            "SELECT m.projected_position, {COLUMNS}, m.link_partition, m.link_position, m.projection_id, \
             m.is_catching_up, m.link_global_position, m.history_number{keyed} FROM (\
             SELECT c.projected_position, m.*, a.*, \
             c.id AS projection_id, c.is_catching_up, \
             coalesce((SELECT history FROM headwater.settled_position), 0) AS history_number \
             FROM ({CURRENT} AND p.aggregated_stream_id = $1) AS c LEFT JOIN LATERAL ({links}) AS a ON true \
             LEFT JOIN message_store.messages AS m ON m.global_position = a.link_global_position \
             ORDER BY a.link_global_position OFFSET 0) AS m"
        );
        let statement = client.prepare_cached(&sql).await?;
        let mut page = None;
        let read = |row: &Row| {
            page = Some(AggregatedPage {
                projected_position: row.try_get(0)?,
                projection_id: row.try_get(AFTER_COLUMNS + 2)?,
                is_catching_up: row.try_get(AFTER_COLUMNS + 3)?,
                more_after: row.try_get(AFTER_COLUMNS + 4)?,
                history_number: row.try_get(AFTER_COLUMNS + 5)?,
                messages: Vec::new(),
            });
            partitioned(row, is_keyed)
        };
        let named: Vec<&str>;
        let parameters: [&(dyn ToSql + Sync); 4] = match part {
            Part::All => [&id, &after, &limit.messages, &None::<i32>],
            Part::Partitions(partitions) => [&id, &after, &limit.messages, &&**partitions],
            Part::Keys(keys) => {
                named = keys.iter().map(|key| &**key).collect();
                [&id, &after, &limit.messages, &named]
            }
        };
        let used = if matches!(part, Part::All) { 3 } else { 4 };
        let read = client.query_bounded(&statement, &parameters[..used], limit.bytes, read).await?;
        let Some(page) = page else { return Ok(None) };
        let is_full = read.is_cut || read.rows.len() as i64 == limit.messages;
        Ok(Some(AggregatedPage {
            more_after: page.more_after.filter(|_| is_full),
            messages: read.rows.into_iter().flatten().collect(),
            ..page
        }))
    }

    /// How far these aggregated streams have been projected, without those that were deleted.
    pub async fn progress(self, ids: &[i64]) -> Result<Vec<Progress>, StoreError> {
        let progress = sqlx::query_as!(
            Progress,
            r#"SELECT p.aggregated_stream_id AS "aggregated_stream_id!", p.id AS projection_id,
               CASE WHEN p.is_live THEN r.live_position ELSE p.projected_position END AS "projected_position!",
               NOT p.is_live AND p.error IS NULL AND NOT s.is_paused AS "is_catching_up!",
               s.definition #>> '{partitioner,kind}' = 'key' AS "is_keyed!"
               FROM headwater.projections AS p JOIN headwater.aggregated_streams AS s ON s.id = p.aggregated_stream_id
               CROSS JOIN headwater.projector AS r WHERE p.is_current AND p.aggregated_stream_id = ANY ($1)"#,
            ids
        );
        Ok(progress.fetch_all(self.0).await?)
    }

    /// For every partition that has messages, the first position at or after a global position.
    pub async fn positions(self, id: i64, global_position: i64) -> Result<Vec<(i32, i64)>, StoreError> {
        let positions = sqlx::query!(
            r#"SELECT a.partition,
               headwater.first_aggregated_position(p.id, a.partition, a.message_count, $2) AS "position!"
               FROM headwater.projections AS p JOIN headwater.aggregated_partitions AS a ON a.projection_id = p.id
               WHERE p.aggregated_stream_id = $1 AND p.is_current ORDER BY a.partition"#,
            id,
            global_position
        );
        Ok(positions.fetch_all(self.0).await?.into_iter().map(|row| (row.partition, row.position)).collect())
    }
}

/// A row's message, if it has one; `is_keyed`: with its places.
fn partitioned(row: &Row, is_keyed: bool) -> Result<Option<AggregatedMessage>, StoreError> {
    if !has_message(row)? {
        return Ok(None);
    }
    Ok(Some(AggregatedMessage {
        keys: if is_keyed { Some(key_places(row)?) } else { None },
        partition: row.try_get(AFTER_COLUMNS)?,
        position: row.try_get(AFTER_COLUMNS + 1)?,
        message: Arc::new(message_of(row)?),
    }))
}

impl From<StateRow> for StoredAggregatedStream {
    fn from(row: StateRow) -> Self {
        let current = ProjectionState {
            is_live: row.is_live,
            projected_position: row.projected_position,
            error: row.error,
            skipped: row.skipped,
            substituted: row.substituted,
            key_count: row.key_count,
        };
        let rebuild = row.rebuilt_position.map(|projected_position| ProjectionState {
            is_live: false,
            projected_position,
            error: row.rebuild_error,
            skipped: row.rebuild_skipped.unwrap_or_default(),
            substituted: row.rebuild_substituted.unwrap_or_default(),
            key_count: row.rebuild_key_count.unwrap_or_default(),
        });
        Self { id: row.id, name: row.name, definition: row.definition, is_paused: row.is_paused, current, rebuild }
    }
}
