//! Which pages may be kept, and until when they are the same.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

async fn not_kept(app: &TestClient, path: &str) {
    let answer = app.get(path).await;
    assert_eq!((answer.status, header(&answer, "cache-control")), (200, Some("no-store")), "{path}");
}

#[tokio::test]
async fn full_pages_of_settled_messages_are_kept_and_no_others() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    fill(&app, "a-1", 30).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" }, "max_partition": 0 });
    assert_eq!(app.put("/v1/aggregated-streams/all-a", &definition).await.status, 201);
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "key", "of": "type" } });
    assert_eq!(app.put("/v1/aggregated-streams/by-type", &definition).await.status, 201);
    for name in ["all-a", "by-type"] {
        app.get(&format!("/v1/aggregated-streams/{name}?min_position=30&wait=20s")).await;
    }
    let logs = [
        "/v1/streams/a-1/messages",
        "/v1/categories/a/messages",
        "/v1/all/messages",
        "/v1/aggregated-streams/all-a/partitions/0/messages",
        "/v1/aggregated-streams/by-type/keys/Written/messages",
    ];
    for log in logs {
        for query in
            ["limit=10", "limit=10&from=5", "limit=10&types=Written", "limit=3&filter=data.n%20%25%202%20%3D%3D%200"]
        {
            let path = format!("{log}?{query}");
            let tag = tag_of(&app.get(&path).await);
            let same = again(&app, &path, &tag).await;
            assert_eq!((same.status, same.text.as_str()), (304, ""), "{path}");
            assert_eq!((header(&same, "etag"), header(&same, "cache-control")), (Some(&*tag), Some(SETTLED)));
            // Another URL is another page.
            assert_eq!(again(&app, &format!("{path}&from_time=2020-01-01T00:00:00Z"), &tag).await.status, 200);
            let head = app.http.head(format!("{}{path}", app.url)).send().await.unwrap();
            assert_eq!(head.headers()["etag"], *tag);
            assert_eq!(head.headers()["cache-control"], SETTLED);
        }
        for query in ["limit=30", "limit=100", "from=20&limit=100", "from=1000", "types=Nothing"] {
            not_kept(&app, &format!("{log}?{query}")).await;
        }
    }
    for log in &logs[..3] {
        tag_of(&app.get(&format!("{log}?direction=backward&from=20&limit=10")).await);
        // What is appended next is on these.
        not_kept(&app, &format!("{log}?direction=backward&limit=10")).await;
        not_kept(&app, &format!("{log}?direction=backward&from=1000&limit=10")).await;
    }
    not_kept(&app, "/v1/streams/a-1/messages?from_last=Written").await;
    for (path, status) in [("/v1/streams/a-1/messages?limit=0", 422), ("/v1/messages/x", 400), ("/v1/nowhere", 404)] {
        let answer = app.get(path).await;
        assert_eq!((answer.status, header(&answer, "cache-control")), (status, Some("no-store")), "{path}");
    }
    // No cache is to guess of what else there is.
    for path in ["/v1/streams/a-1", "/v1/streams/a-1/messages/last", "/v1/reports/categories", "/readyz", "/metrics"] {
        assert_eq!(header(&app.get(path).await, "cache-control"), Some("no-cache"), "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_settled_is_not_kept() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    fill(&app, "a-1", 10).await;
    // A writer that has taken a position, and may still write it.
    let mut writer = database.connect().await;
    let transaction = writer.transaction().await.unwrap();
    transaction
        .execute("INSERT INTO message_store.messages (stream_name, position, type) VALUES ('b-1', 0, 'T')", &[])
        .await
        .unwrap();
    fill(&app, "a-1", 20).await;
    not_kept(&app, "/v1/categories/a/messages?limit=20").await;
    not_kept(&app, "/v1/streams/a-1/messages?limit=20").await;
    tag_of(&app.get("/v1/categories/a/messages?limit=5").await);
    transaction.commit().await.unwrap();
    app.service.tail.refresh().await;
    eventually("all is settled", || async { (app.service.tail.settled() >= 31).then_some(()) }).await;
    tag_of(&app.get("/v1/categories/a/messages?limit=20").await);
    tag_of(&app.get("/v1/streams/a-1/messages?limit=20").await);
    app.stop().await;
}

/// Everything that changes a kept page makes its tag another one, on this instance at once and on others within a look.
#[tokio::test]
async fn erasures_trims_and_rebuilds_are_seen_by_whoever_asks_again() {
    let database = TestDatabase::migrated().await;
    let (app, other) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let ids = fill(&app, "a-1", 30).await;
    fill(&app, "b-1", 30).await;
    other.service.tail.refresh().await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" }, "max_partition": 0 });
    assert_eq!(app.put("/v1/aggregated-streams/all-a", &definition).await.status, 201);
    app.get("/v1/aggregated-streams/all-a?min_position=60&wait=20s").await;
    let paths = [
        "/v1/streams/a-1/messages?limit=10&from=10",
        "/v1/categories/a/messages?limit=10&from=11",
        "/v1/all/messages?limit=10&from=11",
        "/v1/aggregated-streams/all-a/partitions/0/messages?limit=10&from=10",
    ];
    let tags = |answers: Vec<Answer>| answers.iter().map(tag_of).collect::<Vec<_>>();
    let mut known = tags(futures_util::future::join_all(paths.map(|path| app.get(path))).await);
    for (path, tag) in paths.iter().zip(&known) {
        // All instances have one tag for a page.
        assert_eq!(again(&other, path, tag).await.status, 304, "{path}");
    }

    assert_eq!(app.delete(&format!("/v1/messages/{}", ids[12])).await.status, 200);
    for (path, tag) in paths.iter().zip(&mut known) {
        let changed = again(&app, path, tag).await;
        assert!(changed.status == 200 && changed.text.contains("\"erased\":"), "{path}: {}", changed.text);
        let elsewhere = eventually("the other instance knows of the erasure", || async {
            let answer = again(&other, path, tag).await;
            (answer.status == 200 && header(&answer, "etag").is_some()).then_some(answer)
        })
        .await;
        assert!(elsewhere.text.contains("\"erased\":"), "{path}");
        *tag = tag_of(&elsewhere);
        assert_eq!(tag_of(&eventually_kept(&app, path).await), *tag);
    }

    let trimmed = app.post("/v1/streams/a-1/trim", &json!({ "before_position": 15 })).await;
    assert_eq!(trimmed.json()["trimmed"], 15, "{}", trimmed.text);
    for (path, tag) in paths.iter().zip(&known) {
        let changed = again(&app, path, tag).await;
        match changed.status {
            410 => assert_eq!(header(&changed, "cache-control"), Some("no-store"), "{path}"),
            status => assert_eq!((status, changed.text.contains("\"n\":14")), (200, false), "{path}"),
        }
        eventually("the other instance knows of the trim", || async {
            (again(&other, path, tag).await.status != 304).then_some(())
        })
        .await;
    }

    let partition = "/v1/aggregated-streams/all-a/partitions/0/messages?limit=10&from=15";
    let tag = tag_of(&eventually_kept(&app, partition).await);
    assert_eq!(app.post("/v1/aggregated-streams/all-a/rebuild", &json!({})).await.status, 200);
    eventually("the rebuilt pages are there", || async {
        (again(&app, partition, &tag).await.status != 304).then_some(())
    })
    .await;
    other.stop().await;
    app.stop().await;
}

/// A page once the instance knows again which state the log is in.
async fn eventually_kept(app: &TestClient, path: &str) -> Answer {
    eventually("the page may be kept", || async {
        let answer = app.get(path).await;
        (header(&answer, "cache-control") == Some(SETTLED)).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn another_log_has_other_pages() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    fill(&app, "a-1", 30).await;
    let path = "/v1/categories/a/messages?limit=10";
    let tag = tag_of(&app.get(path).await);
    let sql = database.connect().await;
    sql.batch_execute("TRUNCATE message_store.messages RESTART IDENTITY").await.unwrap();
    eventually("the log is found to be another one", || async {
        app.service.tail.history_changed().is_some().then_some(())
    })
    .await;
    fill(&app, "a-1", 30).await;
    let other = again(&app, path, &tag).await;
    assert_eq!(other.status, 200);
    assert_ne!(tag_of(&eventually_kept(&app, path).await), tag);
    app.stop().await;
}

#[tokio::test]
async fn with_credentials_pages_are_the_callers_own() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    fill(&app, "a-1", 30).await;
    fill(&app, "a-2", 30).await;
    let path = "/v1/categories/a/messages?limit=10";
    let all = app.get(path).await;
    let tag = tag_of(&all);
    assert_eq!(header(&all, "vary"), Some("authorization, cookie"));
    // One that may read less of it has another page, though the URL is the same.
    let narrow = app.client_that_may(&["read:a-2"]).await;
    let own = again(&narrow, path, &tag).await;
    assert_eq!(own.status, 200);
    assert_ne!(tag_of(&own), tag);
    let stranger = app.client_without();
    assert_eq!(again(&stranger, path, &tag).await.status, 401);
    app.stop().await;
}

#[tokio::test]
async fn settings_say_whose_caches_and_for_how_long() {
    use headwater::config::PageCache;
    use std::time::Duration;

    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.page_cache = PageCache::Public).await;
    fill(&app, "a-1", 30).await;
    let path = "/v1/streams/a-1/messages?limit=10";
    let public = "public, max-age=60, stale-while-revalidate=300";
    assert_eq!(header(&app.get(path).await, "cache-control"), Some(public));
    app.stop().await;
    let app = TestApp::with(&database.url, |settings| settings.page_max_age = Duration::ZERO).await;
    app.service.tail.refresh().await;
    let asks_each_time = app.get(path).await;
    assert_eq!(header(&asks_each_time, "cache-control"), Some("private, no-cache"));
    assert_eq!(again(&app, path, header(&asks_each_time, "etag").unwrap()).await.status, 304);
    app.stop().await;
}

#[test]
fn pages_for_everybody_go_with_no_credentials() {
    let refused = crate::support::service_process::ServiceProcess::try_start(&[
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        "postgresql://nobody@127.0.0.1:1/nothing",
        "--credentials",
        "required",
        "--page-cache",
        "public",
    ]);
    assert!(!refused.err().expect("it does not start").success());
}

/// Nobody signals it, and the log itself is looked at seldom.
#[tokio::test]
async fn what_another_program_trims_is_known_soon_however_seldom_the_log_is_looked_at() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.poll_interval = Duration::from_secs(60)).await;
    fill(&app, "a-1", 30).await;
    let path = "/v1/streams/a-1/messages?limit=10&from=10";
    let tag = tag_of(&eventually_kept(&app, path).await);
    assert_eq!(again(&app, path, &tag).await.status, 304);
    let trim = "SELECT headwater.trim_stream('a-1', NULL, NULL, 10, true, 500)";
    database.connect().await.batch_execute(trim).await.unwrap();
    eventually("the trim is known", || async { (again(&app, path, &tag).await.status != 304).then_some(()) }).await;
    app.stop().await;
}
