//! The log may go back: restored from a backup, taken over by a replica that had not received everything, truncated.

mod cursors;
mod following;
mod servers;
mod truncating;

use std::ops::Range;

use serde_json::json;

use crate::support::app::TestApp;

/// Appends messages one by one to a stream; their global positions.
async fn write_to(app: &TestApp, stream: &str, count: usize) -> Vec<i64> {
    write_numbers(app, stream, 0..count as i64).await
}

async fn write_numbers(app: &TestApp, stream: &str, numbers: Range<i64>) -> Vec<i64> {
    let mut positions = Vec::new();
    for n in numbers {
        positions.push(app.write(stream, "Written", json!({ "n": n })).await);
    }
    positions
}

/// What Message DB's `clear-messages.sh` does.
const TRUNCATE: &str = "TRUNCATE message_store.messages RESTART IDENTITY";
