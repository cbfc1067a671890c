//! Types, times and CEL expressions, alone and together.

use serde_json::json;

use super::{filled, numbers, walk};
use crate::support::app::{TestApp, encode};
use crate::support::database::TestDatabase;

#[tokio::test]
async fn types_are_a_list_with_commas_or_repeated() {
    let (_database, app) = filled("account", 2, 9).await;
    for path in ["/v1/streams/account-1/messages", "/v1/categories/account/messages", "/v1/all/messages"] {
        let everything = walk(&app, path, 1_000).await;
        let wanted: Vec<_> = everything.iter().filter(|message| message["type"] != "Deposited").cloned().collect();
        for parameters in ["types=Opened,Withdrawn", "types=Opened&types=Withdrawn", "types=Withdrawn,,Opened,Nothing"]
        {
            for limit in [1, 5, 1_000] {
                assert_eq!(walk(&app, &format!("{path}?{parameters}"), limit).await, wanted, "{parameters} {limit}");
            }
        }
        assert_eq!(walk(&app, &format!("{path}?types=opened"), 5).await.len(), 0);
    }
    let backward = walk(&app, "/v1/streams/account-1/messages?types=Opened&direction=backward", 2).await;
    assert_eq!(numbers(&backward, "position"), [6, 3, 0]);
    app.stop().await;
}

#[tokio::test]
async fn an_expression_filters_every_kind_of_page() {
    let (_database, app) = filled("account", 2, 9).await;
    let filter = encode("type == 'Opened' && data.n > 0 && metadata.correlationStreamName == 'transfer-1'");
    for path in ["/v1/streams/account-1/messages", "/v1/categories/account/messages", "/v1/all/messages"] {
        let expected: Vec<_> = walk(&app, path, 1_000)
            .await
            .into_iter()
            .filter(|message| {
                message["type"] == "Opened"
                    && message["data"]["n"] != 0
                    && message["metadata"]["correlationStreamName"] == "transfer-1"
            })
            .collect();
        assert!(expected.len() >= 2);
        for limit in [1, 2, 1_000] {
            assert_eq!(walk(&app, &format!("{path}?filter={filter}"), limit).await, expected, "{path}");
        }
    }
    let backward = format!("/v1/streams/account-1/messages?direction=backward&filter={filter}");
    assert_eq!(numbers(&walk(&app, &backward, 1).await, "position"), [6, 3]);
    app.stop().await;
}

#[tokio::test]
async fn a_message_on_which_the_expression_fails_does_not_pass() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for data in
        [json!({ "n": 1 }), json!({ "n": "one" }), json!({}), json!(null), json!([1]), json!(1), json!({ "n": 2.5 })]
    {
        app.write("a-1", "T", data).await;
    }
    for (filter, positions) in [
        ("data.n == 1", vec![0]),
        ("data.n > 0", vec![0, 6]),
        ("has(data.n)", vec![0, 1, 6]),
        ("data.n", vec![]),
        ("'true'", vec![]),
        ("1 / 0 == 1", vec![]),
        ("position % 2 == 0", vec![0, 2, 4, 6]),
        ("global_position > 5 && stream_name == 'a-1' && category == 'a'", vec![5, 6]),
        ("time > '2000' && time < '9999'", vec![0, 1, 2, 3, 4, 5, 6]),
    ] {
        let path = format!("/v1/streams/a-1/messages?filter={}", encode(filter));
        assert_eq!(numbers(&walk(&app, &path, 2).await, "position"), positions, "{filter}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_filter_that_matches_rarely_gives_progress_instead_of_a_long_wait() {
    let database = TestDatabase::migrated().await;
    let fill = "INSERT INTO message_store.messages (stream_name, position, type, data) \
                SELECT 'big-1', n, 'T', jsonb_build_object('n', n) FROM generate_series(0, 25499) AS n";
    database.connect().await.batch_execute(fill).await.unwrap();
    let app = TestApp::on(&database).await;
    let filter = encode("data.n == 12345 || data.n == 25499");
    for (path, first) in
        [("/v1/streams/big-1/messages", 0), ("/v1/categories/big/messages", 1), ("/v1/all/messages", 1)]
    {
        let page = app.get(&format!("{path}?filter={filter}")).await.json();
        assert_eq!(page["messages"], json!([]), "{path}");
        assert_eq!(page["at_end"], false);
        assert_eq!(page["next"], first + 10_000, "{path}");
        assert_eq!(numbers(&walk(&app, &format!("{path}?filter={filter}"), 1).await, "position"), [12_345, 25_499]);
    }
    let backward = format!("/v1/streams/big-1/messages?direction=backward&filter={filter}");
    assert_eq!(numbers(&walk(&app, &backward, 10).await, "position"), [25_499, 12_345]);
    app.stop().await;
}

#[tokio::test]
async fn from_time_is_inclusive_and_to_time_is_not() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let times = ["2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000002Z"];
    for time in times {
        let body = json!({ "messages": [{ "type": "T", "time": time }] });
        assert_eq!(app.append("a-1", &body).await.status, 201);
    }
    for path in ["/v1/streams/a-1/messages", "/v1/categories/a/messages", "/v1/all/messages"] {
        for (parameters, positions) in [
            (format!("from_time={}", times[1]), vec![1, 2]),
            (format!("to_time={}", times[1]), vec![0]),
            (format!("from_time={}&to_time={}", times[0], times[2]), vec![0, 1]),
            (format!("from_time={}&to_time={}", times[1], times[1]), vec![]),
            (format!("from_time={}&to_time={}", times[2], times[0]), vec![]),
            ("from_time=2026-01-01T01:00:00.000001%2B01:00".to_owned(), vec![1, 2]),
            ("from_time=0001-01-01T00:00:00Z&to_time=9999-12-31T23:59:59Z".to_owned(), vec![0, 1, 2]),
            (format!("from_time={}&types=U", times[0]), vec![]),
            (format!("from_time={}&filter=position%20%3E%201", times[0]), vec![2]),
        ] {
            let walked = walk(&app, &format!("{path}?{parameters}"), 1).await;
            assert_eq!(numbers(&walked, "position"), positions, "{path} {parameters}");
        }
    }
    app.stop().await;
}
