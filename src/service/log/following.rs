//! What one connection follows: one log, or several at once.

use super::cursor::Next;
use super::follower::Follower;
use super::latest::LatestOfEach;
use super::merged::MergedFollower;
use crate::domain::event_id::EventId;

/// What one connection follows. Several logs are boxed: most connections have one, and there may be ten thousand.
#[allow(clippy::large_enum_variant)] // nearly all connections have the large one
pub enum Following {
    One(Follower),
    Merged(Box<MergedFollower>),
    Latest(Box<LatestOfEach>),
}

impl Following {
    /// The cursor with which a later request goes on after everything that was handed over; `None` while newest messages
    /// are told.
    pub fn cursor(&self) -> Option<EventId> {
        match self {
            Following::One(follower) => Some(follower.id()),
            Following::Merged(follower) => Some(follower.cursor()),
            Following::Latest(latest) => latest.follower().map(Follower::id),
        }
    }

    /// Everything up to this global position was handed over; `None` while newest messages are told.
    pub fn told_up_to(&self) -> Option<i64> {
        match self {
            Following::Merged(follower) => Some(follower.cursor().position),
            Following::One(_) | Following::Latest(_) => self.one().map(|follower| follower.place().after),
        }
    }

    /// The follower of one log.
    pub fn one(&self) -> Option<&Follower> {
        match self {
            Following::One(follower) => Some(follower),
            Following::Merged(_) => None,
            Following::Latest(latest) => latest.follower(),
        }
    }

    /// What is next, without waiting.
    pub fn advance(&mut self) -> Next {
        match self {
            Following::One(follower) => follower.advance(),
            Following::Merged(follower) => follower.advance(),
            Following::Latest(latest) => latest.advance(),
        }
    }

    /// Reads the next page from the database; waits while the database is away.
    pub async fn read_page(&mut self) -> Next {
        match self {
            Following::One(follower) => follower.read_page().await,
            Following::Merged(follower) => follower.read_page().await,
            Following::Latest(latest) => latest.read_page().await,
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        match self {
            Following::One(follower) => follower.changed().await,
            Following::Merged(follower) => follower.changed().await,
            Following::Latest(latest) => latest.follower_mut().changed().await,
        }
    }
}
