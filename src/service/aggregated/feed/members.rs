//! Who follows an aggregated stream here, and who waits for its progress.

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::Feeds;

/// A place among the followers of an aggregated stream; leaves them when it goes.
pub struct FeedMember {
    pub(super) feeds: Feeds,
    pub(super) id: i64,
    pub(super) newest: watch::Receiver<()>,
    pub(super) progress: watch::Receiver<i64>,
}

/// As long as this is held, progress is told at once, also where no message comes with it.
pub struct ProgressInterest {
    pub(super) feeds: Feeds,
}

impl FeedMember {
    pub(in crate::service::aggregated) fn id(&self) -> i64 {
        self.id
    }

    /// Waits for messages, or for another state of the stream.
    pub async fn changed(&mut self) {
        let _ = self.newest.changed().await;
    }

    /// Waits for any step forward.
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
