//! The event streams of this instance that are behind, over HTTP.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Query;
use super::parameters::Validator;
use super::problem::Problem;
use super::{App, tags};
use crate::service::open_streams::{BehindStream, WaitsFor};

/// A follower that is behind for less than this is on its way.
const BEHIND_FOR_DEFAULT: Duration = Duration::from_secs(1);
const BEHIND_FOR_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Which event streams are reported.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SlowFollowersQuery {
    /// Only those that have been behind for so long: from `0s` to `24h`.
    #[param(default = "1s", example = "10s")]
    behind_for: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// The event streams of the instance that answers.
#[derive(Serialize, ToSchema)]
pub struct EventStreamsReport {
    /// How many are open.
    open: usize,
    /// How many of them are behind.
    behind: usize,
    /// Those that are behind, the furthest first.
    event_streams: Vec<ReportedEventStream>,
}

/// An event stream that is behind.
#[derive(Serialize, ToSchema)]
pub struct ReportedEventStream {
    /// What was asked for, without a ticket; after 300 bytes it is cut.
    #[schema(example = "/v1/categories/order/events?from=beginning")]
    path: String,
    /// The name of the credential; null where the service asks for none.
    #[schema(required = true, example = "key:k5rq2mdx7c3ae")]
    credential: Option<String>,
    /// The address of the connection: that of a proxy, if there is one between.
    #[schema(required = true, example = "10.0.0.7")]
    remote_address: Option<String>,
    #[schema(format = DateTime)]
    opened_at: String,
    #[schema(format = DateTime)]
    behind_since: String,
    waits_for: WaitsForBody,
    /// The global position up to which it was told everything; null if nothing was told yet, and of a subscription, whose
    /// status says how far it is.
    #[schema(required = true)]
    position: Option<i64>,
    /// The settled position less `position`: a stream or a category has fewer messages between.
    #[schema(required = true)]
    lag: Option<i64>,
}

/// What an event stream waits for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WaitsFor)]
pub enum WaitsForBody {
    /// It reads what is stored: it was opened at an earlier place, or what it wants is not in memory any more.
    Database,
    /// Its client takes nothing of what is written.
    Client,
}

/// List slow followers
///
/// The event streams that are behind now, of the instance that answers; each instance has its own. It looks at all that are
/// open, in memory, and names the furthest.
#[utoipa::path(
    get, path = "/v1/reports/event-streams", operation_id = "reportEventStreams", tag = tags::REPORTS,
    params(SlowFollowersQuery), responses((status = 200, body = EventStreamsReport)),
)]
pub async fn report_event_streams(
    State(app): State<App>,
    Query(query): Query<SlowFollowersQuery>,
) -> Result<axum::Json<EventStreamsReport>, Problem> {
    let mut rules = Validator::default();
    let behind_for = rules.duration("behind_for", query.behind_for.as_deref(), Duration::ZERO, BEHIND_FOR_MAX);
    let limit = rules.limit(query.limit);
    let report = app.event_streams.behind(rules.finish(behind_for)?.unwrap_or(BEHIND_FOR_DEFAULT), limit);
    let of = |stream| ReportedEventStream::of(stream, report.settled);
    Ok(axum::Json(EventStreamsReport {
        open: report.open,
        behind: report.behind,
        event_streams: report.streams.into_iter().map(of).collect(),
    }))
}

impl ReportedEventStream {
    fn of(stream: BehindStream, settled: i64) -> Self {
        let BehindStream { asked, opened_at, behind_since, waits_for, told_up_to } = stream;
        let asked = asked.as_ref();
        Self {
            path: asked.map(|asked| asked.path.to_string()).unwrap_or_default(),
            credential: asked.and_then(|asked| asked.credential.as_deref()).map(str::to_owned),
            remote_address: asked.and_then(|asked| asked.address).map(|address| address.to_string()),
            opened_at: opened_at.to_rfc3339(),
            behind_since: behind_since.to_rfc3339(),
            waits_for: match waits_for {
                WaitsFor::Database => WaitsForBody::Database,
                WaitsFor::Client => WaitsForBody::Client,
            },
            position: told_up_to,
            lag: told_up_to.map(|position| (settled - position).max(0)),
        }
    }
}
