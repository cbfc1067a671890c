//! The messages that conditions of appends are about.

use super::read::{AFTER_COLUMNS, COLUMNS, has_message, message_of};
use super::{Messages, Session, StoreError};
use crate::domain::append::Predicate;

/// The next messages of a category.
#[derive(Debug)]
pub struct Window {
    /// How many were looked at, up to `up_to`.
    pub messages: usize,
    /// The position of the first one that passes the filter.
    pub found: Option<i64>,
    /// None up to here passes, unless one was found.
    pub up_to: i64,
    /// It is the last message of the category.
    pub is_end: bool,
    /// Its bytes were too many, so PostgreSQL ended the statement, and with it the transaction that it was in.
    pub is_cut: bool,
}

/// Messages of one window, if only their types matter.
const ROWS_MAX: i64 = 20_000;
/// The same if their texts are read.
const TEXTS_MAX: i64 = 1_000;
/// Bytes of messages in one window, but for its last message.
const BYTES_MAX: usize = 4 << 20;

impl Messages<'_> {
    /// Looks at what a category has after a position.
    pub async fn condition_window(
        self,
        category: &str,
        after: i64,
        predicate: &Predicate,
    ) -> Result<Window, StoreError> {
        let client = self.0.client().await?;
        client.condition_window(category, after, predicate).await
    }
}

impl Session {
    /// Looks at what a category has after a position.
    pub async fn condition_window(
        &self,
        category: &str,
        after: i64,
        predicate: &Predicate,
    ) -> Result<Window, StoreError> {
        let types = predicate.types();
        if predicate.needs_texts() {
            return self.condition_texts(category, after, types, predicate).await;
        }
        let statement = self
            .prepare_cached(
                "SELECT count(*), max(m.global_position), \
                 min(m.global_position) FILTER (WHERE $3::text[] IS NULL OR m.type = ANY ($3)) \
                 FROM (SELECT m.global_position, m.type FROM message_store.messages AS m \
                 WHERE message_store.category(m.stream_name) BETWEEN $1 AND $1 AND m.global_position > $2 \
                 ORDER BY message_store.category(m.stream_name), m.global_position LIMIT $4) AS m",
            )
            .await?;
        // If every message is a match, one is enough.
        let rows_max = if types.is_some() { ROWS_MAX } else { 1 };
        let row = self.query_one(&statement, &[&category, &after, &types, &rows_max]).await?;
        let (count, up_to): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Window {
            messages: count as usize,
            found: row.try_get(2)?,
            up_to: up_to.unwrap_or(after),
            is_end: count < rows_max,
            is_cut: false,
        })
    }

    async fn condition_texts(
        &self,
        category: &str,
        after: i64,
        types: Option<&[String]>,
        predicate: &Predicate,
    ) -> Result<Window, StoreError> {
        // Rows are kept as they are stored; only those of the types are printed.
        let sql = format!(
            "WITH m AS MATERIALIZED (SELECT m.*, row_number() OVER (ORDER BY m.global_position) AS nth \
             FROM (SELECT * FROM message_store.messages AS m \
             WHERE message_store.category(m.stream_name) BETWEEN $1 AND $1 AND m.global_position > $2 \
             ORDER BY message_store.category(m.stream_name), m.global_position LIMIT $4) AS m) \
             SELECT w.window_end, m.*, w.count FROM (SELECT count(*), max(m.global_position) AS window_end FROM m) AS w \
             LEFT JOIN LATERAL (SELECT {COLUMNS}, m.nth FROM m WHERE $3::text[] IS NULL OR m.type = ANY ($3) \
             ORDER BY m.global_position) AS m ON true"
        );
        let statement = self.prepare_cached(&sql).await?;
        let (mut count, mut up_to, mut nth) = (0_i64, None, None);
        let read = self
            .query_bounded(&statement, &[&category, &after, &types, &TEXTS_MAX], BYTES_MAX, |row| {
                up_to = row.try_get::<_, Option<i64>>(0)?;
                nth = row.try_get::<_, Option<i64>>(AFTER_COLUMNS)?;
                count = row.try_get(AFTER_COLUMNS + 1)?;
                // Without any of these types, the row has the window's end alone.
                has_message(row)?.then(|| message_of(row)).transpose()
            })
            .await?;
        let last = read.rows.iter().flatten().last().map(|message| message.global_position);
        let found = read.rows.iter().flatten().find(|message| predicate.passes(message));
        Ok(Window {
            // What comes after a cut is in the next window, and counted there.
            messages: nth.filter(|_| read.is_cut).unwrap_or(count) as usize,
            found: found.map(|message| message.global_position),
            up_to: if read.is_cut { last } else { up_to }.unwrap_or(after),
            is_end: !read.is_cut && count < TEXTS_MAX,
            is_cut: read.is_cut,
        })
    }
}
