//! Where messages of a span of time can be.

use super::{Messages, StoreError};
use crate::domain::filter::Filter;
use crate::domain::time::Timestamp;

/// Where messages of a span of time can be: from `first` to `last`, and from `uncounted_from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindow {
    pub first: i64,
    pub last: i64,
    pub uncounted_from: i64,
    /// The global position up to which times are known.
    pub counted_position: i64,
}

impl Messages<'_> {
    /// The first global position whose message has this time or a later one.
    pub async fn first_global_position_at(self, time: Timestamp) -> Result<i64, StoreError> {
        let position = sqlx::query_scalar!(
            r#"SELECT headwater.first_global_position_at($1::timestamp) AS "position!""#,
            time as _
        );
        Ok(position.fetch_one(self.0).await?)
    }

    /// Where messages of a span of time can be; in a stream, if one is given, at its positions.
    pub async fn time_window(self, filter: &Filter, stream_name: Option<&str>) -> Result<TimeWindow, StoreError> {
        let window = sqlx::query_as!(
            TimeWindow,
            r#"SELECT w.counted_position AS "counted_position!",
               CASE WHEN $3::text IS NULL THEN w.first_position
               ELSE headwater.first_position_after($3, w.first_position - 1) END AS "first!",
               CASE WHEN $3 IS NULL THEN w.last_position
               ELSE headwater.first_position_after($3, w.last_position) - 1 END AS "last!",
               CASE WHEN $3 IS NULL THEN w.counted_position + 1
               ELSE headwater.first_position_after($3, w.counted_position) END AS "uncounted_from!"
               FROM headwater.time_window($1::timestamp, $2::timestamp) AS w"#,
            filter.from_time as _,
            filter.to_time as _,
            stream_name
        );
        Ok(window.fetch_one(self.0).await?)
    }

    /// The first position in a stream after a global position.
    pub async fn first_position_after(self, stream_name: &str, global_position: i64) -> Result<i64, StoreError> {
        let position = sqlx::query_scalar!(
            r#"SELECT headwater.first_position_after($1, $2) AS "position!""#,
            stream_name,
            global_position
        );
        Ok(position.fetch_one(self.0).await?)
    }
}
