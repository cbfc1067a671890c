//! Rows on size: what an operation costs in a store of five million messages, beside one of fifty thousand.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::follows::{Seen, follow, paced};
use crate::load::{Http, closed_loop, data, post};
use crate::peers::{Service, Stand, connect};
use crate::report::{Report, Times, rate};
use crate::subscriptions::{ack, fetch};

const SIZES: [i64; 2] = [50_000, 5_000_000];
const TARGET: &str = "≥ 0.9 ×";
/// Streams side by side in a filled store, in twenty categories: those of the smallest one.
const STREAMS: u64 = 1_000;
const ROUNDS: u64 = 500;

pub async fn run(stand: &Stand, report: &mut Report, span: Duration) {
    if !report.wants("at size") {
        return;
    }
    let mut measured = Vec::new();
    for size in SIZES {
        measured.push(one_store(stand, size, span).await);
    }
    let (large, small) = (measured.pop().unwrap(), measured.pop().unwrap());
    for (large, small) in large.into_iter().zip(small) {
        large.report(small, report);
    }
}

/// One row's figure in one store.
struct Measured {
    row: &'static str,
    figure: Figure,
}

enum Figure {
    /// A second.
    Rate(f64),
    Times(Times),
}

impl Measured {
    fn report(self, small: Measured, report: &mut Report) {
        let name = format!("at size: {}", self.row);
        let (own, beside) = match (self.figure, small.figure) {
            (Figure::Rate(large), Figure::Rate(small)) => {
                (rate(large), format!("{:.2} × of {}", large / small, rate(small)))
            }
            (Figure::Times(mut large), Figure::Times(mut small)) => {
                let ratio = small.percentile(50.0).as_secs_f64() / large.percentile(50.0).as_secs_f64();
                (large.show(), format!("{ratio:.2} × of {}", small.show()))
            }
            _ => unreachable!("both stores are measured alike"),
        };
        report.row(&name, own, beside, TARGET);
    }
}

async fn one_store(stand: &Stand, size: i64, span: Duration) -> Vec<Measured> {
    let url = stand.database(&format!("at_size_{size}")).await;
    let begun = Instant::now();
    let filled = Command::new("./scripts/fill").args([&url, &size.to_string()]).status().expect("the script runs");
    assert!(filled.success(), "the store is filled");
    eprintln!("filled with {size} messages in {:.1} s", begun.elapsed().as_secs_f64());
    let service = Service::start(&url);
    let store = Store { service: &service, size, http: Http::connect(&service.address).await };
    store.measure(span).await
}

struct Store<'a> {
    service: &'a Service,
    size: i64,
    http: Http,
}

impl Store<'_> {
    async fn measure(mut self, span: Duration) -> Vec<Measured> {
        let mut measured = self.reads().await;
        measured.push(self.aggregate().await);
        measured.push(self.key_condition().await);
        measured.push(self.lag().await);
        measured.push(self.consume().await);
        measured.push(self.live(span).await);
        // Last, as it changes the size.
        measured.push(self.append(span).await);
        measured
    }

    /// Requests with a random place in the store, spread by a golden ratio: the same ones in each run.
    async fn times(&mut self, path: impl Fn(u64) -> String) -> Times {
        let mut times = Times::default();
        for round in 0..ROUNDS {
            let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", path(round));
            let begun = Instant::now();
            let (status, _) = self.http.send(request.as_bytes()).await;
            times.add(begun.elapsed());
            assert_eq!(status, 200, "{}", self.http.text());
        }
        times
    }

    /// Asks until the answer has a text.
    async fn until(&mut self, path: &str, text: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        loop {
            assert_eq!(self.http.send(request.as_bytes()).await.0, 200, "{}", self.http.text());
            if self.http.text().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn reads(&mut self) -> Vec<Measured> {
        let size = self.size as u64;
        let place = move |round: u64| 1 + (round * 0x9e37_79b9) % (size - 10_000);
        let streams = (size - size / 50) / 49_000 * STREAMS;
        let stream = move |round: u64| (round * 0x9e37_79b9) % streams.max(STREAMS);
        let middle = connect(&self.service.database_url)
            .await
            .query_one(
                "SELECT to_char(time, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM message_store.messages WHERE global_position = $1",
                &[&(self.size / 2)],
            )
            .await
            .unwrap()
            .get::<_, String>(0);
        let mut measured = Vec::new();
        let mut add = |row, times| measured.push(Measured { row, figure: Figure::Times(times) });
        let page = |round| format!("/v1/all/messages?from={}&limit=1000", place(round));
        add("a page of 1,000 of all messages", self.times(page).await);
        let page = |round| format!("/v1/categories/c7/messages?from={}&limit=100", place(round));
        add("a page of 100 of a category", self.times(page).await);
        let page = |round| format!("/v1/categories/c7/messages?from={}&limit=100&types=T3", place(round));
        add("a page of 100 of a category, of a type", self.times(page).await);
        let page = |round| format!("/v1/streams/c{}-{}/messages", stream(round) % 20, stream(round));
        add("a stream of 49", self.times(page).await);
        let last = |round| format!("/v1/streams/c{}-{}/messages/last?type=T3", stream(round) % 20, stream(round));
        add("the last of a type, in a stream of 49", self.times(last).await);
        add(
            "the last of a type, in a long stream",
            self.times(|_| "/v1/streams/long-1/messages/last?type=T3".into()).await,
        );
        add("a long stream's summary", self.times(|_| "/v1/streams/long-1".into()).await);
        // What was not counted yet is counted by the first look.
        let counted = format!(r#""counted_position":{}"#, self.size);
        self.until("/v1/reports/categories", &counted).await;
        let page = |_| format!("/v1/categories/c7/messages?from_time={middle}&limit=100");
        add("a page of a category from a time", self.times(page).await);
        let page = |_| format!("/v1/all/messages?from_time={middle}&limit=100");
        add("a page of all messages from a time", self.times(page).await);
        let page = |_| format!("/v1/streams/long-1/messages?from_time={middle}&limit=100");
        add("a page of a long stream from a time", self.times(page).await);
        add("the report on categories", self.times(|_| "/v1/reports/categories".into()).await);
        add("the report on types", self.times(|_| "/v1/reports/types".into()).await);
        add("a page of the report on streams", self.times(|_| "/v1/reports/streams?limit=100".into()).await);
        measured
    }

    async fn put(&mut self, path: &str, body: &str) {
        let mut request = post(&self.service.address, path, body);
        request.splice(0..4, *b"PUT");
        assert_eq!(self.http.send(&request).await.0, 201, "{}", self.http.text());
    }

    /// From the definition until all of history is projected.
    async fn aggregate(&mut self) -> Measured {
        let client = connect(&self.service.database_url).await;
        let begun = Instant::now();
        let definition = r#"{"partitioner":{"kind":"cardinal_id","partitions":16}}"#;
        self.put("/v1/aggregated-streams/all", definition).await;
        let sum = "SELECT coalesce(sum(message_count), 0)::bigint FROM headwater.aggregated_partitions";
        while client.query_one(sum, &[]).await.unwrap().get::<_, i64>(0) < self.size {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let own = self.size as f64 / begun.elapsed().as_secs_f64();
        Measured { row: "projection, catching up", figure: Figure::Rate(own) }
    }

    /// An append with a condition on one of a thousand keys, of which nothing has come.
    async fn key_condition(&mut self) -> Measured {
        let definition =
            r#"{"categories":["c1","c2","c3"],"partitioner":{"kind":"key","of":"data","pointer":"/amount"}}"#;
        self.put("/v1/aggregated-streams/amounts", definition).await;
        self.until("/v1/aggregated-streams/amounts", r#""state":"live""#).await;
        let mut times = Times::default();
        for round in 0..ROUNDS {
            let body = format!(
                r#"{{"appends":[{{"stream_name":"d-1","messages":[{{"type":"T0"}}]}}],
                "conditions":[{{"aggregated_stream":"amounts","key":"{}","after":{}}}]}}"#,
                round * 7 % 1_000,
                self.size
            );
            let request = post(&self.service.address, "/v1/appends", &body);
            let begun = Instant::now();
            assert_eq!(self.http.send(&request).await.0, 201, "{}", self.http.text());
            times.add(begun.elapsed());
        }
        Measured { row: "append with a condition on a key", figure: Figure::Times(times) }
    }

    /// The status of a subscription that has everything before it.
    async fn lag(&mut self) -> Measured {
        let definition = r#"{"source":{"category":"c7"},"from":"beginning","mode":"partitioned","partitions":16,"max_in_flight":10000}"#;
        self.put("/v1/subscriptions/all", definition).await;
        self.until("/v1/subscriptions/all", r#""lag_exact":true"#).await;
        let times = self.times(|_| "/v1/subscriptions/all".into()).await;
        Measured { row: "a subscription's status, all before it", figure: Figure::Times(times) }
    }

    /// The first messages of the subscription, by the hundred.
    async fn consume(&mut self) -> Measured {
        let mut times = Times::default();
        for _ in 0..20 {
            let begun = Instant::now();
            let some = fetch(&mut self.http, &self.service.address, "all", 0, 100).await;
            assert_eq!(some.len(), 100);
            ack(&mut self.http, &self.service.address, "all", 0, "partitioned", &some).await;
            times.add(begun.elapsed());
        }
        Measured { row: "fetch and ack of 100", figure: Figure::Times(times) }
    }

    async fn live(&mut self, span: Duration) -> Measured {
        let epoch = Instant::now();
        let seen = Arc::new(Seen::default());
        let path = "/v1/categories/c7/events".to_owned();
        let follower = tokio::spawn(follow(self.service.address.clone(), path, seen.clone(), true, epoch));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let path = |n| format!("/v1/streams/c7-live{}/messages", n % 100);
        paced(&self.service.address, 100, 1, span, path, epoch).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        seen.is_over.store(true, Ordering::Relaxed);
        follower.await.unwrap();
        let times = std::mem::take(&mut *seen.times.lock().await);
        Measured { row: "from POST to frame, 100/s, a category", figure: Figure::Times(times) }
    }

    async fn append(&mut self, span: Duration) -> Measured {
        let address = self.service.address.clone();
        let body = format!(r#"{{"messages":[{{"type":"T0","data":{}}}]}}"#, data("one"));
        let (own, _) = closed_loop(&self.service.address, 64, span, 201, move |n| {
            post(&address, &format!("/v1/streams/c7-own{}/messages", n % STREAMS), &body)
        })
        .await;
        Measured { row: "append, 64 connections", figure: Figure::Rate(own) }
    }
}
