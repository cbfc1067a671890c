//! The scripted database of the simulation.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{LOCK_TIMEOUT, REFUSED};
use crate::domain::append::{
    AppendError, AppendRequest, Appended, KeyCondition, LockHolder, Mismatch, Predicate, StreamAppend, StreamAppended,
    WrittenMessage,
};
use crate::domain::time::Timestamp;
use crate::service::append::appends::{Appends, Opened, Resolved, Session};
use crate::store::StoreError;
use crate::store::append::{Answer, Backend, BatchAnswer, BatchError, Written};
use crate::store::conditions::Window;
use crate::store::keyed_streams::IndexedKey;

/// Where a message is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub stream_name: String,
    pub message: WrittenMessage,
}

#[derive(Default)]
pub(super) struct State {
    pub messages: HashMap<Uuid, Stored>,
    versions: HashMap<String, i64>,
    last: i64,
    /// Sessions that have not been ended.
    alive: HashSet<i32>,
    locked_category: Option<&'static str>,
    is_down: bool,
}

#[derive(Clone)]
pub(super) struct Script {
    state: Arc<Mutex<State>>,
    random: Arc<Mutex<Rng>>,
    sessions: Arc<AtomicI32>,
    /// What was answered, and when.
    pub told: Arc<Mutex<Vec<String>>>,
}

struct ScriptedSession {
    script: Script,
    pid: i32,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        let random = Arc::new(Mutex::new(Rng::with_seed(seed)));
        Self { state: Arc::default(), random, sessions: Arc::default(), told: Arc::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn chance(&self, percent: u8) -> bool {
        self.random.lock().u8(0..100) < percent
    }

    fn below(&self, end: u64) -> u64 {
        self.random.lock().u64(0..end)
    }

    pub fn stored(&self, stream: &StreamAppend) -> Vec<Stored> {
        let state = self.state();
        stream.messages.iter().filter_map(|message| state.messages.get(&message.id).cloned()).collect()
    }

    /// Up to so many turns of everybody else.
    async fn dawdle(&self, turns: u64) {
        for _ in 0..self.below(turns) {
            tokio::task::yield_now().await;
        }
    }

    /// What goes on beside the clients, until they are done.
    pub async fn mischief(&self, is_over: CancellationToken) {
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
    fn write(&mut self, requests: &[AppendRequest], awaited: Option<&str>) -> BatchAnswer {
        let mut written = Written::default();
        let answers = requests.iter().map(|request| {
            let held = self.locked_category.filter(|held| Some(*held) != awaited);
            if let Some(category) = held.filter(|held| request.written_categories().any(|one| one == *held)) {
                return Answer::Locked { category: category.into() };
            }
            if let Some(existing) = self.existing(request) {
                return Answer::Done(Ok(Appended { duplicate: true, streams: existing }));
            }
            let mismatches: Vec<Mismatch> =
                request.streams.iter().enumerate().filter_map(|one| self.wrong(one)).collect();
            if !mismatches.is_empty() {
                return Answer::Done(Err(AppendError::Mismatch { mismatches }));
            }
            let streams = request.streams.iter().map(|stream| self.write_stream(stream, &mut written)).collect();
            Answer::Done(Ok(Appended { duplicate: false, streams }))
        });
        BatchAnswer { answers: answers.collect(), written }
    }

    /// What is there of a request: all of it, or nothing.
    fn existing(&self, request: &AppendRequest) -> Option<Vec<StreamAppended>> {
        let found: Vec<&Stored> = request.messages().filter_map(|message| self.messages.get(&message.id)).collect();
        if found.is_empty() {
            return None;
        }
        assert_eq!(found.len(), request.message_count(), "a request was written in part");
        let mut found = found.into_iter();
        let streams = request.streams.iter().map(|stream| {
            let own: Vec<&Stored> = found.by_ref().take(stream.messages.len()).collect();
            assert!(own.iter().all(|one| one.stream_name == stream.stream_name.as_str()));
            appended(own.into_iter().map(|one| one.message).collect())
        });
        Some(streams.collect())
    }

    fn wrong(&self, (append, stream): (usize, &StreamAppend)) -> Option<Mismatch> {
        let current_version = self.versions.get(stream.stream_name.as_str()).copied().unwrap_or(-1);
        stream.expected_version.filter(|expected| *expected != current_version).map(|expected| Mismatch::Version {
            append,
            stream_name: stream.stream_name.as_str().into(),
            expected_version: Some(expected),
            current_version,
        })
    }

    fn write_stream(&mut self, stream: &StreamAppend, written: &mut Written) -> StreamAppended {
        let name = stream.stream_name.as_str();
        let version = self.versions.entry(name.into()).or_insert(-1);
        let mut messages = Vec::new();
        for message in &stream.messages {
            (*version, self.last) = (*version + 1, self.last + 1);
            let one =
                WrittenMessage { id: message.id, position: *version, global_position: self.last, time: Timestamp(0) };
            written.positions.push((self.last, message.id));
            self.messages.insert(message.id, Stored { stream_name: name.into(), message: one });
            messages.push(one);
        }
        appended(messages)
    }
}

fn appended(messages: Vec<WrittenMessage>) -> StreamAppended {
    StreamAppended { version: messages.last().map_or(-1, |last| last.position), messages }
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
                state.existing(request).map(|streams| Ok(Appended { duplicate: false, streams }))
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

    fn indexed_key<'a>(
        &'a self,
        _: &'a KeyCondition,
        _: usize,
    ) -> BoxFuture<'a, Result<Option<IndexedKey>, StoreError>> {
        panic!("no request has conditions")
    }

    fn condition_window<'a>(
        &'a self,
        _: &'a str,
        _: i64,
        _: &'a Predicate,
    ) -> BoxFuture<'a, Result<Window, StoreError>> {
        panic!("no request has conditions")
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
        awaited: &'a [&'a str],
    ) -> BoxFuture<'a, Result<BatchAnswer, BatchError>> {
        let requests: Vec<AppendRequest> = requests.iter().map(|request| (*request).clone()).collect();
        let (script, pid, awaited) = (self.script.clone(), self.pid, awaited.first().map(|name| (*name).to_owned()));
        Box::pin(async move {
            script.dawdle(6).await;
            if requests.iter().flat_map(AppendRequest::messages).any(|message| message.message_type == REFUSED) {
                return Err(BatchError::Refused("the script does not like it".into()));
            }
            let awaited = awaited.as_deref();
            let is_locked = || awaited.is_some() && script.state().locked_category == awaited;
            let begun = Instant::now();
            while is_locked() {
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
                    script.state().write(&requests, awaited);
                    lost()
                }
                5 => {
                    // The server has not noticed, and is still at work.
                    let (working, awaited) = (script.clone(), awaited.map(str::to_owned));
                    tokio::spawn(async move {
                        working.dawdle(40).await;
                        let mut state = working.state();
                        if state.alive.contains(&pid) {
                            state.write(&requests, awaited.as_deref());
                        }
                    });
                    lost()
                }
                6 => {
                    if script.chance(50) {
                        script.state().write(&requests, awaited);
                    }
                    std::future::pending().await
                }
                _ => Ok(script.state().write(&requests, awaited)),
            }
        })
    }
}
