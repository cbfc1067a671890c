//! Appending: all or none, in order, under the version that was expected.

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{Answer, TestApp, encode};
use crate::support::database::TestDatabase;

async fn app() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    (database, app)
}

/// An append of one message.
fn one(expected_version: impl Into<Option<i64>>) -> Value {
    json!({ "expected_version": expected_version.into(), "messages": [{ "type": "T", "data": {} }] })
}

fn position(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["messages"][0]["position"].as_i64().unwrap()
}

async fn count(database: &TestDatabase) -> i64 {
    let client = database.connect().await;
    client.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn answer_says_where_each_message_stands() {
    let (database, app) = app().await;
    app.write("other-1", "T", json!(1)).await;
    let id = Uuid::new_v4();
    let body = json!({ "messages": [{ "type": "A", "id": id }, { "type": "B", "data": [1], "metadata": { "m": 1 } }] });
    let answer = app.append("account-1", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/json");
    let document = answer.json();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["stream_name", "version", "duplicate", "messages"]);
    assert_eq!((&document["stream_name"], &document["version"]), (&json!("account-1"), &json!(1)));
    assert_eq!(document["duplicate"], false);
    let messages = document["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    assert_eq!(keys(&messages[0]), ["id", "position", "global_position", "time"]);
    assert_eq!(messages[0]["id"], id.to_string());
    assert_eq!(messages[1]["id"].as_str().unwrap().parse::<Uuid>().unwrap().get_version_num(), 7);
    let page = app.get("/v1/streams/account-1/messages").await.json();
    for (at, told) in messages.iter().enumerate() {
        assert_eq!(told["position"], at);
        for key in keys(told) {
            assert_eq!(page["messages"][at][&key], told[&key]);
        }
    }
    assert_eq!((&page["messages"][0]["data"], &page["messages"][1]["data"]), (&Value::Null, &json!([1])));
    drop(database);
}

#[tokio::test]
async fn expected_version_is_kept_and_a_wrong_one_is_told_the_current() {
    let (database, app) = app().await;
    for wrong in [0, 1, i64::MAX] {
        let problem = app.append("a-1", &one(wrong)).await.problem(409, "wrong-expected-version");
        let facts = (&problem["stream_name"], &problem["expected_version"], &problem["current_version"]);
        assert_eq!(facts, (&json!("a-1"), &json!(wrong), &json!(-1)));
    }
    assert_eq!(position(&app.append("a-1", &one(-1)).await), 0);
    assert_eq!(app.append("a-1", &one(-1)).await.problem(409, "wrong-expected-version")["current_version"], 0);
    assert_eq!(position(&app.append("a-1", &one(0)).await), 1);
    assert_eq!(position(&app.append("a-1", &one(None)).await), 2);
    assert_eq!(position(&app.append("a-1", &json!({ "messages": [{ "type": "T" }] })).await), 3);
    assert_eq!(app.append("a-1", &one(2)).await.problem(409, "wrong-expected-version")["current_version"], 3);
    app.append("a-1", &one(-2)).await.problem(422, "invalid");
    for malformed in [json!("3"), json!(1.5), json!(1e30)] {
        let body = json!({ "expected_version": malformed, "messages": [{ "type": "T" }] });
        app.append("a-1", &body).await.problem(400, "malformed-request");
    }
    assert_eq!(count(&database).await, 4);
}

#[tokio::test]
async fn must_exist_refuses_the_first_message_of_a_stream_only() {
    let (database, app) = app().await;
    let body = json!({ "must_exist": true, "messages": [{ "type": "T" }] });
    let problem = app.append("a-1", &body).await.problem(409, "wrong-expected-version");
    assert_eq!((&problem["expected_version"], &problem["current_version"]), (&Value::Null, &json!(-1)));
    assert_eq!(count(&database).await, 0);
    app.write("a-1", "T", json!({})).await;
    assert_eq!(position(&app.append("a-1", &body).await), 1);
}

#[tokio::test]
async fn of_racing_writers_with_one_expected_version_exactly_one_wins() {
    let (database, app) = app().await;
    for round in 0..10_i64 {
        let body = one(round - 1);
        let answers = join_all((0..50).map(|_| app.append("race-1", &body))).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
        assert_eq!(won.len(), 1);
        assert_eq!(position(won[0]), round);
        for answer in lost {
            let problem = answer.problem(409, "wrong-expected-version");
            assert_eq!((&problem["current_version"], &problem["expected_version"]), (&json!(round), &json!(round - 1)));
        }
    }
    assert_eq!(count(&database).await, 10);
}

#[tokio::test]
async fn racing_appends_to_one_stream_leave_dense_positions_in_the_order_of_the_log() {
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    let body = one(None);
    let apps = (0..300).map(|n| if n % 3 == 0 { &other } else { &app });
    let answers = join_all(apps.map(|app| app.append("race-1", &body))).await;
    let mut told: Vec<(i64, i64)> = answers
        .iter()
        .map(|answer| (position(answer), answer.json()["messages"][0]["global_position"].as_i64().unwrap()))
        .collect();
    told.sort_unstable();
    assert_eq!(told.iter().map(|told| told.0).collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
    assert!(told.is_sorted_by(|one, next| one.1 < next.1), "{told:?}");
    let client = database.connect().await;
    let rows = client.query("SELECT position, global_position FROM message_store.messages ORDER BY 1", &[]).await;
    assert_eq!(rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(i64, i64)>>(), told);
}

#[tokio::test]
async fn programs_that_write_in_sql_share_streams_with_the_service() {
    let (database, app) = app().await;
    let program = async |n: i32| {
        let client = database.connect().await;
        for round in 0..25 {
            let sql = "SELECT message_store.write_message(gen_random_uuid()::text, $1, 'T', '{}')";
            client.query_one(sql, &[&format!("mixed-{}", (n + round) % 2)]).await.unwrap();
        }
    };
    let body = one(None);
    let service = join_all((0..100).map(|n| app.append(if n % 2 == 0 { "mixed-0" } else { "mixed-1" }, &body)));
    let (answers, _) = join(service, join_all((0..4).map(program))).await;
    answers.iter().for_each(|answer| assert!(position(answer) >= 0));
    let client = database.connect().await;
    let sql = "SELECT array_agg(position ORDER BY global_position) FROM message_store.messages GROUP BY stream_name";
    let positions = client.query(sql, &[]).await.unwrap();
    assert_eq!(positions.iter().map(|row| row.get::<_, Vec<i64>>(0).len()).sum::<usize>(), 200);
    for row in positions {
        let positions: Vec<i64> = row.get(0);
        assert_eq!(positions, (0..positions.len() as i64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn largest_request_is_answered_and_followed_in_order() {
    let (_database, app) = app().await;
    let mut events = app.follow("/v1/categories/large/events?from=beginning").await;
    let messages: Vec<Value> = (0..1_000).map(|n| json!({ "type": "T", "data": { "n": n } })).collect();
    let body = json!({ "expected_version": -1, "messages": messages });
    let (answer, neighbour) = join(app.append("large-1", &body), app.append("large-2", &one(-1))).await;
    assert_eq!((answer.status, position(&neighbour)), (201, 0));
    let followed = events.messages(1_001).await;
    let followed: Vec<_> = followed.iter().filter(|message| message["stream_name"] == "large-1").collect();
    for (n, told) in answer.json()["messages"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&told["position"], &followed[n]["data"]["n"]), (&json!(n), &json!(n)));
        for key in ["id", "position", "global_position", "time"] {
            assert_eq!(told[key], followed[n][key]);
        }
    }
}

/// From now on the database refuses messages of type `Poison` at once, and of type `LatePoison` at the commit.
async fn refuse_poison(database: &TestDatabase) {
    let client = database.connect().await;
    let sql = "ALTER TABLE message_store.messages ADD CONSTRAINT no_poison CHECK (type <> 'Poison');
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'no late poison' USING ERRCODE = 'check_violation'; END $$;
        CREATE CONSTRAINT TRIGGER no_late_poison AFTER INSERT ON message_store.messages DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.type = 'LatePoison') EXECUTE FUNCTION refuse()";
    client.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn messages_of_a_request_are_written_all_or_none() {
    let (database, app) = app().await;
    refuse_poison(&database).await;
    for poison in ["Poison", "LatePoison"] {
        let body = json!({ "messages": [{ "type": "T" }, { "type": poison }, { "type": "T" }] });
        app.append("a-1", &body).await.problem(422, "invalid");
        assert_eq!(count(&database).await, 0);
    }
    let used = Uuid::new_v4();
    let body = json!({ "messages": [{ "type": "T", "id": used }] });
    assert_eq!(position(&app.append("b-1", &body).await), 0);
    let body = json!({ "messages": [{ "type": "T" }, { "type": "T", "id": used }] });
    app.append("a-1", &body).await.problem(409, "message-id-reused");
    let body = json!({ "messages": [{ "type": "T" }, { "type": "T", "data": "\u{0}" }] });
    app.append("a-1", &body).await.problem(422, "invalid");
    assert_eq!(count(&database).await, 1);
    let body = json!({ "expected_version": -1, "messages": [{ "type": "A" }, { "type": "B" }, { "type": "C" }] });
    assert_eq!(app.append("a-1", &body).await.json()["version"], 2);
}

#[tokio::test]
async fn bad_requests_do_not_fail_those_that_share_their_transaction() {
    let (database, app) = app().await;
    refuse_poison(&database).await;
    let used = Uuid::new_v4();
    let first = json!({ "messages": [{ "type": "T", "id": used }] });
    assert_eq!(position(&app.append("used-1", &first).await), 0);
    for round in 0..3 {
        let twin = Uuid::new_v4();
        let sends = (0..120).map(|n| {
            let app = &app;
            async move {
                let stream = format!("s{}-{round}", n % 5);
                let (body, slug) = match n % 8 {
                    1 => (one(7_000), Some((409, "wrong-expected-version"))),
                    2 => (json!({ "messages": [{ "type": "T", "id": used }] }), Some((409, "message-id-reused"))),
                    3 => (json!({ "messages": [{ "type": "T" }, { "type": "Poison" }] }), Some((422, "invalid"))),
                    4 if n == 4 => (json!({ "messages": [{ "type": "LatePoison" }] }), Some((422, "invalid"))),
                    5 => {
                        let body = json!({ "messages": [{ "type": "T", "id": twin, "data": n }] });
                        (body, None)
                    }
                    _ => (one(None), None),
                };
                (n, slug, app.append(&stream, &body).await)
            }
        });
        let mut twins = 0;
        for (n, slug, answer) in join_all(sends).await {
            match slug {
                Some((status, slug)) => drop(answer.problem(status, slug)),
                // One id for different things, sent at once: one of them takes it.
                None if n % 8 == 5 && answer.status != 201 => drop(answer.problem(409, "message-id-reused")),
                None if n % 8 == 5 => twins += 1,
                None => assert_eq!(answer.status, 201, "request {n}: {}", answer.text),
            }
        }
        assert_eq!(twins, 1);
    }
    let client = database.connect().await;
    let dense = "SELECT count(*) FROM (SELECT FROM message_store.messages GROUP BY stream_name \
        HAVING min(position) <> 0 OR max(position) <> count(*) - 1) AS holes";
    assert_eq!(client.query_one(dense, &[]).await.unwrap().get::<_, i64>(0), 0);
    // Per round, of eight kinds of fifteen each: three good ones, 14 of those beside the late poison, and one twin.
    assert_eq!(count(&database).await, 1 + 3 * (4 * 15 - 1 + 1));
}

#[tokio::test]
async fn json_comes_back_as_jsonb_has_it() {
    let (database, app) = app().await;
    let client = database.connect().await;
    let texts = [
        "12345678901234567890.1234567890",
        r#"{"n": -0.10, "big": 123456789012345678901234567890, "e": 1.5E+3, "tiny": 1e-30}"#,
        r#"{"b": 1, "a": 2, "b": 3, "": null}"#,
        r#""😀 \ud83d\ude00 \u00e9 \/ \t""#,
        "  [ ] ",
        "null",
        "false",
    ];
    for (at, text) in texts.into_iter().enumerate() {
        let body = format!(r#"{{"messages":[{{"type":"T","data":{text},"metadata":{text}}}]}}"#);
        assert_eq!(position(&app.post_text("/v1/streams/a-1/messages", body).await), at as i64);
        let stored: String = client.query_one("SELECT ($1::text::jsonb)::text", &[&text]).await.unwrap().get(0);
        let page = app.get(&format!("/v1/streams/a-1/messages?from={at}")).await.text;
        let expected = format!(r#""data":{stored},"metadata":{stored},"time""#);
        assert!(page.contains(&expected), "{expected} in {page}");
    }
    app.post_text("/v1/streams/a-1/messages", r#"{"messages":[{"type":"T","type":"U"}]}"#)
        .await
        .problem(400, "malformed-request");
}

#[tokio::test]
async fn time_given_by_the_client_is_kept_to_the_microsecond() {
    let (database, app) = app().await;
    let times = ["2001-02-03T04:05:06.123456+02:00", "1969-12-31T23:59:59.999999Z"];
    let body = json!({ "messages": [
        { "type": "T", "time": times[0] }, { "type": "T", "time": times[1] }, { "type": "T" }
    ] });
    let answer = app.append("a-1", &body).await.json();
    let page = app.get("/v1/streams/a-1/messages").await.json();
    for (at, expected) in ["2001-02-03T02:05:06.123456Z", times[1]].into_iter().enumerate() {
        assert_eq!(
            (&answer["messages"][at]["time"], &page["messages"][at]["time"]),
            (&json!(expected), &json!(expected))
        );
    }
    assert_eq!(answer["messages"][2]["time"], page["messages"][2]["time"]);
    for wrong in ["yesterday", "2001-02-30T00:00:00Z", "2001-02-03"] {
        let answer = app.append("a-1", &json!({ "messages": [{ "type": "T", "time": wrong }] })).await;
        assert!(matches!(answer.status, 400 | 422), "{}", answer.text);
    }
    assert_eq!(count(&database).await, 3);
}

#[tokio::test]
async fn streams_of_any_legal_name_are_kept_apart() {
    let (_database, app) = app().await;
    let names = [
        "account",
        "account-",
        "account-1",
        "account_1",
        "account%1",
        "account%",
        "-1",
        "a+b-c+d",
        "a b-c d",
        "account:command+position-1",
        "a/b-c/d",
        "...",
        "%2F",
        "it's \"quoted\"-1",
        "größe-日本 😀",
        "x?y#z&=-1",
        "\\-1",
        "ACCOUNT-1",
        "{},NULL-1",
    ];
    for name in names {
        for expected in [-1, 0] {
            assert_eq!(position(&app.append(name, &one(expected)).await), expected + 1, "{name}");
        }
    }
    for name in names {
        let page = app.get(&format!("/v1/streams/{}/messages", encode(name))).await.json();
        assert_eq!((&page["version"], page["messages"].as_array().map(Vec::len)), (&json!(1), Some(2)), "{name}");
        assert_eq!(page["messages"][1]["stream_name"], name);
    }
    for name in ["a\nb-1", "a\u{0}b", &"x".repeat(1_001)] {
        app.append(name, &one(None)).await.problem(422, "invalid");
    }
}
