//! The OpenAPI document: what the routes say of themselves, and what holds for all of them.

use utoipa::OpenApi;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use super::events::{CaughtUpEvent, ClosingEvent, EventLine, FellBehindEvent, HeartbeatEvent};
use super::problem::{ProblemDocument, ProblemKind};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Headwater",
        description = "An event store that a browser can subscribe to.\n\nStreams of messages with expected versions, \
            read in pages and followed as server-sent events.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "append", description = "Write messages"),
        (name = "read", description = "Read messages in pages"),
        (name = "follow", description = "Follow messages as they come: server-sent events, or lines of JSON"),
        (name = "aggregate", description = "Messages of many streams, divided into partitions"),
        (name = "subscribe", description = "Messages delivered until somebody has acked them"),
        (name = "reports", description = "What is in the store: categories, streams, types, the settled position"),
        (name = "operations", description = "Health and metrics"),
    ),
    components(schemas(ProblemDocument, ProblemKind, CaughtUpEvent, FellBehindEvent, HeartbeatEvent, ClosingEvent, EventLine)),
)]
pub struct Document;

/// The problems that any operation under `/v1` may answer.
const COMMON: [ProblemKind; 6] = [
    ProblemKind::MalformedRequest,
    ProblemKind::NotFound,
    ProblemKind::RequestTimeout,
    ProblemKind::Invalid,
    ProblemKind::InternalError,
    ProblemKind::DatabaseUnavailable,
];

/// Adds to every operation the problems that it may answer.
pub fn finish(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1/") && path != "/readyz" && !path.starts_with("/problems/") {
            continue;
        }
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for kind in COMMON {
                let response = ResponseBuilder::new().description(description(kind)).content(
                    "application/problem+json",
                    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build(),
                );
                operation
                    .responses
                    .responses
                    .entry(kind.status().as_u16().to_string())
                    .or_insert_with(|| RefOr::T(response.build()));
            }
        }
    }
    document
}

fn description(kind: ProblemKind) -> String {
    let same_status = ProblemKind::ALL.iter().filter(|other| other.status() == kind.status());
    same_status.map(|kind| kind.slug()).collect::<Vec<_>>().join(", ")
}

/// The document as it is served and checked in.
pub fn document() -> String {
    let (_, document) = super::routes().split_for_parts();
    let mut text = finish(document).to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
