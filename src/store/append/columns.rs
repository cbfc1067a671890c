//! Requests as the columns that `headwater.append_batch` takes.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use crate::domain::append::{AppendAck, AppendRequest, Condition};
use crate::domain::time::Timestamp;

/// A part is what a request has for one stream. Places count from 1, as in SQL.
#[derive(Default)]
pub(super) struct Columns<'a> {
    /// All streams that are named, each once.
    pub streams: Vec<&'a str>,
    pub part_requests: Vec<i32>,
    pub part_streams: Vec<i32>,
    pub expected_versions: Vec<Option<i64>>,
    pub must_exist: Vec<bool>,
    pub message_counts: Vec<i32>,
    pub message_parts: Vec<i32>,
    pub message_offsets: Vec<i32>,
    pub message_streams: Vec<&'a str>,
    pub ids: Vec<Uuid>,
    pub types: Vec<&'a str>,
    pub datas: Vec<&'a str>,
    pub metadatas: Vec<Option<&'a str>>,
    pub times: Vec<Option<Timestamp>>,
    pub ids_to_check: Vec<Uuid>,
    pub written_categories: Vec<&'a str>,
    /// Those that conditions are about and nothing is written to.
    pub read_categories: Option<Vec<&'a str>>,
    /// What else must hold for each request, as JSON. `None`: nothing for any.
    pub guards: Option<Vec<Option<String>>>,
    /// The place of each stream in `streams`.
    places: HashMap<&'a str, i32>,
}

/// What `headwater.judge_guard` takes.
#[derive(Serialize)]
struct Guard<'a> {
    categories: Vec<&'a str>,
    conditions: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Ack<'a>>,
}

/// A condition on a stream, or of a query about one category.
#[derive(Serialize, Default)]
#[serde(default)]
struct Entry<'a> {
    condition: usize,
    stream: Option<i32>,
    version: Option<i64>,
    category: Option<&'a str>,
    after: Option<i64>,
    types: Option<&'a [String]>,
    is_filtered: bool,
    found: Option<i64>,
}

#[derive(Serialize)]
struct Ack<'a> {
    subscription: Option<i64>,
    is_partitioned: bool,
    consumer: &'a str,
    partition: i32,
    position: i64,
    epoch: i64,
}

impl<'a> Columns<'a> {
    pub fn of(requests: &[&'a AppendRequest]) -> Self {
        let mut columns = Self::default();
        for (number, request) in (1..).zip(requests) {
            columns.push(number, request);
        }
        if requests.iter().any(|request| request.is_guarded()) {
            columns.guard(requests);
        }
        columns
    }

    fn push(&mut self, number: i32, request: &'a AppendRequest) {
        for stream in &request.streams {
            let name = stream.stream_name.as_str();
            let place = self.place(name);
            self.part_requests.push(number);
            self.part_streams.push(place);
            self.expected_versions.push(stream.expected_version);
            self.must_exist.push(stream.must_exist);
            self.message_counts.push(stream.messages.len() as i32);
            let part = self.part_requests.len() as i32;
            for (offset, message) in (0..).zip(&stream.messages) {
                self.message_parts.push(part);
                self.message_offsets.push(offset);
                self.message_streams.push(name);
                self.ids.push(message.id);
                self.types.push(&message.message_type);
                self.datas.push(&message.data);
                self.metadatas.push(message.metadata.as_deref());
                self.times.push(message.time);
                if message.is_client_supplied_id {
                    self.ids_to_check.push(message.id);
                }
            }
        }
        push_new(&mut self.written_categories, request.written_categories());
    }

    fn place(&mut self, stream: &'a str) -> i32 {
        let streams = &mut self.streams;
        *self.places.entry(stream).or_insert_with(|| {
            streams.push(stream);
            streams.len() as i32
        })
    }

    fn guard(&mut self, requests: &[&'a AppendRequest]) {
        let mut read = Vec::new();
        for request in requests {
            push_new(&mut read, request.read_categories().filter(|one| !self.written_categories.contains(one)));
        }
        self.read_categories = Some(read);
        let guards = requests.iter().map(|request| {
            let guard = request.is_guarded().then(|| self.guard_of(request))?;
            // It has texts and numbers only.
            Some(serde_json::to_string(&guard).unwrap_or_default())
        });
        self.guards = Some(guards.collect());
    }

    fn guard_of(&mut self, request: &'a AppendRequest) -> Guard<'a> {
        let mut categories = Vec::new();
        push_new(&mut categories, request.read_categories());
        let mut conditions = Vec::new();
        for (at, condition) in request.conditions.iter().enumerate() {
            match condition {
                Condition::Version { stream_name, version } => conditions.push(Entry {
                    condition: at,
                    stream: Some(self.place(stream_name.as_str())),
                    version: Some(*version),
                    ..Entry::default()
                }),
                Condition::Query(query) => conditions.extend(query.categories.iter().map(|(category, after)| Entry {
                    condition: at,
                    category: Some(category.as_str()),
                    after: Some(*after),
                    types: query.predicate.types(),
                    is_filtered: query.predicate.needs_texts(),
                    found: query.found,
                    ..Entry::default()
                })),
                // It never holds.
                Condition::Key(_) => {
                    conditions.push(Entry { condition: at, found: Some(0), ..Entry::default() });
                }
            }
        }
        Guard { categories, conditions, ack: request.ack.as_ref().map(Ack::of) }
    }
}

impl<'a> Ack<'a> {
    fn of(ack: &'a AppendAck) -> Self {
        let AppendAck { subscription, is_partitioned, ref consumer, partition, position, epoch, .. } = *ack;
        Self { subscription, is_partitioned, consumer, partition, position, epoch }
    }
}

/// Adds what is not there yet. There are few categories in a batch.
fn push_new<'a>(names: &mut Vec<&'a str>, more: impl Iterator<Item = &'a str>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}
