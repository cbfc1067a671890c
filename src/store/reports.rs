//! Reports on what is in the store: names of streams, without reading their messages, and counts by category and type.

use super::{Reports, StoreError};
use crate::domain::settling::Holder;
use crate::domain::time::Timestamp;

/// Where a walk over the names of streams begins and ends, in the database's own order.
#[derive(Debug, Clone, Default)]
pub struct NameRange {
    /// The first name, unless `exclusive`.
    pub from: String,
    pub exclusive: bool,
    /// Only names before this one.
    pub before: Option<String>,
}

/// A stream, by its first and last message.
#[derive(Debug, Clone)]
pub struct StreamLine {
    pub stream_name: String,
    pub first_position: i64,
    pub version: i64,
    pub last_global_position: i64,
    pub last_time: Timestamp,
}

/// The counts of a category or of a type.
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
    /// How many messages were counted in all.
    pub message_count: i64,
}

/// By what messages are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedBy {
    Category,
    Type,
}

/// Which names to report.
#[derive(Debug, Clone, Default)]
pub struct NameQuery {
    /// Inclusive.
    pub from: Option<String>,
    pub prefix: String,
    /// A text in the name; the case of A to Z makes no difference.
    pub contains: String,
    /// Only streams of this category, types in this category, or categories with this type.
    pub of: Option<String>,
    pub limit: usize,
}

/// A transaction that may still write right after the settled position.
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

impl Reports<'_> {
    /// Whether names are in the order of their code points, so that those with one prefix follow each other.
    pub async fn is_in_code_point_order(self) -> Result<bool, StoreError> {
        // The provider `b`, of PostgreSQL 17, knows no other order. PostgreSQL 14 knows no other provider than `c` for a
        // whole database, and has no column for it.
        let is_in_order = sqlx::query_scalar!(
            r#"SELECT a.provider = 'b' OR a.provider = 'c' AND a.name IN ('c', 'posix', 'c.utf8', 'c.utf-8') AS "is_in_order!"
               FROM (SELECT CASE c.collname WHEN 'default' THEN coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
               ELSE c.collprovider::text END AS provider,
               lower(CASE c.collname WHEN 'default' THEN d.datcollate::text ELSE c.collcollate::text END) AS name
               FROM pg_attribute AS a JOIN pg_collation AS c ON c.oid = a.attcollation
               JOIN pg_database AS d ON d.datname = current_database()
               WHERE a.attrelid = 'message_store.messages'::regclass AND a.attname = 'stream_name') AS a"#
        );
        Ok(is_in_order.fetch_optional(self.0).await?.unwrap_or(false))
    }

    /// The names of streams with their first positions. Each is found by one descent into the index `messages_stream`,
    /// however many messages there are between.
    pub async fn stream_names(self, range: &NameRange, limit: i64) -> Result<Vec<(String, i64)>, StoreError> {
        let names = sqlx::query!(
            r#"WITH RECURSIVE names AS (
               (SELECT * FROM (
               (SELECT stream_name, position, 1 AS place FROM message_store.messages
               WHERE NOT $4::boolean AND stream_name = $1 AND ($2::text IS NULL OR stream_name < $2)
               ORDER BY position LIMIT 1)
               UNION ALL
               (SELECT stream_name, position, 1 AS place FROM message_store.messages
               WHERE stream_name > $1 AND ($2::text IS NULL OR stream_name < $2) ORDER BY stream_name, position LIMIT 1)
               ) AS first ORDER BY stream_name LIMIT 1)
               UNION ALL
               SELECT next.stream_name, next.position, names.place + 1 FROM names CROSS JOIN LATERAL (
               SELECT stream_name, position FROM message_store.messages AS m
               WHERE m.stream_name > names.stream_name AND ($2::text IS NULL OR m.stream_name < $2)
               ORDER BY m.stream_name, m.position LIMIT 1) AS next WHERE names.place < $3)
               SELECT stream_name AS "stream_name!", position AS "position!" FROM names"#,
            range.from,
            range.before,
            limit_of(limit),
            range.exclusive
        );
        Ok(names.fetch_all(self.0).await?.into_iter().map(|row| (row.stream_name, row.position)).collect())
    }

    /// The last message of each of these streams that still exists.
    pub async fn stream_ends(self, streams: &[(String, i64)]) -> Result<Vec<StreamLine>, StoreError> {
        let (names, firsts): (Vec<&str>, Vec<i64>) = streams.iter().map(|(name, first)| (&**name, *first)).unzip();
        let lines = sqlx::query_as!(
            StreamLine,
            r#"SELECT s.stream_name AS "stream_name!", s.first_position AS "first_position!", last.position AS version,
               last.global_position AS last_global_position, last.time AS "last_time: Timestamp"
               FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS s (stream_name, first_position, place)
               CROSS JOIN LATERAL (SELECT position, global_position, time FROM message_store.messages AS m
               WHERE m.stream_name = s.stream_name ORDER BY m.position DESC LIMIT 1) AS last ORDER BY s.place"#,
            &names as _,
            &firsts
        );
        Ok(lines.fetch_all(self.0).await?)
    }

    /// Counts more messages, at most `messages_max` and up to a settled position. Returns the position up to which all are
    /// counted then; `None` if another session is counting.
    pub async fn count_messages(self, settled: i64, messages_max: i64) -> Result<Option<i64>, StoreError> {
        let counted = sqlx::query_scalar!("SELECT headwater.count_messages($1, $2)", settled, messages_max);
        Ok(counted.fetch_one(self.0).await?)
    }

    /// The counts in order of name, at most `limit` of them.
    pub async fn counts(self, by: CountedBy, query: &NameQuery, limit: usize) -> Result<Counts, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT p.position, (SELECT coalesce(sum(message_count), 0)::bigint FROM headwater.message_counts) AS "total!",
               l.name AS "name?", l.message_count AS "message_count?", l.stream_count AS "stream_count?",
               l.last_global_position AS "last_global_position?", l.last_time AS "last_time?: Timestamp"
               FROM headwater.counted_position AS p LEFT JOIN (
               SELECT c.name, sum(message_count)::bigint AS message_count, sum(stream_count)::bigint AS stream_count,
               max(last_global_position) AS last_global_position, max(last_time) AS last_time FROM (
               SELECT CASE WHEN $6::boolean THEN category ELSE type END AS name,
               CASE WHEN $6 THEN type ELSE category END AS other,
               message_count, stream_count, last_global_position, last_time FROM headwater.message_counts) AS c
               WHERE name >= $1 AND starts_with(name, $2) AND strpos(lower(name), $3) > 0
               AND ($4::text IS NULL OR other = $4) GROUP BY name HAVING max(last_time) > '-infinity'
               ORDER BY name LIMIT $5) AS l ON true
               ORDER BY l.name"#,
            query.from.as_deref().unwrap_or_default(),
            query.prefix,
            query.contains.to_ascii_lowercase(),
            query.of,
            limit as i64,
            by == CountedBy::Category
        )
        .fetch_all(self.0)
        .await?;
        let (counted_position, message_count) = rows.first().map_or((0, 0), |row| (row.position, row.total));
        // If nothing was counted, there is one row without a name.
        let lines = rows.into_iter().filter_map(|row| {
            Some(CountLine {
                name: row.name?,
                message_count: row.message_count?,
                stream_count: row.stream_count?,
                last_global_position: row.last_global_position?,
                last_time: row.last_time?,
            })
        });
        Ok(Counts { lines: lines.collect(), counted_position, message_count })
    }

    /// What this role may know of these holders.
    pub async fn holder_lines(self, holders: &[Holder]) -> Result<Vec<HolderLine>, StoreError> {
        let pids: Vec<i32> = holders.iter().filter_map(|holder| holder.pid).collect();
        let prepared: Vec<&str> = holders
            .iter()
            .filter(|holder| holder.pid.is_none())
            .map(|holder| holder.virtual_transaction.as_str())
            .collect();
        let lines = sqlx::query_as!(
            HolderLine,
            r#"SELECT p.pid AS "pid?", NULL AS prepared_as, nullif(a.application_name, '') AS application_name,
               a.usename::text AS user_name, host(a.client_addr) AS client_address, a.state,
               a.xact_start AT TIME ZONE 'utc' AS "transaction_started: Timestamp"
               FROM unnest($1::integer[]) AS p (pid) LEFT JOIN pg_stat_activity AS a ON a.pid = p.pid
               UNION ALL
               SELECT NULL, coalesce(x.gid, t.virtual), NULL, x.owner::text, NULL,
               'prepared', x.prepared AT TIME ZONE 'utc' FROM unnest($2::text[]) AS t (virtual)
               LEFT JOIN pg_locks AS l ON l.virtualtransaction = t.virtual AND l.locktype = 'transactionid'
               LEFT JOIN pg_prepared_xacts AS x ON x.transaction = l.transactionid"#,
            &pids,
            &prepared as _
        );
        Ok(lines.fetch_all(self.0).await?)
    }
}

/// The place of a name in a walk is an `integer` in SQL.
fn limit_of(limit: i64) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}
