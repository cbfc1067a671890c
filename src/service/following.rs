//! Whatever one connection follows: a log, an aggregated stream, or several sources at once.

use super::aggregated::follower::AggregatedFollower;
use super::aggregated::merged::MergedFollower;
use super::tail::follower::{Follower, Next};
use crate::domain::cursor::Cursor;

/// One connection's follower. Those that most connections do not have are boxed: there may be ten thousand.
#[allow(clippy::large_enum_variant)] // nearly all connections have the large one
pub enum Following {
    Log(Follower),
    Aggregated(Box<AggregatedFollower>),
    Merged(Box<MergedFollower>),
}

impl Following {
    /// Passed to a later request, it goes on after everything that was handed over.
    pub fn cursor(&self) -> Cursor {
        match self {
            Following::Log(follower) => follower.id(),
            Following::Aggregated(follower) => follower.id(),
            Following::Merged(follower) => follower.cursor(),
        }
    }

    /// Whether the cursor counts positions in one stream; otherwise it is a global position.
    pub fn counts_in_stream(&self) -> bool {
        matches!(self, Following::Log(follower) if follower.counts_in_stream())
    }

    /// The aggregated stream, where one is followed.
    pub fn aggregated_stream(&self) -> Option<&str> {
        match self {
            Following::Aggregated(follower) => Some(follower.name()),
            Following::Log(_) | Following::Merged(_) => None,
        }
    }

    /// What is there now, without waiting.
    pub fn advance(&mut self) -> Next {
        match self {
            Following::Log(follower) => follower.advance(),
            Following::Aggregated(follower) => follower.advance(),
            Following::Merged(follower) => follower.advance(),
        }
    }

    /// Reads the next page from the database, however long that is away.
    pub async fn read_page(&mut self) -> Next {
        match self {
            Following::Log(follower) => follower.read_page().await,
            Following::Aggregated(follower) => follower.read_page().await,
            Following::Merged(follower) => follower.read_page().await,
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        match self {
            Following::Log(follower) => follower.changed().await,
            Following::Aggregated(follower) => follower.changed().await,
            Following::Merged(follower) => follower.changed().await,
        }
    }
}
