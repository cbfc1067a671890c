//! What the store takes on disk: as a report, and as metrics.

use std::fmt::Write;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Query;
use super::pages::NoQuery;
use super::problem::Problem;
use super::{App, tags};
use crate::domain::time::Timestamp;
use crate::service::storage::{Storage, TableSize};

/// What the store takes on disk.
#[derive(Serialize, ToSchema)]
pub struct StorageReport {
    /// A measurement is good for 15 seconds.
    #[schema(format = DateTime)]
    pub measured_at: String,
    /// The whole database, with what is of other programs in it.
    pub database_bytes: i64,
    /// Every table of the schemas `message_store` and `headwater`, by name.
    pub tables: Vec<ReportedTable>,
    /// The time of the message with the lowest global position; null: there is none.
    #[schema(format = DateTime)]
    pub first_time: Option<String>,
    /// Messages that are there, for each day since `first_time`; null if that is less than a minute ago.
    pub messages_per_day: Option<f64>,
    /// The same in bytes of the messages' table and its indexes.
    pub bytes_per_day: Option<f64>,
}

/// A table and its indexes.
#[derive(Serialize, ToSchema)]
pub struct ReportedTable {
    #[schema(example = "message_store.messages")]
    pub name: String,
    /// Without its indexes.
    pub bytes: i64,
    pub index_bytes: i64,
    /// PostgreSQL's estimate, which VACUUM and ANALYZE correct; nothing is counted.
    pub rows_estimated: i64,
}

/// Read what the store takes on disk
///
/// Sizes of files and estimated rows, so that it costs the same however many messages there are.
#[utoipa::path(
    get, path = "/v1/reports/storage", operation_id = "reportStorage", tag = tags::REPORTS,
    responses((status = 200, body = StorageReport)),
)]
pub async fn report_storage(
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<StorageReport>, Problem> {
    let storage = app.storage.measure().await?;
    let growth = storage.growth();
    let table = |table: &TableSize| ReportedTable {
        name: table.name.clone(),
        bytes: table.bytes,
        index_bytes: table.index_bytes,
        rows_estimated: table.rows_estimated,
    };
    Ok(axum::Json(StorageReport {
        measured_at: storage.measured_at.to_rfc3339(),
        database_bytes: storage.database.bytes,
        tables: storage.tables.iter().map(table).collect(),
        first_time: storage.database.first_time.map(Timestamp::to_rfc3339),
        messages_per_day: growth.map(|growth| growth.messages_per_day),
        bytes_per_day: growth.map(|growth| growth.bytes_per_day),
    }))
}

/// The sizes in Prometheus' text format; empty while they cannot be measured.
pub async fn metrics(app: &App) -> String {
    let Ok(storage) = app.storage.measure().await else { return String::new() };
    let mut text = String::new();
    begin(&mut text, "headwater_storage_bytes", "Bytes of a table on disk: of its rows, and of its indexes.");
    for TableSize { name, bytes, index_bytes, .. } in &storage.tables {
        // Names of our own tables: nothing in them has to be escaped.
        line(&mut text, &format!("headwater_storage_bytes{{table=\"{name}\",part=\"rows\"}}"), *bytes as f64);
        line(&mut text, &format!("headwater_storage_bytes{{table=\"{name}\",part=\"indexes\"}}"), *index_bytes as f64);
    }
    begin(&mut text, "headwater_storage_rows", "Rows of a table, as PostgreSQL estimates them.");
    for TableSize { name, rows_estimated, .. } in &storage.tables {
        line(&mut text, &format!("headwater_storage_rows{{table=\"{name}\"}}"), *rows_estimated as f64);
    }
    begin(&mut text, "headwater_storage_database_bytes", "Bytes of the whole database on disk.");
    line(&mut text, "headwater_storage_database_bytes", storage.database.bytes as f64);
    begin(
        &mut text,
        "headwater_storage_first_message_age",
        "Seconds since the time of the first message that is there.",
    );
    line(&mut text, "headwater_storage_first_message_age", first_message_age(&storage));
    text
}

fn first_message_age(storage: &Storage) -> f64 {
    let first_time = storage.database.first_time;
    first_time.map_or(0.0, |first| (storage.measured_at.0.saturating_sub(first.0)).max(0) as f64 / 1e6)
}

// Writing to a String cannot fail.

fn begin(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn line(text: &mut String, name: &str, value: f64) {
    let _ = writeln!(text, "{name} {value}");
}
