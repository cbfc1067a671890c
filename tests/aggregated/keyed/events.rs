//! Keys are followed as partitions are, and before they exist.

use super::*;
use crate::support::events::Events;

/// A message's global position, and its places: key, partition, position.
type Told = (i64, Vec<(String, i32, i64)>);

fn keys_of(event: &Value) -> Vec<(String, i32, i64)> {
    let place = |one: &Value| {
        (
            one["key"].as_str().unwrap().to_owned(),
            one["partition"].as_i64().unwrap() as i32,
            one["position"].as_i64().unwrap(),
        )
    };
    event["keys"].as_array().unwrap_or_else(|| panic!("{event}")).iter().map(place).collect()
}

/// What followers of some keys are told, by the model: each message once, with its places among those keys.
fn expected(messages: &[(i64, Vec<String>)], wanted: &[&str]) -> Vec<Told> {
    let index = model(messages);
    let mut told: HashMap<i64, Vec<(String, i32, i64)>> = HashMap::new();
    for (key, links) in index.iter().filter(|(key, _)| wanted.is_empty() || wanted.contains(&key.as_str())) {
        for (partition, position, global_position) in links {
            told.entry(*global_position).or_default().push((key.clone(), *partition, *position));
        }
    }
    let mut told: Vec<_> = told.into_iter().collect();
    told.sort_by_key(|one| one.0);
    told.iter_mut().for_each(|(_, places)| places.sort_by_key(|place| place.1));
    told
}

#[tokio::test]
async fn a_message_is_one_event_with_its_place_in_each_followed_key() {
    let database = TestDatabase::migrated().await;
    let (app, other) = (TestApp::on(&database).await, TestApp::on(&database).await);
    define(&app, "skus", &by_sku()).await;
    let path = format!("{}/events", path_of("skus"));
    let wanted: [&[&str]; 4] = [&["a"], &["b", "c"], &["late"], &[]];
    let query = |keys: &[&str]| keys.iter().map(|key| format!("&key={key}")).collect::<String>();
    let mut live = Vec::new();
    for keys in wanted {
        for app in [&app, &other] {
            let mut events = app.follow(&format!("{path}?from=end{}", query(keys))).await;
            events.next("caught-up").await;
            live.push((keys, events));
        }
    }
    let mut messages = Vec::new();
    for (number, keys) in [&["a", "b"][..], &["c", "b"], &["a"], &["d"], &["c", "a"], &["late", "d"], &["a", "late"]]
        .into_iter()
        .cycle()
        .take(70)
        .enumerate()
    {
        let at = app.write(&format!("order-{}", number % 3), "Ordered", json!({ "sku": keys })).await;
        messages.push((at, keys.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
    projected(&app, "skus", messages[69].0).await;
    for (keys, events) in &mut live {
        let expected = expected(&messages, keys);
        for (at, places) in &expected {
            let event = events.next("message").await.json();
            assert_eq!((link_of(&event).2, keys_of(&event)), (*at, places.clone()), "{keys:?}");
            assert_eq!((link_of(&event).0, link_of(&event).1), (places[0].1, places[0].2));
        }
    }
    // From the database it is the same, from wherever a follower comes back.
    for keys in wanted {
        let expected = expected(&messages, keys);
        for from in [0, expected.len() / 2] {
            let cursor = from.checked_sub(1).map_or("0".to_owned(), |last| expected[last].0.to_string());
            let url = format!("{}{path}?{}", other.url, query(keys).trim_start_matches('&'));
            let mut events = Events::resume(&url, &cursor).await;
            for (at, places) in &expected[from..] {
                let event = events.next("message").await.json();
                assert_eq!((link_of(&event).2, keys_of(&event)), (*at, places.clone()), "{keys:?} from {from}");
            }
            events.next("caught-up").await;
        }
    }
    // By their numbers partitions are followed as well.
    let mut events = app.follow(&format!("{path}?partition=1&from=beginning")).await;
    assert_eq!(keys_of(&events.next("message").await.json()), [("b".to_owned(), 1, 0)]);
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn an_empty_page_waits_for_the_first_message_of_a_key() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "skus", &by_sku()).await;
    until_state(&app, "skus", "live").await;
    let path = format!("{}/keys/new/messages?wait=20s", path_of("skus"));
    let waiting = async { app.get(&path).await.json() };
    let writing = async {
        for number in 0..20 {
            app.write("order-1", "Ordered", json!({ "sku": number })).await;
        }
        app.write("order-1", "Ordered", json!({ "sku": "new" })).await
    };
    let (page, at) = tokio::join!(waiting, writing);
    assert_eq!(link_of(&page["messages"][0]), (page["messages"][0]["partition"].as_i64().unwrap() as i32, 0, at));
    assert_eq!((&page["next"], &page["at_end"]), (&json!(1), &json!(true)));
    app.stop().await;
}

#[tokio::test]
async fn a_rebuild_is_not_seen_by_followers_of_a_key() {
    let database = TestDatabase::migrated().await;
    let (app, other) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let sql = database.connect().await;
    define(&app, "skus", &by_sku()).await;
    let mut messages = Vec::new();
    let path = format!("{}/events?key=k1&key=k4&from=beginning", path_of("skus"));
    let mut followers = [app.follow(&path).await, other.follow(&path).await];
    let mut number = 0;
    for round in 0..4 {
        order(if round % 2 == 0 { &app } else { &other }, "skus", "rebuild").await;
        let mut count = 0;
        while status(&app, "skus").await["rebuild"].is_object() || count < 5 {
            let keys = vec![format!("k{}", number % 5), format!("k{}", number % 7)];
            messages.push((app.write("order-1", "Ordered", json!({ "sku": keys })).await, keys));
            (number, count) = (number + 1, count + 1);
        }
    }
    projected(&app, "skus", messages[messages.len() - 1].0).await;
    is_index_of(&app, &sql, "skus", &messages).await;
    let expected = expected(&messages, &["k1", "k4"]);
    for events in &mut followers {
        for (at, places) in &expected {
            let event = events.next("message").await.json();
            assert_eq!((link_of(&event).2, keys_of(&event)), (*at, places.clone()));
        }
    }
    // Of the old projections nothing is left.
    let rows = "SELECT (SELECT count(*) FROM headwater.projections), (SELECT count(DISTINCT projection_id) FROM \
        headwater.aggregated_keys), (SELECT count(DISTINCT projection_id) FROM headwater.aggregated_messages)";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = sql.query_one(rows, &[]).await.unwrap();
        if (0..3).all(|at| row.get::<_, i64>(at) == 1) {
            break;
        }
        assert!(Instant::now() < deadline, "{row:?}");
        tokio::time::sleep(POLL).await;
    }
    other.stop().await;
    app.stop().await;
}
