//! Appending to several streams in one transaction.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::append_problems::with_failures;
use super::extract::{Json, Object, Query};
use super::pages::NoQuery;
use super::parameters::{GivenFilter, Validator};
use super::problem::Problem;
use super::streams::{
    AppendHeaders, AppendedMessage, NewMessageBody, StreamBody, check_stream, check_version, count_messages,
};
use super::{App, tags};
use crate::domain::append::{
    AppendAck, AppendRequest, Appended, Condition, KeyCondition, Predicate, QueryCondition, READ_CATEGORIES_MAX,
    StreamAppend,
};
use crate::domain::filter::{FILTER_TYPES_MAX, Filter};
use crate::domain::keyed::check_key;
use crate::domain::named::check_name;
use crate::domain::scope::Readable;
use crate::domain::stream_name::{Category, StreamName, check_type};
use crate::service::auth::Caller;

/// Streams, and conditions, in one request.
const ENTRIES_MAX: usize = 100;

/// Messages for several streams: all are written, or none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppendsRequest)]
pub struct AppendsBody {
    /// Each for another stream. Together they have at most as many messages as one append may have.
    #[schema(min_items = 1, max_items = 100, value_type = Vec<StreamAppendBody>)]
    appends: Vec<Object<StreamAppendBody>>,
    /// What else must hold at the moment at which the messages are written.
    #[serde(default)]
    #[schema(max_items = 100, value_type = Option<Vec<ConditionBody>>)]
    conditions: Option<Vec<Object<ConditionBody>>>,
    /// What is acked in the same transaction: a message's output is written, and the message acked, or neither.
    #[serde(default)]
    #[schema(value_type = Option<AppendAckBody>)]
    ack: Option<Object<AppendAckBody>>,
}

/// Messages for one of the streams.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StreamAppend)]
pub struct StreamAppendBody {
    #[schema(example = "order-1")]
    stream_name: String,
    /// The stream must be at this version: -1 means an empty stream, absent or null any version.
    #[serde(default)]
    #[schema(minimum = -1)]
    expected_version: Option<i64>,
    /// The stream must have a message.
    #[serde(default)]
    #[schema(default = false)]
    must_exist: bool,
    #[schema(min_items = 1, value_type = Vec<NewMessageBody>)]
    messages: Vec<Object<NewMessageBody>>,
}

/// A condition on a stream (`stream_name`, `version`), or that no message matches a query (`categories`, and if they are
/// given `types` and `filter`) after a position.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppendCondition)]
pub struct ConditionBody {
    /// The stream need not be one that is written to.
    #[serde(default)]
    stream_name: Option<String>,
    /// The version that the stream must have, -1 for an empty stream.
    #[serde(default)]
    #[schema(minimum = -1)]
    version: Option<i64>,
    /// The categories whose messages may not match. While the condition is judged, nobody writes to them.
    #[serde(default)]
    #[schema(min_items = 1)]
    categories: Option<Vec<String>>,
    /// Only messages of these types match; any if absent.
    #[serde(default)]
    #[schema(max_items = 100)]
    types: Option<Vec<String>>,
    /// Only messages for which this CEL expression is true match.
    #[serde(default)]
    #[schema(example = "data.coupon == 'SPRING-7'")]
    filter: Option<String>,
    /// Messages after this global position may not match: what the caller has read up to. Absent: none at all may.
    #[serde(default)]
    #[schema(minimum = 0, example = 1017)]
    after: Option<i64>,
    /// A keyed aggregated stream, all of whose streams are in categories that its definition names.
    #[serde(default)]
    #[schema(example = "orders-by-item")]
    aggregated_stream: Option<String>,
    /// Messages with this key may not appear. A message that the partitioner cannot place has no key.
    #[serde(default)]
    #[schema(example = "Tea", max_length = 256)]
    key: Option<String>,
}

/// A delivery that is acked, as the delivered message names it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppendAck)]
pub struct AppendAckBody {
    /// Name of a subscription.
    #[schema(example = "billing")]
    subscription: String,
    #[schema(example = "w1")]
    consumer: String,
    /// 0 if it is not given: competing subscriptions have no other, unless their source is an aggregated stream.
    #[serde(default)]
    partition: i32,
    /// Partitioned: everything in the partition up to here is acked. Competing: this message is.
    position: i64,
    epoch: i64,
}

/// What came of an append to several streams.
#[derive(Serialize, ToSchema)]
pub struct AppendsResult {
    /// True: the messages had been written before, and this is the first answer again.
    duplicate: bool,
    /// In the order of the request.
    appends: Vec<StreamAppendResult>,
}

/// What was written to one of the streams.
#[derive(Serialize, ToSchema)]
pub struct StreamAppendResult {
    stream_name: String,
    /// The position of the last of these messages: the `expected_version` of a next append.
    version: i64,
    messages: Vec<AppendedMessage>,
}

/// Append messages to several streams
///
/// Writes all messages in one transaction, or none. Each stream may have an expected version; conditions say what must hold
/// for other streams, or that no message matches a query (a dynamic consistency boundary). Between the check and the commit
/// nobody can break them who writes over HTTP or with `write_message`. A refusal lists everything that does not hold.
///
/// A request that was done before, recognised by its message ids or its `Idempotency-Key`, is answered with its first
/// result, before versions, conditions and `ack` are looked at.
#[utoipa::path(
    post, path = "/v1/appends", operation_id = "appendToStreams", tag = tags::APPEND,
    params(("Idempotency-Key" = Option<String>, Header, description = "Any text; gives ids to messages that have none", min_length = 1, max_length = 1000),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context; kept in `metadata` of messages that bring none of their own"),
        ("tracestate" = Option<String>, Header, description = "Kept with `traceparent`, up to 512 bytes")),
    request_body = AppendsBody,
    responses(
        (status = 201, description = "Written, durably", body = AppendsResult),
        (status = 200, description = "Written before: the first result again", body = AppendsResult),
        (status = 409, description = "wrong-expected-version, condition-failed, history-changed, message-id-reused or fenced: nothing was written", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "body-too-large or message-too-large", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn append_to_streams(
    State(app): State<App>,
    caller: Caller,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    Json(Object(body)): Json<Object<AppendsBody>>,
) -> Result<Response, Problem> {
    let request = check(&app, &headers, body)?;
    let names: Vec<String> = request.streams.iter().map(|stream| stream.stream_name.as_str().to_owned()).collect();
    let Appended { duplicate, streams } = app.append_for(&caller, request).await.map_err(with_failures)?;
    let appends = names.into_iter().zip(&streams).map(|(stream_name, stream)| StreamAppendResult {
        stream_name,
        version: stream.version,
        messages: stream.messages.iter().map(AppendedMessage::from).collect(),
    });
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, axum::Json(AppendsResult { duplicate, appends: appends.collect() })).into_response())
}

fn check(app: &App, headers: &HeaderMap, body: AppendsBody) -> Result<AppendRequest, Problem> {
    let mut rules = Validator::default();
    let given = AppendHeaders::of(&mut rules, headers);
    let AppendsBody { appends, conditions, ack } = body;
    let conditions = conditions.unwrap_or_default();
    if !(1..=ENTRIES_MAX).contains(&appends.len()) {
        let count = appends.len();
        rules.invalid("appends", format!("must be from 1 to {ENTRIES_MAX} streams, not {count}"));
    }
    if conditions.len() > ENTRIES_MAX {
        rules.invalid("conditions", format!("must be at most {ENTRIES_MAX}, not {}", conditions.len()));
    }
    let mut rules = go_on(rules)?;
    let count = appends.iter().map(|Object(append)| append.messages.len()).sum();
    for (at, Object(append)) in appends.iter().enumerate() {
        if append.messages.is_empty() {
            rules.invalid(&format!("appends[{at}].messages"), "must not be empty");
        }
    }
    let mut rules = count_messages(go_on(rules)?, &app.limits, "appends", count)?;
    let streams = check_streams(&mut rules, app, &given, appends)?;
    let conditions = conditions.into_iter().enumerate();
    let conditions = conditions.map(|(at, Object(body))| check_condition(&mut rules, at, body)).collect::<Vec<_>>();
    let ack = ack.map(|Object(ack)| check_ack(&mut rules, ack));
    let conditions = conditions.into_iter().flatten().collect();
    let request = AppendRequest { streams, conditions, ack, holds_locks: false, trace: given.span() };
    let read = request.read_categories().count();
    if read > READ_CATEGORIES_MAX {
        rules.invalid("conditions", format!("must be about {READ_CATEGORIES_MAX} categories at most, not {read}"));
    }
    rules.finish(request)
}

/// What was wrong so far, if anything was: there is no sense in looking further.
fn go_on(rules: Validator) -> Result<Validator, Problem> {
    rules.finish(())?;
    Ok(Validator::default())
}

fn check_streams(
    rules: &mut Validator,
    app: &App,
    headers: &AppendHeaders,
    appends: Vec<Object<StreamAppendBody>>,
) -> Result<Vec<StreamAppend>, Problem> {
    let mut streams: Vec<StreamAppend> = Vec::with_capacity(appends.len());
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for (at, Object(append)) in appends.into_iter().enumerate() {
        let StreamAppendBody { stream_name, expected_version, must_exist, messages } = append;
        let prefix = &format!("appends[{at}].");
        check_version(rules, &format!("{prefix}expected_version"), expected_version);
        let Some(stream_name) = name(rules, &format!("{prefix}stream_name"), StreamName::parse(stream_name)) else {
            continue;
        };
        if !names.insert(stream_name.clone()) {
            rules.invalid(&format!("{prefix}stream_name"), "must differ from the streams before it");
        }
        let body = StreamBody { prefix, stream_name, expected_version, must_exist, messages };
        streams.push(check_stream(rules, &app.limits, headers, body, &mut ids)?);
    }
    Ok(streams)
}

fn check_condition(rules: &mut Validator, at: usize, body: ConditionBody) -> Option<Condition> {
    let field = |name: &str| format!("conditions[{at}].{name}");
    let ConditionBody { stream_name, version, categories, types, filter, after, aggregated_stream, key } = body;
    let is_query = categories.is_some() || types.is_some() || filter.is_some() || after.is_some();
    let is_query = is_query || aggregated_stream.is_some() || key.is_some();
    let checked_after = |rules: &mut Validator| {
        let after = after.unwrap_or(0);
        if after < 0 {
            rules.invalid(&field("after"), "must be 0 or more");
        }
        after
    };
    match (stream_name, version, categories, aggregated_stream) {
        (None, None, None, Some(aggregated_stream)) if types.is_none() && filter.is_none() => {
            let after = checked_after(rules);
            check_key_condition(rules, at, &aggregated_stream, key, after)
        }
        (Some(stream_name), Some(version), None, None) if !is_query => {
            check_version(rules, &field("version"), Some(version));
            let stream_name = name(rules, &field("stream_name"), StreamName::parse(stream_name))?;
            Some(Condition::Version { stream_name, version })
        }
        (None, None, Some(categories), None) if key.is_none() => {
            let mut own = Validator::default();
            // A list in JSON: a comma in it belongs to the type.
            let types = check_types(&mut own, types.unwrap_or_default());
            let filter =
                Filter { types, ..own.filter(&GivenFilter { filter, ..GivenFilter::default() }, Readable::All) };
            rules.take_in(own, &field(""));
            let after = checked_after(rules);
            if categories.is_empty() {
                rules.invalid(&field("categories"), "must not be empty");
            }
            let mut parsed: Vec<(Category, i64)> = Vec::new();
            for (nth, raw) in categories.into_iter().enumerate() {
                let category = name(rules, &field(&format!("categories[{nth}]")), Category::parse(raw))?;
                if parsed.iter().all(|(known, _)| *known != category) {
                    parsed.push((category, after));
                }
            }
            Some(Condition::Query(QueryCondition {
                categories: parsed,
                predicate: Predicate { filter, key: None },
                found: None,
            }))
        }
        _ => {
            rules.invalid(
                &format!("conditions[{at}]"),
                "must have stream_name and version, or categories with types, filter and after, or aggregated_stream and \
                 key with after",
            );
            None
        }
    }
}

fn check_key_condition(
    rules: &mut Validator,
    at: usize,
    aggregated_stream: &str,
    key: Option<String>,
    after: i64,
) -> Option<Condition> {
    let field = |name: &str| format!("conditions[{at}].{name}");
    if let Err(rule) = check_name(aggregated_stream) {
        rules.invalid(&field("aggregated_stream"), rule);
    }
    let Some(key) = key else {
        rules.invalid(&field("key"), "must be given: it is what the messages are looked for by");
        return None;
    };
    if let Err(rule) = check_key(&key) {
        rules.invalid(&field("key"), rule);
    }
    Some(Condition::Key(KeyCondition::new(at, aggregated_stream, &key, after)))
}

fn check_types(rules: &mut Validator, types: Vec<String>) -> Arc<[String]> {
    if types.len() > FILTER_TYPES_MAX {
        rules.invalid("types", format!("must name at most {FILTER_TYPES_MAX} types"));
    }
    for (at, name) in types.iter().enumerate() {
        if let Err(error) = check_type(name) {
            rules.invalid(&format!("types[{at}]"), error.to_string());
        }
    }
    types.into()
}

fn check_ack(rules: &mut Validator, body: AppendAckBody) -> AppendAck {
    for (field, text) in [("ack.subscription", &body.subscription), ("ack.consumer", &body.consumer)] {
        if let Err(rule) = check_name(text) {
            rules.invalid(field, rule);
        }
    }
    AppendAck {
        subscription: None,
        name: body.subscription,
        is_partitioned: true,
        consumer: body.consumer,
        partition: body.partition,
        position: body.position,
        epoch: body.epoch,
    }
}

/// A name, unless it breaks a rule.
fn name<T, E: ToString>(rules: &mut Validator, field: &str, parsed: Result<T, E>) -> Option<T> {
    parsed.map_err(|error| rules.invalid(field, error.to_string())).ok()
}
