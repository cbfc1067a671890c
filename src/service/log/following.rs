//! What one connection follows: one log, or several at once.

use super::cursor::Next;
use super::follower::Follower;
use super::merged::MergedFollower;
use crate::domain::event_id::EventId;

/// What one connection follows. Several logs are boxed: most connections have one, and there may be ten thousand.
#[allow(clippy::large_enum_variant)] // nearly all connections have the large one
pub enum Following {
    One(Follower),
    Merged(Box<MergedFollower>),
}

impl Following {
    /// The cursor with which a later request goes on after everything that was handed over.
    pub fn cursor(&self) -> EventId {
        match self {
            Following::One(follower) => follower.id(),
            Following::Merged(follower) => follower.cursor(),
        }
    }

    /// What is next, without waiting.
    pub fn advance(&mut self) -> Next {
        match self {
            Following::One(follower) => follower.advance(),
            Following::Merged(follower) => follower.advance(),
        }
    }

    /// Reads the next page from the database; waits while the database is away.
    pub async fn read_page(&mut self) -> Next {
        match self {
            Following::One(follower) => follower.read_page().await,
            Following::Merged(follower) => follower.read_page().await,
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        match self {
            Following::One(follower) => follower.changed().await,
            Following::Merged(follower) => follower.changed().await,
        }
    }
}
