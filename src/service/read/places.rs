//! Finds the place where a follower begins.

use uuid::Uuid;

use super::Reads;
use crate::domain::event_id::{Check, EventId};
use crate::domain::filter::Filter;
use crate::domain::source::Source;
use crate::domain::time::Timestamp;
use crate::service::log::Place;
use crate::store::StoreError;
use crate::store::read::{PageLimit, Span};

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After a cursor, which is the id of an earlier event.
    After(EventId),
    /// At a position, inclusive: in the stream for a single stream, otherwise global.
    At(i64),
    Beginning,
    End,
    AtTime(Timestamp),
    /// At the end, after the newest message of each stream.
    LatestOfEach,
}

/// Why a place cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Another message is at the cursor's position than the cursor names, or the cursor is beyond the end; or the log went
    /// back meanwhile.
    #[error(
        "the history of the log has changed: position {position} is one of an earlier log, and the log ends at {head} now"
    )]
    HistoryChanged { position: i64, head: i64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Reads {
    /// The place in a source where a follower begins.
    pub async fn place(&self, source: &Source, start: Start) -> Result<Place, PlaceError> {
        // Everything that is committed by now is to be found, so the tail looks once more.
        self.tail.refresh().await;
        let begin = Place::global(0, self.tail.history());
        match source.single_stream() {
            Some(name) => self.place_in_stream(name, start, begin).await,
            None => self.place_in_log(source, start, begin).await,
        }
    }

    async fn place_in_log(&self, source: &Source, start: Start, begin: Place) -> Result<Place, PlaceError> {
        let (after, check) = match start {
            Start::After(cursor) => {
                let found = self.database.messages().id_at(cursor.position).await?;
                let end = self.end_at_least(cursor.position).await?;
                if found.is_none() && self.has_lost_message_of(cursor).await? {
                    return Err(PlaceError::HistoryChanged { position: cursor.position, head: end });
                }
                (cursor.position, checked(cursor, found, end)?)
            }
            Start::At(position) => (position.saturating_sub(1).max(0), None),
            Start::Beginning => (0, None),
            Start::End | Start::LatestOfEach => {
                let after = self.tail.refresh().await;
                (after, self.database.messages().id_at(after).await?.map(Check::of))
            }
            Start::AtTime(time) => {
                // A message that is not settled may still appear before the first one that is visible now.
                let settled = self.tail.refresh().await;
                let messages = self.database.messages();
                let first = settled.min(messages.first_global_position_at(time).await? - 1);
                // From there on other sources have messages of that time, this one perhaps later.
                let filter = Filter { from_time: Some(time), ..Filter::default() };
                let page = messages.follow_page(source, first, settled, PageLimit::ONE, &filter).await?;
                (page.messages.first().map_or(settled, |message| message.global_position - 1), None)
            }
        };
        Ok(Place { after, check, ..begin })
    }

    /// Whether the message of a cursor, which is not there, was lost when the log went back. A server that recovers passes
    /// over positions, which are then given to no other message. Where the log never went back, it was deleted.
    async fn has_lost_message_of(&self, cursor: EventId) -> Result<bool, StoreError> {
        let may_be_lost = cursor.check.is_some() && self.tail.history_number() > 0;
        Ok(may_be_lost && !self.database.messages().is_in_trimmed(cursor.position).await?)
    }

    /// Whether a place is beyond the end of its source, so that it cannot be a client's cursor yet.
    pub async fn is_beyond_end(&self, source: &Source, place: Place) -> Result<bool, StoreError> {
        match (source.single_stream(), place.stream_after) {
            (Some(name), Some(after)) => Ok(after > self.database.messages().stream_version(name, None).await?),
            _ => Ok(place.after > self.end_at_least(place.after).await?),
        }
    }

    /// The place in a single stream, whose cursors are positions in it. The global position before it is found by reading.
    async fn place_in_stream(&self, name: &str, start: Start, begin: Place) -> Result<Place, PlaceError> {
        let (after, stream_after, check) = match start {
            Start::After(cursor) => {
                let found = self.database.messages().id_in_stream(name, cursor.position).await?;
                let end = self.database.messages().stream_version(name, None).await?;
                (0, cursor.position, checked(cursor, found, end)?)
            }
            Start::At(position) => (0, position.saturating_sub(1).max(-1), None),
            Start::Beginning => (0, -1, None),
            Start::End | Start::LatestOfEach => {
                let settled = self.tail.refresh().await;
                let end = self.database.messages().stream_version(name, Some(settled)).await?;
                (settled, end, self.database.messages().id_in_stream(name, end).await?.map(Check::of))
            }
            Start::AtTime(time) => {
                let messages = self.database.messages();
                let first = messages.first_global_position_at(time).await?;
                let span = Span::forward(messages.first_position_after(name, first - 1).await?);
                let filter = Filter { from_time: Some(time), ..Filter::default() };
                let page = messages.stream_page(name, span, PageLimit::ONE, &filter).await?;
                (0, page.messages.first().map_or(page.head, |message| message.position - 1), None)
            }
        };
        Ok(Place { after, stream_after: Some(stream_after), check, ..begin })
    }

    /// The end of the log. It is looked up only if the settled position known here is before the cursor, which another
    /// instance may have given out.
    async fn end_at_least(&self, cursor: i64) -> Result<i64, StoreError> {
        let settled = self.tail.settled();
        if cursor <= settled { Ok(settled) } else { self.database.messages().last_position_given().await }
    }
}

/// The check of the message at a cursor, if the log is still the one that the cursor came from. A position without a message
/// (trimmed, deleted, a hole) proves nothing here.
fn checked(cursor: EventId, found: Option<Uuid>, head: i64) -> Result<Option<Check>, PlaceError> {
    let position = cursor.position;
    if position > head || cursor.names_another_than(found) {
        return Err(PlaceError::HistoryChanged { position, head });
    }
    Ok(found.map(Check::of))
}
