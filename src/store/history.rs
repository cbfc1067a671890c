//! Which message stands where: by that a log that went back is told from the one that was read.

use uuid::Uuid;

use super::{Database, StoreError};

impl Database {
    /// The id of the message at a global position.
    pub async fn message_id_at(&self, global_position: i64) -> Result<Option<Uuid>, StoreError> {
        let client = self.client().await?;
        let statement =
            client.prepare_cached("SELECT id FROM message_store.messages WHERE global_position = $1").await?;
        Ok(client.query_opt(&statement, &[&global_position]).await?.map(|row| row.get(0)))
    }

    /// The id of the message at a position of a stream.
    pub async fn message_id_in_stream(&self, stream_name: &str, position: i64) -> Result<Option<Uuid>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT id FROM message_store.messages WHERE stream_name = $1 AND position = $2";
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_opt(&statement, &[&stream_name, &position]).await?.map(|row| row.get(0)))
    }
}
