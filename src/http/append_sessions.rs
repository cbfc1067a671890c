//! Append sessions: lines of messages in, a line out for each commit, over one connection.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::LINES;
use super::extract::{Object, malformed_json};
use super::parameters::Validator;
use super::problem::{Problem, ProblemDocument, ProblemKind};
use super::streams::{AppendHeaders, AppendedMessage, MessagePlace, NewMessageBody, check_message, check_version};
use super::wire::{LINGER_BYTES_MAX, LINGER_TIME_MAX};
use super::{App, credentials};
use crate::domain::Violation;
use crate::domain::append::{AppendError, NewMessage};
use crate::domain::stream_name::StreamName;
use crate::service::append::session::{AppendSession, Commit, Expectation};
use crate::service::auth::Caller;

/// What a line may have beside a message's data and metadata: its type, id and time, names and blanks.
const LINE_OVERHEAD_BYTES_MAX: usize = 16 << 10;

/// A line of an append session: a message. The first line may say how the stream must be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendLine {
    /// On the first line: the stream must be at this version, -1 for an empty stream. It is carried on from commit to
    /// commit, so that a message from anybody else in between ends the session.
    #[serde(default)]
    #[schema(minimum = -1, example = 3)]
    expected_version: Option<i64>,
    /// On the first line: the stream must have a message.
    #[serde(default)]
    #[schema(default = false)]
    must_exist: bool,
    /// Made by the service if absent. A message sent again with its id is recognised.
    #[serde(default)]
    id: Option<Uuid>,
    r#type: String,
    /// Any JSON; `null` if absent.
    #[serde(default)]
    #[schema(value_type = Option<Value>, example = json!({"item": "Tea", "quantity": 2}))]
    data: Option<Box<RawValue>>,
    /// Any JSON.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    metadata: Option<Box<RawValue>>,
    /// RFC 3339; the time of the transaction if absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    time: Option<String>,
}

/// A line of the answer to an append session.
#[allow(dead_code)] // described only
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum AppendSessionLine {
    Commit(AppendCommit),
    /// The last line, if anything was refused: nothing from its `line` on is written.
    Problem(Box<ProblemDocument>),
}

/// Messages that were written in one transaction, durably: the next `count` lines that had not been answered.
#[derive(Serialize, ToSchema)]
pub struct AppendCommit {
    first: AppendedMessage,
    count: usize,
    /// The position of the last of these messages.
    version: i64,
    /// They were written before, by an earlier session or request.
    duplicate: bool,
}

/// Answers with the session's lines, from the first moment on: the client need not have sent anything.
pub async fn respond(
    app: &App,
    caller: &Caller,
    stream_name: StreamName,
    request: Request,
) -> Result<Response, Problem> {
    let mut rules = Validator::default();
    let headers = AppendHeaders::of(&mut rules, request.headers());
    rules.finish(())?;
    let session = app.append_session_for(caller, stream_name, headers.span())?;
    let caller = caller.clone();
    let waits_for_leave = request.headers().contains_key(header::EXPECT);
    let mut lines = Lines::new(app, request.into_body());
    if waits_for_leave {
        // hyper tells the client to continue when somebody asks for the body, and only before the answer has begun.
        lines.read().now_or_never().unwrap_or(Ok(()))?;
        tokio::task::yield_now().await;
    }
    let app = app.clone();
    let conversation = Conversation { app, caller, session, headers, lines: Some(lines), messages: 0, refusal: None };
    let answers = futures_util::stream::unfold(conversation, |mut conversation| async move {
        let line = conversation.next_line().await?;
        Some((Ok::<_, Infallible>(line), conversation))
    });
    let mut response = Response::new(Body::from_stream(answers));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(LINES));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One session: what is read when there is room for it, and what is answered when the client takes it.
struct Conversation {
    app: App,
    caller: Caller,
    session: AppendSession,
    headers: AppendHeaders,
    /// `None`: nothing more is read.
    lines: Option<Lines>,
    /// Messages that were read.
    messages: usize,
    /// What is answered once everything before it has been.
    refusal: Option<(u64, Problem)>,
}

impl Conversation {
    /// The next line of the answer; `None` at the end.
    async fn next_line(&mut self) -> Option<Bytes> {
        loop {
            if self.caller.has_ended() {
                // What was read before is written and answered first.
                self.refuse_next(credentials::ended());
            }
            self.take_lines();
            if !self.session.is_busy() && self.lines.is_none() {
                return self.refusal.take().map(|(line, problem)| in_line(problem, line));
            }
            let (is_busy, has_room) = (self.session.is_busy(), self.session.has_room());
            if let Some(lines) = self.lines.as_mut().filter(|_| !has_room) {
                // It is not the client that takes its time now.
                lines.deadline = None;
            }
            let draining = self.app.lifecycle.draining();
            tokio::select! {
                biased;
                commit = self.session.next(), if is_busy => match commit {
                    Ok(commit) => return Some(as_line(&commit)),
                    Err(refusal) => self.refuse(refusal.line, refusal.error.into()),
                },
                read = read(&mut self.lines), if has_room => if let Err(problem) = read {
                    self.refuse_next(problem);
                },
                () = self.caller.ended(), if self.lines.is_some() => {}
                () = draining.cancelled(), if !is_busy => self.refuse_next(AppendError::Draining.into()),
            }
        }
    }

    /// Hands the lines that have come to the session, as far as it has room.
    fn take_lines(&mut self) {
        while self.session.has_room()
            && let Some(lines) = &mut self.lines
        {
            let Some(line) = lines.next() else {
                if lines.is_over() {
                    self.lines = None;
                }
                return;
            };
            let number = lines.taken;
            match line.and_then(|line| self.message(number, &line)) {
                Ok(Some(message)) => self.session.push(number, message),
                Ok(None) => {}
                Err(problem) => self.refuse(number, problem),
            }
        }
    }

    /// The message on a line; `None` on an empty one.
    fn message(&mut self, number: u64, line: &[u8]) -> Result<Option<NewMessage>, Problem> {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return Ok(None);
        }
        let Ok(Object(line)) = serde_json::from_slice::<Object<AppendLine>>(line) else {
            return Err(malformed_json::<Object<AppendLine>>(line, number as usize));
        };
        let mut rules = Validator::default();
        let AppendLine { expected_version, must_exist, id, r#type, data, metadata, time } = line;
        if self.messages == 0 {
            check_version(&mut rules, "expected_version", expected_version);
            self.session.expect(Expectation { version: expected_version, must_exist });
        } else {
            for (field, is_given) in [("expected_version", expected_version.is_some()), ("must_exist", must_exist)] {
                if is_given {
                    rules.invalid(field, "is for the first line only");
                }
            }
        }
        let body = NewMessageBody { id, r#type, data, metadata, time };
        let place = MessagePlace::OnLine(number);
        let of = (&self.headers, self.messages);
        let message = check_message(&mut rules, &self.app.limits, place, body, self.session.stream_name(), of)?;
        self.messages += 1;
        rules.finish(Some(message))
    }

    /// The line that would be read next is refused.
    fn refuse_next(&mut self, problem: Problem) {
        if let Some(lines) = &self.lines {
            self.refuse(lines.taken + 1, problem);
        }
    }

    /// Nothing from this line on is written, and the rest of the body is thrown away.
    fn refuse(&mut self, line: u64, problem: Problem) {
        self.refusal = Some((line, problem));
        if let Some(lines) = self.lines.take() {
            tokio::spawn(lines.throw_away());
        }
    }
}

/// Waits for more to read; for ever where nothing more is.
async fn read(lines: &mut Option<Lines>) -> Result<(), Problem> {
    match lines {
        Some(lines) => lines.read().await,
        None => std::future::pending().await,
    }
}

fn as_line(commit: &Commit) -> Bytes {
    let Commit { first, count, version, duplicate } = commit;
    let commit = AppendCommit { first: first.into(), count: *count, version: *version, duplicate: *duplicate };
    let mut line = serde_json::to_vec(&commit).unwrap_or_else(|error| unreachable!("a commit is plain data: {error}"));
    line.push(b'\n');
    line.into()
}

fn in_line(problem: Problem, line: u64) -> Bytes {
    let mut line = problem.with("line", line).document();
    line.push('\n');
    line.into()
}

/// The lines of a body, as they come.
struct Lines {
    body: BodyDataStream,
    /// What has come and is in no line yet.
    rest: BytesMut,
    /// How much of it is known to have no end of a line.
    searched: usize,
    /// Lines that were taken.
    taken: u64,
    has_ended: bool,
    bytes_max: usize,
    message_bytes_max: usize,
    /// How long a line may take that has begun.
    patience: Duration,
    deadline: Option<Instant>,
}

impl Lines {
    fn new(app: &App, body: Body) -> Self {
        Self {
            body: body.into_data_stream(),
            rest: BytesMut::new(),
            searched: 0,
            taken: 0,
            has_ended: false,
            bytes_max: app.limits.message_bytes_max + LINE_OVERHEAD_BYTES_MAX,
            message_bytes_max: app.limits.message_bytes_max,
            patience: app.limits.request_timeout,
            deadline: None,
        }
    }

    /// The next line that has come whole. The last one needs no end.
    fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        let end = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
        let length = match end {
            Some(end) => self.searched + end + 1,
            None if self.has_ended && !self.rest.is_empty() => self.rest.len(),
            None if self.rest.len() > self.bytes_max => self.rest.len(),
            None => {
                self.searched = self.rest.len();
                return None;
            }
        };
        (self.searched, self.deadline) = (0, None);
        self.taken += 1;
        let line = self.rest.split_to(length).freeze();
        Some(if length > self.bytes_max { Err(self.too_long()) } else { Ok(line) })
    }

    fn too_long(&self) -> Problem {
        let limit = self.message_bytes_max;
        let detail = format!(
            "Line {} has more than {} bytes; a message may have {limit} bytes of data and metadata.",
            self.taken, self.bytes_max
        );
        Problem::new(ProblemKind::MessageTooLarge, detail).with("limit", limit)
    }

    /// Waits for more of the body. Between two lines, the client may take as long as it likes.
    async fn read(&mut self) -> Result<(), Problem> {
        let is_amid_line = !self.rest.is_empty();
        let now = Instant::now();
        let deadline = if is_amid_line { *self.deadline.get_or_insert(now + self.patience) } else { now };
        tokio::select! {
            biased;
            chunk = self.body.next() => match chunk {
                Some(Ok(chunk)) => self.rest.extend_from_slice(&chunk),
                Some(Err(_)) => {
                    return Err(Problem::malformed(vec![Violation::new("body", "was not received completely")]));
                }
                None => self.has_ended = true,
            },
            () = sleep_until(deadline), if is_amid_line => {
                let detail = format!("Line {} was not received within {:?}.", self.taken + 1, self.patience);
                return Err(Problem::new(ProblemKind::RequestTimeout, detail));
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.has_ended && self.rest.is_empty()
    }

    /// Reads on for a while, so that a client that writes first and reads then finds its answer.
    async fn throw_away(mut self) {
        let mut bytes_left = LINGER_BYTES_MAX;
        let reading = async {
            while bytes_left > 0
                && let Some(Ok(chunk)) = self.body.next().await
            {
                bytes_left = bytes_left.saturating_sub(chunk.len());
            }
        };
        let _ = tokio::time::timeout(LINGER_TIME_MAX, reading).await;
    }
}
