//! A request that was done before is recognised, and an id never belongs to two messages.

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{Answer, TestApp, encode};
use crate::support::database::TestDatabase;

fn request(ids: &[Uuid]) -> Value {
    let message = |id| json!({ "id": id, "type": "T", "data": { "a": 1, "b": [1.50] }, "metadata": { "m": null } });
    json!({ "messages": ids.iter().map(message).collect::<Vec<_>>() })
}

fn new_ids<const N: usize>() -> [Uuid; N] {
    std::array::from_fn(|_| Uuid::new_v4())
}

/// Asserts that this is the first answer again.
fn assert_duplicate_of(answer: &Answer, first: &Answer) {
    assert_eq!(first.status, 201, "{}", first.text);
    let mut expected = first.json();
    expected["duplicate"] = json!(true);
    assert_eq!((answer.status, answer.json()), (200, expected));
}

async fn count(database: &TestDatabase) -> i64 {
    let client = database.connect().await;
    client.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
}

async fn append_with_key(app: &TestApp, stream: &str, key: &str, body: &Value) -> Answer {
    let path = format!("{}/v1/streams/{}/messages", app.url, encode(stream));
    Answer::of(app.http.post(path).header("Idempotency-Key", key).json(body).send().await.unwrap()).await
}

#[tokio::test]
async fn same_request_is_answered_with_its_first_result_before_its_version_is_looked_at() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut body = request(&new_ids::<3>());
    body["expected_version"] = json!(-1);
    let first = app.append("a-1", &body).await;
    assert_duplicate_of(&app.append("a-1", &body).await, &first);
    app.write("a-1", "Later", json!({})).await;
    assert_duplicate_of(&app.append("a-1", &body).await, &first);
    // The same JSON in another writing is the same content.
    let text = body.to_string().replace(r#"{"a":1,"b":[1.5]}"#, r#"{ "b" : [1.50], "a" : 7, "a" : 1 }"#);
    assert_ne!(text, body.to_string());
    assert_duplicate_of(&app.post_text("/v1/streams/a-1/messages", text).await, &first);
    body["must_exist"] = json!(true);
    assert_duplicate_of(&app.append("a-1", &body).await, &first);
    app.stop().await;
    let app = TestApp::on(&database).await;
    assert_duplicate_of(&app.append("a-1", &body).await, &first);
    assert_eq!(count(&database).await, 4);
}

#[tokio::test]
async fn same_request_sent_at_once_is_written_once_also_on_two_instances() {
    let database = TestDatabase::migrated().await;
    let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
    for round in 0..10 {
        let mut body = request(&new_ids::<2>());
        body["expected_version"] = json!(2 * round - 1);
        let both = round % 2 == 1;
        let apps = (0..20).map(|n| if both && n % 2 == 1 { &two } else { &one });
        let answers = join_all(apps.map(|app| app.append("a-1", &body))).await;
        let (first, again): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
        assert_eq!(first.len(), 1, "{answers:?}");
        for answer in again {
            assert_duplicate_of(answer, first[0]);
        }
        assert_eq!(count(&database).await, 2 * (round + 1));
    }
}

#[tokio::test]
async fn idempotency_key_gives_ids_to_messages_that_have_none() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let own = Uuid::new_v4();
    let body = json!({ "messages": [{ "type": "A" }, { "type": "B", "id": own }, { "type": "C" }] });
    let key = "größe 1";
    let first = append_with_key(&app, "a-1", key, &body).await;
    assert_duplicate_of(&append_with_key(&app, "a-1", key, &body).await, &first);
    let ids_of = |answer: &Answer| -> Vec<Uuid> {
        let messages = answer.json()["messages"].as_array().unwrap().clone();
        messages.iter().map(|message| message["id"].as_str().unwrap().parse().unwrap()).collect()
    };
    let ids = ids_of(&first);
    assert_eq!((ids[0].get_version_num(), ids[1], ids[2].get_version_num()), (5, own, 5));
    assert_ne!(ids[0], ids[2]);

    // Blanks around a header's value are not part of it.
    assert_duplicate_of(&append_with_key(&app, "a-1", "größe 1 ", &body).await, &first);

    let body = json!({ "messages": [{ "type": "A" }] });
    for (stream, key) in [("a-1", "another"), ("a-2", key)] {
        let answer = append_with_key(&app, stream, key, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        assert!(!ids.contains(&ids_of(&answer)[0]));
    }
    let changed = json!({ "messages": [{ "type": "A", "data": 1 }, { "type": "B", "id": own }, { "type": "C" }] });
    let problem = append_with_key(&app, "a-1", key, &changed).await.problem(409, "message-id-reused");
    assert_eq!(problem["message_id"], ids[0].to_string());
    append_with_key(&app, "a-1", "", &body).await.problem(422, "invalid");
    append_with_key(&app, "a-1", &"k".repeat(1_001), &body).await.problem(422, "invalid");
    assert_eq!(count(&database).await, 5);
}

#[tokio::test]
async fn id_that_stands_for_something_else_is_told_with_where_it_stands() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("a-1", "T", json!({})).await;
    let [id] = new_ids();
    let body = request(&[id]);
    assert_eq!(app.append("a-1", &body).await.status, 201);
    let with = |key: &str, value: Value| {
        let mut body = body.clone();
        body["messages"][0][key] = value;
        body
    };
    let other = [
        ("a-2", body.clone()),
        ("b-1", body.clone()),
        ("a-1", with("type", json!("t"))),
        ("a-1", with("data", json!({ "a": 2, "b": [1.50] }))),
        ("a-1", with("data", Value::Null)),
        ("a-1", with("metadata", json!({}))),
        ("a-1", with("metadata", Value::Null)),
    ];
    for (stream, body) in other {
        let problem = app.append(stream, &body).await.problem(409, "message-id-reused");
        let facts = (&problem["message_id"], &problem["stream_name"], &problem["position"]);
        assert_eq!(facts, (&json!(id), &json!("a-1"), &json!(1)), "{body}");
    }
    // A time is not content: whoever sends again may not know the first one.
    assert_eq!(app.append("a-1", &with("time", json!("2001-01-01T00:00:00Z"))).await.status, 200);
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn request_of_which_a_part_stands_is_refused_whole() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let [a, b, c, d] = new_ids();
    assert_eq!(app.append("a-1", &request(&[a, b])).await.status, 201);
    for (ids, stands, position) in
        [(vec![a, c], a, 0), (vec![c, b], b, 1), (vec![a, b, c], a, 0), (vec![b, a], b, 1), (vec![c, d, b], b, 1)]
    {
        let problem = app.append("a-1", &request(&ids)).await.problem(409, "message-id-reused");
        assert_eq!((&problem["message_id"], &problem["position"]), (&json!(stands), &json!(position)), "{ids:?}");
    }
    assert_eq!(count(&database).await, 2);
    app.append("a-1", &request(&[c, c])).await.problem(422, "invalid");
    assert_eq!(app.append("a-1", &request(&[c, d])).await.json()["version"], 3);
}

#[tokio::test]
async fn of_two_requests_with_one_id_in_two_categories_one_is_written_and_the_other_told() {
    let database = TestDatabase::migrated().await;
    let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
    for _ in 0..30 {
        let id = Uuid::new_v4();
        let body = request(&[id]);
        // Neighbours in the same transactions are not to suffer from it.
        let plain = json!({ "messages": [{ "type": "T" }] });
        let race = join(one.append("left-1", &body), two.append("right-1", &body));
        let (answers, neighbours) =
            join(race, join_all([&one, &two, &one, &two].map(|app| app.append("left-2", &plain)))).await;
        for neighbour in neighbours {
            assert_eq!(neighbour.status, 201, "{}", neighbour.text);
        }
        let (won, lost) = if answers.0.status == 201 { answers } else { (answers.1, answers.0) };
        assert_eq!(won.status, 201, "{}", won.text);
        let problem = lost.problem(409, "message-id-reused");
        assert_eq!((&problem["message_id"], &problem["stream_name"]), (&json!(id), &won.json()["stream_name"]));
    }
    assert_eq!(count(&database).await, 30 * 5);
}

#[tokio::test]
async fn data_that_is_not_given_is_stored_as_json_null_and_is_the_same_when_it_is_sent_again() {
    let database = TestDatabase::migrated().await;
    let client = database.connect().await;
    let app = TestApp::on(&database).await;
    let stored = async |id: Uuid| {
        let sql = "SELECT coalesce(data::text, 'NULL'), coalesce(metadata::text, 'NULL') FROM message_store.messages WHERE id = $1";
        let row = client.query_one(sql, &[&id]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, String>(1))
    };
    let without = |id: Uuid| json!({ "messages": [{ "id": id, "type": "T" }] });
    let with_null = |id: Uuid| json!({ "messages": [{ "id": id, "type": "T", "data": null, "metadata": null }] });
    let [first, second, earlier] = new_ids();
    for (id, body, other) in [(first, without(first), with_null(first)), (second, with_null(second), without(second))] {
        let answer = app.append("a-1", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        assert_eq!(stored(id).await, ("null".to_owned(), "NULL".to_owned()));
        assert_duplicate_of(&app.append("a-1", &body).await, &answer);
        assert_duplicate_of(&app.append("a-1", &other).await, &answer);
    }
    // As it was stored before, and as SQL may store it.
    let sql = "INSERT INTO message_store.messages (id, stream_name, type, position) VALUES ($1, 'a-2', 'T', 0)";
    client.execute(sql, &[&earlier]).await.unwrap();
    for body in [without(earlier), with_null(earlier)] {
        let answer = app.append("a-2", &body).await;
        assert_eq!((answer.status, &answer.json()["duplicate"]), (200, &json!(true)), "{}", answer.text);
    }
    let other = json!({ "messages": [{ "id": earlier, "type": "T", "data": {} }] });
    app.append("a-2", &other).await.problem(409, "message-id-reused");
}
