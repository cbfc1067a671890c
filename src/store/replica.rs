//! What has to be known of the primary and of a replica, so that messages can be read from the replica.

use super::read::{FollowedPage, Page, PageLimit, Span};
use super::{Database, Messages, StoreError};
use crate::domain::filter::Filter;
use crate::domain::replica::ReplicaReport;
use crate::domain::source::Source;

/// Of a primary: the end of its log, with what is not on disk yet.
const END: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
/// Of a replica. What it replayed last of the checkpoint names the primary that wrote it.
const SEEN: &str = "SELECT pg_is_in_recovery(), \
    coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint, 0), \
    extract(epoch FROM pg_postmaster_start_time())::text, (SELECT server FROM headwater.settled_position)";
/// How often messages were erased; counted in the order of the commits.
const ERASURES: &str = "SELECT coalesce(max(number), 0) FROM headwater.erasures";

/// What is read of a replica.
#[derive(Debug, Clone, Copy)]
pub enum ReplicaQuery<'a> {
    /// What comes after a follower's place.
    After(&'a Source, i64),
    /// All messages in a span.
    All(Span),
}

/// A page of a replica.
#[derive(Debug)]
pub struct ReplicaPage {
    pub page: FollowedPage,
    /// How many erasures it has replayed, at least.
    pub erasures: i64,
}

impl Database {
    /// The end of the primary's log by now, and which server it is, if it tells.
    pub async fn log_end(&self) -> Result<(i64, Option<String>), StoreError> {
        let client = self.client().await?;
        let server = client.server().await?;
        let rows = client.query_typed(END, &[]).await?;
        let end = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok((end, server))
    }

    /// What a replica says of itself.
    pub async fn seen_as_replica(&self) -> Result<ReplicaReport, StoreError> {
        let rows = self.client().await?.query_typed(SEEN, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable("a replica says nothing".into()))?;
        Ok(ReplicaReport {
            is_replica: row.try_get(0)?,
            replayed: row.try_get(1)?,
            started: row.try_get(2)?,
            primary: row.try_get(3)?,
        })
    }

    /// How many messages were erased.
    pub async fn erasure_count(&self) -> Result<i64, StoreError> {
        let rows = self.client().await?.query_typed(ERASURES, &[]).await?;
        rows.first().map_or(Ok(0), |row| Ok(row.try_get(0)?))
    }

    /// Reads from a replica up to a position. `started`: the server for which that position was found. Another one, in its
    /// place by now, is not read.
    pub async fn replica_page(
        &self,
        started: &str,
        wanted: ReplicaQuery<'_>,
        up_to: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<ReplicaPage, StoreError> {
        let client = self.client().await?;
        // Before the page, so that the page has all of these erasures.
        let sql = format!("{SEEN}, ({ERASURES})");
        let rows = client.query_typed(&sql, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable("a replica says nothing".into()))?;
        if !row.try_get::<_, bool>(0)? || row.try_get::<_, &str>(2)? != started {
            return Err(StoreError::Unavailable("another server is in the place of the replica".into()));
        }
        let messages = Messages(self, Some(&*client));
        let page = match wanted {
            ReplicaQuery::After(source, after) => messages.follow_page(source, after, up_to, limit, filter).await?,
            ReplicaQuery::All(span) => messages.all_page(span, up_to, limit, filter).await?.followed(limit),
        };
        Ok(ReplicaPage { page, erasures: row.try_get(4)? })
    }
}

impl ReplicaPage {
    /// The page as one of the primary, whose log is settled up to a position.
    pub fn into_page(self, settled: i64) -> Page {
        Page { messages: self.page.messages, head: settled, erasure: 0, first_position: 0, is_cut: self.page.is_full }
    }
}
