//! What is there for those who run the service: health, metrics, its document, its pages.

use headwater::domain::observation::Observation;
use headwater::http::problem::ProblemKind;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn alive_and_ready() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    assert_eq!((app.get("/livez").await.status, app.get("/livez").await.text.as_str()), (200, "ok\n"));
    app.until_ready().await;
    let ready = app.get("/readyz").await;
    let checks = json!({ "database": true, "migrations": true, "listener": true, "projector": true, "tail": true });
    assert_eq!((ready.status, ready.json()), (200, checks));
    app.stop().await;
}

#[tokio::test]
async fn not_ready_says_which_check_failed() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    sql.batch_execute("ALTER SCHEMA headwater RENAME TO elsewhere").await.unwrap();
    let problem = app.get("/readyz").await.problem(503, "database-unavailable");
    assert_eq!((&problem["checks"]["database"], &problem["checks"]["migrations"]), (&json!(true), &json!(false)));
    assert_eq!(app.get("/livez").await.status, 200);
    assert_eq!(app.get("/readyz").await.headers["retry-after"], "1");
    sql.batch_execute("ALTER SCHEMA elsewhere RENAME TO headwater").await.unwrap();
    app.stop().await;
}

const METRICS: [&str; 51] = [
    "headwater_http_requests_total",
    "headwater_http_request_seconds_bucket",
    "headwater_messages_appended_total",
    "headwater_appends_total{outcome=\"written\"}",
    "headwater_appends_total{outcome=\"duplicate\"}",
    "headwater_appends_total{outcome=\"conflict\"}",
    "headwater_appends_total{outcome=\"overloaded\"}",
    "headwater_batch_messages_bucket",
    "headwater_batch_requests_bucket",
    "headwater_commit_seconds_bucket",
    "headwater_batches_failed_total",
    "headwater_followers",
    "headwater_messages_delivered_total",
    "headwater_follower_reads_total{from=\"cache\"}",
    "headwater_follower_reads_total{from=\"database\"}",
    "headwater_followers_fell_behind_total",
    "headwater_cache_bytes",
    "headwater_cache_messages",
    "headwater_settled_position",
    "headwater_head_position",
    "headwater_settled_lag",
    "headwater_settled_held_back_age",
    "headwater_tail_up",
    "headwater_sequence_cache",
    "headwater_positions_ahead",
    "headwater_written_behind_total",
    "headwater_messages_erased_total",
    "headwater_messages_trimmed_total",
    "headwater_listener_up",
    "headwater_listener_lost_total",
    "headwater_pool_connections_in_use",
    "headwater_pool_connections_open",
    "headwater_pool_connections_max",
    "headwater_append_queue_requests",
    "headwater_append_sessions",
    "headwater_projector_leads",
    "headwater_messages_projected_total{from=\"tail\"}",
    "headwater_messages_projected_total{from=\"history\"}",
    "headwater_projections_stopped_total",
    "headwater_subscriptions",
    "headwater_subscription_deliveries_total",
    "headwater_subscription_acks_total{outcome=\"acked\"}",
    "headwater_subscription_acks_total{outcome=\"fenced\"}",
    "headwater_subscription_leases_expired_total",
    "headwater_batch_acks_bucket",
    "headwater_ack_commit_seconds_bucket",
    "headwater_subscription_committed_lag",
    "headwater_subscription_delivered_lag",
    "headwater_subscription_lag_exact",
    "headwater_subscription_oldest_unacked_age",
    "headwater_subscription_consumers",
];

#[tokio::test]
async fn every_metric_is_there_with_a_text_and_moves_with_what_it_counts() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut events = app.follow("/v1/all/events").await;
    events.next("caught-up").await;
    let message = json!({ "id": "0192f1c2-0000-7000-8000-000000000001", "type": "T", "data": {} });
    let body = json!({ "expected_version": -1, "messages": [message] });
    assert_eq!(app.append("a-1", &body).await.status, 201);
    assert_eq!(app.append("a-1", &body).await.status, 200);
    let stale = json!({ "expected_version": 7, "messages": [{ "type": "T" }] });
    app.append("a-1", &stale).await.problem(409, "wrong-expected-version");
    app.append("a-1", &json!({ "messages": [{ "type": "T" }, { "type": "T" }] })).await;
    events.messages(3).await;
    assert_eq!(app.put("/v1/subscriptions/s", &json!({ "source": { "stream_name": "a-1" } })).await.status, 201);
    let fetched =
        app.post("/v1/subscriptions/s/fetch", &json!({ "consumer": "w1" })).await.json()["messages"][0].clone();
    let ack = json!({ "partition": 0, "position": fetched["position"], "epoch": fetched["epoch"] });
    app.post("/v1/subscriptions/s/acks", &json!({ "consumer": "w1", "acks": [ack] })).await;
    // Nothing else here is certain to have used the pool by now.
    app.get("/v1/streams/a-1/messages").await;
    let text = app.get("/metrics").await.text;
    for name in METRICS {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
        let family = name.split('{').next().unwrap().trim_end_matches("_bucket");
        assert!(text.contains(&format!("# TYPE {family} ")), "{family} has no type");
        assert!(text.contains(&format!("# HELP {family} ")), "{family} has no help");
    }
    for (name, value) in [
        ("headwater_appends_total{outcome=\"written\"}", 2.0),
        ("headwater_appends_total{outcome=\"duplicate\"}", 1.0),
        ("headwater_appends_total{outcome=\"conflict\"}", 1.0),
        ("headwater_messages_appended_total", 3.0),
        ("headwater_followers", 1.0),
        ("headwater_messages_delivered_total", 3.0),
        ("headwater_settled_position", 3.0),
        ("headwater_head_position", 3.0),
        ("headwater_settled_lag", 0.0),
        ("headwater_settled_held_back_age", 0.0),
        ("headwater_tail_up", 1.0),
        ("headwater_positions_ahead", 0.0),
        ("headwater_listener_up", 1.0),
        ("headwater_pool_connections_max", 16.0),
        ("headwater_cache_messages", 3.0),
    ] {
        assert_eq!(app.metric(name).await, value, "{name}");
    }
    for name in [
        "headwater_commit_seconds_count",
        "headwater_batch_messages_sum",
        "headwater_cache_bytes",
        "headwater_pool_connections_open",
    ] {
        assert!(app.metric(name).await > 0.0, "{name}");
    }
    let counted = "headwater_http_requests_total{method=\"POST\",path=\"/v1/streams/{stream_name}/messages\",status=";
    for (status, count) in [(201, 2.0), (200, 1.0), (409, 1.0)] {
        assert_eq!(app.metric(&format!("{counted}\"{status}\"}}")).await, count, "{status}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_writer_that_idles_in_its_transaction_shows_in_the_metrics() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let _events = app.follow("/v1/all/events").await;
    let mut watcher = app.service.observer.watch();
    let sql = database.connect().await;
    sql.batch_execute("BEGIN; SELECT message_store.write_message(gen_random_uuid()::text, 'slow-1', 'T', '{}')")
        .await
        .unwrap();
    app.write("a-1", "T", json!({})).await;
    TestApp::observed(
        &mut watcher,
        "a position that is held back",
        |seen| matches!(seen, Observation::HeldBack { seconds, pids, .. } if *seconds > 0.0 && pids.len() == 1),
    )
    .await;
    assert!(app.metric("headwater_settled_held_back_age").await > 0.0);
    assert!(app.metric("headwater_settled_lag").await >= 1.0);
    sql.batch_execute("ROLLBACK").await.unwrap();
    TestApp::observed(&mut watcher, "its release", |seen| matches!(seen, Observation::Released { .. })).await;
    assert_eq!(app.metric("headwater_settled_held_back_age").await, 0.0);
    app.stop().await;
}

#[tokio::test]
async fn names_of_streams_never_become_labels() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for n in 0..20 {
        app.get(&format!("/v1/streams/secret-{n}/messages")).await;
        app.get(&format!("/secret-{n}")).await;
    }
    let text = app.get("/metrics").await.text;
    assert!(!text.contains("secret-"), "{text}");
    assert_eq!(app.metric("headwater_http_requests_total{method=\"GET\",path=\"other\",status=\"404\"}").await, 20.0);
    app.stop().await;
}

#[tokio::test]
async fn the_document_is_served_as_it_is_checked_in() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let served = app.get("/openapi.json").await;
    assert_eq!(served.status, 200);
    assert_eq!(served.json(), serde_json::from_str::<Value>(&headwater::http::openapi::document()).unwrap());
    let served = app.get("/openapi-3.2.json").await;
    assert_eq!((served.status, &served.json()["openapi"]), (200, &Value::from("3.2.0")));
    app.stop().await;
}

/// What a page loads: the values of `src` and `href` of scripts, styles, images and frames.
fn loaded(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or(rest)) {
        let name = tag.split_whitespace().next().unwrap_or_default();
        if !["script", "link", "img", "iframe"].contains(&name) {
            continue;
        }
        for attribute in ["src=", "href="] {
            if let Some((_, value)) = tag.split_once(attribute) {
                let value = value.trim_start_matches(['"', '\'']);
                found.push(value.split(['"', '\'', ' ']).next().unwrap_or_default().to_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn the_pages_load_nothing_from_anywhere_else() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for path in ["/docs/", "/"] {
        let page = app.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
        let assets = loaded(&page.text);
        assert!(!assets.is_empty(), "{path}");
        for asset in assets {
            assert!(!asset.contains("//") && !asset.starts_with("data:text"), "{path} loads {asset}");
            let at = if asset.starts_with('/') { asset } else { format!("{path}{}", asset.trim_start_matches("./")) };
            let answer = app.http.get(format!("{}{at}", app.url)).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{at}");
            assert!(!answer.bytes().await.unwrap().is_empty(), "{at}");
        }
    }
    // Compressed for those that take it, and only for them.
    let bundle = format!("{}/docs/swagger-ui-bundle.js", app.url);
    let plain = app.http.get(&bundle).send().await.unwrap();
    assert!(!plain.headers().contains_key("content-encoding"));
    let plain = plain.bytes().await.unwrap();
    let packed = app.http.get(&bundle).header("accept-encoding", "gzip, br").send().await.unwrap();
    assert_eq!(
        (&packed.headers()["content-encoding"], &packed.headers()["vary"]),
        (&"gzip".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    let packed = packed.bytes().await.unwrap();
    assert!(packed.len() < plain.len() / 2, "{} of {} bytes", packed.len(), plain.len());
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*packed), &mut unpacked).unwrap();
    assert!(unpacked == *plain, "the same file");
    let start = app.get("/docs/swagger-initializer.js").await.text;
    assert!(start.contains("/openapi.json") && !start.contains("https://"), "{start}");
    app.stop().await;
}

#[tokio::test]
async fn the_console_may_load_only_from_here() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let page = app.get("/").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*') && !policy.contains("unsafe-"), "{policy}");
    assert_eq!(app.get("/favicon.ico").await.status, 204);
    app.stop().await;
}

#[tokio::test]
async fn every_problem_has_its_page() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for kind in ProblemKind::ALL {
        let page = app.get(&format!("/problems/{}", kind.slug())).await;
        assert_eq!(page.status, 200, "{kind:?}");
        assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
        for part in [kind.title(), kind.advice(), kind.slug(), kind.status().as_str()] {
            assert!(page.text.contains(part), "{part}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn no_answer_is_sniffed_for_another_type() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for path in ["/", "/livez", "/v1/all/messages", "/nothing", "/v1/all/messages?limit=0", "/openapi.json", "/docs/"] {
        assert_eq!(app.get(path).await.headers["x-content-type-options"], "nosniff", "{path}");
    }
    app.stop().await;
}
