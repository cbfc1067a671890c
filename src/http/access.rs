//! What each operation needs of its caller: one table, which is enforced before handlers run, is in the OpenAPI document and
//! in the documentation, and is tried as a whole by a test.

use axum::RequestExt;
use axum::extract::{MatchedPath, RawPathParams, Request};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::credentials;
use super::problem::Problem;
use crate::domain::Violation;
use crate::domain::scope::{Missing, Rights, Scope};
use crate::service::auth::Caller;

/// What a caller must have. What depends on more than the path (a body, a definition, the stream of a message) is checked
/// by the service as well; the path's part of it is checked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing, not even a credential.
    Public,
    /// Any credential; the answer has only what the caller may read or use.
    Credentials,
    /// To read the stream of the path.
    ReadStream,
    /// To read some stream of the category of the path; the others are left out.
    ReadCategory,
    /// To read some stream; the others are left out.
    ReadLog,
    /// To read some stream of the sources in the query; the others are left out. Aggregated streams are whole.
    ReadSources,
    /// To read the stream of the message; else the message does not exist.
    ReadMessage,
    /// To read all that an aggregated stream selects.
    ReadAggregated,
    /// To read every stream.
    ReadEverything,
    /// To append to the stream of the path.
    AppendToStream,
    /// To append to each stream of the body, and to read what its conditions are about.
    AppendToStreams,
    /// To use the name in the path, and to read the whole source.
    Subscribe,
    /// Everything.
    Admin,
}

/// Every operation: method, path as the router has it, and what it needs. One that is not here is refused to everybody but
/// `admin`.
pub const RULES: &[(&str, &str, Rule)] = &[
    ("GET", "/v1/streams/{stream_name}/messages", Rule::ReadStream),
    ("POST", "/v1/streams/{stream_name}/messages", Rule::AppendToStream),
    ("GET", "/v1/streams/{stream_name}/messages/last", Rule::ReadStream),
    ("GET", "/v1/streams/{stream_name}", Rule::ReadStream),
    ("GET", "/v1/streams/{stream_name}/events", Rule::ReadStream),
    ("POST", "/v1/streams/{stream_name}/trim", Rule::Admin),
    ("POST", "/v1/appends", Rule::AppendToStreams),
    ("GET", "/v1/categories/{category}/messages", Rule::ReadCategory),
    ("GET", "/v1/categories/{category}/events", Rule::ReadCategory),
    ("PUT", "/v1/categories/{category}/retention", Rule::Admin),
    ("GET", "/v1/categories/{category}/retention", Rule::Admin),
    ("DELETE", "/v1/categories/{category}/retention", Rule::Admin),
    ("GET", "/v1/retentions", Rule::Admin),
    ("GET", "/v1/all/messages", Rule::ReadLog),
    ("GET", "/v1/all/events", Rule::ReadLog),
    ("GET", "/v1/events", Rule::ReadSources),
    ("GET", "/v1/messages/{id}", Rule::ReadMessage),
    ("DELETE", "/v1/messages/{id}", Rule::Admin),
    ("GET", "/v1/aggregated-streams", Rule::Credentials),
    ("PUT", "/v1/aggregated-streams/{name}", Rule::Subscribe),
    ("GET", "/v1/aggregated-streams/{name}", Rule::ReadAggregated),
    ("DELETE", "/v1/aggregated-streams/{name}", Rule::Subscribe),
    ("POST", "/v1/aggregated-streams/{name}/pause", Rule::Subscribe),
    ("POST", "/v1/aggregated-streams/{name}/resume", Rule::Subscribe),
    ("POST", "/v1/aggregated-streams/{name}/rebuild", Rule::Subscribe),
    ("GET", "/v1/aggregated-streams/{name}/partitions/{partition}/messages", Rule::ReadAggregated),
    ("GET", "/v1/aggregated-streams/{name}/keys", Rule::ReadAggregated),
    ("GET", "/v1/aggregated-streams/{name}/keys/{key}/messages", Rule::ReadAggregated),
    ("GET", "/v1/aggregated-streams/{name}/keys//messages", Rule::ReadAggregated),
    ("GET", "/v1/aggregated-streams/{name}/positions", Rule::ReadAggregated),
    ("GET", "/v1/aggregated-streams/{name}/events", Rule::ReadAggregated),
    ("GET", "/v1/subscriptions", Rule::Credentials),
    ("PUT", "/v1/subscriptions/{name}", Rule::Subscribe),
    ("GET", "/v1/subscriptions/{name}", Rule::Subscribe),
    ("PATCH", "/v1/subscriptions/{name}", Rule::Subscribe),
    ("DELETE", "/v1/subscriptions/{name}", Rule::Subscribe),
    ("GET", "/v1/subscriptions/{name}/events", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/fetch", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/acks", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/nacks", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/extensions", Rule::Subscribe),
    ("GET", "/v1/subscriptions/{name}/pending", Rule::Subscribe),
    ("GET", "/v1/subscriptions/{name}/pending/summary", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/claims", Rule::Subscribe),
    ("GET", "/v1/subscriptions/{name}/consumers", Rule::Subscribe),
    ("DELETE", "/v1/subscriptions/{name}/consumers/{consumer}", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/seek", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/pause", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/resume", Rule::Subscribe),
    ("GET", "/v1/subscriptions/{name}/parked", Rule::Subscribe),
    ("POST", "/v1/subscriptions/{name}/parked/replay", Rule::Subscribe),
    ("DELETE", "/v1/subscriptions/{name}/parked/{partition}/{position}", Rule::Subscribe),
    ("GET", "/v1/reports/streams", Rule::ReadEverything),
    ("GET", "/v1/reports/categories", Rule::ReadEverything),
    ("GET", "/v1/reports/types", Rule::ReadEverything),
    ("GET", "/v1/reports/settled", Rule::ReadLog),
    ("GET", "/v1/reports/storage", Rule::ReadEverything),
    ("GET", "/v1/reports/metrics", Rule::ReadEverything),
    ("GET", "/v1/reports/event-streams", Rule::ReadEverything),
    ("POST", "/v1/tickets", Rule::Credentials),
    ("GET", "/v1/caller", Rule::Credentials),
    ("POST", "/v1/keys", Rule::Admin),
    ("GET", "/v1/keys", Rule::Admin),
    ("DELETE", "/v1/keys/{id}", Rule::Admin),
    ("GET", "/version", Rule::Public),
    ("GET", "/v1/settings", Rule::Admin),
    ("GET", "/metrics", Rule::ReadEverything),
    ("GET", "/livez", Rule::Public),
    ("GET", "/readyz", Rule::Public),
    ("GET", "/problems/{problem}", Rule::Public),
    ("GET", "/openapi.json", Rule::Public),
    ("GET", "/openapi-3.2.json", Rule::Public),
    ("GET", "/docs", Rule::Public),
    ("GET", "/docs/", Rule::Public),
    ("GET", "/docs/{*rest}", Rule::Public),
    ("GET", "/", Rule::Public),
    ("GET", "/console/{*path}", Rule::Public),
    ("GET", "/headwater.js", Rule::Public),
    ("GET", "/favicon.ico", Rule::Public),
];

/// Whether a path of the router needs no credential.
pub fn is_public(path: &str) -> bool {
    RULES.iter().any(|(_, at, rule)| *at == path && *rule == Rule::Public)
}

/// The rule of an operation. `HEAD` is answered as `GET` is.
pub fn rule(method: &str, path: &str) -> Option<Rule> {
    let method = if method == "HEAD" { "GET" } else { method };
    RULES.iter().find(|(of, at, _)| *of == method && *at == path).map(|(_, _, rule)| *rule)
}

impl Rule {
    /// What it asks for, as scopes; parts of the path are in braces.
    pub fn scopes(self) -> &'static [&'static str] {
        match self {
            Self::Public | Self::Credentials => &[],
            Self::ReadStream => &["read:{stream_name}"],
            Self::ReadCategory => &["read:{category}*"],
            Self::ReadLog | Self::ReadSources | Self::ReadMessage | Self::ReadAggregated | Self::ReadEverything => {
                &["read:*"]
            }
            Self::AppendToStream => &["append:{stream_name}"],
            Self::AppendToStreams => &["append:*"],
            Self::Subscribe => &["subscribe:{name}", "read:*"],
            Self::Admin => &["admin"],
        }
    }

    /// What it asks for, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Public => "no credential",
            Self::Credentials => "any credential; what it does not allow to use or to read is left out",
            Self::ReadStream => "`read:` of the stream",
            Self::ReadCategory => "`read:` of a stream of the category; streams that may not be read are left out",
            Self::ReadLog => "`read:` of any stream; streams that may not be read are left out",
            Self::ReadSources => {
                "`read:` of a stream of the sources; streams that may not be read are left out. Of an aggregated stream, \
                 `read:` of all that its definition selects"
            }
            Self::ReadMessage => "`read:` of the message's stream; without it, the message does not exist",
            Self::ReadAggregated => "`read:` of all that the definition of the aggregated stream selects",
            Self::ReadEverything => "`read:*`",
            Self::AppendToStream => "`append:` of the stream",
            Self::AppendToStreams => {
                "`append:` of every stream that is written to; for a condition `read:` of its stream, of its whole \
                 categories, or of all that its aggregated stream selects; for `ack` `subscribe:` of the subscription and \
                 `read:` of its whole source"
            }
            Self::Subscribe => "`subscribe:` of the name, and `read:` of the whole source",
            Self::Admin => "`admin`",
        }
    }

    /// Whether a limit of the credential may refuse it.
    pub fn is_limited(self, path: &str) -> bool {
        matches!(self, Self::AppendToStream | Self::AppendToStreams) || path.ends_with("/events")
    }

    /// The part of the path that the rule is about.
    fn parameter(self) -> Option<&'static str> {
        match self {
            Self::ReadStream | Self::AppendToStream => Some("stream_name"),
            Self::ReadCategory => Some("category"),
            Self::Subscribe => Some("name"),
            Self::Public
            | Self::Credentials
            | Self::ReadLog
            | Self::ReadSources
            | Self::ReadMessage
            | Self::ReadAggregated
            | Self::ReadEverything
            | Self::AppendToStreams
            | Self::Admin => None,
        }
    }

    /// Refused unless the caller has what can be told from the path. `name`: the part of the path that the rule is about.
    fn check(self, rights: &Rights, name: &str) -> Result<(), Missing> {
        match self {
            Self::Public | Self::Credentials => Ok(()),
            Self::ReadStream => rights.read_stream(name),
            Self::ReadCategory => rights.read_category(name).map(drop),
            Self::ReadLog | Self::ReadSources | Self::ReadMessage | Self::ReadAggregated => rights.read_log().map(drop),
            Self::ReadEverything => rights.read_everything(),
            Self::AppendToStream => rights.append_to_stream(name),
            Self::AppendToStreams => rights.append_to_something(),
            Self::Subscribe => rights.subscribe(name).and_then(|()| rights.read_log().map(drop)),
            Self::Admin => rights.require(Scope::Admin),
        }
    }
}

/// Refuses what the table does not allow the caller, and keeps answers from caches that others share.
pub async fn enforce(mut request: Request, next: Next) -> Response {
    if let Err(refused) = may_go_on(&mut request).await {
        return refused;
    }
    let is_by_credential = request.extensions().get::<Caller>().is_some_and(|caller| caller.credential().is_some());
    let mut response = next.run(request).await;
    if is_by_credential {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("authorization, cookie"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    }
    response
}

async fn may_go_on(request: &mut Request) -> Result<(), Response> {
    // Without a path of the router there is nothing to be refused.
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else { return Ok(()) };
    let rule = rule(request.method().as_str(), path.as_str());
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_else(Caller::nobody);
    if rule == Some(Rule::Public) || *caller.rights() == Rights::Everything {
        return Ok(());
    }
    if caller.credential().is_none() {
        return Err(credentials::missing().into_response());
    }
    let Some(rule) = rule else { return Err(without_rule(request.method(), path.as_str())) };
    let name = match rule.parameter() {
        Some(parameter) => path_part(request, parameter).await.map_err(IntoResponse::into_response)?,
        None => String::new(),
    };
    rule.check(caller.rights(), &name).map_err(|missing| Problem::from(missing).into_response())
}

/// A part of the path, decoded.
async fn path_part(request: &mut Request, name: &str) -> Result<String, Problem> {
    let unreadable = || Problem::malformed(vec![Violation::new(name, "must be percent-encoded UTF-8")]);
    let parts = request.extract_parts::<RawPathParams>().await.map_err(|_| unreadable())?;
    parts.iter().find(|(part, _)| *part == name).map(|(_, value)| value.to_owned()).ok_or_else(unreadable)
}

/// A path that the table has with other methods does not have this one; a path that it does not have at all is `admin`'s.
fn without_rule(method: &Method, path: &str) -> Response {
    let others: Vec<&str> = RULES.iter().filter(|(_, at, _)| *at == path).map(|(other, _, _)| *other).collect();
    if others.is_empty() {
        return Problem::from(Missing(Scope::Admin)).into_response();
    }
    super::operations::allows_only(&others.join(","), method)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::{any, get};
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;

    fn caller(scopes: &[&str]) -> Caller {
        let rights = Rights::of(scopes.iter().map(|scope| scope.parse().unwrap()));
        Caller::of("tested", rights, None, CancellationToken::new())
    }

    async fn answer(caller: Option<Caller>, method: &str, path: &str) -> Response {
        let router = Router::new()
            .route("/v1/streams/{stream_name}", get(|| async { "read" }))
            .route("/v1/subscriptions/{name}/pause", any(|| async { "done" }))
            .route("/v1/forgotten", get(|| async { "told" }))
            .route("/livez", get(|| async { "ok" }))
            .layer(from_fn(enforce));
        let mut request = axum::http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        router.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn the_name_in_the_path_is_what_counts_however_it_is_encoded() {
        for (path, status) in [
            ("/v1/streams/order-1", 200),
            ("/v1/streams/order%2D1", 200),
            ("/v1/streams/%6Frder-1", 200),
            ("/v1/streams/account-1", 403),
            ("/v1/streams/order-1%2F..%2Faccount-1", 200),
            ("/v1/streams/order%FF-1", 400),
        ] {
            assert_eq!(answer(Some(caller(&["read:order-*"])), "GET", path).await.status(), status, "{path}");
        }
        let refused = answer(Some(caller(&["read:order-*"])), "GET", "/v1/streams/account-1").await;
        let body = axum::body::to_bytes(refused.into_body(), 10_000).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["type"], "/problems/forbidden");
        assert_eq!(problem["scope"], "read:account-1");
    }

    #[tokio::test]
    async fn a_route_without_a_rule_is_for_admin_alone() {
        for (scopes, status) in [(&["read:*", "append:*", "subscribe:*"][..], 403), (&["admin"], 200)] {
            assert_eq!(answer(Some(caller(scopes)), "GET", "/v1/forgotten").await.status(), status);
        }
        assert_eq!(answer(None, "GET", "/v1/forgotten").await.status(), 401);
        assert_eq!(answer(Some(Caller::anybody()), "GET", "/v1/forgotten").await.status(), 200);
    }

    #[tokio::test]
    async fn a_method_without_a_rule_is_not_run_though_the_path_has_one() {
        let scopes = &["read:*", "subscribe:*"];
        assert_eq!(answer(Some(caller(scopes)), "POST", "/v1/subscriptions/a/pause").await.status(), 200);
        for method in ["GET", "DELETE", "PURGE"] {
            let refused = answer(Some(caller(scopes)), method, "/v1/subscriptions/a/pause").await;
            assert_eq!(refused.status(), 405, "{method}");
            assert_eq!(refused.headers()["allow"], "POST");
        }
        assert_eq!(answer(Some(caller(scopes)), "HEAD", "/v1/streams/a").await.status(), 200);
    }

    #[tokio::test]
    async fn only_what_is_public_needs_no_credentials() {
        assert_eq!(answer(None, "GET", "/livez").await.status(), 200);
        let refused = answer(None, "GET", "/v1/streams/a").await;
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer(None, "GET", "/nowhere").await.status(), 404);
    }

    #[tokio::test]
    async fn an_answer_to_credentials_is_kept_for_nobody_else() {
        let own = answer(Some(caller(&["read:*"])), "GET", "/v1/streams/a").await;
        assert_eq!(own.headers()["cache-control"], "private, no-cache");
        assert_eq!(own.headers()["vary"], "authorization, cookie");
        let anybodys = answer(Some(Caller::anybody()), "GET", "/v1/streams/a").await;
        assert!(!anybodys.headers().contains_key("cache-control"));
    }
}
