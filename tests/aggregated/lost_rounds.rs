//! A round of the projector does not wait for the disk: what PostgreSQL loses of it comes to every follower all the same.

use serde_json::json;

use super::*;
use crate::support::database::{connect, temporary_dir};
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::service_process::{ServiceProcess, embedded_url, postmaster};

const ROUNDS: usize = 3;

/// Asks until the service answers as it should: its database is away for a while.
async fn until_answered(status: u16, ask: impl AsyncFn() -> reqwest::Response) -> reqwest::Response {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if answer.status() == status {
            return answer;
        }
        assert!(Instant::now() < deadline, "{}", answer.text().await.unwrap());
        tokio::time::sleep(POLL).await;
    }
}

async fn write(url: &str) -> i64 {
    let url = format!("{url}/v1/streams/n-1/messages");
    let body = json!({ "messages": [{ "type": "T", "data": {} }] });
    let answer = until_answered(201, async || http_client().post(&url).json(&body).send().await.unwrap()).await;
    answer.json::<Value>().await.unwrap()["messages"][0]["global_position"].as_i64().unwrap()
}

async fn read_to(events: &mut Events, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen| *seen < last) {
        seen.push(link_of(&events.next("message").await.json()).2);
    }
    seen
}

#[tokio::test]
async fn who_comes_before_the_projector_knows_that_a_round_is_lost_gets_its_message() {
    let directory = temporary_dir();
    let data_dir = directory.path().join("data");
    // Idle, the projector asks PostgreSQL a third as often as its lease lasts.
    let arguments = ["--data-dir", data_dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--projector-lease", "60s"];
    let service = ServiceProcess::start(&arguments);
    let numbers = format!("{}{}", service.url, path_of("numbers"));
    let definition = of_categories(&["n"]);
    until_answered(201, async || http_client().put(&numbers).json(&definition).send().await.unwrap()).await;
    let mut written = vec![write(&service.url).await];
    let path = format!("{numbers}/events?from=beginning");
    let mut live = Events::open(&path, &[]).await;
    read_to(&mut live, written[0]).await;
    let mut lost = 0;
    for round in 0..ROUNDS {
        {
            let sql = connect(&embedded_url(&data_dir)).await;
            // Otherwise the server itself brings the round to disk a moment later.
            sql.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
            sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        }
        written.push(write(&service.url).await);
        read_to(&mut live, *written.last().unwrap()).await;
        let killed = postmaster(&data_dir).expect("it runs");
        // SAFETY: the server and its processes, a group of their own, are this test's.
        assert_eq!(unsafe { libc::kill(-killed, libc::SIGKILL) }, 0);
        let answer = until_answered(200, async || http_client().get(&path).send().await.unwrap()).await;
        let mut late = Events::of(answer).await;
        let before = late.blocks_until("caught-up").await;
        let mut seen: Vec<i64> =
            before.iter().filter(|event| event.is("message")).map(|event| link_of(&event.json()).2).collect();
        let sql = connect(&embedded_url(&data_dir)).await;
        lost += usize::from(links(&sql, "numbers").await.len() < written.len());
        let last = write(&service.url).await;
        written.push(last);
        seen.extend(read_to(&mut late, last).await);
        assert_eq!(seen, written, "round {round}");
        assert_eq!(read_to(&mut live, last).await, [last], "who was told of it already is not told again");
    }
    assert!(lost > 0, "no round was lost");
    assert!(service.stop().success());
}
