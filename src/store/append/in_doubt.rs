//! What became of a commit whose answer was lost, and what keeps one waiting.

use std::time::Duration;

use super::answer::PartOutcomes;
use super::columns::Columns;
use super::{Backend, Database, StoreError};
use crate::domain::append::{AppendError, AppendRequest, Appended, LockHolder};

const FIND_DUPLICATE_IDS: &str = "SELECT * FROM headwater.find_duplicate_ids(\
    $1::int, $2::int[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[])";

/// A commit that was waiting for its synchronous standby can be seen once its session was ended, and the standby may not
/// have it. This one's own comes after it in the server's log, and waits for the standby as any other does.
const WAIT_FOR_STANDBY: &str = "SELECT pg_logical_emit_message(true, 'headwater', '')";

/// Between two looks at whether an old session is gone.
const TERMINATE_POLL: Duration = Duration::from_millis(20);

impl Database {
    /// Finds out what became of a commit whose answer was lost. First the old session is ended for good, so that
    /// nothing can be written by it afterwards; then the ids are looked up, with what was written under them: an id may have
    /// been used for something else before. One answer for each request; `None` if its messages were not written.
    ///
    /// What was written is only told once it would outlast the server, as for an answer that was not lost.
    pub async fn resolve_commit(
        &self,
        backend: &Backend,
        requests: &[&AppendRequest],
    ) -> Result<Vec<Option<Result<Appended, AppendError>>>, StoreError> {
        let client = self.client().await?;
        let asked = "SELECT current_setting('synchronous_standby_names') <> '', pg_is_in_recovery()";
        let server = client.query_one(asked, &[]).await?;
        let waits_for_standby: bool = server.try_get(0)?;
        if server.try_get(1)? {
            // It need not have replayed the commit yet, and knows nothing of the session.
            self.forget_connections();
            return Err(StoreError::Unavailable("the address leads to a server that is in recovery".into()));
        }
        loop {
            let alive = client
                .query_opt(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE pid = $1 \
                     AND coalesce((extract(epoch FROM backend_start) * 1000000)::bigint, $2) IS NOT DISTINCT FROM $2",
                    &[&backend.pid, &backend.started_at_micros],
                )
                .await?;
            if alive.is_none() {
                break;
            }
            tokio::time::sleep(TERMINATE_POLL).await;
        }
        let columns = Columns::of(requests);
        let row = client
            .query_one(
                FIND_DUPLICATE_IDS,
                &[
                    &(columns.part_requests.len() as i32),
                    &columns.message_parts,
                    &columns.message_streams,
                    &columns.ids,
                    &columns.types,
                    &columns.datas,
                    &columns.metadatas,
                ],
            )
            .await?;
        let mut parts = PartOutcomes::read(&row, columns.part_requests.len())?;
        let found = requests.iter().map(|request| parts.of_next(request.streams.len()).found());
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        if waits_for_standby && found.iter().any(|found| matches!(found, Some(Ok(_)))) {
            // Those that find no place look again.
            let Ok(_place) = self.standby_waits.try_acquire() else {
                return Err(StoreError::Unavailable("other commits wait for a synchronous standby".into()));
            };
            client.query_typed(WAIT_FOR_STANDBY, &[]).await?;
        }
        Ok(found)
    }
}

impl Database {
    /// The transactions that keep appends to a category waiting right now: those that hold its lock, or a lock on the
    /// table that nobody can write beside. A prepared transaction has no process, and is known by the lock on its own number. `waited` is the
    /// session that has given up: it says so before it lets go of what it had got already.
    pub async fn lock_holders(&self, category: &str, waited: Option<&Backend>) -> Result<Vec<LockHolder>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT l.pid, p.gid AS "gid?"
               FROM (SELECT message_store.hash_64($1) AS key) AS category, pg_locks AS l
               LEFT JOIN pg_locks AS own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
               AND own.granted AND own.virtualtransaction = l.virtualtransaction
               LEFT JOIN pg_prepared_xacts AS p ON p.transaction = own.transactionid
               WHERE l.granted AND l.pid IS DISTINCT FROM $2
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND ((l.locktype = 'advisory' AND l.objsubid = 1 AND l.classid::bigint = (category.key >> 32) & 4294967295
               AND l.objid::bigint = category.key & 4294967295)
               OR (l.locktype = 'relation' AND l.relation = 'message_store.messages'::regclass
               AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')))
               ORDER BY 1, 2"#,
            category,
            waited.map(|backend| backend.pid)
        )
        .fetch_all(self)
        .await?;
        let holder = |(pid, gid): (Option<i32>, Option<String>)| {
            pid.map(LockHolder::Process).or_else(|| gid.map(LockHolder::Prepared))
        };
        Ok(rows.into_iter().filter_map(|row| holder((row.pid, row.gid))).collect())
    }
}
