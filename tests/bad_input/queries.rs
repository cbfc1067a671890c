//! Parameters of reads and event streams.

use super::{Guarded, STREAM, names};

const READS: [&str; 3] = [STREAM, "/v1/categories/account/messages", "/v1/all/messages"];
const FOLLOWS: [&str; 4] =
    ["/v1/streams/account-1/events", "/v1/categories/account/events", "/v1/all/events", "/v1/events?category=account"];

/// The path with one more parameter.
fn with(path: &str, parameter: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{parameter}")
}

#[tokio::test]
async fn a_parameter_that_cannot_be_read_is_named() {
    let guarded = Guarded::new().await;
    for path in READS {
        for (parameter, field) in [
            ("limit=abc", "limit"),
            ("limit=-1", "limit"),
            ("limit=1.5", "limit"),
            ("limit=1e2", "limit"),
            ("limit=%2010", "limit"),
            ("limit=18446744073709551616", "limit"),
            ("from=abc", "from"),
            ("from=1.0", "from"),
            ("from=9223372036854775808", "from"),
            ("from=-9223372036854775809", "from"),
            ("from_time=yesterday", "from_time"),
            ("from_time=2026-11-20T12:00:00%2B01", "from_time"),
            ("to_time=", "to_time"),
            ("to_time=infinity", "to_time"),
            ("wait=5", "wait"),
            ("wait=soon", "wait"),
            ("wait=", "wait"),
            ("wait=-1s", "wait"),
            ("wait=99999999999999999999s", "wait"),
        ] {
            let answer = guarded.app.get(&with(path, parameter)).await;
            assert_eq!(answer.status, 400, "{path} {parameter}");
            names(&answer.problem(400, "malformed-request"), field, "");
        }
    }
    let answer = guarded.app.get(&with(STREAM, "direction=sideways")).await;
    names(&answer.problem(400, "malformed-request"), "direction", "must be forward or backward");
    for parameter in ["consumer_group_member", "consumer_group_size"] {
        let answer = guarded.app.get(&with(READS[1], &format!("{parameter}=x"))).await;
        names(&answer.problem(400, "malformed-request"), parameter, "");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_number_left_empty_is_as_if_it_were_absent() {
    let guarded = Guarded::new().await;
    for path in READS {
        let answer = guarded.app.get(&with(path, "limit=&from=")).await;
        assert_eq!(answer.json(), guarded.app.get(path).await.json());
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_parameter_beyond_its_bounds_is_refused_with_the_bounds() {
    let guarded = Guarded::with(|settings| settings.wait_max = std::time::Duration::from_secs(5)).await;
    for path in READS {
        for (parameter, field, rule) in [
            ("limit=0", "limit", "from 1 to 1000"),
            ("limit=1001", "limit", "from 1 to 1000"),
            ("limit=18446744073709551615", "limit", "from 1 to 1000"),
            ("from=-1", "from", "0 or more"),
            ("from=-9223372036854775808", "from", "0 or more"),
            ("wait=5001ms", "wait", "from 0s to 5s"),
            ("wait=1h", "wait", "from 0s to 5s"),
            ("types=a%0Ab", "types", "control characters"),
        ] {
            names(&guarded.app.get(&with(path, parameter)).await.problem(422, "invalid"), field, rule);
        }
        let types: Vec<String> = (0..101).map(|n| format!("T{n}")).collect();
        let answer = guarded.app.get(&with(path, &format!("types={}", types.join(",")))).await;
        names(&answer.problem(422, "invalid"), "types", "at most 100");
    }
    for path in READS {
        let answer = guarded.app.get(&with(path, "direction=backward&wait=1s")).await;
        names(&answer.problem(422, "invalid"), "wait", "direction=backward");
    }
    for (parameters, rule) in [
        ("from_last=T&from=1", "must not be given with from"),
        ("from_last=T&direction=backward", "direction=backward"),
        ("from_last=", "empty"),
        ("from_last=a%00b", "control characters"),
    ] {
        let answer = guarded.app.get(&with(STREAM, parameters)).await;
        names(&answer.problem(422, "invalid"), "from_last", rule);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_parameter_that_nobody_knows_is_refused() {
    let guarded = Guarded::new().await;
    let others = [
        "/v1/streams/account-1",
        "/v1/streams/account-1/messages/last",
        "/v1/messages/0192f1c2-0000-7000-8000-000000000000",
    ];
    for path in READS.iter().chain(&FOLLOWS).chain(&others) {
        for name in ["Limit", "offset", "last-event-id", "direction%20"] {
            let answer = guarded.app.get(&with(path, &format!("{name}=1"))).await;
            let problem = answer.problem(400, "malformed-request");
            names(&problem, &name.replace("%20", " "), "is unknown");
        }
    }
    let body = serde_json::json!({ "messages": [{ "type": "T" }] });
    let answer = guarded.app.post(&with(STREAM, "expected_version=0"), &body).await;
    names(&answer.problem(400, "malformed-request"), "expected_version", "is unknown");
    // What one path knows, another need not.
    for path in [READS[1], READS[2]] {
        let answer = guarded.app.get(&with(path, "from_last=Snapshot")).await;
        names(&answer.problem(400, "malformed-request"), "from_last", "is unknown");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_scalar_parameter_stands_once() {
    let guarded = Guarded::new().await;
    for path in READS {
        for (first, second) in [("limit=1", "limit=1"), ("from=0", "from=1"), ("filter=true", "filter=false")] {
            let field = first.split('=').next().unwrap();
            let answer = guarded.app.get(&with(path, &format!("{first}&{second}"))).await;
            names(&answer.problem(400, "malformed-request"), field, "must be given once");
        }
    }
    for path in FOLLOWS {
        let answer = guarded.app.get(&with(path, "from=end&from=beginning")).await;
        names(&answer.problem(400, "malformed-request"), "from", "");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_query_that_gives_no_utf8_is_refused() {
    let guarded = Guarded::new().await;
    for path in READS.iter().chain(&FOLLOWS) {
        for value in ["%FF", "a%C0%80", "%ED%A0%80"] {
            let answer = guarded.app.get(&with(path, &format!("types={value}"))).await;
            names(&answer.problem(400, "malformed-request"), "types", "UTF-8");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn the_two_of_a_consumer_group_keep_message_dbs_rules() {
    let guarded = Guarded::new().await;
    for (parameters, field, rule) in [
        ("consumer_group_member=0", "consumer_group_size", "must be given"),
        ("consumer_group_size=3", "consumer_group_member", "must be given"),
        ("consumer_group_member=0&consumer_group_size=0", "consumer_group_size", "1 or more"),
        ("consumer_group_member=0&consumer_group_size=-1", "consumer_group_size", "1 or more"),
        ("consumer_group_member=-1&consumer_group_size=3", "consumer_group_member", "0 or more"),
        ("consumer_group_member=3&consumer_group_size=3", "consumer_group_member", "less than consumer_group_size"),
    ] {
        let answer = guarded.app.get(&with(READS[1], parameters)).await;
        names(&answer.problem(422, "invalid"), field, rule);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_filter_that_is_no_bounded_expression_is_refused_with_the_reason() {
    let guarded = Guarded::new().await;
    let long = format!("type == '{}'", "x".repeat(1_000));
    let nested = format!("{}type{}", "[".repeat(200), "]".repeat(200));
    for (filter, rule) in [
        ("", "must not be empty"),
        (" ", "must not be empty"),
        ("data.amount >", "line 1, column"),
        ("data.amount > > 1", "line 1, column"),
        ("true &&\n&& false", "line 2, column"),
        ("'unclosed", "line 1, column"),
        ("\u{0}", "is not CEL"),
        ("data.items.all(i, i > 1)", "must not loop"),
        ("data.items.exists(i, i > 1)", "must not loop"),
        ("data.items.map(i, i).size() > 1", "must not loop"),
        ("data.items.filter(i, true).size() > 1", "must not loop"),
        ("amount > 5", "unknown name `amount`"),
        ("global_position > 0 && id == '1'", "unknown name `id`"),
        ("matches(type, '(a+)+$')", "unknown function `matches`"),
        ("type.matches('(a+)+$')", "unknown function `matches`"),
        ("duration('1h') > duration('1m')", "unknown function `duration`"),
        (&long, "at most 1000 bytes"),
        (&nested, "more than 24 brackets"),
        ("1=1; DROP TABLE message_store.messages", "is not CEL"),
        ("type = 'Opened' OR 1=1 --", "is not CEL"),
    ] {
        for path in READS.iter().chain(&FOLLOWS) {
            let encoded = crate::support::app::encode(filter);
            let answer = guarded.app.get(&with(path, &format!("filter={encoded}"))).await;
            names(&answer.problem(422, "invalid"), "filter", rule);
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_filter_never_reaches_the_database() {
    let guarded = Guarded::new().await;
    // Even where SQL conditions are allowed, HTTP has no way to them.
    let allow = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET message_store.sql_condition = on', current_database()); END $$";
    guarded.sql.batch_execute(allow).await.unwrap();
    for path in READS {
        let answer = guarded.app.get(&with(path, "condition=true")).await;
        names(&answer.problem(400, "malformed-request"), "condition", "is unknown");
        let filter =
            crate::support::app::encode("data.owner == 'no_such_owner' || type == \"'); SELECT no_such_owner; --\"");
        let page = guarded.app.get(&with(path, &format!("filter={filter}"))).await.json();
        assert_eq!(page["messages"], serde_json::json!([]));
    }
    let sent = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let sent: Vec<String> = guarded.sql.query(sent, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(sent.iter().any(|query| query.contains("message_store.messages")), "{sent:?}");
    assert!(!sent.iter().any(|query| query.contains("no_such_owner")), "{sent:?}");
    guarded.end().await;
}

#[tokio::test]
async fn an_event_stream_refuses_what_it_cannot_do() {
    let guarded = Guarded::new().await;
    for path in FOLLOWS {
        for (parameter, status, field) in [
            ("from=-1", 400, "from"),
            ("from=start", 400, "from"),
            ("from=", 400, "from"),
            ("from=9223372036854775808", 400, "from"),
            ("from=2026-11-20", 400, "from"),
            ("heartbeat=5", 400, "heartbeat"),
            ("heartbeat=0s", 422, "heartbeat"),
            ("heartbeat=999ms", 422, "heartbeat"),
            ("heartbeat=301s", 422, "heartbeat"),
            ("event_names=category", 400, "event_names"),
            ("from_time=1", 400, "from_time"),
        ] {
            let slug = if status == 400 { "malformed-request" } else { "invalid" };
            names(&guarded.app.get(&with(path, parameter)).await.problem(status, slug), field, "");
        }
    }
    let none = guarded.app.get("/v1/events").await;
    assert_eq!(none.problem(422, "invalid")["errors"].as_array().unwrap().len(), 1);
    let many: Vec<String> = (0..101).map(|n| format!("stream_name=s-{n}")).collect();
    let many = guarded.app.get(&format!("/v1/events?{}", many.join("&"))).await;
    assert!(many.problem(422, "invalid")["detail"].as_str().unwrap().contains("100"));
    guarded.end().await;
}
