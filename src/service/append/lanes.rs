//! Lanes: appends to a category that another transaction has locked wait there, and hold up nobody else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::link::{Link, answer, answer_each};
use super::{AppendSettings, Shared, Waiting};
use crate::domain::append::AppendError;

/// Requests whose category is locked by another transaction wait in a lane of their own, so that a writer that idles
/// in its transaction holds up nobody else.
#[derive(Clone)]
pub struct Lanes {
    open: Arc<Mutex<HashMap<String, Vec<Waiting>>>>,
    tasks: tokio_util::task::TaskTracker,
    /// A lane takes a place for one batch at a time. Another instance at work in the same categories locks each of
    /// them for a moment: there are more lanes than places then, and each has its turn.
    places: Arc<Semaphore>,
    /// One link a place at most, open while there are lanes.
    links: Arc<std::sync::Mutex<Vec<Link>>>,
}

impl Lanes {
    pub fn new(places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { open: Arc::default(), tasks: tokio_util::task::TaskTracker::new(), places, links: Arc::default() }
    }

    /// Requests for a category that has a lane follow those that wait there.
    pub async fn divert(&self, batch: Vec<Waiting>, shared: &Shared) -> Vec<Waiting> {
        let mut open = self.open.lock().await;
        if open.is_empty() {
            return batch;
        }
        let mut rest = Vec::with_capacity(batch.len());
        for waiting in batch {
            match open.get_mut(waiting.request.stream_name.category()) {
                Some(lane) if lane.len() < shared.settings.queue_max => lane.push(waiting),
                Some(_) => answer(waiting, Err(AppendError::Overloaded)),
                None => rest.push(waiting),
            }
        }
        rest
    }

    pub async fn take(&self, locked: Vec<Waiting>, shared: &Shared) {
        if locked.is_empty() {
            return;
        }
        let mut open = self.open.lock().await;
        for waiting in locked {
            let category = waiting.request.stream_name.category().to_owned();
            if let Some(lane) = open.get_mut(&category) {
                lane.push(waiting);
                continue;
            }
            open.insert(category.clone(), vec![waiting]);
            let (lanes, shared) = (self.clone(), shared.clone());
            self.tasks.spawn(async move { lanes.serve(category, shared).await });
        }
    }

    /// Writes a lane's requests, waiting for the lock, until there are none.
    async fn serve(&self, category: String, shared: Shared) {
        loop {
            let Ok(Ok(_place)) = tokio::time::timeout(shared.settings.lock_timeout, self.places.acquire()).await else {
                let refused = self.open.lock().await.remove(&category).unwrap_or_default();
                return answer_each(refused, || AppendError::Overloaded);
            };
            let batch = {
                let mut open = self.open.lock().await;
                match open.get_mut(&category) {
                    Some(lane) if !lane.is_empty() => next_of_lane(lane, &shared.settings),
                    _ => {
                        open.remove(&category);
                        if open.is_empty() {
                            self.idle_links().clear();
                        }
                        return;
                    }
                }
            };
            let idle = self.idle_links().pop();
            let link = idle.unwrap_or_else(|| Link::new(shared.clone(), shared.settings.lock_timeout));
            link.write_alone(batch, true).await;
            self.idle_links().push(link);
        }
    }

    fn idle_links(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub async fn wait_until_empty(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The next batch of a lane: up to the limits, and no id twice.
fn next_of_lane(lane: &mut Vec<Waiting>, settings: &AppendSettings) -> Vec<Waiting> {
    let mut ids: HashSet<Uuid> = HashSet::new();
    let mut messages = 0;
    let fits = |waiting: &Waiting| {
        messages += waiting.request.messages.len();
        (messages <= settings.batch_messages_max || ids.is_empty())
            && waiting.request.messages.iter().all(|message| ids.insert(message.id))
    };
    let count = lane.iter().map(fits).take_while(|fit| *fit).count();
    lane.drain(..count.max(1)).collect()
}
