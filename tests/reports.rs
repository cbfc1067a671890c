//! Reports say what is in the store: all names, each once, with counts that are exact and never count twice.

use headwater::domain::observation::Observation;
use serde_json::{Value, json};

use crate::support::app::{TestApp, encode};
use crate::support::database::TestDatabase;
use crate::support::sql_writer;
use crate::support::waiting::eventually;

/// A service on a store of `categories` categories with `streams` streams of `each` messages.
async fn filled(categories: usize, streams: usize, each: usize) -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let fill = format!(
        "INSERT INTO message_store.messages (stream_name, position, type, data) \
         SELECT 'c' || c || '-' || s, p, CASE p % 2 WHEN 0 THEN 'Even' ELSE 'Odd' END, '{{}}' \
         FROM generate_series(0, {each} - 1) AS p, generate_series(1, {streams}) AS s, \
         generate_series(1, {categories}) AS c ORDER BY p, s, c"
    );
    database.connect().await.batch_execute(&fill).await.unwrap();
    let app = TestApp::on(&database).await;
    (database, app)
}

/// All lines of a report, page by page.
async fn walk(app: &TestApp, report: &str, query: &str, limit: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut from = String::new();
    loop {
        let answer = app.get(&format!("/v1/reports/{report}?limit={limit}{query}{from}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        let found = page[report].as_array().unwrap();
        assert!(found.len() <= limit);
        lines.extend(found.iter().cloned());
        assert!(lines.len() < 100_000, "the walk has no end");
        assert_eq!(page["at_end"], page["next"].is_null());
        match page["next"].as_str() {
            Some(next) => from = format!("&from={}", encode(next)),
            None => return lines,
        }
    }
}

fn texts(lines: &[Value], field: &str) -> Vec<String> {
    lines.iter().map(|line| line[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn categories_and_types_are_counted() {
    let (_database, app) = filled(3, 4, 5).await;
    let categories = walk(&app, "categories", "", 2).await;
    assert_eq!(texts(&categories, "category"), ["c1", "c2", "c3"]);
    for line in &categories {
        assert_eq!((&line["message_count"], &line["stream_count"]), (&json!(20), &json!(4)));
        assert_eq!(line["percent"], json!(33.33));
    }
    assert_eq!(categories[2]["last_global_position"], 60);
    let types = walk(&app, "types", "", 1).await;
    assert_eq!(texts(&types, "type"), ["Even", "Odd"]);
    assert_eq!([&types[0]["message_count"], &types[1]["message_count"]], [&json!(36), &json!(24)]);
    let of_category = walk(&app, "types", "&category=c2", 100).await;
    assert_eq!([&of_category[0]["message_count"], &of_category[1]["message_count"]], [&json!(12), &json!(8)]);
    let of_type = walk(&app, "categories", "&type=Odd", 100).await;
    assert_eq!(of_type.iter().map(|line| line["message_count"].as_i64().unwrap()).collect::<Vec<_>>(), [8, 8, 8]);
    assert_eq!(walk(&app, "categories", "&type=None", 100).await, Vec::<Value>::new());
    let page = app.get("/v1/reports/types?limit=1").await.json();
    assert_eq!([&page["counted_position"], &page["settled_position"]], [&json!(60), &json!(60)]);
    assert_eq!(page["message_count"], 60);
    app.stop().await;
}

#[tokio::test]
async fn an_empty_store_has_empty_reports() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for report in ["streams", "categories", "types"] {
        assert_eq!(walk(&app, report, "", 100).await, Vec::<Value>::new());
    }
    let settled = app.get("/v1/reports/settled").await.json();
    assert_eq!(settled, json!({ "head": 0, "settled": 0, "lag": 0, "held_back": null }));
    app.stop().await;
}

#[tokio::test]
async fn names_are_found_by_their_beginning_and_by_any_part() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for name in ["account-1", "account-2", "accounting-1", "Account-1", "account", "order-1", "übung-1", "a%_b-1"] {
        app.write(name, "Opened", json!({})).await;
    }
    app.write("account-1", "Closed", json!({})).await;
    let streams = async |query: &str| {
        let mut found = texts(&walk(&app, "streams", query, 2).await, "stream_name");
        found.sort();
        found
    };
    assert_eq!(streams("").await.len(), 8);
    assert_eq!(streams("&category=account").await, ["account", "account-1", "account-2"]);
    assert_eq!(streams("&prefix=account-").await, ["account-1", "account-2"]);
    assert_eq!(streams("&prefix=%C3%BC").await, ["übung-1"]);
    assert_eq!(streams("&contains=COUNT-1").await, ["Account-1", "account-1"]);
    assert_eq!(streams("&contains=%25_").await, ["a%_b-1"]);
    assert_eq!(streams("&category=account&prefix=account-2").await, ["account-2"]);
    assert_eq!(streams("&category=account&prefix=order").await, [""; 0]);
    let categories = async |query: &str| texts(&walk(&app, "categories", query, 2).await, "category");
    assert_eq!(categories("&prefix=account").await, ["account", "accounting"]);
    assert_eq!(categories("&contains=OUNT").await, ["Account", "account", "accounting"]);
    assert_eq!(categories("&contains=%25").await, ["a%_b"]);
    assert_eq!(texts(&walk(&app, "types", "&contains=clo", 2).await, "type"), ["Closed"]);
    app.stop().await;
}

#[tokio::test]
async fn a_stream_is_known_by_its_ends() {
    let (database, app) = filled(1, 30, 4).await;
    let sql = database.connect().await;
    sql.batch_execute("DELETE FROM message_store.messages WHERE stream_name = 'c1-7' AND position < 2").await.unwrap();
    sql.batch_execute("DELETE FROM message_store.messages WHERE stream_name = 'c1-8'").await.unwrap();
    let streams = walk(&app, "streams", "", 7).await;
    assert_eq!(streams.len(), 29);
    for line in &streams {
        let name = line["stream_name"].as_str().unwrap();
        let first = if name == "c1-7" { 2 } else { 0 };
        assert_eq!((&line["version"], &line["first_position"]), (&json!(3), &json!(first)), "{name}");
        assert_eq!((&line["message_count"], &line["category"]), (&json!(4 - first), &json!("c1")), "{name}");
        let last = app.get(&format!("/v1/streams/{name}/messages/last")).await.json();
        assert_eq!((&last["global_position"], &last["time"]), (&line["last_global_position"], &line["last_time"]));
    }
    app.stop().await;
}

#[tokio::test]
async fn a_search_that_finds_nothing_for_long_says_where_to_go_on() {
    let (_database, app) = filled(1, 10_050, 1).await;
    let page = app.get("/v1/reports/streams?contains=nowhere").await.json();
    assert_eq!((&page["streams"], &page["at_end"]), (&json!([]), &json!(false)));
    let next = page["next"].as_str().unwrap();
    let rest = app.get(&format!("/v1/reports/streams?contains=nowhere&from={next}")).await.json();
    assert_eq!((&rest["streams"], &rest["at_end"]), (&json!([]), &json!(true)));
    assert_eq!(walk(&app, "streams", "&contains=-9", 1_000).await.len(), 1 + 10 + 100 + 1_000);
    app.stop().await;
}

#[tokio::test]
async fn names_are_all_found_in_an_order_that_is_not_that_of_code_points() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let views = "DROP VIEW message_store.stream_summary, message_store.type_summary, message_store.stream_type_summary, \
        message_store.type_stream_summary, message_store.category_type_summary, message_store.type_category_summary";
    sql.batch_execute(views).await.unwrap();
    let collate = "ALTER TABLE message_store.messages ALTER COLUMN stream_name TYPE text COLLATE \"en-US-x-icu\"";
    if sql.batch_execute(collate).await.is_err() {
        eprintln!("not looked at: this PostgreSQL has no ICU collations");
        return;
    }
    let app = TestApp::on(&database).await;
    let names =
        ["account-1", "Account-1", "account-2", "ACCOUNT-3", "account", "accountant-1", "bank-1", "éclair-1", "zoo"];
    for name in names {
        app.write(name, "Opened", json!({})).await;
    }
    let streams = async |query: &str| {
        let mut found = texts(&walk(&app, "streams", query, 1).await, "stream_name");
        found.sort();
        found
    };
    assert_eq!(streams("").await.len(), names.len());
    assert_eq!(streams("&prefix=account").await, ["account", "account-1", "account-2", "accountant-1"]);
    assert_eq!(streams("&category=Account").await, ["Account-1"]);
    assert_eq!(streams("&category=account").await, ["account", "account-1", "account-2"]);
    assert_eq!(streams("&prefix=%C3%A9").await, ["éclair-1"]);
    assert_eq!(streams("&contains=account-3").await, ["ACCOUNT-3"]);
    app.stop().await;
}

#[tokio::test]
async fn names_that_only_sql_can_write_are_reported_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    let long_type = "T".repeat(100_000);
    sql_writer::insert(&sql, "line\nbreak-1", "Odd", "{}").await;
    sql_writer::insert(&sql, "long-1", &long_type, "{}").await;
    sql_writer::insert(&sql, "", "", "{}").await;
    assert_eq!(texts(&walk(&app, "streams", "", 1).await, "stream_name"), ["", "line\nbreak-1", "long-1"]);
    assert_eq!(texts(&walk(&app, "categories", "", 1).await, "category"), ["", "line\nbreak", "long"]);
    let types = app.get("/v1/reports/types").await.json();
    assert_eq!(texts(types["types"].as_array().unwrap(), "type"), ["", "Odd", &long_type]);
    app.stop().await;
}

#[tokio::test]
async fn nothing_is_counted_twice_by_requests_that_come_together() {
    let (database, app) = filled(2, 500, 50).await;
    let other = TestApp::on(&database).await;
    let looks = (0..16).map(|n| {
        let app = if n % 2 == 0 { &app } else { &other };
        app.get("/v1/reports/categories")
    });
    for answer in futures_util::future::join_all(looks).await {
        let page = answer.json();
        assert!(page["message_count"].as_i64().unwrap() <= 50_000, "{page}");
    }
    // A request counts for a while only; what it leaves is counted by later ones.
    eventually("all to be counted", || async {
        let page = app.get("/v1/reports/categories").await.json();
        assert!(page["message_count"].as_i64().unwrap() <= 50_000, "{page}");
        (page["counted_position"] == page["settled_position"]).then_some(())
    })
    .await;
    for written in 1..=3 {
        app.write("c1-1", "Even", json!({})).await;
        let page = app.get("/v1/reports/categories").await.json();
        assert_eq!(page["message_count"], 50_000 + written);
        assert_eq!(page["counted_position"], page["settled_position"]);
    }
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_settled_is_not_counted_yet_and_the_report_says_who_holds_it_back() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("a-1", "Before", json!({})).await;
    let idle = database.connect().await;
    idle.batch_execute("SET application_name = 'nightly import'; BEGIN").await.unwrap();
    let mut watcher = app.service.observer.watch();
    let held = sql_writer::insert(&idle, "late-1", "Late", "{}").await;
    app.write("b-1", "After", json!({})).await;
    TestApp::observed(&mut watcher, "a hole", |what| matches!(what, Observation::HeldBack { .. })).await;

    let settled = app.get("/v1/reports/settled").await.json();
    assert_eq!(
        [&settled["head"], &settled["settled"], &settled["lag"]],
        [&json!(held + 1), &json!(held - 1), &json!(2)]
    );
    let by = &settled["held_back"];
    assert_eq!(by["position"], held);
    assert!(by["seconds"].as_f64().unwrap() >= 0.0);
    let holder = &by["holders"][0];
    assert_eq!(holder["pid"], sql_writer::pid(&idle).await);
    assert_eq!((&holder["application_name"], &holder["prepared_as"]), (&json!("nightly import"), &Value::Null));
    assert!(holder["transaction_started"].as_str().unwrap().ends_with('Z'));
    assert_eq!(texts(&walk(&app, "categories", "", 100).await, "category"), ["a"]);

    idle.batch_execute("PREPARE TRANSACTION 'held by a name'").await.unwrap();
    let prepared = |what: &Observation| matches!(what, Observation::HeldBack { pids, .. } if pids.is_empty());
    TestApp::observed(&mut watcher, "the prepared transaction", prepared).await;
    let holder = app.get("/v1/reports/settled").await.json()["held_back"]["holders"][0].clone();
    assert_eq!((&holder["pid"], &holder["prepared_as"]), (&Value::Null, &json!("held by a name")));

    idle.batch_execute("COMMIT PREPARED 'held by a name'").await.unwrap();
    TestApp::observed(&mut watcher, "its end", |what| matches!(what, Observation::Released { .. })).await;
    assert_eq!(app.get("/v1/reports/settled").await.json()["held_back"], Value::Null);
    assert_eq!(texts(&walk(&app, "categories", "", 100).await, "category"), ["a", "b", "late"]);
    app.stop().await;
}

#[tokio::test]
async fn a_parameter_that_is_wrong_is_named() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for report in ["streams", "categories", "types"] {
        for (query, status, slug, field) in [
            ("limit=x", 400, "malformed-request", "limit"),
            ("prefixes=a", 400, "malformed-request", "prefixes"),
            ("prefix=%FF", 400, "malformed-request", "prefix"),
            ("limit=0", 422, "invalid", "limit"),
            ("limit=1001", 422, "invalid", "limit"),
            ("from=a%00", 422, "invalid", "from"),
            ("prefix=%00", 422, "invalid", "prefix"),
            ("contains=%00", 422, "invalid", "contains"),
        ] {
            let problem = app.get(&format!("/v1/reports/{report}?{query}")).await.problem(status, slug);
            assert_eq!(problem["errors"][0]["field"], field, "{report} {query}");
        }
        let long = "x".repeat(1_001);
        for field in ["prefix", "contains"] {
            let problem = app.get(&format!("/v1/reports/{report}?{field}={long}")).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["field"], field);
        }
    }
    for (path, field) in
        [("streams?category=a-b", "category"), ("types?category=", "category"), ("categories?type=a%0Ab", "type")]
    {
        let problem = app.get(&format!("/v1/reports/{path}")).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], field, "{path}");
    }
    app.get("/v1/reports/streams?type=A").await.problem(400, "malformed-request");
    app.get("/v1/reports/settled?x=1").await.problem(400, "malformed-request");
    app.get("/v1/reports/other").await.problem(404, "not-found");
    app.stop().await;
}

/// A trim writes down what nobody has counted yet, for whoever counts later.
#[tokio::test]
async fn a_category_that_is_trimmed_before_it_is_counted_is_not_reported_empty() {
    let (database, app) = filled(1, 2, 5).await;
    let trimmed = app.post("/v1/streams/c1-1/trim", &json!({ "keep_last": 1 })).await.json();
    assert_eq!(trimmed["trimmed"], 4);
    let mut counting = database.connect().await;
    let elsewhere = counting.transaction().await.unwrap();
    elsewhere.execute("SELECT FROM headwater.counted_position FOR UPDATE", &[]).await.unwrap();
    for report in ["categories", "types"] {
        let page = app.get(&format!("/v1/reports/{report}")).await.json();
        assert_eq!((&page["counted_position"], &page[report]), (&json!(0), &json!([])), "{page}");
    }
    elsewhere.rollback().await.unwrap();
    let line = app.get("/v1/reports/categories").await.json()["categories"][0].clone();
    assert_eq!((&line["message_count"], &line["stream_count"]), (&json!(6), &json!(2)), "{line}");
    app.stop().await;
}
