//! Rows that somebody wrote at positions that were settled already: looked for where PostgreSQL puts new rows.

use tokio_postgres::types::Type;

use super::{Session, StoreError};

/// So many pages before the end of the table are looked at again: PostgreSQL adds pages in advance, and fills them later.
const PAGES_AGAIN: i64 = 128;
/// Of more new pages than these, the last ones are looked at.
const PAGES_MAX: i64 = 8_192;

/// What a later look is compared with: up to where everything was settled, what was committed, where the table ended.
#[derive(Debug, Default)]
pub struct Mark {
    settled: i64,
    snapshot: Option<String>,
    pages: i64,
}

/// Rows at settled positions that were written since a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenBehind {
    pub messages: i64,
    /// The lowest global position of them.
    pub first: i64,
}

/// What is now, and what was written behind since. Nothing is read where no transaction has ended since the mark ($3),
/// nor of a table that does not lie in pages. A row has 32 of the 64 bits of its transaction's number; the other ones
/// are worked out of those few rows only whose transaction may have gone on at the mark.
const LOOK: &str = "SELECT n.snapshot, n.pages, b.messages, b.first \
    FROM (SELECT pg_current_snapshot()::text AS snapshot, pg_relation_size('message_store.messages'::regclass) \
    / current_setting('block_size')::bigint AS pages) AS n \
    CROSS JOIN (SELECT count(*) AS messages, coalesce(min(m.global_position), 0) AS first \
    FROM ONLY message_store.messages AS m \
    WHERE (SELECT pg_current_snapshot()::text) <> $3 \
    AND (SELECT amname = 'heap' FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_am AS a ON a.oid = c.relam \
    WHERE c.oid = 'message_store.messages'::regclass) \
    AND m.ctid >= (SELECT format('(%s,0)', greatest($1, $4 + pg_relation_size('message_store.messages'::regclass) \
    / current_setting('block_size')::bigint))::tid) AND m.global_position <= $2 \
    AND age(m.xmin) <= (SELECT age((pg_snapshot_xmin($3::text::pg_snapshot)::text::numeric % 4294967296)::text::xid)) \
    AND NOT pg_visible_in_snapshot(((SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) \
    - (((SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) - m.xmin::text::bigint) & 4294967295)\
    )::text::xid8, $3::text::pg_snapshot)) AS b";

/// What the reader of the tail asks once a second.
impl Session {
    /// What was written at settled positions since the mark, which is moved on to now. A row that was put into the free
    /// space of an older page is not seen.
    pub async fn written_behind(&self, mark: &mut Mark, settled: i64) -> Result<Option<WrittenBehind>, StoreError> {
        let from = (mark.pages - PAGES_AGAIN).max(0);
        let rows = self
            .query_typed(
                LOOK,
                &[
                    (&from, Type::INT8),
                    (&mark.settled, Type::INT8),
                    (&mark.snapshot, Type::TEXT),
                    (&-PAGES_MAX, Type::INT8),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let found = WrittenBehind { messages: row.try_get(2)?, first: row.try_get(3)? };
        *mark = Mark { settled, snapshot: Some(row.try_get(0)?), pages: row.try_get(1)? };
        Ok(Some(found).filter(|found| found.messages > 0))
    }
}
