//! Pages of streams, categories and the whole log, and single messages.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::migrate::FUNCTIONS_VERSION;
use super::{Database, Messages, StoreError};
use crate::domain::filter::Filter;
use crate::domain::message::{Message, MessageParts};
use crate::domain::source::{Source, Topic};
use crate::domain::time::Timestamp;

/// Messages, and the end of the log in the same snapshot.
#[derive(Debug)]
pub struct Page {
    pub messages: Vec<Message>,
    /// The highest position: of the stream for a stream (-1 if it is empty), otherwise global (0 if there is none).
    pub head: i64,
    /// The number of the last erasure in the stream, for the page of a stream; otherwise 0.
    pub erasure: i64,
    /// The first position of the stream that was not trimmed, for the page of a stream; otherwise 0.
    pub first_position: i64,
    /// The page has fewer messages than were asked for because they are large: there are more.
    pub is_cut: bool,
}

/// The limits of one page.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    pub messages: i64,
    /// The page ends with the message that reaches this many bytes, so it has at least one.
    pub bytes: usize,
}

/// Where to read: from a position towards another one, both inclusive.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub from: i64,
    pub to: i64,
    /// `to` is before `from`, and the page begins with its newest message.
    pub backward: bool,
}

/// A page for a follower.
#[derive(Debug)]
pub struct FollowedPage {
    pub messages: Vec<Message>,
    /// There may be more.
    pub is_full: bool,
}

/// What else narrows a category's page, beside the filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CategoryOptions {
    /// Only messages whose metadata names a stream of this category in `correlationStreamName`.
    pub correlation: Option<String>,
    /// Only streams that belong to this member of a consumer group: its number, and the group's size.
    pub group: Option<(i64, i64)>,
}

/// A summary of a stream, by its first and its last message.
#[derive(Debug, Clone)]
pub struct StreamSummary {
    pub version: i64,
    /// Counted in a stream of fewer than [`COUNTED_MAX`]; of a longer one, the number of its positions from the first to
    /// the last. These differ only where SQL has deleted a message between others.
    pub message_count: i64,
    pub first_position: i64,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
}

/// The columns that make a message, in the order in which [`message_of`] reads them. Only of a message without data it is
/// looked up whether that was erased.
pub(super) const COLUMNS: &str = "m.id, m.stream_name, m.type, m.position, m.global_position, m.data::text, \
    m.metadata::text, m.time, CASE WHEN m.data IS NULL THEN headwater.erasure(m.id) END AS erased";
/// Where the columns of a query go on after [`COLUMNS`], which begin at the second.
pub(super) const AFTER_COLUMNS: usize = 10;
/// So many messages of a stream are counted one by one.
const COUNTED_MAX: i64 = 1_000;
/// Selects a category's rows in the order of their index. With a plain equality the planner may walk the primary key
/// instead, over the messages of all other categories.
const IN_CATEGORY: &str = "message_store.category(m.stream_name) BETWEEN $4 AND $4";
/// The number of the last erasure in a stream.
const LAST_ERASURE: &str = "(SELECT max(number) FROM headwater.erased_messages WHERE stream_name = $4) AS erasure";
/// The first position of a stream that was not trimmed: index entries of those before it are there until VACUUM, and are
/// not passed over again.
const FIRST_POSITION: &str =
    "(SELECT first_position FROM headwater.trimmed_streams WHERE stream_name = $4) AS first_position";
/// The condition of every page, with `$1` to `$3`.
const FILTER: &str = "($1::text[] IS NULL OR m.type = ANY ($1)) AND ($2::timestamp IS NULL OR m.time >= $2) \
    AND ($3::timestamp IS NULL OR m.time < $3)";

impl PageLimit {
    pub const ONE: PageLimit = PageLimit { messages: 1, bytes: usize::MAX };

    /// The bytes as a parameter for PostgreSQL.
    pub(super) fn bytes(&self) -> i64 {
        self.bytes.try_into().unwrap_or(i64::MAX)
    }
}

impl Page {
    pub(super) fn followed(self, limit: PageLimit) -> FollowedPage {
        let is_full = self.is_cut || self.messages.len() as i64 >= limit.messages;
        FollowedPage { messages: self.messages, is_full }
    }
}

impl Messages<'_> {
    /// A stream's messages in a span of its positions.
    pub async fn stream_page(
        self,
        stream_name: &str,
        span: Span,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<Page, StoreError> {
        let (comparison, end, order) = span.direction();
        // The version and the messages come from one snapshot: a client that decides by them and appends with that version
        // has seen everything up to it.
        let sql = format!(
            "SELECT coalesce(v.version, -1), m.*, v.erasure, v.first_position FROM (SELECT (SELECT position FROM message_store.messages \
             WHERE stream_name = $4 ORDER BY position DESC LIMIT 1) AS version, {LAST_ERASURE}, {FIRST_POSITION}) AS v LEFT JOIN LATERAL (\
             SELECT {COLUMNS} FROM message_store.messages AS m WHERE m.stream_name = $4 \
             AND m.position {comparison} $5 AND m.position {end} $6 AND m.position >= coalesce(v.first_position, 0) AND {FILTER} \
             ORDER BY m.position {order} LIMIT $7) AS m ON true"
        );
        self.page(&sql, filter, limit.bytes, &[&stream_name, &span.from, &span.to, &limit.messages]).await
    }

    /// A category's messages in a span of global positions.
    pub async fn category_page(
        self,
        category: &str,
        span: Span,
        limit: PageLimit,
        filter: &Filter,
        options: &CategoryOptions,
    ) -> Result<Page, StoreError> {
        let (comparison, end, order) = span.direction();
        let sql = format!(
            "SELECT coalesce(v.head, 0), m.* FROM (SELECT (SELECT global_position FROM message_store.messages \
             WHERE message_store.category(stream_name) BETWEEN $4 AND $4 \
             ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT 1) AS head) AS v \
             LEFT JOIN LATERAL (SELECT {COLUMNS} FROM message_store.messages AS m \
             WHERE {IN_CATEGORY} AND m.global_position {comparison} $5 AND m.global_position {end} $10 AND {FILTER} \
             AND ($7::text IS NULL OR message_store.category(m.metadata ->> 'correlationStreamName') = $7) \
             AND ($8::bigint IS NULL OR headwater.group_member(m.stream_name, $9) = $8) \
             ORDER BY message_store.category(m.stream_name) {order}, m.global_position {order} LIMIT $6) AS m ON true"
        );
        let (member, size) = options.group.unzip();
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&category, &span.from, &limit.messages, &options.correlation, &member, &size, &span.to];
        self.page(&sql, filter, limit.bytes, &parameters).await
    }

    /// All messages in a span of global positions, up to one that is settled.
    pub async fn all_page(
        self,
        span: Span,
        settled: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<Page, StoreError> {
        let (comparison, end, order) = span.direction();
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m \
             WHERE m.global_position {comparison} $4 AND m.global_position {end} $5 AND {FILTER} \
             ORDER BY m.global_position {order} LIMIT $6"
        );
        // The later one of both ends is settled.
        let (from, to) = match span.backward {
            true => (span.from.min(settled), span.to),
            false => (span.from, span.to.min(settled)),
        };
        let page = self.page(&sql, filter, limit.bytes, &[&from, &to, &limit.messages]).await?;
        Ok(Page { head: settled, ..page })
    }

    /// What comes after a follower's place, up to a settled position: in a single stream after a position in it, otherwise
    /// after a global position, in global order.
    pub async fn follow_page(
        self,
        source: &Source,
        after: i64,
        up_to: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<FollowedPage, StoreError> {
        // With patterns, all messages are read, and the follower passes over those that do not match.
        if source.topics().iter().any(|topic| matches!(topic, Topic::All | Topic::Selected(_))) {
            let span = Span::forward(after.saturating_add(1));
            return Ok(self.all_page(span, up_to, limit, filter).await?.followed(limit));
        }
        const IN_STREAM: &str = "m.stream_name = $4 AND m.position > $5 AND m.position >= coalesce(\
            (SELECT first_position FROM headwater.trimmed_streams WHERE stream_name = $4), 0)";
        let one = match (source.single_stream(), source.topics()) {
            (Some(name), _) => Some((name, IN_STREAM.to_owned(), "m.position")),
            (None, [Topic::Category(name)]) => {
                let after = format!("{IN_CATEGORY} AND m.global_position > $5");
                Some((name, after, "message_store.category(m.stream_name), m.global_position"))
            }
            _ => None,
        };
        if let Some((name, after_place, order)) = one {
            let sql = format!(
                "SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE {after_place} \
                 AND m.global_position <= $6 AND {FILTER} ORDER BY {order} LIMIT $7"
            );
            let parameters: [&(dyn ToSql + Sync); 4] = [&&**name, &after, &up_to, &limit.messages];
            return Ok(self.page(&sql, filter, limit.bytes, &parameters).await?.followed(limit));
        }
        let (mut categories, mut streams) = (Vec::new(), Vec::new());
        for topic in source.topics() {
            match topic {
                Topic::Category(name) => categories.push(&**name),
                Topic::Stream(name) => streams.push(&**name),
                Topic::All | Topic::Selected(_) => {}
            }
        }
        // Messages are put in order as they are stored, and printed one by one after that.
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS} FROM (SELECT * FROM (\
             SELECT m.* FROM unnest($4::text[]) AS c (category) CROSS JOIN LATERAL (\
             SELECT * FROM message_store.messages AS m \
             WHERE message_store.category(m.stream_name) BETWEEN c.category AND c.category \
             AND m.global_position > $6 AND m.global_position <= $7 AND {FILTER} \
             ORDER BY message_store.category(m.stream_name), m.global_position LIMIT $8) AS m \
             UNION ALL \
             SELECT m.* FROM unnest($5::text[]) AS s (stream_name) CROSS JOIN LATERAL (\
             SELECT * FROM message_store.messages AS m WHERE m.stream_name = s.stream_name \
             AND m.position >= headwater.first_position_after(s.stream_name, $6) \
             AND m.global_position > $6 AND m.global_position <= $7 AND {FILTER} \
             ORDER BY m.position LIMIT $8) AS m\
             ) AS m ORDER BY m.global_position LIMIT $8) AS m"
        );
        let parameters: [&(dyn ToSql + Sync); 5] = [&categories, &streams, &after, &up_to, &limit.messages];
        Ok(self.page(&sql, filter, limit.bytes, &parameters).await?.followed(limit))
    }

    pub async fn by_id(self, id: Uuid) -> Result<Option<Message>, StoreError> {
        let client = self.0.reader().await?;
        let sql = format!("SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE m.id = $1");
        let statement = client.prepare_cached(&sql).await?;
        client.query_opt(&statement, &[&id]).await?.as_ref().map(message_of).transpose()
    }

    /// A stream's last message, of a type if one is given.
    pub async fn last(self, stream_name: &str, message_type: Option<&str>) -> Result<Option<Message>, StoreError> {
        let types = message_type.map(|name| vec![name.to_owned()]).unwrap_or_default();
        let filter = Filter { types: types.into(), ..Filter::default() };
        let span = Span { from: i64::MAX, to: 0, backward: true };
        Ok(self.stream_page(stream_name, span, PageLimit::ONE, &filter).await?.messages.pop())
    }

    pub async fn stream_summary(self, stream_name: &str) -> Result<Option<StreamSummary>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT (SELECT count(*) FROM (SELECT FROM message_store.messages WHERE stream_name = $1
               ORDER BY position LIMIT $2) AS m) AS "message_count!", first.position AS first_position, first.time AS "first_time: Timestamp", last.position AS version,
               last.time AS "last_time: Timestamp" FROM
               (SELECT position, time FROM message_store.messages WHERE stream_name = $1 ORDER BY position LIMIT 1)
               AS first,
               (SELECT position, time FROM message_store.messages WHERE stream_name = $1 ORDER BY position DESC LIMIT 1)
               AS last"#,
            stream_name,
            COUNTED_MAX
        )
        .fetch_optional(self.0)
        .await?;
        Ok(row.map(|row| StreamSummary {
            version: row.version,
            message_count: match row.message_count {
                COUNTED_MAX => row.version + 1 - row.first_position,
                fewer => fewer,
            },
            first_position: row.first_position,
            first_time: row.first_time,
            last_time: row.last_time,
        }))
    }

    /// The stream's last position, -1 if it is empty; `settled_at`: only of its messages up to that global position.
    pub async fn stream_version(self, stream_name: &str, settled_at: Option<i64>) -> Result<i64, StoreError> {
        let version = sqlx::query_scalar!(
            "SELECT position FROM message_store.messages WHERE stream_name = $1
             AND ($2::bigint IS NULL OR global_position <= $2) ORDER BY position DESC LIMIT 1",
            stream_name,
            settled_at
        );
        Ok(version.fetch_optional(self.0).await?.unwrap_or(-1))
    }

    /// The position in a stream of its last message of a type. The index of the stream is read from its end until one is
    /// found.
    pub async fn last_position_of(self, stream_name: &str, message_type: &str) -> Result<Option<i64>, StoreError> {
        let position = sqlx::query_scalar!(
            "SELECT position FROM message_store.messages WHERE stream_name = $1 AND type = $2
             ORDER BY position DESC LIMIT 1",
            stream_name,
            message_type
        );
        Ok(position.fetch_optional(self.0).await?)
    }

    /// The highest global position that was ever given out, committed or not.
    pub async fn last_position_given(self) -> Result<i64, StoreError> {
        let given = sqlx::query_scalar!(
            r#"SELECT greatest((SELECT max(global_position) FROM message_store.messages),
               pg_sequence_last_value(pg_get_serial_sequence('message_store.messages', 'global_position')::regclass), 0)
               AS "given!""#
        );
        Ok(given.fetch_one(self.0).await?)
    }

    async fn page(
        self,
        sql: &str,
        filter: &Filter,
        bytes_max: usize,
        own: &[&(dyn ToSql + Sync)],
    ) -> Result<Page, StoreError> {
        let lent;
        let client = match self.1 {
            Some(session) => session,
            None => {
                lent = self.0.reader().await?;
                &*lent
            }
        };
        let statement = client.prepare_cached(sql).await?;
        let types = (!filter.types.is_empty()).then_some(&*filter.types);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&types, &filter.from_time, &filter.to_time];
        parameters.extend_from_slice(own);
        let (mut head, mut erasure, mut first_position) = (0, None, None);
        let read = |row: &Row| {
            head = row.try_get(0)?;
            if row.len() > AFTER_COLUMNS {
                erasure = row.try_get(AFTER_COLUMNS)?;
                first_position = row.try_get(AFTER_COLUMNS + 1)?;
            }
            // An empty page is one row without a message: it brings the head alone.
            has_message(row)?.then(|| message_of(row)).transpose()
        };
        let read = client.query_bounded(&statement, &parameters, bytes_max, read).await?;
        let messages = read.rows.into_iter().flatten().collect();
        let (erasure, first_position) = (erasure.unwrap_or(0), first_position.unwrap_or(0));
        Ok(Page { messages, head, erasure, first_position, is_cut: read.is_cut })
    }
}

impl Span {
    /// All from a position on.
    pub fn forward(from: i64) -> Self {
        Self { from, to: i64::MAX, backward: false }
    }

    /// What is read first of it, where that ends before a position which is near the end of the log: so many positions.
    pub fn first_part(self, positions: i64, near_end: i64) -> Option<Span> {
        if self.backward {
            let to = self.from.min(near_end).saturating_sub(positions);
            return (to > self.to).then_some(Self { to, ..self });
        }
        let to = self.from.saturating_add(positions);
        (to < self.to.min(near_end)).then_some(Self { to, ..self })
    }

    /// How positions compare with `from` and with `to`, and their order.
    fn direction(self) -> (&'static str, &'static str, &'static str) {
        if self.backward { ("<=", ">=", "DESC") } else { (">=", "<=", "ASC") }
    }
}

impl Database {
    /// Whether the database can be reached, is a primary, and has functions that serve this version.
    pub async fn has_schema(&self) -> Result<bool, StoreError> {
        let has_schema = sqlx::query_scalar!(
            r#"SELECT to_regproc('headwater.append_batch') IS NOT NULL AND NOT pg_is_in_recovery()
               AND has_table_privilege('message_store.messages', 'SELECT')
               AND has_table_privilege('message_store.messages', 'INSERT')
               AND NOT EXISTS (SELECT FROM headwater.installation AS i WHERE i.functions_serve_from > $1) AS "has_schema!""#,
            FUNCTIONS_VERSION
        );
        match has_schema.fetch_one(self).await.map_err(StoreError::from) {
            // The database was reached, and has no schema that could be asked.
            Err(StoreError::Refused { .. }) => Ok(false),
            answer => answer,
        }
    }
}

/// Whether the row has a message from its second column on: an outer join may have found none.
pub(super) fn has_message(row: &Row) -> Result<bool, StoreError> {
    Ok(row.try_get::<_, Option<i64>>(5)?.is_some())
}

/// Reads [`COLUMNS`] from the second column on.
pub(super) fn message_of(row: &Row) -> Result<Message, StoreError> {
    Ok(Message::new(MessageParts {
        id: row.try_get(1)?,
        stream_name: row.try_get(2)?,
        message_type: row.try_get(3)?,
        position: row.try_get(4)?,
        global_position: row.try_get(5)?,
        data: row.try_get(6)?,
        metadata: row.try_get(7)?,
        time: row.try_get(8)?,
        erased: row.try_get(9)?,
    }))
}
