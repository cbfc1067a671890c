//! A process manager that reads orders and writes one invoice for each, acked in the same transaction. It dies a hundred
//! times, together with the service some of the times, and answers are lost on the wire: each invoice is there once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::*;
use crate::support::app::PATIENCE;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::until;

const DEATHS: usize = 100;
/// Of these deaths, one in so many takes the service with it: kill -9.
const SERVICE_DIES_EVERY: usize = 10;
const STREAMS: usize = 24;
/// So many orders are written ahead of their invoices.
const AHEAD: usize = 300;

/// One life of the process manager: it knows nothing of the lives before.
async fn live(url: String, number: usize, invoices: Arc<AtomicUsize>) {
    let http = crate::support::http_client();
    let consumer = format!("pm-{}", number % 3);
    let post = async |path: &str, body: &Value| {
        let sent = http.post(format!("{url}{path}")).json(body).timeout(Duration::from_secs(10)).send().await.ok()?;
        Some((sent.status().as_u16(), sent.json::<Value>().await.ok()?))
    };
    loop {
        let fetch = json!({ "consumer": consumer, "limit": 5, "wait": "1s" });
        let Some((200, given)) = post("/v1/subscriptions/billing/fetch", &fetch).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for message in given["messages"].as_array().unwrap() {
            let order = message["message"]["stream_name"].as_str().unwrap().trim_start_matches("order-").to_owned();
            let body = json!({
                "appends": [
                    // New ids each time: what keeps the invoice from being written twice is the ack alone.
                    { "stream_name": format!("invoice-{order}"), "messages": [
                        { "type": "Invoiced", "id": Uuid::new_v4(), "data": { "of": message["message"]["id"] } }
                    ] },
                    { "stream_name": "ledger-1", "messages": [{ "type": "Booked", "data": { "of": message["message"]["id"] } }] },
                ],
                "ack": { "subscription": "billing", "consumer": consumer, "partition": message["partition"],
                    "position": message["position"], "epoch": message["epoch"] },
            });
            match post("/v1/appends", &body).await {
                Some((200 | 201, _)) => drop(invoices.fetch_add(1, Ordering::SeqCst)),
                // Somebody else has it now, or it is done.
                Some((409, problem)) => assert_eq!(problem["type"], "/problems/fenced", "{problem}"),
                // Whether it is written is not known: it will be delivered again, if not.
                _ => break,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_manager_that_is_killed_a_hundred_times_writes_each_output_once() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let arguments = ["--database-url", &proxy.url, "--listen", "127.0.0.1:0"];
    let mut service = ServiceProcess::start(&arguments);
    let http = crate::support::http_client();
    let definition = json!({ "source": { "category": "order" }, "partitions": 4, "ack_timeout": "2s",
        "consumer_timeout": "1s", "max_deliveries": 1000, "backoff": ["10ms"] });
    let made = http.put(format!("{}/v1/subscriptions/billing", service.url)).json(&definition).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let client = database.connect().await;
    let is_over = Arc::new(Mutex::new(false));
    let invoices = Arc::new(AtomicUsize::new(0));
    let orders = tokio::spawn({
        let (client, is_over, invoices) = (database.connect().await, is_over.clone(), invoices.clone());
        async move {
            let mut written = 0_usize;
            while !*is_over.lock() {
                tokio::time::sleep(Duration::from_millis(4)).await;
                // There is always something to do, and on a slow machine no more than that.
                if written > invoices.load(Ordering::SeqCst) + AHEAD {
                    continue;
                }
                let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Ordered', '{}')";
                client.query_one(sql, &[&format!("order-{}", written % STREAMS)]).await.unwrap();
                written += 1;
            }
            written
        }
    });
    for death in 0..DEATHS {
        let before = invoices.load(Ordering::SeqCst);
        if death % 4 == 1 {
            proxy.lose_answers_of("headwater.append_batch", 1);
        }
        let living = tokio::spawn(live(service.url.clone(), death, invoices.clone()));
        until("an invoice is written", PATIENCE, || {
            assert!(!living.is_finished(), "the process manager has ended by itself");
            invoices.load(Ordering::SeqCst) >= before + 1 + death % 3
        })
        .await;
        // In the middle of whatever it does: its connection is cut, its answers are lost.
        living.abort();
        if death % SERVICE_DIES_EVERY == SERVICE_DIES_EVERY - 1 {
            service.kill();
            service = ServiceProcess::start(&arguments);
        }
    }
    *is_over.lock() = true;
    let orders = orders.await.unwrap() as i64;
    assert!(proxy.lost_answers() >= DEATHS / 8, "only {} answers were lost", proxy.lost_answers());
    // The last one lives until all is done.
    let living = tokio::spawn(live(service.url.clone(), 0, invoices.clone()));
    let sql = "SELECT count(*) FROM message_store.messages WHERE type = 'Invoiced'";
    let waiting = async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < orders {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, waiting).await.expect("every order is invoiced");
    living.abort();
    let sql = "SELECT type, data ->> 'of', count(*) FROM message_store.messages \
        WHERE type IN ('Invoiced', 'Booked') GROUP BY 1, 2";
    let rows = client.query(sql, &[]).await.unwrap();
    let mut kinds: HashMap<String, i64> = HashMap::new();
    for row in rows {
        let (kind, of, count): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(count, 1, "{kind} of {of} is there {count} times");
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!((kinds["Invoiced"], kinds["Booked"]), (orders, orders));
}
