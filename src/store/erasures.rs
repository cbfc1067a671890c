//! Erasing the data of messages, and finding out what other instances and SQL programs have erased.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::outcome::Outcome;
use super::read::{AFTER_COLUMNS, COLUMNS, message_of};
use super::{Messages, Session, StoreError};
use crate::domain::message::Message;

/// How many erasures one look takes.
const ERASURES_MAX: i64 = 1_000;

/// A message that was erased.
#[derive(Debug, Clone)]
pub struct Erasure {
    pub global_position: i64,
    pub id: Uuid,
    /// When and why, as JSON text.
    pub text: String,
}

/// Erasures after a number, in the order of their commits.
#[derive(Debug)]
pub struct Erasures {
    pub erasures: Vec<Erasure>,
    /// All up to this number have been seen.
    pub seen: i64,
    pub is_all: bool,
    /// How many trims there were.
    pub trims: i64,
}

/// `$1` is the number up to which all were seen, NULL for a first look. A number that is lower than that is of a database
/// that was restored.
const AFTER: &str = "SELECT n.number, e.number, e.global_position, e.id, headwater.erasure(e.id), \
    t.number FROM headwater.erasures AS n CROSS JOIN headwater.trims AS t LEFT JOIN LATERAL (SELECT * FROM headwater.erased_messages AS e \
    WHERE e.number > CASE WHEN n.number < $1 THEN 0 ELSE coalesce($1, n.number) END ORDER BY e.number LIMIT $2) AS e \
    ON true";

impl Session {
    /// What was erased after a number.
    pub async fn erasures_after(&self, seen: Option<i64>) -> Result<Erasures, StoreError> {
        let rows = self.query_typed(AFTER, &[(&seen, Type::INT8), (&ERASURES_MAX, Type::INT8)]).await?;
        let mut found = Erasures { erasures: Vec::new(), seen: seen.unwrap_or(0), is_all: true, trims: 0 };
        for row in &rows {
            (found.seen, found.trims) = (row.try_get(0)?, row.try_get(5)?);
            if let Some(global_position) = row.try_get(2)? {
                found.erasures.push(Erasure { global_position, id: row.try_get(3)?, text: row.try_get(4)? });
            }
        }
        if rows.len() as i64 == ERASURES_MAX {
            found.is_all = false;
            found.seen = rows.last().map_or(Ok(None), |row| row.try_get(1))?.unwrap_or(found.seen);
        }
        Ok(found)
    }
}

impl Messages<'_> {
    /// The number of the last erasure in a stream, 0 for none.
    pub async fn last_erasure(self, stream_name: &str) -> Result<i64, StoreError> {
        let client = self.0.reader().await?;
        let sql = "SELECT coalesce(max(number), 0) FROM headwater.erased_messages WHERE stream_name = $1";
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_one(&statement, &[&stream_name]).await?.try_get(0)?)
    }

    /// Erases a message and answers it as it is then; `None`: there is no such message.
    pub async fn erase(self, id: Uuid, reason: Option<&str>) -> Result<Option<(Message, Erasure)>, StoreError> {
        let client = self.0.client().await?;
        let erase = client.prepare_cached("SELECT headwater.erase_message($1, $2)").await?;
        let outcome: String = client.query_one(&erase, &[&id, &reason]).await?.try_get(0)?;
        match Outcome::parse(&outcome)? {
            Outcome::Done => {}
            Outcome::Missing => return Ok(None),
            other => return Err(other.unexpected()),
        }
        let sql = format!("SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE m.id = $1");
        let read = client.prepare_cached(&sql).await?;
        let Some(row) = client.query_opt(&read, &[&id]).await? else { return Ok(None) };
        let message = message_of(&row)?;
        let text: Option<String> = row.try_get(AFTER_COLUMNS - 1)?;
        let global_position = message.global_position;
        Ok(text.map(|text| (message, Erasure { global_position, id, text })))
    }
}
