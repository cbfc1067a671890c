//! What `headwater.append_batch` answers, request by request.

use std::sync::Arc;

use serde::Deserialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Answer, BatchAnswer, Outcome, StoreError, Written};
use crate::domain::append::{
    AppendError, AppendRequest, Appended, Condition, Mismatch, StreamAppended, WrittenMessage,
};
use crate::domain::message::{Message, MessageParts};
use crate::domain::time::Timestamp;

/// A message that was written before, or whose id is in the way.
struct ExistingMessage {
    stream_name: String,
    written: WrittenMessage,
}

impl ExistingMessage {
    fn in_the_way(self) -> AppendError {
        AppendError::MessageIdReused {
            message_id: self.written.id,
            stream_name: self.stream_name,
            position: self.written.position,
        }
    }
}

/// The outcomes of all parts, taken request by request.
pub(super) struct PartOutcomes {
    outcomes: std::vec::IntoIter<Outcome>,
    existing: std::vec::IntoIter<Vec<ExistingMessage>>,
}

/// The outcomes of the parts of one request.
pub(super) struct RequestOutcomes {
    outcomes: Vec<Outcome>,
    existing: Vec<Vec<ExistingMessage>>,
}

impl PartOutcomes {
    pub fn read(row: &Row, parts: usize) -> Result<Self, StoreError> {
        let words: Vec<&str> = row.try_get("outcomes")?;
        let outcomes: Vec<Outcome> = words.into_iter().map(Outcome::parse).collect::<Result<_, _>>()?;
        if outcomes.len() != parts {
            return Err(StoreError::Bug(format!("{} outcomes for {parts} parts of requests", outcomes.len())));
        }
        Ok(Self { outcomes: outcomes.into_iter(), existing: read_existing(row, parts)?.into_iter() })
    }

    pub fn of_next(&mut self, parts: usize) -> RequestOutcomes {
        RequestOutcomes {
            outcomes: self.outcomes.by_ref().take(parts).collect(),
            existing: self.existing.by_ref().take(parts).collect(),
        }
    }
}

impl RequestOutcomes {
    /// The answer, if ids of the request are used already.
    fn used(&mut self, duplicate: bool) -> Option<Result<Appended, AppendError>> {
        if self.outcomes.iter().all(|outcome| *outcome == Outcome::Duplicate) {
            let streams = std::mem::take(&mut self.existing).into_iter().map(|existing| {
                let messages: Vec<WrittenMessage> = existing.into_iter().map(|message| message.written).collect();
                StreamAppended { version: messages.last().map_or(-1, |last| last.position), messages }
            });
            return Some(Ok(Appended { duplicate, streams: streams.collect() }));
        }
        let is_used = |outcome: &Outcome| matches!(outcome, Outcome::Duplicate | Outcome::IdReused);
        let at = self.outcomes.iter().position(is_used)?;
        // One of another stream is in the way of this part; of a part that was written, any of its messages is.
        let existing = std::mem::take(&mut self.existing[at]).into_iter().next()?;
        Some(Err(existing.in_the_way()))
    }

    /// For a commit whose answer was lost: what was written of the request.
    pub fn found(mut self) -> Result<Option<Result<Appended, AppendError>>, StoreError> {
        match self.used(false) {
            Some(found) => Ok(Some(found)),
            None if self.outcomes.iter().all(|outcome| *outcome == Outcome::Missing) => Ok(None),
            None => Err(StoreError::Bug("the messages of a commit in doubt were not found as expected".into())),
        }
    }
}

/// What keeps the guard of a request from being fulfilled, as `judge_guard` says.
#[derive(Deserialize)]
struct Verdict {
    outcome: String,
    #[serde(default)]
    current_epoch: Option<i64>,
    #[serde(default)]
    failures: Vec<Failure>,
}

/// A condition that does not hold.
#[derive(Deserialize)]
struct Failure {
    condition: usize,
    version: Option<i64>,
    position: Option<i64>,
    head: Option<i64>,
}

impl Failure {
    /// Why the condition was not judged.
    fn no_key(&self, request: &AppendRequest) -> Option<AppendError> {
        let Condition::Key(key) = request.conditions.get(self.condition)? else { return None };
        Some(key.refusal.clone())
    }

    fn mismatch(&self, request: &AppendRequest) -> Option<Mismatch> {
        let condition = self.condition;
        Some(match request.conditions.get(condition)? {
            Condition::Version { stream_name, version } => Mismatch::Condition {
                condition,
                stream_name: stream_name.as_str().into(),
                expected_version: *version,
                current_version: self.version?,
            },
            Condition::Query(query) => match (self.position, self.head) {
                (Some(position), _) => Mismatch::Match { condition, position },
                (None, head) => {
                    let after = query.categories.iter().map(|(_, after)| *after).max().unwrap_or_default();
                    Mismatch::BeyondEnd { condition, after, head: head? }
                }
            },
            Condition::Key(_) => return None,
        })
    }
}

/// What the answer is made of.
struct AnswerReader<'a> {
    requests: &'a [&'a AppendRequest],
    wanted: Option<&'a [bool]>,
    versions: Vec<i64>,
    global_positions: Vec<i64>,
    written_at: Timestamp,
    datas: Vec<Option<&'a str>>,
    metadatas: Vec<Option<&'a str>>,
    verdicts: Vec<Option<&'a str>>,
    locked_categories: Vec<&'a str>,
    written: Written,
}

pub(super) fn read(row: &Row, requests: &[&AppendRequest], wanted: Option<&[bool]>) -> Result<BatchAnswer, StoreError> {
    let versions: Vec<i64> = row.try_get("versions")?;
    let mut parts = PartOutcomes::read(row, versions.len())?;
    let global_positions: Vec<i64> = row.try_get::<_, Option<_>>("global_positions")?.unwrap_or_default();
    let written = Written { positions: Vec::with_capacity(global_positions.len()), messages: Vec::new() };
    let mut reader = AnswerReader {
        requests,
        wanted,
        versions,
        global_positions,
        written_at: row.try_get("written_at")?,
        datas: row.try_get::<_, Option<_>>("data_texts")?.unwrap_or_default(),
        metadatas: row.try_get::<_, Option<_>>("metadata_texts")?.unwrap_or_default(),
        verdicts: row.try_get::<_, Option<_>>("verdicts")?.unwrap_or_default(),
        locked_categories: row.try_get::<_, Option<_>>("locked_categories")?.unwrap_or_default(),
        written,
    };
    // The places of the request's first part and of its first message among all.
    let (mut part, mut message) = (0, 0);
    let mut answers = Vec::with_capacity(requests.len());
    for (at, request) in requests.iter().enumerate() {
        let outcomes = parts.of_next(request.streams.len());
        answers.push(reader.answer(at, outcomes, part, message)?);
        part += request.streams.len();
        message += request.message_count();
    }
    Ok(BatchAnswer { answers, written: reader.written })
}

impl AnswerReader<'_> {
    fn answer(
        &mut self,
        at: usize,
        mut outcomes: RequestOutcomes,
        part: usize,
        message: usize,
    ) -> Result<Answer, StoreError> {
        let request = self.requests[at];
        if let Some(locked) = outcomes.outcomes.iter().position(|outcome| *outcome == Outcome::Locked) {
            return Ok(Answer::Locked { category: request.streams[locked].stream_name.category().into() });
        }
        if let Some(used) = outcomes.used(true) {
            return Ok(Answer::Done(used));
        }
        let mut mismatches = self.wrong_versions(request, &outcomes.outcomes, part)?;
        if let Some(text) = self.verdicts.get(at).copied().flatten() {
            let verdict: Verdict = serde_json::from_str(text)
                .map_err(|error| StoreError::Bug(format!("the verdict {text} cannot be read: {error}")))?;
            if let Some(answer) = self.guarded(request, &verdict, &mut mismatches)? {
                return Ok(answer);
            }
        }
        Ok(Answer::Done(match mismatches.is_empty() {
            true => Ok(self.written(request, part, message)),
            false => Err(AppendError::Mismatch { mismatches }),
        }))
    }

    fn wrong_versions(
        &self,
        request: &AppendRequest,
        outcomes: &[Outcome],
        part: usize,
    ) -> Result<Vec<Mismatch>, StoreError> {
        let mut mismatches = Vec::new();
        for (append, (stream, outcome)) in request.streams.iter().zip(outcomes).enumerate() {
            match outcome {
                Outcome::Done => {}
                Outcome::WrongVersion => mismatches.push(Mismatch::Version {
                    append,
                    stream_name: stream.stream_name.as_str().into(),
                    expected_version: stream.expected_version,
                    current_version: self.versions[part + append],
                }),
                other => return Err(other.unexpected()),
            }
        }
        Ok(mismatches)
    }

    /// The answer for a request whose guard is not fulfilled, unless it is that these conditions do not hold.
    fn guarded(
        &self,
        request: &AppendRequest,
        verdict: &Verdict,
        mismatches: &mut Vec<Mismatch>,
    ) -> Result<Option<Answer>, StoreError> {
        let fenced = |current_epoch| {
            let ack = request.ack.clone()?;
            Some(Answer::Done(Err(match ack.subscription {
                Some(_) => AppendError::Fenced { ack, current_epoch },
                None => AppendError::NoSubscription { name: ack.name },
            })))
        };
        Ok(match Outcome::parse(&verdict.outcome)? {
            Outcome::Locked => {
                let is_locked = |category: &&str| self.locked_categories.contains(category);
                let category = request.read_categories().find(is_locked).unwrap_or(request.category());
                Some(Answer::Locked { category: category.into() })
            }
            Outcome::Stale => Some(Answer::LookFirst),
            Outcome::Fenced => fenced(verdict.current_epoch),
            Outcome::Missing => fenced(None),
            Outcome::Changed => {
                let no_key = |failure: &Failure| failure.no_key(request);
                if let Some(error) = verdict.failures.iter().find_map(no_key) {
                    return Ok(Some(Answer::Done(Err(error))));
                }
                // A query has an entry for each of its categories: the first match of all counts.
                for failure in &verdict.failures {
                    let Some(mismatch) = failure.mismatch(request) else { continue };
                    match mismatches.iter_mut().find(|known| known.condition() == Some(failure.condition)) {
                        Some(known) => known.merge(mismatch),
                        None => mismatches.push(mismatch),
                    }
                }
                None
            }
            other => return Err(other.unexpected()),
        })
    }

    fn written(&mut self, request: &AppendRequest, part: usize, mut place: usize) -> Appended {
        let mut streams = Vec::with_capacity(request.streams.len());
        for (stream, &version) in request.streams.iter().zip(&self.versions[part..]) {
            let mut messages = Vec::with_capacity(stream.messages.len());
            let positions = version + 1 - stream.messages.len() as i64..;
            for (message, position) in stream.messages.iter().zip(positions) {
                let nth = self.written.positions.len();
                let Some(&global_position) = self.global_positions.get(nth) else { break };
                let time = message.time.unwrap_or(self.written_at);
                messages.push(WrittenMessage { id: message.id, position, global_position, time });
                self.written.positions.push((global_position, message.id));
                if self.wanted.is_some_and(|wanted| wanted[place]) {
                    self.written.messages.push(Arc::new(Message::new(MessageParts {
                        id: message.id,
                        stream_name: stream.stream_name.as_str(),
                        message_type: &message.message_type,
                        position,
                        global_position,
                        data: self.datas.get(nth).copied().flatten(),
                        metadata: self.metadatas.get(nth).copied().flatten(),
                        time,
                        erased: None,
                    })));
                }
                place += 1;
            }
            streams.push(StreamAppended { version, messages });
        }
        Appended { duplicate: false, streams }
    }
}

fn read_existing(row: &Row, parts: usize) -> Result<Vec<Vec<ExistingMessage>>, tokio_postgres::Error> {
    let mut existing: Vec<Vec<ExistingMessage>> = (0..parts).map(|_| Vec::new()).collect();
    let Some(numbers) = row.try_get::<_, Option<Vec<i32>>>("standing_parts")? else { return Ok(existing) };
    let ids: Vec<Uuid> = row.try_get("standing_ids")?;
    let streams: Vec<String> = row.try_get("standing_streams")?;
    let positions: Vec<i64> = row.try_get("standing_positions")?;
    let global_positions: Vec<i64> = row.try_get("standing_global_positions")?;
    let times: Vec<Timestamp> = row.try_get("standing_times")?;
    for (at, stream_name) in streams.into_iter().enumerate() {
        existing[numbers[at] as usize - 1].push(ExistingMessage {
            stream_name,
            written: WrittenMessage {
                id: ids[at],
                position: positions[at],
                global_position: global_positions[at],
                time: times[at],
            },
        });
    }
    Ok(existing)
}
