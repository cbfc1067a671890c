//! Rows on reading.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::load::{Http, data};
use crate::peers::{Stand, connect};
use crate::report::{Report, rate, ratio};

const MESSAGES: i64 = 200_000;

pub async fn run(stand: &Stand, report: &mut Report, _span: Duration) {
    if !report.wants("reading a category") {
        return;
    }
    let service = stand.service("reading").await;
    let client = connect(&service.database_url).await;
    fill(&client, MESSAGES).await;
    let mut http = Http::connect(&service.address).await;
    let mut from = 0;
    let mut read = 0;
    let begun = Instant::now();
    while read < MESSAGES {
        let path = format!("/v1/categories/account/messages?from={from}&limit=1000");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (status, _) = http.send(request.as_bytes()).await;
        assert_eq!(status, 200);
        read += 1_000;
        // Positions have no holes here, so the next page is known without reading the answer.
        from = read + 1;
    }
    let own = MESSAGES as f64 / begun.elapsed().as_secs_f64();
    let peer = psql(&service.database_url);
    report.row("reading a category in pages of 1,000", rate(own), ratio(own, peer, "psql"), "≥ 0.6 ×");
}

/// So many messages of one category in 1,000 streams.
pub async fn fill(client: &tokio_postgres::Client, messages: i64) {
    let statement = format!(
        "INSERT INTO message_store.messages (stream_name, type, position, data) \
         SELECT 'account-' || n % 1000, 'Deposited', n / 1000, '{}' FROM generate_series(0, {} - 1) AS n",
        data("fill"),
        messages
    );
    client.batch_execute(&statement).await.unwrap();
    client.batch_execute("VACUUM ANALYZE message_store.messages").await.unwrap();
}

fn psql(url: &str) -> Option<f64> {
    let pages = MESSAGES / 1_000;
    let statements: String = (0..pages)
        .map(|page| {
            format!("SELECT * FROM message_store.get_category_messages('account', {}, 1000);\n", page * 1_000 + 1)
        })
        .collect();
    let begun = Instant::now();
    let mut child =
        Command::new("psql").args(["-qAt", "-o", "/dev/null", url]).stdin(std::process::Stdio::piped()).spawn().ok()?;
    std::io::Write::write_all(&mut child.stdin.take()?, statements.as_bytes()).ok()?;
    child.wait().ok()?.success().then(|| MESSAGES as f64 / begun.elapsed().as_secs_f64())
}
