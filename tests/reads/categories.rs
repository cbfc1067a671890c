//! Pages of a category and of all messages, correlation, and consumer groups.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::{filled, ids, numbers, one, walk};

#[tokio::test]
async fn a_walk_over_a_category_meets_each_of_its_messages_once_in_global_order() {
    let (_database, app) = filled("account", 5, 9).await;
    for limit in [1, 4, 44, 45, 46, 1_000] {
        let walked = walk(&app, "/v1/categories/account/messages", limit).await;
        assert_eq!(walked.len(), 45, "limit {limit}");
        assert!(numbers(&walked, "global_position").is_sorted_by(|a, b| a < b));
        assert!(walked.iter().all(|message| message["stream_name"].as_str().unwrap().starts_with("account-")));
        ids(&walked);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_walk_over_everything_passes_over_holes() {
    let (database, app) = filled("account", 5, 9).await;
    let sql = database.connect().await;
    sql.batch_execute("DELETE FROM message_store.messages WHERE global_position IN (1, 2, 30, 31, 32, 90)")
        .await
        .unwrap();
    let expected: Vec<i64> = (1..=90).filter(|position| ![1, 2, 30, 31, 32, 90].contains(position)).collect();
    for limit in [1, 7, 84, 1_000] {
        let walked = walk(&app, "/v1/all/messages", limit).await;
        assert_eq!(numbers(&walked, "global_position"), expected, "limit {limit}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_walk_backward_is_one_forward_the_other_way_round() {
    let (database, app) = filled("account", 5, 9).await;
    let sql = database.connect().await;
    sql.batch_execute("DELETE FROM message_store.messages WHERE global_position IN (1, 30, 31, 90)").await.unwrap();
    for path in [
        "/v1/categories/account/messages",
        "/v1/all/messages",
        "/v1/categories/account/messages?types=Opened",
        "/v1/all/messages?filter=data.s%20%3D%3D%203",
        "/v1/categories/account/messages?correlation=transfer",
        "/v1/categories/account/messages?consumer_group_member=1&consumer_group_size=3",
    ] {
        let mut forward = walk(&app, path, 1_000).await;
        forward.reverse();
        assert!(!forward.is_empty(), "{path}");
        let separator = if path.contains('?') { '&' } else { '?' };
        for limit in [1, 4, 1_000] {
            let backward = walk(&app, &format!("{path}{separator}direction=backward"), limit).await;
            assert_eq!(backward, forward, "{path}, limit {limit}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn backward_begins_at_the_end_and_ends_at_the_first_position() {
    let (_database, app) = filled("account", 1, 5).await;
    for (path, positions) in [
        ("/v1/categories/account/messages", [1, 3, 5, 7, 9].as_slice()),
        ("/v1/all/messages", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ] {
        let last = *positions.last().unwrap();
        for (parameters, expected, next, at_end) in [
            ("limit=1", vec![last], json!(last - 1), false),
            ("from=1000&limit=1", vec![last], json!(last - 1), false),
            ("from=9223372036854775807&limit=1", vec![last], json!(last - 1), false),
            ("from=5&limit=1", vec![5], json!(4), false),
            ("from=1", vec![1], json!(null), true),
            ("from=1&limit=1", vec![1], json!(null), true),
            ("from=0", vec![], json!(null), true),
        ] {
            let page = app.get(&format!("{path}?direction=backward&{parameters}")).await.json();
            assert_eq!(
                numbers(page["messages"].as_array().unwrap(), "global_position"),
                expected,
                "{path} {parameters}"
            );
            assert_eq!((&page["next"], &page["at_end"]), (&next, &json!(at_end)), "{path} {parameters}");
        }
    }
    let page = app.get("/v1/categories/nothing/messages?direction=backward").await.json();
    assert_eq!(page, json!({ "messages": [], "next": null, "at_end": true }));
    app.stop().await;
}

/// What is not settled may still be followed by something before it.
#[tokio::test]
async fn all_messages_backward_begin_with_what_is_settled() {
    let (database, app) = filled("account", 1, 2).await;
    let mut writer = database.connect().await;
    let open = writer.transaction().await.unwrap();
    open.execute("SELECT message_store.write_message(gen_random_uuid()::text, 'late-1', 'T', '{}')", &[])
        .await
        .unwrap();
    assert_eq!(app.append("account-9", &one("After")).await.status, 201);
    let positions = |page: serde_json::Value| numbers(page["messages"].as_array().unwrap(), "global_position");
    assert_eq!(positions(app.get("/v1/all/messages?direction=backward").await.json()), [4, 3, 2, 1]);
    // A category's page has what was written as soon as that is answered.
    assert_eq!(positions(app.get("/v1/categories/account/messages?direction=backward&limit=1").await.json()), [6]);
    open.commit().await.unwrap();
    assert_eq!(positions(app.get("/v1/all/messages?direction=backward").await.json()), [6, 5, 4, 3, 2, 1]);
    app.stop().await;
}

#[tokio::test]
async fn from_is_inclusive_and_may_be_after_the_end() {
    let (_database, app) = filled("account", 1, 4).await;
    for path in ["/v1/categories/account/messages", "/v1/all/messages"] {
        let all = walk(&app, path, 1_000).await;
        let second = all[1]["global_position"].as_i64().unwrap();
        let page = app.get(&format!("{path}?from={second}")).await.json();
        assert_eq!(page["messages"].as_array().unwrap().as_slice(), &all[1..]);
        for from in [1_000, i64::MAX] {
            let page = app.get(&format!("{path}?from={from}")).await.json();
            assert_eq!(page, json!({ "messages": [], "next": from, "at_end": true }), "{path}");
        }
        // The first position is 1; 0 is before it.
        assert_eq!(app.get(&format!("{path}?from=0")).await.json(), app.get(path).await.json());
    }
    app.stop().await;
}

#[tokio::test]
async fn next_at_the_end_goes_on_with_what_comes_later() {
    let (_database, app) = filled("account", 2, 2).await;
    for path in ["/v1/categories/account/messages", "/v1/all/messages"] {
        let next = app.get(path).await.json()["next"].as_i64().unwrap();
        app.append("account-1", &one("Later")).await;
        let page = app.get(&format!("{path}?from={next}")).await.json();
        assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{path}: {page}");
        assert_eq!(page["messages"][0]["type"], "Later");
    }
    app.stop().await;
}

#[tokio::test]
async fn an_unknown_category_is_an_empty_page() {
    let (_database, app) = filled("account", 1, 1).await;
    let page = app.get("/v1/categories/nothing/messages").await.json();
    assert_eq!((&page["messages"], &page["at_end"]), (&json!([]), &json!(true)));
    app.stop().await;
}

#[tokio::test]
async fn a_category_is_the_whole_text_before_the_hyphen() {
    let (_database, app) = filled("account", 1, 1).await;
    for stream in ["account", "account-", "account:command-1", "accounts-1", "accoun-t", "Account-1", "-account"] {
        app.append(stream, &one("Opened")).await;
    }
    let walked = walk(&app, "/v1/categories/account/messages", 2).await;
    let streams: Vec<_> = walked.iter().map(|message| message["stream_name"].as_str().unwrap()).collect();
    assert_eq!(streams, ["account-1", "account", "account-"]);
    let walked = walk(&app, "/v1/categories/account:command/messages", 2).await;
    assert_eq!(walked.len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn correlation_is_the_category_that_the_metadata_names() {
    let (_database, app) = filled("account", 3, 2).await;
    for (metadata, type_name) in [
        (json!({ "correlationStreamName": "billing-7" }), "Billed"),
        (json!({ "correlationStreamName": "billing" }), "BilledBare"),
        (json!({ "correlationStreamName": "billings-7" }), "Other"),
        (json!({ "correlationStreamName": 7 }), "Number"),
        (json!({ "correlationStreamName": null }), "Null"),
        (json!(null), "None"),
        (json!([1]), "List"),
    ] {
        let body = json!({ "messages": [{ "type": type_name, "metadata": metadata }] });
        assert_eq!(app.append("account-9", &body).await.status, 201);
    }
    let walked = walk(&app, "/v1/categories/account/messages?correlation=billing", 1).await;
    assert_eq!(walked.iter().map(|message| message["type"].clone()).collect::<Vec<_>>(), ["Billed", "BilledBare"]);
    assert_eq!(walk(&app, "/v1/categories/account/messages?correlation=transfer", 4).await.len(), 6);
    assert_eq!(walk(&app, "/v1/categories/account/messages?correlation=nothing", 4).await.len(), 0);
    app.stop().await;
}

#[tokio::test]
async fn each_stream_belongs_to_exactly_one_of_three_members_and_none_is_left_out() {
    let (database, app) = filled("account", 40, 3).await;
    // The same cardinal id keeps its member, whatever is added to it.
    app.append("account-7+extra", &one("Opened")).await;
    let all = ids(&walk(&app, "/v1/categories/account/messages", 1_000).await);
    let mut member_of: HashMap<String, i64> = HashMap::new();
    let mut covered = HashSet::new();
    for member in 0..3 {
        let path = format!("/v1/categories/account/messages?consumer_group_member={member}&consumer_group_size=3");
        let own = walk(&app, &path, 10).await;
        assert!(!own.is_empty());
        for message in &own {
            let stream = message["stream_name"].as_str().unwrap().to_owned();
            assert_eq!(*member_of.entry(stream).or_insert(member), member, "a stream at two members");
            assert!(covered.insert(message["id"].as_str().unwrap().to_owned()), "a message at two members");
        }
        // The members are Message DB's.
        let sql = "SELECT count(*) FROM message_store.get_category_messages('account', 1, -1, NULL, $1, 3)";
        let count: i64 = database.connect().await.query_one(sql, &[&member]).await.unwrap().get(0);
        assert_eq!(own.len() as i64, count);
    }
    assert_eq!(covered, all);
    assert_eq!(member_of["account-7"], member_of["account-7+extra"]);
    app.stop().await;
}

#[tokio::test]
async fn a_group_of_one_has_every_stream_with_an_id() {
    let (_database, app) = filled("account", 3, 1).await;
    app.append("account", &one("NoId")).await;
    let path = "/v1/categories/account/messages?consumer_group_member=0&consumer_group_size=1";
    assert_eq!(walk(&app, path, 2).await.len(), 3);
    app.stop().await;
}
