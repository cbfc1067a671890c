//! A program that writes in SQL, beside the service.
#![allow(dead_code)]

use tokio_postgres::Client;

/// The number of the session, as the service names it.
pub async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// Writes by Message DB's function; returns the global position.
pub async fn write(client: &Client, stream_name: &str, data: &str) -> i64 {
    let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Written', $2::text::jsonb)";
    client.query_one(sql, &[&stream_name, &data]).await.unwrap();
    last_position(client, stream_name).await
}

/// Writes by an INSERT of its own, which notifies nobody; returns the global position.
pub async fn insert(client: &Client, stream_name: &str, message_type: &str, data: &str) -> i64 {
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT $1, coalesce(max(position), -1) + 1, $2, $3::text::jsonb FROM message_store.messages \
        WHERE stream_name = $1 RETURNING global_position";
    client.query_one(sql, &[&stream_name, &message_type, &data]).await.unwrap().get(0)
}

/// Takes a global position that stays a hole for ever.
pub async fn roll_back_one(client: &Client) {
    client.batch_execute("BEGIN").await.unwrap();
    insert(client, "rolled_back-1", "Lost", "{}").await;
    client.batch_execute("ROLLBACK").await.unwrap();
}

/// The global positions of committed messages, in order; `condition` is on the table's columns.
pub async fn standing(client: &Client, condition: &str) -> Vec<i64> {
    let sql = format!("SELECT global_position FROM message_store.messages WHERE {condition} ORDER BY global_position");
    client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn last_position(client: &Client, stream_name: &str) -> i64 {
    let sql =
        "SELECT global_position FROM message_store.messages WHERE stream_name = $1 ORDER BY position DESC LIMIT 1";
    client.query_one(sql, &[&stream_name]).await.unwrap().get(0)
}
