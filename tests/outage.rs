//! PostgreSQL goes away, or is lost at the worst moment: answers stay true, and all goes on by itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::{eventually, until, until_true};
use crate::support::writers::{Told, Writers, compare, send};

/// The statement that connections for appends, and only they, prepare.
const APPEND: &str = "headwater.append_batch";

fn request(id: Uuid, text: &str) -> Value {
    json!({ "messages": [{ "type": "T", "id": id, "data": text }] })
}

const WAITS_FOR_LOCK: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'headwater' AND wait_event_type = 'Lock')";

/// A new message is taken again.
async fn until_it_goes_on(app: &TestApp) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = app.append("again-1", &json!({ "messages": [{ "type": "Again" }] })).await;
        if answer.status == 201 {
            return;
        }
        assert!(Instant::now() < deadline, "it does not go on: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_the_database_is_away_everybody_is_told_quickly_and_then_all_goes_on() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    // Whoever waited for the database would wait for longer than the test.
    let app = TestApp::with(&proxy.url, |settings| {
        (settings.database_connect_timeout, settings.database_wait) = (PATIENCE * 3, PATIENCE * 3);
    })
    .await;
    let writers = Writers::start(&app.url, "load", 8);
    writers.progress(50).await;
    proxy.take_away();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let sent = Instant::now();
        let answer = app.append("away-1", &json!({ "messages": [{ "type": "T" }] })).await;
        assert_eq!(answer.problem(503, "database-unavailable")["outcome"], "not_written");
        assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        for path in ["/v1/streams/load-0/messages", "/v1/categories/load/messages", "/v1/streams/load-0"] {
            let answer = app.get(path).await;
            answer.problem(503, "database-unavailable");
            assert!(answer.headers.contains_key("retry-after"));
        }
        app.get("/readyz").await.problem(503, "database-unavailable");
        assert_eq!(app.get("/livez").await.status, 200);
        assert!(sent.elapsed() < PATIENCE, "six answers took {:?}", sent.elapsed());
    }
    proxy.restore();
    writers.progress(50).await;
    let deadline = Instant::now() + PATIENCE;
    while app.get("/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "it is not ready again");
    }
    assert_eq!(app.get("/v1/categories/load/messages").await.status, 200);
    assert_eq!(app.get("/v1/streams/away-1/messages").await.json()["version"], -1);
    let sent = writers.stop().await;
    // The outage ended in time for every outcome to be found out.
    assert!(sent.iter().all(|sent| sent.told != Told::Nothing));
    assert_eq!(compare(&database.connect().await, &sent).await.len(), 0);
    app.stop().await;
}

#[tokio::test]
async fn append_that_was_committed_is_acknowledged_though_the_answer_was_lost() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_commit_timeout = Duration::from_secs(2)).await;
    let client = database.connect().await;
    // A connection that ends is noticed at once; one that falls silent when its time is over.
    for (round, is_cut) in [true, false, true, false].into_iter().enumerate() {
        // A request after a lost connection is not refused: the database is there.
        app.write("next-1", "T", json!({})).await;
        let links = proxy.links_that_sent(APPEND);
        links.iter().for_each(|link| link.lose_answers());
        let body = request(Uuid::new_v4(), "kept");
        let cutting = async {
            let sql = format!("SELECT count(*) = {} FROM message_store.messages WHERE stream_name = 'a-1'", round + 1);
            until_true(&client, &sql).await;
            if is_cut {
                links.iter().for_each(|link| link.cut());
            }
        };
        let (answer, ()) = tokio::join!(app.append("a-1", &body), cutting);
        assert_eq!(answer.status, 201, "{}", answer.text);
        let document = answer.json();
        assert_eq!((&document["version"], &document["duplicate"]), (&json!(round), &json!(false)));
        let page = app.get(&format!("/v1/streams/a-1/messages?from={round}")).await.json();
        for key in ["id", "position", "global_position", "time"] {
            assert_eq!(page["messages"][0][key], document["messages"][0][key]);
        }
    }
}

#[tokio::test]
async fn append_that_is_answered_as_not_written_never_appears_later() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| {
        settings.append_lock_timeout = Duration::from_secs(60);
        settings.append_commit_timeout = Duration::from_millis(100);
    })
    .await;
    let client = database.connect().await;
    for round in 0..5 {
        let body = request(Uuid::new_v4(), "lost");
        client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1')").await.unwrap();
        let observer = database.connect().await;
        let cutting = async {
            // The session that writes it does not notice that its client is gone, as it waits for the lock.
            until_true(&observer, WAITS_FOR_LOCK).await;
            proxy.links_that_sent(APPEND).iter().for_each(|link| link.cut());
        };
        let (answer, ()) = tokio::join!(app.append("held-1", &body), cutting);
        assert_eq!(answer.problem(503, "database-unavailable")["outcome"], "not_written");
        client.batch_execute("COMMIT").await.unwrap();
        // Every transaction that waited for the lock before has had it when this one gets it.
        client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1'); COMMIT").await.unwrap();
        let stands = "SELECT count(*) FROM message_store.messages WHERE stream_name = 'held-1'";
        assert_eq!(client.query_one(stands, &[]).await.unwrap().get::<_, i64>(0), round);
        until_it_goes_on(&app).await;
        // A disk that takes as long as the limit makes it "not written" again.
        let answer = eventually("the message to be taken", || async {
            Some(app.append("held-1", &body).await).filter(|answer| answer.status != 503)
        })
        .await;
        assert_eq!((answer.status, &answer.json()["version"]), (201, &json!(round)), "{}", answer.text);
    }
}

#[tokio::test]
async fn id_that_stood_for_something_else_is_not_acknowledged_when_the_answer_was_lost() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let id = Uuid::new_v4();
    assert_eq!(app.append("first-1", &request(id, "one")).await.status, 201);
    for (stream, text) in [("second-1", "other stream"), ("first-1", "other data")] {
        until_it_goes_on(&app).await;
        let links = proxy.links_that_sent(APPEND);
        links.iter().for_each(|link| link.lose_answers());
        let body = request(id, text);
        let cutting = async {
            until("the statement is sent", PATIENCE, || links.iter().any(|link| link.has_sent(text))).await;
            links.iter().for_each(|link| link.cut());
        };
        let (answer, ()) = tokio::join!(app.append(stream, &body), cutting);
        let problem = answer.problem(409, "message-id-reused");
        assert_eq!((&problem["stream_name"], &problem["position"]), (&json!("first-1"), &json!(0)));
    }
}

#[tokio::test]
async fn connection_that_falls_silent_while_it_is_set_up_holds_up_nobody_for_long() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.database_connect_timeout = Duration::from_secs(2)).await;
    until_it_goes_on(&app).await;
    proxy.silence_when_sent(Some("SET enable_seqscan"));
    proxy.cut_all();
    let answers = async {
        // The first one may be in doubt, because it is what notices the cut.
        let answer = app.append("a-1", &json!({ "messages": [{ "type": "T" }] })).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        app.get("/v1/streams/a-1/messages").await.problem(503, "database-unavailable");
    };
    let asked = tokio::time::timeout(Duration::from_secs(15), answers);
    asked.await.expect("they are answered while nothing is heard of the database");
    proxy.silence_when_sent(None);
    until_it_goes_on(&app).await;
    assert_eq!(app.get("/v1/streams/a-1/messages").await.json()["version"], -1);
}

/// PostgreSQL has answered, and still has the session: only this side is not reached by it.
#[tokio::test]
async fn a_statement_whose_answer_never_comes_is_given_up() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let silence = Duration::from_secs(1);
    let app = TestApp::with(&proxy.url, |settings| settings.database_silence_timeout = silence).await;
    app.write("a-1", "T", json!({})).await;
    let holder = database.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let asking = tokio::spawn(app.http.get(format!("{}/v1/streams/a-1", app.url)).send());
    let waits = format!("{} AND query LIKE '%first.position AS%')", WAITS_FOR_LOCK.strip_suffix(')').unwrap());
    // Not by the holder: in one transaction, who else is there is looked up once.
    until_true(&database.connect().await, &waits).await;
    // While PostgreSQL is at work it is waited for, however long that takes.
    tokio::time::sleep(3 * silence).await;
    assert!(!asking.is_finished());
    let links = proxy.links_that_sent("first.position AS");
    assert_eq!(links.len(), 1);
    links[0].silence();
    holder.batch_execute("COMMIT").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), asking).await.expect("it is answered in time");
    assert_eq!(answer.unwrap().unwrap().status(), 503);
    assert_eq!(app.get("/v1/streams/a-1").await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn whenever_a_connection_is_lost_each_append_is_answered_truly_and_stands_once_at_most() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_commit_timeout = Duration::from_millis(200)).await;
    let client = database.connect().await;
    let writers = Writers::start(&app.url, "load", 12);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..30 {
        writers.progress(30).await;
        tokio::time::sleep(Duration::from_micros(random.u64(..4_000))).await;
        let links = proxy.links_that_sent(APPEND);
        match round % 5 {
            0 => links.iter().for_each(|link| link.cut()),
            1 | 2 => {
                links.iter().for_each(|link| link.lose_answers());
                tokio::time::sleep(Duration::from_micros(random.u64(..6_000))).await;
                links.iter().for_each(|link| link.cut());
            }
            3 => links.iter().for_each(|link| if random.bool() { link.silence() } else { link.lose_answers() }),
            _ => {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name = 'headwater'";
                client.execute(sql, &[]).await.unwrap();
            }
        }
    }
    writers.progress(30).await;
    let sent = writers.stop().await;
    println!("{} sent, {} not written", sent.len(), sent.iter().filter(|sent| sent.told == Told::NotWritten).count());
    assert!(sent.iter().all(|sent| sent.told != Told::Nothing), "every outcome can be found out");
    compare(&client, &sent).await;
    // What was not written can be sent again with its id; what was is known.
    let http = crate::support::http_client();
    // By an instance with time to write.
    let calm = TestApp::on(&database).await;
    let again: Vec<_> = sent.iter().rev().filter(|sent| sent.told == Told::NotWritten).take(50).collect();
    for answer in join_all(again.iter().map(|sent| send(&http, &calm.url, sent))).await {
        assert_eq!(answer.unwrap().status, 201);
    }
    for answer in
        join_all(sent.iter().filter(|s| s.told != Told::NotWritten).take(50).map(|s| send(&http, &calm.url, s))).await
    {
        assert_eq!(answer.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_connection_of_which_a_pooler_says_that_it_lost_its_server_is_not_used_again() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let path = "/v1/subscriptions/missing";
    app.get(path).await.problem(404, "not-found");
    for lost in 1..=3 {
        proxy.report_lost_answers_of("headwater.subscriptions", 1);
        eventually("an answer is lost", async || {
            app.get(path).await;
            (proxy.lost_answers() == lost).then_some(())
        })
        .await;
        app.get(path).await.problem(404, "not-found");
    }
    app.stop().await;
}
