//! A queue for each category that another transaction has locked: appends to it wait there, and hold up nobody else.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::batch::BatchSize;
use super::batch_writer::{BatchWriter, answer, answer_each, answer_locked, tell_locked};
use super::{AppendSettings, Locked, PendingAppend, Shared};
use crate::domain::append::AppendError;
use crate::domain::observation::Observation;
use crate::telemetry::{Observer, logging::panic_text};

/// Requests whose category is locked by another transaction wait in a queue of its own, so that a writer that idles
/// in its transaction holds up nobody else.
#[derive(Clone)]
pub struct LockedCategories {
    open: Arc<Mutex<HashMap<String, Vec<PendingAppend>>>>,
    tasks: tokio_util::task::TaskTracker,
    /// A queue takes a place for one batch at a time. Another instance at work in the same categories locks each of
    /// them for a moment: there are more queues than places then, and each has its turn.
    places: Arc<Semaphore>,
    /// One session a place at most, open while there are queues.
    writers: Arc<parking_lot::Mutex<Vec<BatchWriter>>>,
}

impl LockedCategories {
    pub fn new(places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { open: Arc::default(), tasks: tokio_util::task::TaskTracker::new(), places, writers: Arc::default() }
    }

    /// Requests for a category that has a queue follow those that wait there. One that needs several locks tries them
    /// first: which of them is held is not known.
    pub async fn divert(&self, mut batch: Vec<PendingAppend>, shared: &Shared) -> Vec<PendingAppend> {
        // What holds locks over several statements has a connection for itself.
        if batch.iter().any(|waiting| waiting.request.holds_locks) {
            let (holding, rest) = batch.into_iter().partition(|waiting| waiting.request.holds_locks);
            let holding: Vec<PendingAppend> = holding;
            self.take(holding.into_iter().map(Locked::by_any).collect(), shared).await;
            batch = rest;
        }
        let mut open = self.open.lock().await;
        if open.is_empty() {
            return batch;
        }
        let mut rest = Vec::with_capacity(batch.len());
        for mut waiting in batch {
            match waiting.request.only_category().and_then(|category| open.get_mut(category)) {
                Some(queue) if queue.len() < shared.settings.queue_max => {
                    waiting.locked_since.get_or_insert_with(Instant::now);
                    queue.push(waiting);
                }
                Some(_) => {
                    shared.observer.record(Observation::AppendOverloaded);
                    let category = waiting.request.category().to_owned();
                    answer(waiting, Err(AppendError::CategoryQueueFull { category }));
                }
                None => rest.push(waiting),
            }
        }
        rest
    }

    /// Requests that have to wait for a lock go to the queue of its category.
    pub fn take<'a>(&'a self, locked: Vec<Locked>, shared: &'a Shared) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut late: HashMap<String, Vec<PendingAppend>> = HashMap::new();
            for Locked { category, mut waiting } in locked {
                waiting.locked_since.get_or_insert_with(Instant::now);
                if waiting.has_waited(shared.settings.lock_timeout) {
                    late.entry(category).or_default().push(waiting);
                    continue;
                }
                let mut open = self.open.lock().await;
                if let Some(queue) = open.get_mut(&category) {
                    queue.push(waiting);
                    continue;
                }
                open.insert(category.clone(), vec![waiting]);
                let serving = self.clone().serve(category.clone(), shared.clone());
                self.tasks.spawn(self.clone().watch(category, serving, shared.observer.clone()));
            }
            // One look at each lock, all at once: a look may take a while, and all of these have waited long enough.
            let telling =
                late.into_iter().map(|(category, late)| async move { answer_locked(late, &category, shared).await });
            join_all(telling).await;
        })
    }

    /// A queue whose task panics is closed: the next request for its category opens another. What it was writing is answered as
    /// not known when it is dropped; what waited behind was never sent.
    async fn watch(self, category: String, serving: impl Future<Output = ()>, observer: Observer) {
        if let Err(panic) = AssertUnwindSafe(serving).catch_unwind().await {
            let waiting = self.open.lock().await.remove(&category).unwrap_or_default();
            answer_each(waiting, |_| AppendError::Failed);
            let reason = panic_text(&*panic);
            observer.record(Observation::CategoryQueueFailed { category, reason });
        }
    }

    /// Writes a queue's requests, waiting for the lock, until there are none.
    async fn serve(self, category: String, shared: Shared) {
        loop {
            let Ok(Ok(_place)) = tokio::time::timeout(shared.settings.lock_timeout, self.places.acquire()).await else {
                let late = self.take_late(&category, &shared.settings).await;
                answer_locked(late, &category, &shared).await;
                continue;
            };
            let batch = {
                let mut open = self.open.lock().await;
                match open.get_mut(&category) {
                    Some(queue) if !queue.is_empty() => next_batch(queue, &shared.settings),
                    _ => {
                        open.remove(&category);
                        if open.is_empty() {
                            self.writers.lock().clear();
                        }
                        return;
                    }
                }
            };
            let idle = self.writers.lock().pop();
            let writer = idle.unwrap_or_else(|| BatchWriter::new(shared.clone(), shared.settings.lock_timeout));
            // Nothing is held while the queue's lock is waited for, so that no other category is held up by it, and no two
            // transactions wait for each other. The other locks of a request are tried then; whichever is held by another
            // transaction is waited for next, in its own queue.
            let unwritten = writer.write_alone(batch, &[&category]).await;
            self.writers.lock().push(writer);
            if !unwritten.holders.is_empty() {
                // Those behind the batch that have waited as long for the same lock do not wait for it again.
                let late = self.take_late(&category, &shared.settings).await;
                tell_locked(late, &category, &unwritten.holders, &shared);
            }
            self.take(unwritten.locked, &shared).await;
        }
    }

    /// Those in a queue that have waited as long as they may.
    async fn take_late(&self, category: &str, settings: &AppendSettings) -> Vec<PendingAppend> {
        let mut open = self.open.lock().await;
        let Some(queue) = open.get_mut(category) else { return Vec::new() };
        queue.extract_if(.., |waiting| waiting.has_waited(settings.lock_timeout)).collect()
    }

    pub async fn wait_until_empty(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The next batch of a queue: up to the limits, and no id twice. What is acked is a row that is waited for, so it goes
/// alone; so does what holds its locks over several statements.
fn next_batch(queue: &mut Vec<PendingAppend>, settings: &AppendSettings) -> Vec<PendingAppend> {
    let mut size = BatchSize::default();
    let fits = |waiting: &&PendingAppend| !goes_alone(waiting) && !size.is_full(settings) && size.add(waiting);
    let count = queue.iter().take_while(fits).count();
    queue.drain(..count.max(1)).collect()
}

fn goes_alone(waiting: &PendingAppend) -> bool {
    waiting.request.ack.is_some() || waiting.request.holds_locks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::append::{
        AppendRequest, Appended, KeyCondition, LockHolder, NewMessage, Predicate, StreamAppend,
    };
    use crate::domain::stream_name::StreamName;
    use crate::service::append::appends::{Appends, Opened, Resolved};
    use crate::service::append::{QueuedBytes, SessionSettings};
    use crate::service::tail::Tail;
    use crate::store::StoreError;
    use crate::store::append::Backend;
    use crate::store::conditions::Window;
    use crate::store::keyed_streams::IndexedKey;
    use futures_util::future::BoxFuture;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::sync::oneshot;
    use uuid::Uuid;

    fn waiting(stream: &str) -> (PendingAppend, oneshot::Receiver<Result<Appended, AppendError>>) {
        let message = NewMessage {
            id: Uuid::from_u128(7),
            is_client_supplied_id: true,
            message_type: "T".into(),
            data: "null".into(),
            metadata: None,
            time: None,
        };
        let request = AppendRequest::of(StreamAppend {
            stream_name: StreamName::parse(stream).unwrap(),
            expected_version: None,
            must_exist: false,
            messages: vec![message],
        });
        let (reply, answer) = oneshot::channel();
        let bytes = QueuedBytes { bytes: 0, room: Arc::default() };
        let request = Arc::new(request);
        (
            PendingAppend {
                request,
                reply: Some(reply),
                is_sent: AtomicBool::default(),
                bytes,
                locked_since: None,
                span: None,
            },
            answer,
        )
    }

    #[tokio::test]
    async fn queue_that_panics_is_closed_and_those_in_it_are_told_what_is_true() {
        let (categories, observer) = (LockedCategories::new(1), Observer::new());
        let mut watcher = observer.watch();
        let (mut sent, sent_answer) = waiting("held-1");
        let (behind, behind_answer) = waiting("held-2");
        categories.open.lock().await.insert("held".into(), vec![behind]);
        let serving = async move {
            sent.is_sent = true.into();
            panic!("while {} was written", sent.request.streams[0].stream_name.as_str());
        };
        categories.clone().watch("held".into(), serving, observer).await;

        let unknown = AppendError::OutcomeUnknown { message_ids: vec![Uuid::from_u128(7)] };
        assert_eq!(sent_answer.await.unwrap(), Err(unknown));
        assert_eq!(behind_answer.await.unwrap(), Err(AppendError::Failed));
        assert!(categories.open.lock().await.is_empty(), "the next request opens another queue");
        let seen = watcher.try_recv().unwrap();
        assert!(
            matches!(&seen, Observation::CategoryQueueFailed { category, reason } if category == "held" && reason == "while held-1 was written"),
            "{seen:?}"
        );
    }

    /// A database that nobody gets to, but for those that look who holds a lock.
    #[derive(Default)]
    struct Panics {
        looks: AtomicUsize,
    }

    impl Appends for Panics {
        fn open(&self, _: Duration) -> BoxFuture<'_, Result<Opened, StoreError>> {
            panic!("while a session is opened");
        }

        fn resolve_commit<'a>(
            &'a self,
            _: &'a Backend,
            _: &'a [&'a AppendRequest],
        ) -> BoxFuture<'a, Result<Resolved, StoreError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn lock_holders<'a>(
            &'a self,
            _: &'a str,
            _: Option<&'a Backend>,
        ) -> BoxFuture<'a, Result<Vec<LockHolder>, StoreError>> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            // As long as anybody waits for it.
            Box::pin(std::future::pending())
        }

        fn indexed_key<'a>(
            &'a self,
            _: &'a KeyCondition,
            _: usize,
        ) -> BoxFuture<'a, Result<Option<IndexedKey>, StoreError>> {
            panic!("nobody asks for it")
        }

        fn condition_window<'a>(
            &'a self,
            _: &'a str,
            _: i64,
            _: &'a Predicate,
        ) -> BoxFuture<'a, Result<Window, StoreError>> {
            panic!("nobody asks for it")
        }

        fn forget_connections(&self) {}
    }

    fn settings_with(patience: Duration) -> AppendSettings {
        AppendSettings {
            queue_max: 8,
            queue_bytes_max: 1 << 10,
            batch_messages_max: 8,
            batch_bytes_max: 1 << 10,
            condition_messages_max: 1,
            locked_categories_max: 1,
            sessions: SessionSettings { max: 0, messages_max: 1, bytes_max: 1 },
            lock_timeout: patience,
            commit_timeout: patience,
            resolve_timeout: patience,
        }
    }

    fn shared_with(patience: Duration) -> Shared {
        shared_on(Arc::default(), patience)
    }

    fn shared_on(database: Arc<Panics>, patience: Duration) -> Shared {
        let observer = Observer::new();
        Shared { database, tail: Tail::without_reader(1 << 10), observer, settings: Arc::new(settings_with(patience)) }
    }

    #[tokio::test]
    async fn category_whose_queue_has_panicked_is_served_again() {
        let patience = Duration::from_secs(10);
        let shared = shared_with(patience);
        let categories = LockedCategories::new(1);
        for round in 0..3 {
            let (request, answer) = waiting("held-1");
            categories.take(vec![Locked::by_any(request)], &shared).await;
            let answered = tokio::time::timeout(patience, answer).await;
            assert!(answered.unwrap_or_else(|_| panic!("no answer in round {round}")).unwrap().is_err());
        }
        categories.wait_until_empty().await;
        assert!(categories.open.lock().await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_joined_a_moment_ago_waits_on_when_no_place_comes_free() {
        let limit = Duration::from_secs(10);
        let shared = shared_with(limit);
        let categories = LockedCategories::new(1);
        let taken = categories.places.clone().acquire_owned().await.unwrap();
        let (first, first_answer) = waiting("held-1");
        categories.take(vec![Locked::by_any(first)], &shared).await;
        tokio::time::sleep(limit / 2).await;
        let (second, mut second_answer) = waiting("held-2");
        assert!(categories.divert(vec![second], &shared).await.is_empty());
        assert!(matches!(first_answer.await.unwrap(), Err(AppendError::Locked { .. })));
        assert!(second_answer.try_recv().is_err(), "it has waited for half the time");
        drop(taken);
        // It was its turn, and there is no database.
        let answer = second_answer.await.unwrap();
        assert!(!matches!(answer, Err(AppendError::Locked { .. })), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_have_waited_too_long_are_told_together() {
        let (database, limit) = (Arc::<Panics>::default(), Duration::from_secs(10));
        let shared = shared_on(database.clone(), limit);
        let categories = LockedCategories::new(1);
        let (mut locked, mut answers) = (Vec::new(), Vec::new());
        for number in 0..20 {
            let (mut late, answer) = waiting(&format!("{}-{number}", ["one", "other"][number % 2]));
            late.locked_since = Some(Instant::now());
            locked.push(Locked::by_any(late));
            answers.push(answer);
        }
        tokio::time::advance(limit).await;
        let (begun, (fresh, _fresh_answer)) = (Instant::now(), waiting("third-1"));
        let _taken = categories.places.clone().acquire_owned().await.unwrap();
        locked.push(Locked::by_any(fresh));
        categories.take(locked, &shared).await;
        for answer in answers {
            assert!(matches!(answer.await.unwrap(), Err(AppendError::Locked { .. })));
        }
        assert_eq!(database.looks.load(Ordering::Relaxed), 2, "one for each category");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(categories.open.lock().await.contains_key("third"));
    }

    #[test]
    fn batch_of_a_queue_is_bounded_as_any_other() {
        let settings = settings_with(Duration::from_secs(1));
        let sized = |number: u128, bytes| {
            let (mut request, _) = waiting("held-1");
            let mut own = AppendRequest::clone(&request.request);
            own.streams[0].messages[0].id = Uuid::from_u128(number);
            (request.request, request.bytes.bytes) = (Arc::new(own), bytes);
            request
        };
        let half = settings.batch_bytes_max / 2;
        let mut queue: Vec<PendingAppend> = (0..3).map(|number| sized(number, half)).collect();
        queue.push(sized(2, 1));
        // Two fill it; an id comes once.
        let mut sizes = || next_batch(&mut queue, &settings).len();
        assert_eq!([sizes(), sizes(), sizes()], [2, 1, 1]);
    }

    #[tokio::test]
    async fn request_that_is_dropped_says_whether_it_was_sent() {
        for is_sent in [false, true] {
            let (mut dropped, answer) = waiting("a-1");
            dropped.is_sent = is_sent.into();
            drop(dropped);
            let expected = match is_sent {
                true => AppendError::OutcomeUnknown { message_ids: vec![Uuid::from_u128(7)] },
                false => AppendError::Draining,
            };
            assert_eq!(answer.await.unwrap(), Err(expected));
        }
    }
}
