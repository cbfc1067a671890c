//! The HTTP contract: wire shapes, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::held_bodies::HeldBodies;
use crate::domain::browser::Trusted;
use crate::service::Service;

pub mod access;
mod aggregated_streams;
mod api_keys;
mod api_page;
mod append_problems;
mod append_sessions;
mod appends;
mod body;
mod browser;
mod callers;
mod certificate;
mod connections;
mod console;
pub mod credentials;
mod erase;
mod event_body;
mod event_connection;
mod event_groups;
mod event_socket;
mod event_stream;
mod events;
pub mod extract;
mod follow;
mod frames;
mod guarded;
mod held_bodies;
mod keys;
mod limits;
mod metrics_report;
pub mod openapi;
mod operations;
mod page_bodies;
pub mod page_cache;
mod pages;
mod parameters;
mod partitions;
mod plain_words;
pub mod problem;
mod problem_bodies;
mod problem_kind;
mod reports;
mod request_body;
mod retention;
mod security_headers;
pub mod server;
mod settings;
mod slow_followers;
mod storage;
mod streams;
mod subscriptions;
mod tickets;
mod trim;
mod wire;

/// The limits of requests.
#[derive(Debug, Clone)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub message_bytes_max: usize,
    /// How many bytes of messages one answer may have.
    pub page_bytes_max: usize,
    pub messages_per_append_max: usize,
    /// Bytes of bodies, of requests and of answers, that may be in memory at the same time.
    pub bodies_bytes_max: usize,
    pub headers_max: usize,
    pub header_bytes_max: usize,
    pub url_bytes_max: usize,
    pub request_timeout: Duration,
    /// How long a client may take nothing of what is written for it.
    pub write_timeout: Duration,
    pub connections_max: usize,
    /// 0: as many as in all.
    pub connections_per_address_max: usize,
    /// How much longer an append may take: it waits until it is known whether its messages were written.
    pub append_timeout: Duration,
    pub wait_max: Duration,
    pub heartbeat: Duration,
    /// What caches may keep of pages.
    pub page_caching: page_cache::PageCaching,
    /// Which pages may call the service, and by which names.
    pub trusted: Trusted,
}

/// The state of handlers. Every request and every open event stream has one, so it is one pointer.
#[derive(Clone)]
pub struct App(Arc<Shared>);

pub struct Shared {
    service: Service,
    limits: Limits,
    bodies: HeldBodies,
    event_groups: event_groups::Groups,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl std::ops::Deref for Shared {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

/// The groups of the OpenAPI document.
mod tags {
    pub const APPEND: &str = "append";
    pub const READ: &str = "read";
    pub const FOLLOW: &str = "follow";
    pub const AGGREGATE: &str = "aggregate";
    pub const SUBSCRIBE: &str = "subscribe";
    pub const REPORTS: &str = "reports";
    pub const RETAIN: &str = "retain";
    pub const CREDENTIALS: &str = "credentials";
    pub const OPERATIONS: &str = "operations";
}

/// Every route with its entry in the OpenAPI document.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(pages::read_stream, streams::append_messages))
        .routes(routes!(appends::append_to_streams))
        .routes(routes!(pages::read_last_message))
        .routes(routes!(pages::read_stream_summary))
        .routes(routes!(trim::trim_stream))
        .routes(routes!(pages::read_category))
        .routes(routes!(pages::read_all))
        .routes(routes!(pages::read_message, erase::erase_message))
        .routes(routes!(retention::set, retention::read, retention::delete))
        .routes(routes!(retention::list))
        .routes(routes!(follow::follow_stream))
        .routes(routes!(follow::follow_category))
        .routes(routes!(follow::follow_all))
        .routes(routes!(follow::follow_several))
        .routes(routes!(aggregated_streams::list))
        .routes(routes!(aggregated_streams::define, aggregated_streams::read, aggregated_streams::delete))
        .routes(routes!(aggregated_streams::pause))
        .routes(routes!(aggregated_streams::resume))
        .routes(routes!(aggregated_streams::rebuild))
        .routes(routes!(partitions::read_partition))
        .routes(routes!(keys::list_keys))
        .routes(routes!(keys::read_key))
        .route("/v1/aggregated-streams/{name}/keys//messages", get(keys::read_empty_key))
        .routes(routes!(partitions::find_positions))
        .routes(routes!(partitions::follow_aggregated_stream))
        .merge(subscriptions::routes())
        .routes(routes!(reports::report_streams))
        .routes(routes!(reports::report_categories))
        .routes(routes!(reports::report_types))
        .routes(routes!(reports::report_settled))
        .routes(routes!(storage::report_storage))
        .routes(routes!(metrics_report::report_metrics))
        .routes(routes!(slow_followers::report_event_streams))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(tickets::create))
        .routes(routes!(callers::read))
        .routes(routes!(operations::read_version))
        .routes(routes!(settings::read))
        .routes(routes!(operations::is_alive))
        .routes(routes!(operations::is_ready))
        .routes(routes!(operations::read_metrics))
        .routes(routes!(operations::read_problem_page))
}

/// The whole service as a router.
pub fn router(service: Service, limits: Limits) -> Router {
    let bodies = HeldBodies::new(limits.bodies_bytes_max, limits.write_timeout, service.observer.clone());
    let event_groups = event_groups::Groups::default();
    let app = App(Arc::new(Shared { service, limits, bodies, event_groups }));
    let limits = &app.limits;
    let (router, document) = routes().split_for_parts();
    let cors = security_headers::cors(&limits.trusted.origins);
    let router = router
        .route("/", get(console::page))
        .route("/console/{*path}", get(console::file))
        .route("/headwater.js", get(console::headwater_js))
        .route("/favicon.ico", get(operations::no_icon))
        .merge(api_page::routes(document))
        .fallback(operations::unknown_path)
        .method_not_allowed_fallback(operations::unknown_method)
        .layer(from_fn_with_state(app.clone(), around));
    let router = match cors {
        // What it answers itself, asks nobody else.
        Some(cors) => router.layer(cors).layer(map_response(security_headers::added)),
        None => router,
    };
    router.with_state(app)
}

/// What goes around every handler, from the outside in: the headers of every answer, the limits and the count of answers,
/// panics, what the caller may. It is one layer: for each one, axum copies all that are within it, for every request.
async fn around(State(app): State<App>, request: Request, next: Next) -> Response {
    let within = async |request| limits::caught(&app.observer, access::enforce(request, next)).await;
    security_headers::added(limits::bound(&app, request, within).await).await
}
