//! A service that can stand on the open internet: its certificate, its headers, and limits that hold from outside.
mod attack;
mod certificate;
mod connections;
mod cors;
mod headers;
mod http2;
mod parsers;
mod requests;
mod secrets;
mod slow_clients;

/// Messages of this size, as one transaction.
async fn insert_bulk(database: &crate::support::database::TestDatabase, stream: &str, messages: i64, bytes: i32) {
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT $1::text, n, 'Bulk', jsonb_build_object('text', repeat('x', $3::int)) FROM generate_series(0, $2::bigint - 1) AS n";
    database.connect().await.execute(sql, &[&stream, &messages, &bytes]).await.unwrap();
}
