//! Rows on trimming.

use std::time::{Duration, Instant};

use crate::load::{Http, data, post};
use crate::peers::{Service, Stand, connect};
use crate::report::{Report, Times, rate};

const MESSAGES: i64 = 1_000_000;
/// What is not to be exceeded by more than this beside a trim.
const TARGET: &str = "no append waits 50 ms for it";

/// Appends one by one to other streams of the category, before and while a million messages of one stream are trimmed.
pub async fn run(stand: &Stand, report: &mut Report) {
    if !report.wants("append beside a trim") {
        return;
    }
    let service = stand.service("trimming").await;
    let client = connect(&service.database_url).await;
    let long = format!(
        "INSERT INTO message_store.messages (stream_name, type, position, data) SELECT 'account-long', 'T', n, '{}' \
         FROM generate_series(0, {MESSAGES} - 1) AS n",
        data("fill")
    );
    client.batch_execute(&long).await.unwrap();
    client.batch_execute("VACUUM ANALYZE message_store.messages").await.unwrap();
    // A checkpoint of what was filled is not what is measured.
    client.batch_execute("CHECKPOINT").await.unwrap();
    let mut without = appends_until(&service, async {
        tokio::time::sleep(Duration::from_secs(10)).await;
    })
    .await;
    let begun = Instant::now();
    let mut beside = appends_until(&service, trim(&service)).await;
    let took = begun.elapsed();
    let show = |times: &mut Times| {
        format!("p99 {:.0} max {:.0} ms", millis(times.percentile(99.0)), millis(times.percentile(100.0)))
    };
    report.row(
        "append beside a trim of 1,000,000",
        show(&mut beside),
        format!("without {}", show(&mut without)),
        TARGET,
    );
    report.row("  trimmed", rate(MESSAGES as f64 / took.as_secs_f64()), String::new(), "");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

async fn trim(service: &Service) {
    let mut http = Http::connect(&service.address).await;
    let request = post(&service.address, "/v1/streams/account-long/trim", r#"{"keep_last":1}"#);
    loop {
        assert_eq!(http.send(&request).await.0, 200, "{}", http.text());
        if http.text().contains(r#""is_complete":true"#) {
            return;
        }
    }
}

async fn appends_until(service: &Service, until: impl Future<Output = ()>) -> Times {
    let mut http = Http::connect(&service.address).await;
    let body = format!(r#"{{"messages":[{{"type":"T","data":{}}}]}}"#, data("one"));
    let request = post(&service.address, "/v1/streams/account-short/messages", &body);
    let mut times = Times::default();
    let mut until = std::pin::pin!(until);
    loop {
        let begun = Instant::now();
        tokio::select! {
            (status, _) = http.send(&request) => assert_eq!(status, 201),
            () = &mut until => return times,
        }
        times.add(begun.elapsed());
    }
}
