//! The OpenAPI document: what the routes declare, completed by rules that hold for all of them.

mod event_streams;
mod examples;
mod names;
mod problem_type;
mod security;
pub mod texts;

use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

pub use self::problem_type::ProblemType;
use self::texts::{CategoryText, CelExpressionText, DurationText, MessageTypeText, NameText, StreamNameText};
use super::follow::EventNames;
use super::parameters::Direction;
use super::problem::{ProblemDocument, ProblemKind};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Headwater",
        description = "An event store that a browser can subscribe to.\n\nStreams of messages with expected versions, \
            read in pages and followed as server-sent events.\n\nEvery body has an example that works as it is. Together \
            they are a small story of orders: send them from top to bottom, on a service that has no `order-1` yet.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "append", description = "Write messages"),
        (name = "read", description = "Read messages in pages"),
        (name = "follow", description = "Follow messages as they come: server-sent events, or lines of JSON"),
        (name = "aggregate", description = "Put messages of many streams into partitions"),
        (name = "subscribe", description = "Deliver messages to consumers until they have acked them"),
        (name = "retain", description = "Trim streams, keep categories at an age or a size, erase messages"),
        (name = "reports", description = "See what is in the store: categories, streams, types, the settled position"),
        (name = "credentials", description = "Make API keys, and tickets for browsers"),
        (name = "operations", description = "Check health, read metrics"),
    ),
    components(schemas(ProblemDocument, Direction, EventNames, CategoryText, CelExpressionText, DurationText, MessageTypeText, NameText, StreamNameText)),
)]
pub struct Document;

/// The version of OpenAPI that a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The version that generators of clients read.
    V3_1,
    /// Also describes each event of an event stream.
    V3_2,
}

/// The problems that every operation under `/v1` may answer.
const COMMON: [ProblemKind; 9] = [
    ProblemKind::MalformedRequest,
    ProblemKind::Forbidden,
    ProblemKind::NotFound,
    ProblemKind::RequestTimeout,
    ProblemKind::UrlTooLong,
    ProblemKind::Invalid,
    ProblemKind::HeadersTooLarge,
    ProblemKind::InternalError,
    ProblemKind::DatabaseUnavailable,
];

/// The keys of a path that are operations.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The problems that operations with a body may answer too.
const OF_BODIES: [ProblemKind; 2] = [ProblemKind::BodyTooLarge, ProblemKind::UnsupportedMediaType];

/// Completes what the routes declare, by rules that hold for all of them.
pub fn finish(document: utoipa::openapi::OpenApi, version: Version) -> Value {
    let document = serde_json::to_value(with_common_problems(document));
    let mut document = document.unwrap_or_else(|error| unreachable!("the document is plain data: {error}"));
    if version == Version::V3_2 {
        document["openapi"] = "3.2.0".into();
    }
    describe_answers(&mut document);
    never_null_parameters(&mut document);
    no_defaults_in_changes(&mut document);
    texts::name_texts(&mut document);
    names::make_constants(&mut document);
    event_streams::describe(&mut document, version);
    names::name_variants(&mut document);
    security::describe(&mut document);
    examples::describe(&mut document);
    document
}

/// Adds to every operation the problems that it may answer.
fn with_common_problems(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        let is_of_contract = path.starts_with("/v1/") || path == "/readyz" || path.starts_with("/problems/");
        let common: &[ProblemKind] = if is_of_contract { &COMMON } else { &[] };
        let operations = [
            ("GET", &mut item.get),
            ("POST", &mut item.post),
            ("PUT", &mut item.put),
            ("PATCH", &mut item.patch),
            ("DELETE", &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let has_body = is_of_contract && operation.request_body.is_some();
            let of_bodies: &[ProblemKind] = if has_body { &OF_BODIES } else { &[] };
            let of_access = security::problems(method, path);
            for kind in common.iter().chain(of_bodies).chain(&of_access).copied() {
                let response = ResponseBuilder::new().description(problems_like(kind)).content(
                    "application/problem+json",
                    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build(),
                );
                let status = kind.status().as_u16().to_string();
                operation.responses.responses.entry(status).or_insert_with(|| RefOr::T(response.build()));
            }
        }
    }
    document
}

/// The problems with this one's status.
fn problems_like(kind: ProblemKind) -> String {
    let same_status = ProblemKind::ALL.iter().filter(|other| other.status() == kind.status());
    same_status.map(|kind| kind.slug()).collect::<Vec<_>>().join(", ")
}

/// Gives every answer a description: if the code has none, that of its schema or its operation.
fn describe_answers(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    for operation in operations(document) {
        let summary = operation["summary"].clone();
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        for response in responses.values_mut() {
            if response["description"].as_str().is_some_and(|text| !text.is_empty()) {
                continue;
            }
            let contents = response["content"].as_object();
            let schema = contents.and_then(|contents| contents.values().next()).map(|content| &content["schema"]);
            let of_schema = schema.and_then(schema_name).map(|name| schemas[name]["description"].clone());
            let description = of_schema.filter(Value::is_string).unwrap_or_else(|| summary.clone());
            response["description"] = description;
        }
    }
}

/// Takes null out of parameters: one may be absent, but a query or a header cannot have null.
fn never_null_parameters(document: &mut Value) {
    for operation in operations(document) {
        let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { continue };
        for parameter in parameters {
            let schema = &mut parameter["schema"];
            if let Some(types) = schema["type"].as_array() {
                let mut kept: Vec<_> = types.iter().filter(|kind| *kind != "null").cloned().collect();
                schema["type"] = if kept.len() == 1 { kept.remove(0) } else { kept.into() };
            }
            if let Some(options) = schema["oneOf"].as_array() {
                let mut kept: Vec<_> = options.iter().filter(|option| option["type"] != "null").cloned().collect();
                if kept.len() == 1 {
                    *schema = kept.remove(0);
                }
            }
        }
    }
}

/// Takes defaults out of the bodies of changes, where a field that is absent stays as it is. Generated clients send the
/// defaults of the document, and would reset such fields.
fn no_defaults_in_changes(document: &mut Value) {
    let paths = document["paths"].as_object().into_iter().flat_map(|paths| paths.values());
    let bodies = paths.filter_map(|path| path["patch"]["requestBody"]["content"].as_object());
    let schemas = bodies.flat_map(|contents| contents.values()).filter_map(|content| schema_name(&content["schema"]));
    for name in schemas.map(str::to_owned).collect::<Vec<_>>() {
        let properties = document["components"]["schemas"][&name]["properties"].as_object_mut();
        for property in properties.into_iter().flat_map(|properties| properties.values_mut()) {
            if let Some(property) = property.as_object_mut() {
                property.remove("default");
            }
        }
    }
}

/// Every operation of the document, with its method and its path.
fn operations_by_path(document: &mut Value) -> impl Iterator<Item = (&str, &str, &mut Value)> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.iter_mut());
    paths.filter_map(|(path, item)| Some((path, item.as_object_mut()?))).flat_map(|(path, item)| {
        let operations = item.iter_mut().map(move |(method, operation)| (method.as_str(), path.as_str(), operation));
        operations.filter(|(method, _, _)| METHODS.contains(method))
    })
}

/// Every operation of the document.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    operations_by_path(document).map(|(_, _, operation)| operation)
}

/// The name of the schema to which a reference points.
fn schema_name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/components/schemas/")
}

/// A reference to a schema.
fn reference(name: &str) -> Value {
    serde_json::json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The document as it is served and checked in.
pub fn document() -> String {
    document_in(Version::V3_1)
}

/// The document in a version of OpenAPI.
pub fn document_in(version: Version) -> String {
    let (_, document) = super::routes().split_for_parts();
    format!("{:#}\n", finish(document, version))
}
