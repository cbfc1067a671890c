//! Looks for rows that were written at settled positions, in the pages where PostgreSQL puts new rows.

use tokio_postgres::types::Type;

use super::{Session, StoreError};

/// How many pages before the end of the table are looked at again: PostgreSQL adds pages in advance and fills them later.
const PAGES_AGAIN: i64 = 128;
/// If there are more new pages than these, only the last ones are looked at.
const PAGES_MAX: i64 = 8_192;

/// What a later look is compared with: the settled position, which transactions had committed, and the table's size.
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
    /// The lowest of their global positions.
    pub first: i64,
}

/// The new mark, and what was written behind since the old one. Nothing is read if no transaction has ended since the mark
/// ($3), nor of a table that has no pages. A row has 32 of the 64 bits of its transaction's number; the others are computed
/// only for the few rows whose transaction may still have been running at the mark.
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
    AND NOT (m.data IS NULL AND EXISTS (SELECT FROM headwater.erased_messages AS e WHERE e.id = m.id)) \
    AND age(m.xmin) <= (SELECT age((pg_snapshot_xmin($3::text::pg_snapshot)::text::numeric % 4294967296)::text::xid)) \
    AND NOT pg_visible_in_snapshot(((SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) \
    - (((SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) - m.xmin::text::bigint) & 4294967295)\
    )::text::xid8, $3::text::pg_snapshot)) AS b";

/// What the tail's reader looks at once a second.
impl Session {
    /// What was written at settled positions since the mark, and sets the mark to now. A row that was put into the free
    /// space of an older page is not found.
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
