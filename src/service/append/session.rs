//! An append session: messages for one stream that come one after the other are written in as few commits as their pace
//! allows.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::{Append, SessionSettings};
use crate::domain::append::{
    AppendError, AppendRequest, Appended, NewMessage, StreamAppend, StreamAppended, WrittenMessage,
};
use crate::domain::observation::Observation;
use crate::domain::stream_name::StreamName;
use crate::domain::trace::SpanRef;
use crate::service::append_for::told_to;
use crate::service::auth::Caller;
use crate::service::credential_limits::{CredentialLimits, CredentialPlace};

/// The messages of one client for one stream, in its order.
///
/// One commit at a time: the next is sent once the one before is known to be written, so that a refusal leaves nothing
/// behind it to undo. What comes meanwhile is in the next one.
pub struct AppendSession {
    append: Append,
    settings: SessionSettings,
    caller: Caller,
    credential_limits: CredentialLimits,
    stream_name: StreamName,
    expectation: Expectation,
    /// What has come and is in no commit yet, with its lines.
    waiting: VecDeque<(u64, NewMessage)>,
    waiting_bytes: usize,
    /// Messages in the next commit at most.
    commit_max: usize,
    under_way: Option<UnderWay>,
    /// The span in which it was begun, if its caller records the trace.
    trace: Option<SpanRef>,
    /// Among all append sessions, and among those of its credential.
    _places: (OwnedSemaphorePermit, CredentialPlace),
}

/// What the stream must be like. A version is carried on from commit to commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expectation {
    /// -1: empty; `None`: any.
    pub version: Option<i64>,
    /// It must have a message already.
    pub must_exist: bool,
}

/// Messages that were written in one transaction, durably.
#[derive(Debug)]
pub struct Commit {
    pub first: WrittenMessage,
    pub count: usize,
    /// The position of the stream's last message of this commit.
    pub version: i64,
    /// They were written by an earlier session or request.
    pub duplicate: bool,
}

/// Neither the message of this line nor any after it is written by this session.
#[derive(Debug)]
pub struct Refusal {
    pub line: u64,
    pub error: AppendError,
}

/// A commit whose answer has not come.
struct UnderWay {
    request: Arc<AppendRequest>,
    lines: Vec<u64>,
    answer: BoxFuture<'static, Result<Appended, AppendError>>,
}

impl Append {
    /// Sessions that are open.
    pub fn open_sessions(&self) -> usize {
        self.session_settings.max - self.sessions.available_permits()
    }

    /// Begins a session of a caller on a stream that the caller may append to.
    pub(in crate::service) fn session(
        &self,
        stream_name: StreamName,
        caller: Caller,
        credential_limits: CredentialLimits,
        trace: Option<SpanRef>,
    ) -> Result<AppendSession, AppendError> {
        if self.draining.is_cancelled() {
            return Err(AppendError::Draining);
        }
        let settings = self.session_settings;
        let place_of_credential = credential_limits.take_session(&caller)?;
        let Ok(place) = self.sessions.clone().try_acquire_owned() else {
            self.observer.record(Observation::AppendOverloaded);
            return Err(AppendError::TooManySessions { max: settings.max });
        };
        Ok(AppendSession {
            append: self.clone(),
            settings,
            caller,
            credential_limits,
            stream_name,
            expectation: Expectation::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            commit_max: settings.messages_max,
            under_way: None,
            trace,
            _places: (place, place_of_credential),
        })
    }
}

impl AppendSession {
    pub fn stream_name(&self) -> &StreamName {
        &self.stream_name
    }

    /// To be said before the first message.
    pub fn expect(&mut self, expectation: Expectation) {
        self.expectation = expectation;
    }

    /// Whether another message may come now.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < self.settings.messages_max && self.waiting_bytes < self.settings.bytes_max
    }

    pub fn push(&mut self, line: u64, message: NewMessage) {
        self.waiting_bytes += message.bytes();
        self.waiting.push_back((line, message));
    }

    /// Whether there is something that has not been answered.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some() || !self.waiting.is_empty()
    }

    /// The next commit; waits for ever while there is nothing to write. After a refusal, nothing is written of what had
    /// come. May be given up at any point without a loss.
    pub async fn next(&mut self) -> Result<Commit, Refusal> {
        loop {
            if self.under_way.is_none() {
                if self.waiting.is_empty() {
                    return std::future::pending().await;
                }
                self.under_way = Some(self.begin());
            }
            let Some(under_way) = &mut self.under_way else { continue };
            let outcome = under_way.answer.as_mut().await;
            let Some(UnderWay { request, lines, .. }) = self.under_way.take() else { continue };
            match outcome {
                Ok(appended) => return Ok(self.go_on(&appended)),
                // One message is the matter, or some were written by an earlier session that cut its commits elsewhere:
                // what is before them is written, or known again, by itself.
                Err(AppendError::MessageIdReused { .. } | AppendError::Refused { .. }) if lines.len() > 1 => {
                    self.take_back(&request, &lines);
                }
                Err(error) => {
                    self.waiting.clear();
                    let error = told_to(self.caller.rights(), std::slice::from_ref(&self.stream_name), error);
                    return Err(Refusal { line: lines[0], error });
                }
            }
        }
    }

    /// The next commit: what there is, up to the limits. An id that is there twice is looked up in the one after.
    fn begin(&mut self) -> UnderWay {
        let mut ids: HashSet<Uuid> = HashSet::new();
        let (mut lines, mut messages, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((_, next)) = self.waiting.front()
            && lines.len() < self.commit_max
            && bytes < self.settings.bytes_max
            && (!next.is_client_supplied_id || ids.insert(next.id))
        {
            bytes += next.bytes();
            let Some((line, message)) = self.waiting.pop_front() else { break };
            lines.push(line);
            messages.push(message);
        }
        self.waiting_bytes -= bytes;
        let Expectation { version: expected_version, must_exist } = self.expectation;
        let stream_name = self.stream_name.clone();
        let stream = StreamAppend { stream_name, expected_version, must_exist, messages };
        let request = Arc::new(AppendRequest { trace: self.trace, ..AppendRequest::of(stream) });
        let (append, sent) = (self.append.clone(), request.clone());
        let (caller, credential_limits) = (self.caller.clone(), self.credential_limits.clone());
        let answer = Box::pin(async move {
            // What comes meanwhile is in the next commit: a session that is fast has large ones.
            credential_limits.turn_to_append(&caller).await;
            append.append_in_turn(sent).await
        });
        UnderWay { request, lines, answer }
    }

    fn go_on(&mut self, appended: &Appended) -> Commit {
        let Appended { duplicate, ref streams } = *appended;
        // A session has one stream.
        let StreamAppended { version, ref messages } = streams[0];
        self.expectation.must_exist = false;
        if let Some(expected) = &mut self.expectation.version {
            *expected = version;
        }
        if !duplicate {
            self.commit_max = self.settings.messages_max.min(2 * self.commit_max);
        }
        Commit { first: messages[0], count: messages.len(), version, duplicate }
    }

    /// The next commit has half as many messages as this one, which was refused.
    fn take_back(&mut self, request: &AppendRequest, lines: &[u64]) {
        self.commit_max = lines.len() / 2;
        for (line, message) in lines.iter().zip(&request.streams[0].messages).rev() {
            self.waiting_bytes += message.bytes();
            self.waiting.push_front((*line, message.clone()));
        }
    }
}
