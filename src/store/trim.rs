//! Deleting the oldest messages of streams, and how many were deleted between two places.

use super::outcome::Outcome;
use super::{AggregatedStreams, Messages, StoreError, Subscriptions};
use crate::domain::keyed::Part;
use crate::domain::scope::Readable;
use crate::domain::source::{Source, Topic};
use crate::domain::time::Timestamp;

/// Which messages of a stream go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oldest {
    /// Those before a position.
    BeforePosition(i64),
    /// Those before the first message of this time or later.
    BeforeTime(Timestamp),
    /// All but the newest so many.
    KeepLast(i64),
}

/// What a step of a trim has done.
#[derive(Debug, Clone, Copy)]
pub struct TrimStep {
    pub trimmed: i64,
    /// The first position that is left.
    pub first_position: i64,
    /// For the next step.
    pub before_position: i64,
    /// Messages stay that were to go, because a subscription has not acked them.
    pub kept_unacked: bool,
    /// There is nothing more to do.
    pub is_complete: bool,
}

/// Messages that were trimmed between two places of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    pub count: i64,
    /// The first position after them, as the log counts.
    pub first_position: i64,
}

impl Messages<'_> {
    /// One step of a trim, at most of so many messages. `None`: the stream has no message.
    pub async fn trim_stream(
        self,
        stream_name: &str,
        oldest: Oldest,
        unless_unacked: bool,
        messages_max: i64,
    ) -> Result<Option<TrimStep>, StoreError> {
        let (before_position, before_time, keep_last) = match oldest {
            Oldest::BeforePosition(position) => (Some(position), None, None),
            Oldest::BeforeTime(time) => (None, Some(time), None),
            Oldest::KeepLast(count) => (None, None, Some(count)),
        };
        let client = self.0.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT outcome, trimmed, first_position, before_position, kept_unacked, is_complete \
                 FROM headwater.trim_stream($1, $2, $3, $4, $5, $6)",
            )
            .await?;
        let row = client
            .query_one(
                &statement,
                &[&stream_name, &before_position, &before_time, &keep_last, &unless_unacked, &messages_max],
            )
            .await?;
        match Outcome::parse(row.try_get(0)?)? {
            Outcome::Done => {}
            Outcome::Missing => return Ok(None),
            other => return Err(other.unexpected()),
        }
        Ok(Some(TrimStep {
            trimmed: row.try_get(1)?,
            first_position: row.try_get(2)?,
            before_position: row.try_get(3)?,
            kept_unacked: row.try_get(4)?,
            is_complete: row.try_get(5)?,
        }))
    }

    /// The first position of a stream that was not trimmed, 0 if none was.
    pub async fn first_position(self, stream_name: &str) -> Result<i64, StoreError> {
        let client = self.0.reader().await?;
        let sql = "SELECT coalesce(max(first_position), 0) FROM headwater.trimmed_streams WHERE stream_name = $1";
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_one(&statement, &[&stream_name]).await?.try_get(0)?)
    }

    /// Whether messages were trimmed around a global position, of whatever category.
    pub async fn is_in_trimmed(self, global_position: i64) -> Result<bool, StoreError> {
        let client = self.0.reader().await?;
        let sql = "SELECT EXISTS (SELECT FROM headwater.trimmed_ranges AS t \
            WHERE $1 BETWEEN t.first_global_position AND t.last_global_position)";
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_one(&statement, &[&global_position]).await?.try_get(0)?)
    }

    /// What was trimmed of a source between two global positions, exclusive and inclusive. Of a category there is one count
    /// for all of its streams: it is not told to a reader that may read some of them only.
    pub async fn trimmed_between(
        self,
        source: &Source,
        readable: &Readable,
        after: i64,
        up_to: i64,
    ) -> Result<Option<Trimmed>, StoreError> {
        let (mut categories, mut streams) = (Some(Vec::new()), Vec::new());
        for topic in source.topics() {
            match topic {
                Topic::Stream(name) if !readable.has(name) => {}
                Topic::All | Topic::Category(_) if !readable.is_all() => {}
                Topic::All => categories = None,
                Topic::Category(name) => categories.iter_mut().for_each(|names| names.push(&**name)),
                Topic::Stream(name) => streams.push(&**name),
                // With patterns it is the source of an aggregated stream, which projects what is there.
                Topic::Selected(_) => return Ok(None),
            }
        }
        if categories.is_none() {
            streams.clear();
        }
        let client = self.0.reader().await?;
        let sql = "SELECT message_count, first_position FROM headwater.trimmed_between($1, $2, $3, $4)";
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, &[&categories, &streams, &after, &up_to]).await?;
        trimmed(&row)
    }
}

impl AggregatedStreams<'_> {
    /// What was trimmed of a part of a projection between two global positions. A message counts for each of the keys that
    /// it had.
    pub async fn trimmed_between(
        self,
        projection: i64,
        part: &Part,
        after: i64,
        up_to: i64,
    ) -> Result<Option<Trimmed>, StoreError> {
        let client = self.0.reader().await?;
        let partitions: Option<Vec<i32>> = match part {
            Part::All => None,
            Part::Partitions(partitions) => Some(partitions.to_vec()),
            Part::Keys(keys) => {
                let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
                let sql = "SELECT partition FROM headwater.aggregated_keys WHERE projection_id = $1 AND key = ANY ($2)";
                let statement = client.prepare_cached(sql).await?;
                let rows = client.query(&statement, &[&projection, &keys]).await?;
                Some(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
            }
        };
        let sql = "SELECT message_count, first_position FROM headwater.trimmed_links_between($1, $2, $3, $4)";
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, &[&projection, &partitions, &after, &up_to]).await?;
        trimmed(&row)
    }
}

impl Subscriptions<'_> {
    /// How many messages were trimmed although the subscription had not acked them.
    pub async fn trimmed(self, subscription: i64) -> Result<i64, StoreError> {
        let client = self.0.reader().await?;
        let sql = "SELECT coalesce(max(trimmed), 0) FROM headwater.subscriptions WHERE id = $1";
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_one(&statement, &[&subscription]).await?.try_get(0)?)
    }
}

fn trimmed(row: &tokio_postgres::Row) -> Result<Option<Trimmed>, StoreError> {
    let (count, first_position): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(first_position.filter(|_| count > 0).map(|first_position| Trimmed { count, first_position }))
}
