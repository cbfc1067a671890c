//! Reads the log from a place to its end, as lines.

use std::io::{self, Write};

use tokio_util::sync::CancellationToken;

use crate::domain::event_id::EventId;
use crate::domain::exported_message::write_line;
use crate::domain::filter::Filter;
use crate::domain::source::Source;
use crate::service::log::cursor::Next;
use crate::service::read::{PlaceError, Reads, Start};
use crate::service::tail::Tail;
use crate::store::StoreError;

/// Why an export has stopped. The lines that are written stay.
#[derive(Debug, thiserror::Error)]
pub enum ExportFailure {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it cannot be written: {0}")]
    Write(#[from] io::Error),
    #[error("the log went back while it was read: a backup was restored, or the table truncated")]
    HistoryChanged,
    #[error("stopped")]
    Stopped,
}

/// What is exported, and from where on.
pub struct ExportRequest {
    pub source: Source,
    /// The last message that was exported before; a position alone is not checked.
    pub after: EventId,
}

/// Writes the messages that are settled when it begins, in order. `progress` hears of each page: how many messages, and
/// which global position was reached, of which.
pub async fn export(
    tail: &Tail,
    reads: &Reads,
    request: ExportRequest,
    stopping: &CancellationToken,
    out: &mut (impl Write + Send),
    progress: impl Fn(usize, i64, i64),
) -> Result<(), ExportFailure> {
    let end = tail.refresh().await;
    let start = match request.after {
        EventId { position, check: None, .. } => Start::At(position.saturating_add(1)),
        cursor => Start::After(cursor),
    };
    let place = reads.place(&request.source, start).await?;
    let mut follower = tail.follow(&request.source, place, Filter::default());
    let mut lines = String::new();
    while follower.place().after < end {
        if stopping.is_cancelled() {
            return Err(ExportFailure::Stopped);
        }
        let next = match follower.advance() {
            Next::NeedsPage => tokio::select! {
                next = follower.read_page() => next,
                () = stopping.cancelled() => continue,
            },
            next => next,
        };
        match next {
            Next::Messages(entries) | Next::Trimmed(_, entries) => {
                let entries = entries.iter().take_while(|entry| entry.global_position() <= end);
                let count = entries.inspect(|entry| write_line(&entry.message, &mut lines)).count();
                // Nobody else waits for this thread.
                tokio::task::block_in_place(|| out.write_all(lines.as_bytes()))?;
                lines.clear();
                progress(count, follower.place().after.min(end), end);
            }
            Next::CaughtUp | Next::FellBehind | Next::Moved | Next::NeedsPage => {}
            // It is at the end of what is settled.
            Next::Idle => break,
            Next::Failed(error) => return Err(error.into()),
            Next::HistoryChanged | Next::Deleted => return Err(ExportFailure::HistoryChanged),
        }
    }
    Ok(tokio::task::block_in_place(|| out.flush())?)
}
