//! Reading aggregated streams over HTTP: pages of a partition, positions, and following.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::aggregated_streams::aggregated_stream_name;
use super::events::AggregatedEventLine;
use super::extract::{Path, Query};
use super::follow::{EventNames, follow, follow_query};
use super::page_bodies::Message;
use super::page_cache::{Interval, PageTag};
use super::parameters::{GivenFilter, Validator};
use super::problem::Problem;
use super::trim::trimmed;
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::keyed::{NAMED_KEYS_MAX, Part, check_key};
use crate::domain::partitioner::PARTITIONS_MAX;
use crate::domain::scope::Readable;
use crate::service::aggregated::{FindError, FoundStream, PartitionName, PartitionRead, PartitionRequest, PositionsAt};
use crate::service::auth::Caller;
use crate::service::follow::{AggregatedTarget, Target};

/// A message in its partition.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: it is put together from parts that exist already
pub struct PartitionMessage {
    #[schema(example = 2, minimum = 0)]
    pub partition: i32,
    /// Counts from 0 in its partition, without holes.
    #[schema(example = 0, minimum = 0)]
    pub position: i64,
    pub message: Message,
}

/// Data of the event `message` of an aggregated stream.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only
pub struct AggregatedMessage {
    #[schema(example = "orders")]
    pub aggregated_stream: String,
    #[schema(example = 2, minimum = 0)]
    pub partition: i32,
    /// Counts from 0 in its partition, without holes.
    #[schema(example = 0, minimum = 0)]
    pub position: i64,
    /// Of a keyed aggregated stream: all places of the message among those that are followed, by partition. `partition` and
    /// `position` are those of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub keys: Option<Vec<MessageKey>>,
    pub message: Message,
}

/// A key of a message, and where the message is among all of that key.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only
pub struct MessageKey {
    #[schema(example = "Tea")]
    pub key: String,
    #[schema(example = 2, minimum = 0)]
    pub partition: i32,
    /// Counts from 0 in its partition, without holes.
    #[schema(example = 0, minimum = 0)]
    pub position: i64,
}

/// A page of a partition.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only
pub struct PartitionPage {
    pub messages: Vec<PartitionMessage>,
    /// What to pass as `from` to go on.
    pub next: i64,
    /// True: nothing followed when this page was read.
    pub at_end: bool,
    /// Only if the request had one: what to pass as `cursor` with `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub cursor: Option<i64>,
}

/// Where to go on in every partition that has messages.
#[derive(Serialize, ToSchema)]
pub struct PartitionPositions {
    pub positions: Vec<PartitionPosition>,
}

/// The first position of a partition at or after a place in the log; if nothing is there yet, the next position.
#[derive(Serialize, ToSchema)]
pub struct PartitionPosition {
    pub partition: i32,
    pub position: i64,
    /// Of a keyed aggregated stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub key: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PartitionPageQuery {
    /// The first position of the partition to read, inclusive.
    #[param(minimum = 0, default = 0)]
    from: Option<i64>,
    /// How many messages at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// Only messages of these types, separated by commas.
    #[serde(default)]
    #[param(style = Form, explode = false)]
    types: Vec<String>,
    /// Only messages for which this CEL expression is true.
    #[param(example = "data.quantity > 1")]
    filter: Option<String>,
    /// Only messages of this time or later (RFC 3339).
    #[param(format = DateTime)]
    from_time: Option<String>,
    /// Only messages from before this time (RFC 3339).
    #[param(format = DateTime)]
    to_time: Option<String>,
    /// How long an empty page waits for a message, such as `30s`.
    #[param(example = "30s")]
    wait: Option<String>,
    /// With `wait`, for caches that fold many requests into one: 0 at first, then what the answer before had. Then the wait
    /// ends with an interval of the clock that is as long as `wait`, so that all who wait ask for the same.
    #[param(minimum = 0, maximum = 9007199254740991i64)]
    cursor: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PositionsQuery {
    /// The first message of this time or later (RFC 3339).
    #[param(format = DateTime)]
    time: Option<String>,
    /// The first message at this global position or after it.
    #[param(minimum = 0)]
    global_position: Option<i64>,
    /// Of this key of a keyed aggregated stream, where one at least must be named; may be given up to 100 times.
    #[serde(default)]
    key: Vec<String>,
}

follow_query!(FollowAggregatedQuery {
    /// Only this partition; may be given several times. Without it, all of them.
    #[serde(default)]
    partition: Vec<i64>,
    /// Only messages with this key, of a keyed aggregated stream; may be given up to 100 times. A key that no message has
    /// yet is followed too. Not with `partition`.
    #[serde(default)]
    key: Vec<String>,
});

/// Read a partition of an aggregated stream
///
/// In order of position in the partition. A partition without messages is an empty page. Positions of trimmed messages are
/// passed over; `from` before the first that is left is `position-trimmed`. A full page may be kept by caches, as its
/// `Cache-Control` says, and has an ETag that changes by erasures, trims and a rebuild.
#[utoipa::path(
    get, path = "/v1/aggregated-streams/{name}/partitions/{partition}/messages", operation_id = "readPartition",
    tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream"),
        ("partition" = i32, Path, description = "Number of a partition", minimum = 0), PartitionPageQuery,
        ("If-None-Match" = Option<String>, Header, description = "The ETag of an earlier answer")),
    responses((status = 200, body = PartitionPage, headers(("ETag" = String))), (status = 304, description = "Nothing has changed"), (status = 410, description = "position-trimmed", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn read_partition(
    State(app): State<App>,
    caller: Caller,
    Path((name, partition)): Path<(String, String)>,
    Query(query): Query<PartitionPageQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut rules = Validator::default();
    let number = partition.parse::<i64>().ok();
    if number.is_none() {
        rules.malformed("partition", "must be an integer");
    }
    let asked = query.checked(&mut rules, &app, uri, headers);
    aggregated_stream_name(&name)?;
    let found = match app.aggregated.find(&name, caller.rights()).await {
        Err(FindError::NotFound { .. }) => None,
        found => Some(found?),
    };
    let partition =
        checked_partition(&mut rules, number.unwrap_or(0), found.as_ref().is_some_and(|found| found.is_keyed));
    let asked = rules.finish(asked)?;
    let found = found.ok_or_else(|| unknown(&name))?;
    page(&app, &name, found, PartitionName::Number(partition), &asked).await
}

/// A page of a partition as a client asks for it.
pub(super) struct Asked {
    request: PartitionRequest,
    interval: Option<Interval>,
    uri: Uri,
    headers: HeaderMap,
}

impl PartitionPageQuery {
    pub(super) fn checked(&self, rules: &mut Validator, app: &App, uri: Uri, headers: HeaderMap) -> Asked {
        let filter = GivenFilter {
            types: self.types.clone(),
            filter: self.filter.clone(),
            from_time: self.from_time.clone(),
            to_time: self.to_time.clone(),
        };
        let wait = rules.duration("wait", self.wait.as_deref(), Duration::ZERO, app.limits.wait_max);
        let mut request = PartitionRequest {
            from: rules.from(self.from),
            limit: rules.limit(self.limit),
            filter: rules.filter(&filter, Readable::All),
            wait: wait.unwrap_or_default(),
        };
        let interval = Interval::checked(rules, self.cursor, &mut request.wait, &uri);
        Asked { request, interval, uri, headers }
    }
}

pub(super) async fn page(
    app: &App,
    name: &str,
    found: FoundStream,
    partition: PartitionName<'_>,
    asked: &Asked,
) -> Result<Response, Problem> {
    let Asked { request, interval, uri, headers } = asked;
    let tag = PageTag::of(app, uri, &Readable::All, Some(found.projection_id)).await;
    if let Some(same) = tag.not_modified(app, headers) {
        return Ok(same);
    }
    let read = app.aggregated.partition_page(found.id, partition, request).await?.ok_or_else(|| unknown(name))?;
    if request.from.is_some_and(|from| from < read.page.first_position) {
        return Err(trimmed(read.page.first_position));
    }
    let json = HeaderValue::from_static("application/json");
    let page = ([(header::CONTENT_TYPE, json)], page_body(&read, *interval)).into_response();
    Ok(tag.answer(app, read.is_settled(), *interval, page))
}

/// Find positions in an aggregated stream
///
/// For every partition that has messages, the first position at or after a time or a global position. Of a keyed aggregated
/// stream: for the keys that are named.
#[utoipa::path(
    get, path = "/v1/aggregated-streams/{name}/positions", operation_id = "findPartitionPositions", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream"), PositionsQuery),
    responses((status = 200, body = PartitionPositions)),
)]
pub async fn find_positions(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<PositionsQuery>,
) -> Result<axum::Json<PartitionPositions>, Problem> {
    let mut rules = Validator::default();
    let time = rules.time("time", query.time.as_deref());
    if query.time.is_some() == query.global_position.is_some() {
        rules.invalid("time", "must be given, or global_position, but not both");
    }
    if query.global_position.is_some_and(|position| position < 0) {
        rules.invalid("global_position", "must be 0 or more");
    }
    let keys = checked_keys(&mut rules, query.key);
    let time = rules.finish(time)?;
    let at = time.map_or(PositionsAt::GlobalPosition(query.global_position.unwrap_or(0)), PositionsAt::Time);
    let FoundStream { id, is_keyed, .. } = stream(&app, &caller, &name).await?;
    if is_keyed == keys.is_empty() {
        let rule = match is_keyed {
            true => "must name the keys: this aggregated stream is keyed, and may have millions of partitions",
            false => "must not be given: this aggregated stream has no keys",
        };
        return Err(Problem::invalid(vec![Violation::new("key", rule)]));
    }
    let positions = match is_keyed {
        true => {
            let positions = app.aggregated.key_positions(id, &keys, at).await?;
            let to_body = |(key, partition, position)| PartitionPosition { partition, position, key: Some(key) };
            positions.into_iter().map(to_body).collect()
        }
        false => {
            let to_body = |(partition, position)| PartitionPosition { partition, position, key: None };
            app.aggregated.positions(id, at).await?.into_iter().map(to_body).collect()
        }
    };
    Ok(axum::Json(PartitionPositions { positions }))
}

/// Follow an aggregated stream
///
/// In global order, whichever partitions are followed. Ids of events, and a position given as `from`, are global
/// positions. Of a keyed aggregated stream each message is one event, however many of its keys are followed: `keys` has its
/// place in each.
#[utoipa::path(
    get, path = "/v1/aggregated-streams/{name}/events", operation_id = "followAggregatedStream", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream"), FollowAggregatedQuery),
    responses((status = 200, description = "Events: message, trimmed, caught-up, fell-behind, heartbeat, closing",
        content((AggregatedEventLine = "text/event-stream"), (AggregatedEventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_aggregated_stream(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(mut query): Query<FollowAggregatedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    aggregated_stream_name(&name)?;
    let mut rules = Validator::default();
    let mut partitions: Vec<i32> =
        query.partition.iter().map(|partition| checked_partition(&mut rules, *partition, true)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let keys = checked_keys(&mut rules, std::mem::take(&mut query.key));
    let part = match (partitions.is_empty(), keys.is_empty()) {
        (true, true) => Part::All,
        (false, true) => Part::Partitions(partitions.into()),
        (true, false) => Part::Keys(keys.into_iter().map(Arc::from).collect()),
        (false, false) => {
            rules.invalid("key", "must not be given with partition");
            Part::All
        }
    };
    let part = rules.finish(part)?;
    let target = Target { log: None, aggregated: vec![AggregatedTarget { name, part }] };
    follow(app, &caller, target, query.options(), &headers).await
}

/// An aggregated stream that is there, and may be read.
pub(super) async fn stream(app: &App, caller: &Caller, name: &str) -> Result<FoundStream, Problem> {
    aggregated_stream_name(name)?;
    Ok(app.aggregated.find(name, caller.rights()).await?)
}

fn unknown(name: &str) -> Problem {
    Problem::not_found(format!("aggregated stream {name}"))
}

fn checked_partition(rules: &mut Validator, partition: i64, may_be_key: bool) -> i32 {
    let highest = if may_be_key { i64::from(i32::MAX) } else { PARTITIONS_MAX - 1 };
    match i32::try_from(partition) {
        Ok(partition) if (0..=highest).contains(&i64::from(partition)) => partition,
        _ => {
            rules.invalid("partition", format!("must be from 0 to {highest}"));
            0
        }
    }
}

/// Sorted, and each once.
fn checked_keys(rules: &mut Validator, mut keys: Vec<String>) -> Vec<String> {
    keys.sort_unstable();
    keys.dedup();
    if keys.len() > NAMED_KEYS_MAX {
        rules.invalid("key", format!("must be given at most {NAMED_KEYS_MAX} times"));
    }
    if let Some(rule) = keys.iter().find_map(|key| check_key(key).err()) {
        rules.invalid("key", rule);
    }
    keys
}

/// The body of a page. The JSON of messages is put in as it is, never parsed and printed again.
fn page_body(read: &PartitionRead, interval: Option<Interval>) -> Vec<u8> {
    let messages = &read.page.messages;
    let size: usize = messages.iter().map(|one| one.message.json().len() + 60).sum();
    let mut body = Vec::with_capacity(size + 80);
    body.extend_from_slice(b"{\"messages\":[");
    for (at, one) in messages.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let place = format!("{comma}{{\"partition\":{},\"position\":{},\"message\":", one.partition, one.position);
        body.extend_from_slice(place.as_bytes());
        body.extend_from_slice(one.message.json());
        body.push(b'}');
    }
    body.extend_from_slice(format!("],\"next\":{},\"at_end\":{}", read.next, read.at_end).as_bytes());
    if let Some(interval) = interval {
        body.extend_from_slice(format!(",\"cursor\":{}", interval.next(messages.is_empty())).as_bytes());
    }
    body.push(b'}');
    body
}
