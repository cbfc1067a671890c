//! Group commit against a scripted database, which answers, refuses, is locked, goes away, and loses answers: before it has
//! written, afterwards, or while it is still at work. Whatever it does, everybody is answered once, and nothing that was
//! written is said not to be.
//!
//! All of it follows from the seed: the script, and whose turn it is. Time passes only when everybody waits, so the longest
//! time-outs cost nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::appends::{Appends, Opened, Resolved, Session};
use super::{Append, AppendSettings, SessionSettings};
use crate::domain::append::{AppendError, AppendRequest, Appended, LockHolder, NewMessage, WrittenMessage};
use crate::domain::stream_name::StreamName;
use crate::domain::time::Timestamp;
use crate::service::seeds::seeds;
use crate::service::tail::Tail;
use crate::store::StoreError;
use crate::store::append::{Answer, Backend, BatchAnswer, BatchError, Written};
use crate::telemetry::Observer;

/// Seeds that are tried unless more are asked for.
const ROUNDS: u64 = 100;
/// Seeds that are tried twice.
const REPLAYS: u64 = 5;
const CLIENTS: usize = 10;
const REQUESTS: usize = 25;
/// Of this type, a message is refused with the whole batch.
const REFUSED: &str = "Refused";
const LOCK_TIMEOUT: Duration = Duration::from_millis(15);
const COMMIT_TIMEOUT: Duration = Duration::from_millis(25);
/// Everybody is answered by then, whatever happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a message is.
#[derive(Debug, Clone, PartialEq)]
struct Stored {
    stream_name: String,
    placed: WrittenMessage,
}

#[derive(Default)]
struct State {
    messages: HashMap<Uuid, Stored>,
    versions: HashMap<String, i64>,
    last: i64,
    /// Sessions that have not been ended.
    alive: HashSet<i32>,
    locked_category: Option<&'static str>,
    is_down: bool,
}

#[derive(Clone)]
struct Script {
    state: Arc<Mutex<State>>,
    random: Arc<Mutex<Rng>>,
    sessions: Arc<AtomicI32>,
    /// What was answered, and when.
    told: Arc<Mutex<Vec<String>>>,
}

struct ScriptedSession {
    script: Script,
    pid: i32,
}

impl Script {
    fn new(seed: u64) -> Self {
        let random = Arc::new(Mutex::new(Rng::with_seed(seed)));
        Self { state: Arc::default(), random, sessions: Arc::default(), told: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn chance(&self, percent: u8) -> bool {
        self.random.lock().unwrap().u8(0..100) < percent
    }

    fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().u64(0..end)
    }

    /// Up to so many turns of everybody else.
    async fn dawdle(&self, turns: u64) {
        for _ in 0..self.below(turns) {
            tokio::task::yield_now().await;
        }
    }

    /// What goes on beside the clients, until they are done.
    async fn mischief(&self, is_over: CancellationToken) {
        while !is_over.is_cancelled() {
            {
                let what = self.below(6);
                let mut state = self.state();
                match what {
                    0 => state.locked_category = Some("held"),
                    1 => state.locked_category = None,
                    2 => state.is_down = true,
                    3 => state.alive.clear(),
                    _ => state.is_down = false,
                }
            }
            tokio::time::sleep(Duration::from_millis(self.below(8))).await;
        }
        let mut state = self.state();
        (state.is_down, state.locked_category) = (false, None);
    }
}

impl State {
    /// As `append_batch.sql` does.
    fn write(&mut self, requests: &[AppendRequest], wait_for_locks: bool) -> BatchAnswer {
        let mut written = Written::default();
        let answers = requests.iter().map(|request| {
            let name = request.stream_name.as_str();
            let version = self.versions.get(name).copied().unwrap_or(-1);
            let standing: Vec<Stored> =
                request.messages.iter().filter_map(|message| self.messages.get(&message.id).cloned()).collect();
            if !wait_for_locks && self.locked_category == Some(request.stream_name.category()) {
                return Answer::Locked;
            }
            if let Some(first) = standing.first() {
                assert_eq!(standing.len(), request.messages.len(), "a request was written in part");
                assert_eq!(first.stream_name, name);
                return Answer::Done(Ok(appended(standing, true)));
            }
            if request.expected_version.is_some_and(|expected| expected != version) {
                return Answer::Done(Err(AppendError::WrongExpectedVersion {
                    stream_name: name.into(),
                    expected_version: request.expected_version,
                    current_version: version,
                }));
            }
            let mut stored = Vec::new();
            for (message, position) in request.messages.iter().zip(version + 1..) {
                self.last += 1;
                let placed =
                    WrittenMessage { id: message.id, position, global_position: self.last, time: Timestamp(0) };
                written.positions.push((self.last, message.id));
                stored.push(Stored { stream_name: name.into(), placed });
            }
            self.versions.insert(name.into(), version + request.messages.len() as i64);
            self.messages.extend(stored.iter().map(|one| (one.placed.id, one.clone())));
            Answer::Done(Ok(appended(stored, false)))
        });
        BatchAnswer { answers: answers.collect(), written }
    }
}

fn appended(stored: Vec<Stored>, duplicate: bool) -> Appended {
    let messages: Vec<WrittenMessage> = stored.into_iter().map(|one| one.placed).collect();
    Appended { version: messages.last().map_or(-1, |last| last.position), duplicate, messages }
}

fn away() -> StoreError {
    StoreError::Unavailable("the script says so".into())
}

impl Appends for Script {
    fn open(&self, _: Duration) -> BoxFuture<'_, Result<Opened, StoreError>> {
        Box::pin(async move {
            self.dawdle(3).await;
            let mut state = self.state();
            if state.is_down {
                return Err(away());
            }
            let pid = self.sessions.fetch_add(1, Ordering::Relaxed);
            state.alive.insert(pid);
            let session: Arc<dyn Session> = Arc::new(ScriptedSession { script: self.clone(), pid });
            Ok((session, Box::pin(std::future::pending()) as Pin<Box<_>>))
        })
    }

    fn resolve_commit<'a>(
        &'a self,
        backend: &'a Backend,
        requests: &'a [&'a AppendRequest],
    ) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move {
            self.dawdle(5).await;
            if self.chance(30) {
                return Err(away());
            }
            let mut state = self.state();
            // Ended for good: what it was still at is not written any more.
            state.alive.remove(&backend.pid());
            let look_up = |request: &&AppendRequest| {
                let found = request.messages.iter().filter_map(|message| state.messages.get(&message.id).cloned());
                let found: Vec<Stored> = found.collect();
                (!found.is_empty()).then(|| Ok(appended(found, false)))
            };
            Ok(requests.iter().map(look_up).collect())
        })
    }

    fn lock_holders<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a Backend>,
    ) -> BoxFuture<'a, Result<Vec<LockHolder>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn forget_connections(&self) {}
}

impl Session for ScriptedSession {
    fn is_closed(&self) -> bool {
        !self.script.state().alive.contains(&self.pid)
    }

    fn backend(&self) -> Backend {
        Backend::of(self.pid)
    }

    fn append_batch<'a>(
        &'a self,
        requests: &'a [&'a AppendRequest],
        _: Option<&'a [bool]>,
        wait_for_locks: bool,
    ) -> BoxFuture<'a, Result<BatchAnswer, BatchError>> {
        let requests: Vec<AppendRequest> = requests.iter().map(|request| (*request).clone()).collect();
        let (script, pid) = (self.script.clone(), self.pid);
        Box::pin(async move {
            script.dawdle(6).await;
            if requests.iter().flat_map(|request| &request.messages).any(|message| message.message_type == REFUSED) {
                return Err(BatchError::Refused("the script does not like it".into()));
            }
            let is_locked = || {
                let locked = script.state().locked_category;
                locked.is_some_and(|category| requests.iter().any(|one| one.stream_name.category() == category))
            };
            let begun = Instant::now();
            while wait_for_locks && is_locked() {
                if begun.elapsed() > LOCK_TIMEOUT {
                    return Err(BatchError::LockTimeout);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let lost = || Err(BatchError::InDoubt("the script has lost the answer".into()));
            if !script.state().alive.contains(&pid) {
                return lost();
            }
            match script.below(20) {
                0 => Err(BatchError::SendAgain("a deadlock".into())),
                1 => Err(BatchError::NotWritten(away())),
                2 => Err(BatchError::NotWritten(StoreError::Bug("no right".into()))),
                3 => lost(),
                4 => {
                    script.state().write(&requests, wait_for_locks);
                    lost()
                }
                5 => {
                    // The server has not noticed, and is still at work.
                    let working = script.clone();
                    tokio::spawn(async move {
                        working.dawdle(40).await;
                        let mut state = working.state();
                        if state.alive.contains(&pid) {
                            state.write(&requests, wait_for_locks);
                        }
                    });
                    lost()
                }
                6 => {
                    if script.chance(50) {
                        script.state().write(&requests, wait_for_locks);
                    }
                    std::future::pending().await
                }
                _ => Ok(script.state().write(&requests, wait_for_locks)),
            }
        })
    }
}

/// One request after the other, each sent again with the same ids until it is answered for good.
async fn client(number: usize, seed: u64, append: Append, script: Script) {
    let begun = Instant::now();
    let mut random = Rng::with_seed(seed);
    let own = format!("own-{number}");
    let (mut last_position, mut seen) = (-1, BTreeSet::new());
    for _ in 0..REQUESTS {
        let stream = match random.u8(0..4) {
            0 => "shared-1".to_owned(),
            1 => format!("held-{}", random.u8(0..3)),
            _ => own.clone(),
        };
        let message = |random: &mut Rng| NewMessage {
            id: Uuid::from_u128(random.u128(..)),
            is_client_supplied_id: true,
            message_type: if random.u8(0..30) == 0 { REFUSED } else { "T" }.into(),
            data: "null".into(),
            metadata: None,
            time: None,
        };
        let request = AppendRequest {
            stream_name: StreamName::parse(stream.as_str()).unwrap(),
            expected_version: (random.u8(0..8) == 0).then(|| random.i64(-1..6)),
            must_exist: false,
            messages: (0..random.usize(1..4)).map(|_| message(&mut random)).collect(),
        };
        let mut may_be_written = false;
        for _ in 0..4 {
            let answered = tokio::time::timeout(PATIENCE, append.append(request.clone())).await;
            let what = format!("client {number}: {request:?}: {answered:?}");
            script.told.lock().unwrap().push(format!("{:?}: {what}", begun.elapsed()));
            let ids = request.messages.iter().map(|message| message.id);
            let stored: Vec<Stored> = ids.filter_map(|id| script.state().messages.get(&id).cloned()).collect();
            match answered.unwrap_or_else(|_| panic!("no answer: {what}")) {
                Ok(appended) => {
                    assert!(!appended.duplicate || may_be_written, "said not to be written, and was: {what}");
                    let placed: Vec<WrittenMessage> = stored.iter().map(|one| one.placed).collect();
                    assert_eq!(appended.messages, placed, "{what}");
                    assert!(stored.iter().all(|one| one.stream_name == stream), "{what}");
                    for one in placed {
                        assert!(seen.insert((stream.clone(), one.position)), "two messages at one position: {what}");
                        assert!(stream != own || one.position == last_position + 1, "out of order: {what}");
                        last_position = if stream == own { one.position } else { last_position };
                    }
                    may_be_written = false;
                    break;
                }
                Err(AppendError::OutcomeUnknown { .. }) => may_be_written = true,
                Err(error) => {
                    assert!(may_be_written || stored.is_empty(), "said not to be written, and was: {what}");
                    if matches!(error, AppendError::WrongExpectedVersion { .. } | AppendError::Refused { .. }) {
                        break;
                    }
                }
            }
        }
        if may_be_written {
            // Nobody knows. It is settled by now, one way or the other.
            let ids = request.messages.iter().map(|message| message.id);
            let last = ids.filter_map(|id| script.state().messages.get(&id).map(|one| one.placed.position)).max();
            last_position = if stream == own { last.unwrap_or(last_position) } else { last_position };
        }
    }
}

/// What everybody was told, in order.
async fn simulate(seed: u64) -> Vec<String> {
    fastrand::seed(seed);
    let script = Script::new(seed);
    let settings = AppendSettings {
        queue_max: 64,
        queue_bytes_max: 1 << 20,
        batch_messages_max: 6,
        batch_bytes_max: 1 << 20,
        locked_categories_max: 2,
        sessions: SessionSettings { max: 0, messages_max: 1, bytes_max: 1 },
        lock_timeout: LOCK_TIMEOUT,
        commit_timeout: COMMIT_TIMEOUT,
        resolve_timeout: PATIENCE,
    };
    let (tail, draining) = (Tail::without_reader(1 << 10), CancellationToken::new());
    let (append, committer) = Append::new(script.clone(), tail, settings, draining, Observer::new());
    let stopping = CancellationToken::new();
    let running = tokio::spawn(committer.run(stopping.clone()));
    let is_over = CancellationToken::new();
    let (beside, over) = (script.clone(), is_over.clone());
    let mischief = tokio::spawn(async move { beside.mischief(over).await });
    let clients = (0..CLIENTS).map(|number| client(number, seed ^ number as u64, append.clone(), script.clone()));
    join_all(clients).await;
    is_over.cancel();
    mischief.await.unwrap();
    stopping.cancel();
    running.await.unwrap();
    assert_eq!(append.queued(), 0);
    std::mem::take(&mut script.told.lock().unwrap())
}

/// In a runtime of its own, so that nothing is left of the one before.
fn run(seed: u64) -> Vec<String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(simulate(seed))
}

#[test]
fn everybody_is_answered_once_and_nothing_that_was_written_is_said_not_to_be() {
    seeds(ROUNDS).for_each(|seed| drop(run(seed)));
}

#[test]
fn a_seed_is_replayed_exactly() {
    for seed in seeds(REPLAYS) {
        assert_eq!(run(seed), run(seed));
    }
}
