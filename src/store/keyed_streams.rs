//! Keyed aggregated streams: their keys, and the links of messages that have several.

use std::sync::Arc;

use tokio_postgres::Row;

use super::read::AFTER_COLUMNS;
use super::{AggregatedStreams, StoreError};
use crate::domain::keyed::{KeyPlace, Part, prefix_end};

/// A key that has messages.
#[derive(Debug)]
pub struct StoredKey {
    pub key: String,
    pub partition: i32,
    pub message_count: i64,
    pub last_global_position: i64,
}

/// The partition of the key `$2` of the projection `p`.
pub(super) const PARTITION_OF_KEY: &str =
    "(SELECT k.partition FROM headwater.aggregated_keys AS k WHERE k.projection_id = p.id AND k.key = $2::text)";

/// The links of the projection `c` after the global position `$2`: of `$4`, if a part is read. At most `$3` messages.
pub(super) fn links_of(is_keyed: bool, part: &Part) -> String {
    const UNCHANGED: &str = "headwater.message_is_unchanged(c.last_position, c.last_id)";
    if !is_keyed {
        let condition = if matches!(part, Part::All) { "" } else { "AND a.partition = ANY ($4::int[])" };
        return format!(
            "SELECT a.partition AS link_partition, a.position AS link_position, \
             a.global_position AS link_global_position FROM headwater.aggregated_messages AS a \
             WHERE a.projection_id = c.id AND {UNCHANGED} AND a.global_position > $2 {condition} \
             ORDER BY a.global_position LIMIT $3"
        );
    }
    let partitions = match part {
        Part::All => None,
        Part::Partitions(_) => Some("SELECT DISTINCT n.partition FROM unnest($4::int[]) AS n (partition)"),
        Part::Keys(_) => Some(
            "SELECT k.partition FROM headwater.aggregated_keys AS k \
             WHERE k.projection_id = c.id AND k.key = ANY ($4::text[])",
        ),
    };
    // Of some keys the place is looked for in each: the walk in global order would pass over those of all others.
    let links = partitions.map_or_else(
        || {
            format!(
                "SELECT a.partition, a.position, a.global_position FROM headwater.aggregated_messages AS a \
                 WHERE a.projection_id = c.id AND {UNCHANGED} AND a.global_position > $2"
            )
        },
        |partitions| {
            format!(
                "SELECT l.* FROM ({partitions}) AS n CROSS JOIN LATERAL (\
                 SELECT a.position + 1 AS message_count FROM headwater.aggregated_messages AS a \
                 WHERE a.projection_id = c.id AND a.partition = n.partition ORDER BY a.position DESC LIMIT 1) AS e \
                 CROSS JOIN LATERAL (\
                 SELECT a.partition, a.position, a.global_position FROM headwater.aggregated_messages AS a \
                 WHERE a.projection_id = c.id AND {UNCHANGED} AND a.partition = n.partition AND a.position >= \
                 headwater.first_aggregated_position(c.id, n.partition, e.message_count, $2::bigint + 1) \
                 ORDER BY a.position LIMIT $3) AS l"
            )
        },
    );
    format!(
        "SELECT g.partitions[1] AS link_partition, g.positions[1] AS link_position, \
         g.global_position AS link_global_position, g.partitions, g.positions, ARRAY(\
         SELECT k.key FROM unnest(g.partitions) WITH ORDINALITY AS n (partition, number) CROSS JOIN LATERAL (\
         SELECT k.key FROM headwater.aggregated_keys AS k \
         WHERE k.projection_id = c.id AND k.partition = n.partition OFFSET 0) AS k ORDER BY n.number) AS keys FROM (\
         SELECT l.global_position, array_agg(l.partition ORDER BY l.partition) AS partitions, \
         array_agg(l.position ORDER BY l.partition) AS positions \
         FROM ({links}) AS l GROUP BY l.global_position ORDER BY l.global_position LIMIT $3) AS g"
    )
}

/// The places of a row's message, from the columns after those of every page.
pub(super) fn key_places(row: &Row) -> Result<Arc<[KeyPlace]>, StoreError> {
    let (partitions, positions): (Vec<i32>, Vec<i64>) =
        (row.try_get(AFTER_COLUMNS + 6)?, row.try_get(AFTER_COLUMNS + 7)?);
    let keys: Vec<&str> = row.try_get(AFTER_COLUMNS + 8)?;
    let places = keys.into_iter().zip(partitions).zip(positions);
    Ok(places.map(|((key, partition), position)| KeyPlace { key: key.into(), partition, position }).collect())
}

/// The projection `p` of the aggregated stream `$1`, as far as it is sure to be one of the log that is there, and the first
/// of the messages of the key `$2` after the global position `$3`; `$5` is the next one. A link whose message is gone is
/// passed over, up to `$4` of them. Public for the test that counts the pages it touches.
pub const INDEXED_KEY: &str = "SELECT s.definition::text, CASE WHEN u.is_usable THEN u.position ELSE 0 END, \
    coalesce(e.count - b.position, 0), f.global_position FROM headwater.aggregated_streams AS s \
    JOIN headwater.projections AS p ON p.aggregated_stream_id = s.id AND p.is_current \
    CROSS JOIN headwater.projector AS r CROSS JOIN headwater.settled_position AS h CROSS JOIN LATERAL (\
    SELECT u.position, u.position <= headwater.log_end() \
    AND headwater.message_is_unchanged(p.last_position, p.last_id) \
    AND headwater.message_is_unchanged(h.message_position, h.message_id) AS is_usable FROM (\
    SELECT CASE WHEN p.is_live THEN r.live_position ELSE p.projected_position END AS position) AS u OFFSET 0) AS u \
    LEFT JOIN LATERAL (SELECT k.partition, a.position + 1 AS count, a.global_position \
    FROM headwater.aggregated_keys AS k CROSS JOIN LATERAL (\
    SELECT a.position, a.global_position FROM headwater.aggregated_messages AS a \
    WHERE a.projection_id = p.id AND a.partition = k.partition ORDER BY a.position DESC LIMIT 1) AS a \
    WHERE k.projection_id = p.id AND k.key = $2 OFFSET 0) AS e ON u.is_usable AND e.global_position > $3 \
    LEFT JOIN LATERAL (SELECT headwater.first_aggregated_position(p.id, e.partition, e.count, $5) AS position \
    WHERE e.count IS NOT NULL OFFSET 0) AS b ON true \
    LEFT JOIN LATERAL (SELECT m.global_position FROM (\
    SELECT a.position, a.global_position FROM headwater.aggregated_messages AS a \
    WHERE a.projection_id = p.id AND a.partition = e.partition AND a.position >= b.position \
    ORDER BY a.position LIMIT $4) AS a CROSS JOIN LATERAL (\
    SELECT m.global_position FROM message_store.messages AS m WHERE m.global_position = a.global_position OFFSET 0) AS m \
    ORDER BY a.position LIMIT 1) AS f ON true WHERE s.name = $1";

/// What a keyed aggregated stream says of a key after a position, in one snapshot.
#[derive(Debug)]
pub struct IndexedKey {
    /// JSON.
    pub definition: String,
    /// What the index says of the key is all there is up to here; 0: it says nothing.
    pub projected_position: i64,
    /// The first message of the key after the position.
    pub found: Option<i64>,
    /// How many links were passed over in vain, or would have to be.
    pub links: i64,
}

impl AggregatedStreams<'_> {
    /// Looks for a key after a global position, in at most `links_max` links. `None`: there is no such stream.
    pub async fn indexed_key(
        self,
        name: &str,
        key: &str,
        after: i64,
        links_max: i64,
    ) -> Result<Option<IndexedKey>, StoreError> {
        let client = self.0.reader().await?;
        let statement = client.prepare_cached(INDEXED_KEY).await?;
        let row = client.query_opt(&statement, &[&name, &key, &after, &links_max, &after.saturating_add(1)]).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(IndexedKey {
            definition: row.try_get(0)?,
            projected_position: row.try_get(1)?,
            links: row.try_get(2)?,
            found: row.try_get(3)?,
        }))
    }

    /// The keys with a prefix, from a key on, in the order of their bytes.
    pub async fn keys(self, id: i64, prefix: &str, from: &str, limit: i64) -> Result<Vec<StoredKey>, StoreError> {
        let (first, end) = (prefix.max(from), prefix_end(prefix));
        let keys = sqlx::query_as!(
            StoredKey,
            r#"SELECT k.key AS "key!", k.partition AS "partition!", l.position + 1 AS "message_count!",
               l.global_position AS "last_global_position!"
               FROM (
                 SELECT k.projection_id, k.key, k.partition
                 FROM headwater.aggregated_keys AS k
                 WHERE k.key >= $2 AND k.key < $3 AND k.projection_id = (
                   SELECT p.id FROM headwater.projections AS p
                   WHERE p.aggregated_stream_id = $1 AND p.is_current
                   AND headwater.message_is_unchanged(p.last_position, p.last_id))
                 ORDER BY k.key LIMIT $4
               ) AS k
               CROSS JOIN LATERAL (
                 SELECT a.position, a.global_position FROM headwater.aggregated_messages AS a
                 WHERE a.projection_id = k.projection_id AND a.partition = k.partition
                 ORDER BY a.position DESC LIMIT 1
               ) AS l
               ORDER BY k.key"#,
            id,
            first,
            end,
            limit
        );
        Ok(keys.fetch_all(self.0).await?)
    }

    /// For each of these keys that has messages, its partition and its first position at or after a global position.
    pub async fn key_positions(
        self,
        id: i64,
        keys: &[String],
        global_position: i64,
    ) -> Result<Vec<(String, i32, i64)>, StoreError> {
        let positions = sqlx::query!(
            r#"SELECT k.key, k.partition,
               headwater.first_aggregated_position(p.id, k.partition, l.position + 1, $3) AS "position!"
               FROM headwater.projections AS p
               JOIN headwater.aggregated_keys AS k ON k.projection_id = p.id AND k.key = ANY ($2)
               CROSS JOIN LATERAL (
                 SELECT a.position FROM headwater.aggregated_messages AS a
                 WHERE a.projection_id = p.id AND a.partition = k.partition
                 ORDER BY a.position DESC LIMIT 1
               ) AS l
               WHERE p.aggregated_stream_id = $1 AND p.is_current ORDER BY k.partition"#,
            id,
            keys,
            global_position
        );
        let positions = positions.fetch_all(self.0).await?;
        Ok(positions.into_iter().map(|row| (row.key, row.partition, row.position)).collect())
    }
}
