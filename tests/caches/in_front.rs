//! nginx and varnish in front, as docs/OPERATIONS.md has them: history without a statement, and thousands who wait with one
//! request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::config::PageCache;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpStream;

use super::*;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::front::Front;
use crate::support::http_client;
use crate::support::own_server::OwnServer;
use crate::support::raw_http::RawHttp;
use crate::support::waiting::eventually;

/// Connections that view pages at the same time.
const VIEWERS: usize = 16;

async fn public(url: &str, max_age: Duration) -> TestApp {
    TestApp::with(url, |settings| {
        settings.page_cache = PageCache::Public;
        settings.page_max_age = max_age;
        settings.page_stale_while_revalidate = Duration::ZERO;
        // Those of caches are few, those of the tests' clients go to the caches.
        settings.wait_max = Duration::from_secs(60);
    })
    .await
}

fn port_of(app: &TestApp) -> u16 {
    app.url.rsplit(':').next().unwrap().parse().unwrap()
}

async fn connect(port: u16) -> RawHttp {
    RawHttp::of(TcpStream::connect(("127.0.0.1", port)).await.expect("the cache accepts connections"))
}

async fn get(connection: &mut RawHttp, path: &str) -> Answer {
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await;
    let answer = connection.answer_within(Duration::from_secs(90)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Requests that came to the service for pages of categories.
async fn upstream(app: &TestApp) -> usize {
    let text = app.get("/metrics").await.text;
    text.lines()
        .filter(|line| {
            line.starts_with("headwater_http_requests_total") && line.contains("\"/v1/categories/{category}/messages\"")
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

/// Views pages of history through a cache. Answers how many a second.
async fn view_history(views: usize) -> f64 {
    let directory = temporary_dir();
    let server = OwnServer::start_counting(&directory.path().join("data")).await;
    // Each page is asked for again after a second: what the service answers to that costs no statement either.
    let app = public(&server.url, Duration::from_secs(1)).await;
    let ids = fill(&app, "a-1", 2_001).await;
    let (front, _) = Front::nginx(&[port_of(&app)]).await;
    let paths: Vec<String> =
        (0..20).map(|page| format!("/v1/categories/a/messages?from={}&limit=100", page * 100 + 1)).collect();
    let mut connection = connect(front.port).await;
    let mut pages = Vec::new();
    for path in &paths {
        pages.push(get(&mut connection, path).await.text);
    }
    let sql = server.sql().await;
    sql.batch_execute("SELECT pg_stat_statements_reset()").await.unwrap();

    let (paths, pages, began) = (Arc::new(paths), Arc::new(pages), Instant::now());
    let viewers = (0..VIEWERS).map(|viewer| {
        let (paths, pages, port) = (paths.clone(), pages.clone(), front.port);
        tokio::spawn(async move {
            let mut connection = connect(port).await;
            for view in 0..views / VIEWERS {
                let page = (view + viewer) % paths.len();
                // nginx ends a connection after a thousand requests, and says so.
                let answer = get(&mut connection, &paths[page]).await;
                assert_eq!(answer.text, pages[page]);
                if header(&answer, "connection") == Some("close") {
                    connection = connect(port).await;
                }
            }
        })
    });
    for viewer in futures_util::future::join_all(viewers).await {
        viewer.unwrap();
    }
    let rate = views as f64 / began.elapsed().as_secs_f64();
    let row = sql
        .query_one(
            "SELECT coalesce(sum(calls) FILTER (WHERE query LIKE '%group_member(m.stream_name%'), 0)::bigint, \
             coalesce(max(calls), 0) FROM pg_stat_statements",
            &[],
        )
        .await
        .unwrap();
    let (of_pages, most) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
    assert_eq!(of_pages, 0, "a page was read again");
    assert!((most as usize) < views / 10, "something was asked {most} times");
    println!("{views} views, {rate:.0} a second, {} requests came to the service", upstream(&app).await);

    // Whoever asks again sees an erasure.
    assert_eq!(app.delete(&format!("/v1/messages/{}", ids[150])).await.status, 200);
    eventually("the erasure is seen through the cache", || async {
        let mut connection = connect(front.port).await;
        get(&mut connection, &paths[1]).await.text.contains("\"erased\":").then_some(())
    })
    .await;
    drop(front);
    app.stop().await;
    drop(sql);
    server.stop().await;
    rate
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_viewed_through_nginx_without_a_statement() {
    view_history(16_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test --test promises a_million_views -- --ignored --nocapture"]
async fn a_million_views_of_history_are_no_statement() {
    view_history(1_000_000).await;
}

/// What the clients of one category ask for, together.
#[derive(Default)]
struct Asked {
    /// Each once: what a cache asks the service.
    different: Mutex<BTreeSet<String>>,
    count: AtomicUsize,
}

/// Polls from a place on, until a message of the type `End`. Answers how many messages came.
async fn poll(port: u16, mut from: i64, mut cursor: i64, asked: Arc<Asked>) -> usize {
    let mut connection = connect(port).await;
    let mut messages = 0;
    loop {
        let path = format!("/v1/categories/a/messages?from={from}&wait=60s&cursor={cursor}");
        asked.different.lock().insert(path.clone());
        asked.count.fetch_add(1, Ordering::SeqCst);
        let page = get(&mut connection, &path).await.json();
        for message in page["messages"].as_array().unwrap() {
            assert!(message["global_position"].as_i64().unwrap() >= from);
            messages += 1;
            if message["type"] == "End" {
                return messages;
            }
        }
        (from, cursor) = (page["next"].as_i64().unwrap(), page["cursor"].as_i64().unwrap());
    }
}

/// Many clients wait through a cache: the service is asked once for each thing that they ask. `arrived` counts those that
/// wait in the cache, but for so many of each round.
async fn fold(app: &TestApp, port: u16, clients: usize, uncounted: usize, arrived: impl AsyncFn() -> usize) {
    let first = get(&mut connect(port).await, "/v1/categories/a/messages?from=0&wait=60s&cursor=0").await.json();
    let (from, cursor) = (first["next"].as_i64().unwrap(), first["cursor"].as_i64().unwrap());
    let (before, came, began) = (upstream(app).await, arrived().await, Instant::now());
    let asked = Arc::new(Asked::default());
    let polls: Vec<_> = (0..clients).map(|_| tokio::spawn(poll(port, from, cursor, asked.clone()))).collect();
    for (round, message_type) in (1..).zip(["Written", "Written", "End"]) {
        // All of them wait in the cache, for the same.
        eventually("all clients wait", || async {
            let all = round * clients;
            let waiting = came + all - round * uncounted;
            (asked.count.load(Ordering::SeqCst) >= all && arrived().await >= waiting).then_some(())
        })
        .await;
        app.write("a-1", message_type, json!({ "round": round })).await;
    }
    for poll in polls {
        assert_eq!(poll.await.unwrap(), 3, "each client has each message once");
    }
    let different = asked.different.lock().len();
    let requests = upstream(app).await - before;
    println!("{} polls of {clients} clients, {requests} requests upstream", asked.count.load(Ordering::SeqCst));
    // Whoever comes more than five seconds after an answer lets the cache ask again.
    let late = different * (began.elapsed().as_secs() / 5) as usize;
    assert!((different..=different + late).contains(&requests), "{requests}: {:?}", asked.different.lock());
}

/// As many open files as the system allows: each client has a socket here, and one in the cache.
fn open_files_for(clients: usize) {
    // SAFETY: the structure is filled by the first call before it is used.
    let allowed = unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        limit.rlim_max
    };
    assert!(allowed as usize > clients + 1_000, "the limit of open files is {allowed}: raise it for this test");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_clients_that_poll_through_nginx_are_one_request() {
    open_files_for(5_000);
    let database = TestDatabase::migrated().await;
    let app = public(&database.url, Duration::from_secs(60)).await;
    let (front, status) = Front::nginx(&[port_of(&app)]).await;
    let http = http_client();
    fold(&app, front.port, 5_000, 0, async || {
        let text = http.get(format!("http://127.0.0.1:{status}/status")).send().await.unwrap().text().await.unwrap();
        // Three numbers: accepted, handled, requests.
        text.lines().nth(2).unwrap().split_whitespace().nth(2).unwrap().parse().unwrap()
    })
    .await;
    drop(front);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_that_poll_through_varnish_are_one_request() {
    let database = TestDatabase::migrated().await;
    let app = public(&database.url, Duration::from_secs(60)).await;
    let front = Front::varnish(port_of(&app)).await;
    // varnish counts those that wait when they are answered. Whoever comes after that is given the same answer.
    fold(&app, front.port, 200, 200, async || 0).await;
    drop(front);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn varnish_keeps_history_and_lets_followers_pass() {
    let database = TestDatabase::migrated().await;
    let app = public(&database.url, Duration::from_secs(1)).await;
    let front = Front::varnish(port_of(&app)).await;
    let ids = fill(&app, "b-1", 30).await;
    let path = "/v1/categories/b/messages?limit=10";
    let first = get(&mut connect(front.port).await, path).await;
    let before = upstream(&app).await;
    assert_eq!(get(&mut connect(front.port).await, path).await.text, first.text);
    // It may have asked whether the page is still the same.
    assert!(upstream(&app).await <= before + 1);
    assert_eq!(app.delete(&format!("/v1/messages/{}", ids[5])).await.status, 200);
    eventually("the erasure is seen through the cache", || async {
        get(&mut connect(front.port).await, path).await.text.contains("\"erased\":").then_some(())
    })
    .await;
    // Event streams pass through it.
    let mut events = crate::support::events::Events::open(&format!("{}/v1/all/events", front.url), &[]).await;
    events.next("caught-up").await;
    app.write("b-1", "Written", json!({})).await;
    events.next("message").await;
    drop(events);
    drop(front);
    app.stop().await;
}
