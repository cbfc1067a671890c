//! Three instances behind haproxy or nginx, as docs/OPERATIONS.md has them, are restarted one after another under load: no
//! request fails for a client that tries once more, no follower loses or repeats a message, and every subscription delivers
//! everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::app::{Answer, PATIENCE};
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::front::{Front, free_port};
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::eventually;

/// How long a client that has lost its event stream waits, whatever `retry` says: the test is not to take minutes.
const RECONNECT: Duration = Duration::from_millis(200);
/// Between two appends of one client: load, but not all that two processors can do.
const PAUSE: Duration = Duration::from_millis(15);

/// Everything that the clients of the test know.
struct World {
    url: String,
    is_over: AtomicBool,
    /// What was acknowledged: position and id, by stream.
    written: Mutex<BTreeMap<String, Vec<Uuid>>>,
    retried: AtomicUsize,
    reconnected: AtomicUsize,
}

impl World {
    /// Sends a request, and once more if that fails: the answer, which is none of the service's or balancer's failures.
    async fn ask(&self, request: RequestBuilder) -> Answer {
        let again = request.try_clone().expect("a request with a body that is known");
        let first = match request.send().await {
            Ok(response) if response.status().as_u16() < 500 => return Answer::of(response).await,
            Ok(response) => response.status().to_string(),
            Err(error) => format!("{error:?}"),
        };
        self.retried.fetch_add(1, Ordering::SeqCst);
        match again.send().await {
            Ok(response) if response.status().as_u16() < 500 => Answer::of(response).await,
            Ok(response) => panic!("failed twice: {first}, then {:?}", Answer::of(response).await),
            Err(error) => panic!("failed twice: {first}, then {error:?}"),
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Appends to a stream of its own, with expected versions and ids.
    async fn append(self: Arc<Self>, stream: String) {
        let (http, mut version) = (http_client(), -1);
        while !self.is_over() {
            let id = Uuid::now_v7();
            let messages = json!([{ "id": id, "type": "Written", "data": { "n": version + 1 } }]);
            let body = json!({ "expected_version": version, "messages": messages });
            let url = format!("{}/v1/streams/{stream}/messages", self.url);
            let answer = self.ask(http.post(url).json(&body)).await;
            // 200: it was written, and the answer was lost.
            assert!([200, 201].contains(&answer.status), "{answer:?}");
            version += 1;
            assert_eq!(answer.json()["version"], version, "{answer:?}");
            self.written.lock().entry(stream.clone()).or_default().push(id);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads pages of the category, from the beginning on and again: each is there.
    async fn read(self: Arc<Self>) {
        let (http, mut from) = (http_client(), 0);
        while !self.is_over() {
            let url = format!("{}/v1/categories/load/messages?from={from}&wait=1s", self.url);
            let answer = self.ask(http.get(url)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            from = answer.json()["next"].as_i64().unwrap();
        }
    }

    /// Opens an event stream as a browser does; a connection that cannot be made is made once more.
    async fn open(&self, url: &str, last_event_id: Option<&str>) -> Events {
        // A connection of its own, as a page has for it.
        let http: Client = http_client();
        let request = http.get(url).header("accept", "text/event-stream");
        let request = match last_event_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        let again = request.try_clone().unwrap();
        match request.send().await {
            Ok(response) if response.status() == 200 => Events::of(response).await,
            _ => {
                self.retried.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(RECONNECT).await;
                Events::of(again.send().await.expect("a second attempt to connect")).await
            }
        }
    }

    /// Follows the category up to its end, which is told by a message of the type `End`.
    async fn follow(self: Arc<Self>) -> Vec<i64> {
        let url = format!("{}/v1/categories/load/events?from=beginning&heartbeat=2s", self.url);
        let (mut positions, mut last_id) = (Vec::new(), None::<String>);
        loop {
            let mut events = self.open(&url, last_id.as_deref()).await;
            while let Some(event) = events.next_block(PATIENCE).await {
                if event.is("message") {
                    positions.push(position_of(&event));
                    if event.json()["type"] == "End" {
                        return positions;
                    }
                }
            }
            last_id = events.last_id.or(last_id);
            self.reconnected.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Consumes a partitioned subscription as an event stream, and acks each message.
    async fn consume(self: Arc<Self>, consumer: String, seen: Arc<Mutex<BTreeSet<i64>>>) {
        let http = http_client();
        let url = format!("{}/v1/subscriptions/by-stream", self.url);
        while !self.is_over() {
            let mut events = self.open(&format!("{url}/events?consumer={consumer}&heartbeat=1s"), None).await;
            while let Some(event) = events.next_block(PATIENCE).await {
                if self.is_over() {
                    return;
                }
                if event.is("message") {
                    let message = event.json();
                    self.ack(&http, &url, &consumer, std::slice::from_ref(&message)).await;
                    note(&seen, &message);
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Fetches from a competing subscription, through whichever instance it comes to.
    async fn fetch(self: Arc<Self>, consumer: String, seen: Arc<Mutex<BTreeSet<i64>>>) {
        let http = http_client();
        let url = format!("{}/v1/subscriptions/by-anybody", self.url);
        while !self.is_over() {
            let body = json!({ "consumer": consumer, "limit": 50, "wait": "500ms", "backlog": true });
            let answer = self.ask(http.post(format!("{url}/fetch")).json(&body)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let messages = answer.json()["messages"].as_array().unwrap().clone();
            if !messages.is_empty() {
                self.ack(&http, &url, &consumer, &messages).await;
                messages.iter().for_each(|message| note(&seen, message));
            }
        }
    }

    async fn ack(&self, http: &Client, url: &str, consumer: &str, messages: &[Value]) {
        let of = |message: &Value| {
            let field = |name: &str| message[name].clone();
            json!({ "partition": field("partition"), "position": field("position"), "epoch": field("epoch") })
        };
        let acks: Vec<Value> = messages.iter().map(of).collect();
        let body = json!({ "consumer": consumer, "acks": acks });
        // Fenced: its partition is another consumer's by now, which is given the message again.
        let answer = self.ask(http.post(format!("{url}/acks")).json(&body)).await;
        assert!([200, 409].contains(&answer.status), "{answer:?}");
    }
}

fn note(seen: &Mutex<BTreeSet<i64>>, delivery: &Value) {
    seen.lock().insert(delivery["message"]["global_position"].as_i64().unwrap());
}

fn start(database: &TestDatabase, port: u16) -> ServiceProcess {
    let listen = format!("127.0.0.1:{port}");
    // The default, which the tests' processes do without elsewhere.
    ServiceProcess::start(&["--listen", &listen, "--database-url", &database.url, "--drain-grace", "5s"])
}

/// What is in front of the instances.
struct Balancer {
    front: Front,
    /// The port of haproxy's statistics. nginx has none.
    statistics: Option<u16>,
}

impl Balancer {
    /// Waits until requests are sent to all instances, or to all but this one.
    async fn knows(&self, instances: &[Option<ServiceProcess>], down: Option<usize>) {
        match self.statistics {
            Some(statistics) => balanced(statistics, down).await,
            // It finds out by connections that are refused.
            None if down.is_some() => {}
            None => all_are_asked(instances).await,
        }
    }
}

async fn balanced(statistics: u16, down: Option<usize>) {
    let http = http_client();
    eventually("the balancer's view of the instances", || async {
        let url = format!("http://127.0.0.1:{statistics}/;csv");
        let text = http.get(url).send().await.ok()?.text().await.ok()?;
        let states: Vec<bool> = text
            .lines()
            .filter(|line| line.starts_with("instances,") && !line.starts_with("instances,BACKEND"))
            .map(|line| line.split(',').nth(17).is_some_and(|state| state.starts_with("UP")))
            .collect();
        (states == (0..3).map(|at| Some(at) != down).collect::<Vec<_>>()).then_some(())
    })
    .await;
}

/// nginx tries an instance that has failed again after ten seconds.
async fn all_are_asked(instances: &[Option<ServiceProcess>]) {
    let http = http_client();
    for instance in instances.iter().flatten() {
        eventually("an append through each instance", || async {
            let text = http.get(format!("{}/metrics", instance.url)).send().await.ok()?.text().await.ok()?;
            let appends = |line: &&str| line.starts_with("headwater_http_requests_total{method=\"POST\"");
            text.lines().find(appends).map(drop)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_are_restarted_behind_haproxy_and_nobody_misses_anything() {
    all_are_restarted(async |ports| {
        let (front, statistics) = Front::haproxy(ports).await;
        Balancer { front, statistics: Some(statistics) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_are_restarted_behind_nginx_and_nobody_misses_anything() {
    all_are_restarted(async |ports| Balancer { front: Front::nginx(ports).await.0, statistics: None }).await;
}

async fn all_are_restarted(start_balancer: impl AsyncFnOnce(&[u16]) -> Balancer) {
    let database = TestDatabase::migrated().await;
    let ports = [free_port(), free_port(), free_port()];
    let mut services: Vec<_> = ports.iter().map(|port| Some(start(&database, *port))).collect();
    let balancer = start_balancer(&ports).await;
    let front = &balancer.front;
    let world = Arc::new(World {
        url: front.url.clone(),
        is_over: AtomicBool::new(false),
        written: Mutex::default(),
        retried: AtomicUsize::new(0),
        reconnected: AtomicUsize::new(0),
    });
    let http = http_client();
    for (name, mode) in [("by-stream", "partitioned"), ("by-anybody", "competing")] {
        let body = json!({ "source": { "category": "load" }, "mode": mode, "from": "beginning" });
        let answer = world.ask(http.put(format!("{}/v1/subscriptions/{name}", front.url)).json(&body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let (by_stream, by_anybody) = (Arc::default(), Arc::default());
    let followers: Vec<JoinHandle<Vec<i64>>> = (0..6).map(|_| tokio::spawn(world.clone().follow())).collect();
    let consumers: Vec<JoinHandle<()>> = (0..3)
        .map(|n| tokio::spawn(world.clone().consume(format!("c{n}"), Arc::clone(&by_stream))))
        .chain((0..2).map(|n| tokio::spawn(world.clone().fetch(format!("f{n}"), Arc::clone(&by_anybody)))))
        .collect();
    let appenders: Vec<JoinHandle<()>> =
        (0..4).map(|n| tokio::spawn(world.clone().append(format!("load-{n}")))).collect();
    let readers: Vec<JoinHandle<()>> = (0..2).map(|_| tokio::spawn(world.clone().read())).collect();

    balancer.knows(&services, None).await;
    for at in 0..services.len() {
        let leaving = services[at].take().unwrap();
        leaving.signal(libc::SIGTERM);
        balancer.knows(&services, Some(at)).await;
        let status = tokio::task::spawn_blocking(|| leaving.wait()).await.unwrap();
        assert!(status.success(), "{status}");
        services[at] = Some(start(&database, ports[at]));
        balancer.knows(&services, None).await;
    }

    world.is_over.store(true, Ordering::SeqCst);
    for task in appenders.into_iter().chain(readers) {
        task.await.expect("no request failed twice");
    }
    let body = json!({ "messages": [{ "type": "End", "data": null }] });
    let end = world.ask(http.post(format!("{}/v1/streams/load-end/messages", front.url)).json(&body)).await;
    assert_eq!(end.status, 201, "{end:?}");
    for consumer in consumers {
        consumer.await.expect("no request failed twice");
    }

    // What was acknowledged is in the log, once.
    let sql = database.connect().await;
    let rows = sql
        .query(
            "SELECT stream_name::text, id, global_position FROM message_store.messages \
             WHERE type = 'Written' ORDER BY global_position",
            &[],
        )
        .await
        .unwrap();
    let mut standing: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    rows.iter().for_each(|row| standing.entry(row.get(0)).or_default().push(row.get(1)));
    assert_eq!(*world.written.lock(), standing);
    let mut positions: Vec<i64> = rows.iter().map(|row| row.get(2)).collect();
    positions.push(end.json()["messages"][0]["global_position"].as_i64().unwrap());

    // Every follower has seen all of it, in order, once.
    for follower in followers {
        let seen = tokio::time::timeout(PATIENCE, follower).await.expect("a follower comes to the end").unwrap();
        assert_eq!(seen, positions);
    }
    assert!(world.reconnected.load(Ordering::SeqCst) >= 6, "the followers were on the instances that stopped");

    // Both subscriptions have delivered all of it, and nothing is left over.
    world.is_over.store(false, Ordering::SeqCst);
    for (name, seen) in [("by-stream", &by_stream), ("by-anybody", &by_anybody)] {
        let url = format!("{}/v1/subscriptions/{name}", front.url);
        eventually("the subscription delivers the rest", || async {
            let body = json!({ "consumer": "last", "limit": 1000, "wait": "100ms" });
            let answer = world.ask(http.post(format!("{url}/fetch")).json(&body)).await;
            let messages = answer.json()["messages"].as_array().unwrap().clone();
            if !messages.is_empty() {
                world.ack(&http, &url, "last", &messages).await;
                messages.iter().for_each(|message| note(seen, message));
            }
            let status = world.ask(http.get(&url)).await.json()["status"].clone();
            (status["committed_lag"] == 0).then_some(())
        })
        .await;
        assert_eq!(seen.lock().iter().copied().collect::<Vec<_>>(), positions, "{name}");
    }
    println!(
        "{} messages, {} requests sent once more, {} reconnects",
        positions.len(),
        world.retried.load(Ordering::SeqCst),
        world.reconnected.load(Ordering::SeqCst)
    );
}
