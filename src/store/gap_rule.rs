//! Checks that this server shows its locks as the rule of the settled position needs: with an engine that shows other
//! modes, or hides short transactions, every hole would be settled at once.

use super::{Database, StoreError};
use crate::domain::settling::Holder;

/// Why the rule does not hold, or is not known to.
#[derive(Debug, thiserror::Error)]
pub enum GapRuleError {
    #[error(
        "{fault}, and without that messages would be missed: headwater needs a PostgreSQL that shows in pg_locks who \
         holds its locks, and this is {engine}"
    )]
    Broken { fault: &'static str, engine: String },
    #[error("whether the server shows who holds its locks is not known: {0}")]
    Unknown(#[from] StoreError),
}

/// Takes the lock as every INSERT does, without using up a position, and without waiting long.
const TAKE_LOCK: &str = "BEGIN; SET LOCAL lock_timeout = '2s'; \
    INSERT INTO message_store.messages (stream_name, position, type) SELECT 'headwater', 0, 'GapRule' WHERE false";

impl Database {
    /// One session takes the lock; another one must see that, and must see it released.
    pub async fn check_gap_rule(&self) -> Result<(), GapRuleError> {
        let Some(fault) = self.look_at_locks().await? else { return Ok(()) };
        let version = sqlx::query_scalar!(r#"SELECT version() AS "version!""#).fetch_one(self).await;
        Err(GapRuleError::Broken { fault, engine: version.map_err(StoreError::from)? })
    }

    async fn look_at_locks(&self) -> Result<Option<&'static str>, StoreError> {
        let ((watcher, _), (writer, _)) = (self.tail_session().await?, self.tail_session().await?);
        writer.batch(TAKE_LOCK).await?;
        let pid = writer.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
        let during = watcher.holder_rows().await?;
        writer.batch("ROLLBACK").await?;
        let after = watcher.holder_rows().await?;
        Ok(fault(pid, &during, &after))
    }
}

/// What is wrong with how a session's lock was shown while it was held, and afterwards.
fn fault(pid: i32, during: &[Holder], after: &[Holder]) -> Option<&'static str> {
    let of_session = |holders: &[Holder]| -> Vec<Holder> {
        holders.iter().filter(|holder| holder.pid == Some(pid)).cloned().collect()
    };
    match &of_session(during)[..] {
        [] => Some("the lock of an open transaction that writes is not shown"),
        [_, _, ..] => Some("the lock of an open transaction that writes is shown several times"),
        [one] if !is_virtual_transaction(&one.virtual_transaction) => {
            Some("the lock of an open transaction that writes is shown without its virtual transaction")
        }
        [_] if !of_session(after).is_empty() => Some("the lock of a transaction that has ended is still shown"),
        [_] => None,
    }
}

/// Whether the text is like `3/45`: a session, and its count of transactions.
fn is_virtual_transaction(text: &str) -> bool {
    let parts = text.split_once('/').map(|(session, count)| (session.parse::<i64>(), count.parse::<i64>()));
    matches!(parts, Some((Ok(_), Ok(1..))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(virtual_transaction: &str, pid: i32) -> Holder {
        Holder { virtual_transaction: virtual_transaction.into(), pid: Some(pid) }
    }

    #[test]
    fn a_lock_is_to_be_seen_once_while_it_is_held_and_not_after() {
        let (ours, other) = (holder("3/45", 7), holder("4/1", 8));
        assert_eq!(fault(7, &[other.clone(), ours.clone()], std::slice::from_ref(&other)), None);
        let again = holder("3/46", 7);
        for (during, after) in [
            (vec![], vec![]),
            (vec![other.clone()], vec![other.clone()]),
            (vec![ours.clone(), again.clone()], vec![]),
            (vec![holder("", 7)], vec![]),
            (vec![holder("3/0", 7)], vec![]),
            (vec![ours.clone()], vec![ours.clone()]),
            (vec![ours], vec![again]),
        ] {
            assert!(fault(7, &during, &after).is_some(), "{during:?}, then {after:?}");
        }
    }
}
