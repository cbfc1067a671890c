//! What is in the store: names of streams without reading their messages, and counts by category and type.

use tokio_postgres::Row;

use super::{Database, StoreError};
use crate::domain::settling::Holder;
use crate::domain::time::Timestamp;

/// Where a walk over the names of streams begins and ends, in the database's own order.
#[derive(Debug, Clone, Default)]
pub struct NameRange {
    /// The first name, unless `exclusive`.
    pub from: String,
    pub exclusive: bool,
    /// No name of this or a later place.
    pub before: Option<String>,
}

/// A stream as its ends show it.
#[derive(Debug, Clone)]
pub struct StreamLine {
    pub stream_name: String,
    pub first_position: i64,
    pub version: i64,
    pub last_global_position: i64,
    pub last_time: Timestamp,
}

/// What is counted of a category or of a type.
#[derive(Debug, Clone)]
pub struct CountLine {
    pub name: String,
    pub message_count: i64,
    pub stream_count: i64,
    pub last_global_position: i64,
    pub last_time: Timestamp,
}

/// Counted lines, and how far all counting is.
#[derive(Debug, Clone)]
pub struct Counts {
    pub lines: Vec<CountLine>,
    pub counted_position: i64,
    /// Messages counted in all.
    pub message_count: i64,
}

/// By what messages are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedBy {
    Category,
    Type,
}

/// Which of the lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct CountQuery {
    /// Inclusive.
    pub from: String,
    pub prefix: String,
    /// In small letters (A to Z only).
    pub contains: String,
    /// The other one of category and type.
    pub of: Option<String>,
    pub limit: i64,
}

/// A transaction that may still write below what is settled.
#[derive(Debug, Clone)]
pub struct HolderLine {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The name under which a transaction was prepared.
    pub prepared_as: Option<String>,
    pub application_name: Option<String>,
    pub user_name: Option<String>,
    pub client_address: Option<String>,
    pub state: Option<String>,
    pub transaction_started: Option<Timestamp>,
}

impl Database {
    /// Whether names are in the order of their code points, so that those with one prefix stand together.
    pub async fn is_in_code_point_order(&self) -> Result<bool, StoreError> {
        let client = self.client().await?;
        // The provider `b`, of PostgreSQL 17, knows no other order.
        let sql = "SELECT CASE c.collname WHEN 'default' THEN d.datlocprovider ELSE c.collprovider END = 'b' \
            OR CASE c.collname WHEN 'default' THEN d.datlocprovider ELSE c.collprovider END = 'c' \
            AND lower(CASE c.collname WHEN 'default' THEN d.datcollate ELSE c.collcollate END) \
            IN ('c', 'posix', 'c.utf8', 'c.utf-8') \
            FROM pg_attribute AS a JOIN pg_collation AS c ON c.oid = a.attcollation \
            JOIN pg_database AS d ON d.datname = current_database() \
            WHERE a.attrelid = 'message_store.messages'::regclass AND a.attname = 'stream_name'";
        // PostgreSQL 14 knows no other provider for a whole database.
        let older = sql.replace("d.datlocprovider", "'c'");
        let version: i32 =
            client.query_one("SELECT current_setting('server_version_num')::integer", &[]).await?.try_get(0)?;
        let row = client.query_opt(if version < 150_000 { older.as_str() } else { sql }, &[]).await?;
        row.map_or(Ok(false), |row| Ok(row.try_get::<_, Option<bool>>(0)?.unwrap_or(false)))
    }

    /// The names of streams with their first positions. Each is found by one descent into the index `messages_stream`,
    /// however many messages there are between.
    pub async fn stream_names(&self, range: &NameRange, limit: i64) -> Result<Vec<(String, i64)>, StoreError> {
        let first = if range.exclusive { ">" } else { ">=" };
        let sql = format!(
            "WITH RECURSIVE names AS (\
             (SELECT stream_name, position, 1 AS place FROM message_store.messages \
             WHERE stream_name {first} $1 AND ($2::text IS NULL OR stream_name < $2) \
             ORDER BY stream_name, position LIMIT 1) \
             UNION ALL \
             SELECT next.stream_name, next.position, names.place + 1 FROM names CROSS JOIN LATERAL (\
             SELECT stream_name, position FROM message_store.messages AS m \
             WHERE m.stream_name > names.stream_name AND ($2::text IS NULL OR m.stream_name < $2) \
             ORDER BY m.stream_name, m.position LIMIT 1) AS next WHERE names.place < $3) \
             SELECT stream_name, position FROM names"
        );
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let rows = client.query(&statement, &[&range.from, &range.before, &limit_of(limit)]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// The last message of each of these streams; a stream that is gone is left out.
    pub async fn stream_ends(&self, streams: &[(String, i64)]) -> Result<Vec<StreamLine>, StoreError> {
        let (names, firsts): (Vec<&str>, Vec<i64>) = streams.iter().map(|(name, first)| (&**name, *first)).unzip();
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT s.stream_name, s.first_position, last.position, last.global_position, last.time \
                 FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS s (stream_name, first_position, place) \
                 CROSS JOIN LATERAL (SELECT position, global_position, time FROM message_store.messages AS m \
                 WHERE m.stream_name = s.stream_name ORDER BY m.position DESC LIMIT 1) AS last ORDER BY s.place",
            )
            .await?;
        let line = |row: &Row| {
            Ok(StreamLine {
                stream_name: row.try_get(0)?,
                first_position: row.try_get(1)?,
                version: row.try_get(2)?,
                last_global_position: row.try_get(3)?,
                last_time: row.try_get(4)?,
            })
        };
        client.query(&statement, &[&names, &firsts]).await?.iter().map(line).collect()
    }

    /// Counts more messages, at most so many and up to a settled position. Returns how far all are counted then;
    /// `None` if somebody else is counting.
    pub async fn count_messages(&self, settled: i64, messages_max: i64) -> Result<Option<i64>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT headwater.count_messages($1, $2)").await?;
        Ok(client.query_one(&statement, &[&settled, &messages_max]).await?.try_get(0)?)
    }

    /// What has been counted, by name.
    pub async fn counts(&self, by: CountedBy, query: &CountQuery) -> Result<Counts, StoreError> {
        let (name, other) = match by {
            CountedBy::Category => ("category", "type"),
            CountedBy::Type => ("type", "category"),
        };
        let sql = format!(
            "SELECT p.position, (SELECT coalesce(sum(message_count), 0)::bigint FROM headwater.message_counts), l.* \
             FROM headwater.counted_position AS p LEFT JOIN (\
             SELECT {name} AS name, sum(message_count)::bigint AS message_count, sum(stream_count)::bigint, \
             max(last_global_position), max(last_time) FROM headwater.message_counts \
             WHERE {name} >= $1 AND starts_with({name}, $2) AND strpos(lower({name}), $3) > 0 \
             AND ($4::text IS NULL OR {other} = $4) GROUP BY {name} ORDER BY {name} LIMIT $5) AS l ON true \
             ORDER BY l.name"
        );
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let rows =
            client.query(&statement, &[&query.from, &query.prefix, &query.contains, &query.of, &query.limit]).await?;
        let line = |row: &Row| -> Result<CountLine, StoreError> {
            Ok(CountLine {
                name: row.try_get(2)?,
                message_count: row.try_get(3)?,
                stream_count: row.try_get(4)?,
                last_global_position: row.try_get(5)?,
                last_time: row.try_get(6)?,
            })
        };
        let (counted_position, message_count) = match rows.first() {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => (0, 0),
        };
        let mut lines = Vec::with_capacity(rows.len());
        for row in &rows {
            // Nothing counted is one row without a name.
            if row.try_get::<_, Option<&str>>(2)?.is_some() {
                lines.push(line(row)?);
            }
        }
        Ok(Counts { lines, counted_position, message_count })
    }

    /// Who these holders are, as far as this role may know.
    pub async fn holder_lines(&self, holders: &[Holder]) -> Result<Vec<HolderLine>, StoreError> {
        let pids: Vec<i32> = holders.iter().filter_map(|holder| holder.pid).collect();
        let prepared: Vec<&str> = holders
            .iter()
            .filter(|holder| holder.pid.is_none())
            .map(|holder| holder.virtual_transaction.as_str())
            .collect();
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT p.pid, NULL, nullif(a.application_name, ''), a.usename::text, host(a.client_addr), a.state, \
                 a.xact_start AT TIME ZONE 'utc' FROM unnest($1::integer[]) AS p (pid) \
                 LEFT JOIN pg_stat_activity AS a ON a.pid = p.pid \
                 UNION ALL \
                 SELECT NULL, coalesce(x.gid, t.virtual), NULL, x.owner::text, NULL, \
                 'prepared', x.prepared AT TIME ZONE 'utc' FROM unnest($2::text[]) AS t (virtual) \
                 LEFT JOIN pg_locks AS l ON l.virtualtransaction = t.virtual AND l.locktype = 'transactionid' \
                 LEFT JOIN pg_prepared_xacts AS x ON x.transaction = l.transactionid",
                &[&pids, &prepared],
            )
            .await?;
        let line = |row: &Row| {
            Ok(HolderLine {
                pid: row.try_get(0)?,
                prepared_as: row.try_get(1)?,
                application_name: row.try_get(2)?,
                user_name: row.try_get(3)?,
                client_address: row.try_get(4)?,
                state: row.try_get(5)?,
                transaction_started: row.try_get(6)?,
            })
        };
        rows.iter().map(line).collect()
    }
}

/// The place of a name in a walk is an `integer` in SQL.
fn limit_of(limit: i64) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}
