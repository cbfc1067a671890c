//! The log may go back: restored from a backup, taken over by a replica that had not received everything, truncated.

mod cursors;
mod following;
mod truncating;

use serde_json::json;

use crate::support::app::TestApp;

/// Appends messages one by one to a stream; their global positions.
async fn write_to(app: &TestApp, stream: &str, count: usize) -> Vec<i64> {
    let mut positions = Vec::with_capacity(count);
    for n in 0..count {
        positions.push(app.write(stream, "Written", json!({ "n": n })).await);
    }
    positions
}

/// What Message DB's `clear-messages.sh` does.
const TRUNCATE: &str = "TRUNCATE message_store.messages RESTART IDENTITY";
