//! Members of a feed: followers of an aggregated stream on this instance, and requests that wait for its progress.

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::Feeds;

/// A membership in the feed of an aggregated stream, which ends when this is dropped.
pub struct FeedMember {
    pub(super) feeds: Feeds,
    pub(super) id: i64,
    pub(super) newest: watch::Receiver<()>,
    pub(super) progress: watch::Receiver<i64>,
}

/// While this is held, progress is reported at once, also without a message.
pub struct ProgressInterest {
    pub(super) feeds: Feeds,
}

impl FeedMember {
    pub(in crate::service::aggregated) fn id(&self) -> i64 {
        self.id
    }

    /// Waits for messages, or for a change of the stream's state.
    pub async fn changed(&mut self) {
        let _ = self.newest.changed().await;
    }

    /// Waits for any progress.
    pub async fn progressed(&mut self) {
        tokio::select! {
            _ = self.progress.changed() => {}
            _ = self.newest.changed() => {}
        }
    }
}

impl Drop for FeedMember {
    fn drop(&mut self) {
        let mut state = self.feeds.state();
        if let Some(feed) = state.feeds.get_mut(&self.id) {
            feed.followers -= 1;
            if feed.followers == 0 {
                state.feeds.remove(&self.id);
            }
        }
    }
}

impl Drop for ProgressInterest {
    fn drop(&mut self) {
        self.feeds.inner.progress_interests.fetch_sub(1, Ordering::SeqCst);
    }
}
