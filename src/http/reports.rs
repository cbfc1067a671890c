//! Reports over HTTP: which categories, streams and types there are, how many messages they have, and what is settled.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Query;
use super::pages::NoQuery;
use super::parameters::Validator;
use super::problem::Problem;
use super::{App, tags};
use crate::domain::scope::Scope;
use crate::domain::stream_name::{self, Category, STREAM_NAME_BYTES_MAX, check_type};
use crate::service::auth::Caller;
use crate::service::reports::{CountLine, CountedBy, CountsPage, HolderLine, NameQuery, StreamLine};

/// A stream in a report.
#[derive(Serialize, ToSchema)]
pub struct ReportedStream {
    pub stream_name: String,
    pub category: String,
    /// The position of its last message.
    pub version: i64,
    pub first_position: i64,
    /// Computed from its first and last position.
    pub message_count: i64,
    pub last_global_position: i64,
    #[schema(format = DateTime)]
    pub last_time: String,
}

/// A page of streams by name.
#[derive(Serialize, ToSchema)]
pub struct StreamsReport {
    pub streams: Vec<ReportedStream>,
    /// What to pass as `from` to go on; null at the end. A page may have fewer streams than `limit`, or none, and still
    /// have a next page: a search looks at a limited number of names for each request.
    pub next: Option<String>,
    pub at_end: bool,
}

/// A category in a report.
#[derive(Serialize, ToSchema)]
pub struct ReportedCategory {
    pub category: String,
    /// How many messages were written up to `counted_position`.
    pub message_count: i64,
    /// Their share of all messages counted.
    pub percent: f64,
    /// How many streams were begun up to `counted_position`.
    pub stream_count: i64,
    pub last_global_position: i64,
    #[schema(format = DateTime)]
    pub last_time: String,
}

/// A page of categories by name.
#[derive(Serialize, ToSchema)]
pub struct CategoriesReport {
    pub categories: Vec<ReportedCategory>,
    /// What to pass as `from` to go on; null at the end.
    pub next: Option<String>,
    pub at_end: bool,
    #[serde(flatten)]
    pub counted: Counted,
}

/// A message type in a report.
#[derive(Serialize, ToSchema)]
pub struct ReportedType {
    pub r#type: String,
    /// How many messages were written up to `counted_position`.
    pub message_count: i64,
    /// Their share of all messages counted.
    pub percent: f64,
    pub last_global_position: i64,
    #[schema(format = DateTime)]
    pub last_time: String,
}

/// A page of message types by name.
#[derive(Serialize, ToSchema)]
pub struct TypesReport {
    pub types: Vec<ReportedType>,
    /// What to pass as `from` to go on; null at the end.
    pub next: Option<String>,
    pub at_end: bool,
    #[serde(flatten)]
    pub counted: Counted,
}

/// How far counting has come: each request counts for a while.
#[derive(Serialize, ToSchema)]
pub struct Counted {
    /// Every message up to here has been counted.
    pub counted_position: i64,
    /// The highest position that could be counted now.
    pub settled_position: i64,
    /// How many messages were counted in all.
    pub message_count: i64,
}

/// The settled position.
#[derive(Serialize, ToSchema)]
pub struct SettledReport {
    /// The highest global position seen.
    pub head: i64,
    /// The global position up to which nothing can appear any more: followers get messages up to here.
    pub settled: i64,
    /// `head` less `settled`.
    pub lag: i64,
    /// What keeps the settled position back now; null if nothing does.
    pub held_back: Option<HeldBack>,
}

/// Open transactions that keep the settled position back.
#[derive(Serialize, ToSchema)]
pub struct HeldBack {
    /// The first global position that may still appear.
    pub position: i64,
    /// For how long they have kept it back.
    #[schema(example = 1.5)]
    pub seconds: f64,
    pub holders: Vec<HeldBackBy>,
}

/// A transaction that may still write at that position. Fields that the database hides from the service's role are null.
#[derive(Serialize, ToSchema)]
pub struct HeldBackBy {
    /// The process id of its session in PostgreSQL; null for a prepared transaction.
    pub pid: Option<i32>,
    /// The name of a prepared transaction.
    pub prepared_as: Option<String>,
    pub application_name: Option<String>,
    pub user_name: Option<String>,
    pub client_address: Option<String>,
    pub state: Option<String>,
    #[schema(format = DateTime)]
    pub transaction_started: Option<String>,
}

macro_rules! report_query {
    ($name:ident { $($(#[$meta:meta])* $field:ident,)* }) => {
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            /// The first name to report, inclusive: `next` of the page before.
            from: Option<String>,
            /// Only names that begin with this.
            prefix: Option<String>,
            /// Only names that contain this, whatever the case of A to Z.
            contains: Option<String>,
            /// How many names at most.
            #[param(minimum = 1, maximum = 1000, default = 100)]
            limit: Option<u64>,
            $($(#[$meta])* $field: Option<String>,)*
        }

        impl $name {
            fn names(self, rules: &mut Validator, of: Option<String>) -> NameQuery {
                NameQuery {
                    from: self.from.map(|from| text(rules, "from", from, usize::MAX)),
                    prefix: text(rules, "prefix", self.prefix.unwrap_or_default(), STREAM_NAME_BYTES_MAX),
                    contains: text(rules, "contains", self.contains.unwrap_or_default(), STREAM_NAME_BYTES_MAX),
                    of,
                    limit: rules.limit(self.limit),
                }
            }
        }
    };
}

report_query!(StreamsReportQuery {
    /// Only streams of this category.
    category,
});
report_query!(CategoriesReportQuery {
    /// Counts only messages of this type.
    r#type,
});
report_query!(TypesReportQuery {
    /// Counts only messages in this category.
    category,
});

/// List streams
///
/// In order of name, as the database sorts. Reads the first and last positions of streams from an index, not their
/// messages: about 20 microseconds for each stream that is listed, or passed over by a search. A request looks at 10,000
/// names at most.
#[utoipa::path(
    get, path = "/v1/reports/streams", operation_id = "reportStreams", tag = tags::REPORTS,
    params(StreamsReportQuery), responses((status = 200, body = StreamsReport)),
)]
pub async fn report_streams(
    State(app): State<App>,
    Query(mut query): Query<StreamsReportQuery>,
) -> Result<axum::Json<StreamsReport>, Problem> {
    let mut rules = Validator::default();
    let of = category(&mut rules, query.category.take());
    let names = query.names(&mut rules, of);
    let page = app.reports.streams(&rules.finish(names)?).await?;
    Ok(axum::Json(StreamsReport {
        streams: page.lines.into_iter().map(ReportedStream::from).collect(),
        at_end: page.next.is_none(),
        next: page.next,
    }))
}

/// List categories
///
/// In order of name, by code points. Counts are kept in the database, and each request brings them up to date for a quarter
/// of a second at most: on a large store the first requests answer with a `counted_position` that is still behind. Messages
/// that are deleted later stay in the counts.
#[utoipa::path(
    get, path = "/v1/reports/categories", operation_id = "reportCategories", tag = tags::REPORTS,
    params(CategoriesReportQuery), responses((status = 200, body = CategoriesReport)),
)]
pub async fn report_categories(
    State(app): State<App>,
    Query(mut query): Query<CategoriesReportQuery>,
) -> Result<axum::Json<CategoriesReport>, Problem> {
    let mut rules = Validator::default();
    let of = query.r#type.take();
    if let Some(Err(error)) = of.as_deref().map(check_type) {
        rules.invalid("type", error.to_string());
    }
    let names = query.names(&mut rules, of);
    let mut page = app.reports.counts(CountedBy::Category, &rules.finish(names)?).await?;
    let all = page.message_count;
    let lines = std::mem::take(&mut page.lines).into_iter().map(|line| ReportedCategory {
        percent: percent(&line, all),
        category: line.name,
        message_count: line.message_count,
        stream_count: line.stream_count,
        last_global_position: line.last_global_position,
        last_time: line.last_time.to_rfc3339(),
    });
    Ok(axum::Json(CategoriesReport {
        categories: lines.collect(),
        at_end: page.next.is_none(),
        counted: Counted::from(&page),
        next: page.next,
    }))
}

/// List message types
///
/// In order of name, by code points. Messages are counted as for categories.
#[utoipa::path(
    get, path = "/v1/reports/types", operation_id = "reportTypes", tag = tags::REPORTS,
    params(TypesReportQuery), responses((status = 200, body = TypesReport)),
)]
pub async fn report_types(
    State(app): State<App>,
    Query(mut query): Query<TypesReportQuery>,
) -> Result<axum::Json<TypesReport>, Problem> {
    let mut rules = Validator::default();
    let of = category(&mut rules, query.category.take());
    let names = query.names(&mut rules, of);
    let mut page = app.reports.counts(CountedBy::Type, &rules.finish(names)?).await?;
    let all = page.message_count;
    let lines = std::mem::take(&mut page.lines).into_iter().map(|line| ReportedType {
        percent: percent(&line, all),
        r#type: line.name,
        message_count: line.message_count,
        last_global_position: line.last_global_position,
        last_time: line.last_time.to_rfc3339(),
    });
    Ok(axum::Json(TypesReport {
        types: lines.collect(),
        at_end: page.next.is_none(),
        counted: Counted::from(&page),
        next: page.next,
    }))
}

/// Read the settled position and what holds it back
///
/// Who holds it back is told to callers that may read every stream.
#[utoipa::path(
    get, path = "/v1/reports/settled", operation_id = "reportSettled", tag = tags::REPORTS,
    responses((status = 200, body = SettledReport)),
)]
pub async fn report_settled(
    State(app): State<App>,
    caller: Caller,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<SettledReport>, Problem> {
    let found = app.reports.settled().await?;
    let held_back = found.held_back.map(|held| HeldBack {
        position: held.at,
        seconds: held.age.as_secs_f64(),
        // Names of roles, programs and addresses.
        holders: match caller.rights().require(Scope::read_everything()) {
            Ok(()) => held.holders.into_iter().map(HeldBackBy::from).collect(),
            Err(_) => Vec::new(),
        },
    });
    Ok(axum::Json(SettledReport {
        head: found.head,
        settled: found.settled,
        lag: found.head - found.settled,
        held_back,
    }))
}

impl From<StreamLine> for ReportedStream {
    fn from(line: StreamLine) -> Self {
        Self {
            category: stream_name::category(&line.stream_name).to_owned(),
            stream_name: line.stream_name,
            version: line.version,
            first_position: line.first_position,
            message_count: line.version - line.first_position + 1,
            last_global_position: line.last_global_position,
            last_time: line.last_time.to_rfc3339(),
        }
    }
}

impl From<&CountsPage> for Counted {
    fn from(page: &CountsPage) -> Self {
        Self {
            counted_position: page.counted_position,
            settled_position: page.settled_position,
            message_count: page.message_count,
        }
    }
}

impl From<HolderLine> for HeldBackBy {
    fn from(line: HolderLine) -> Self {
        Self {
            pid: line.pid,
            prepared_as: line.prepared_as,
            application_name: line.application_name,
            user_name: line.user_name,
            client_address: line.client_address,
            state: line.state,
            transaction_started: line.transaction_started.map(super::super::domain::time::Timestamp::to_rfc3339),
        }
    }
}

/// A share in percent to two places, as in Message DB's views.
fn percent(line: &CountLine, all: i64) -> f64 {
    (line.message_count as f64 * 10_000.0 / all.max(1) as f64).round() / 100.0
}

fn category(rules: &mut Validator, name: Option<String>) -> Option<String> {
    if let Some(Err(error)) = name.clone().map(Category::parse) {
        rules.invalid("category", error.to_string());
    }
    name
}

/// Checks a text to search by. Names that were written in SQL may have control characters, but PostgreSQL cannot store NUL.
fn text(rules: &mut Validator, field: &str, given: String, bytes_max: usize) -> String {
    if given.contains('\0') {
        rules.invalid(field, "must not contain NUL characters");
    }
    if given.len() > bytes_max {
        rules.invalid(field, format!("must be at most {bytes_max} bytes of UTF-8, not {}", given.len()));
    }
    given
}
