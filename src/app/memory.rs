//! What a service keeps in memory while nobody reads its metrics.

use std::time::Duration;

use super::service_settings;
use crate::config::Settings;
use crate::domain::observation::Observation;
use crate::lifecycle::Lifecycle;
use crate::service::Service;
use crate::store::{Database, DatabaseSettings};
use crate::telemetry::Observer;

const ROUNDS: u32 = 60;
/// Two histograms get a value of eight bytes for each: 96 MB in all rounds together, if nobody sums them up.
const MEASUREMENTS: u32 = 100_000;
/// What the process has more afterwards, at most.
const GROWN_MAX: u64 = 48 << 20;

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux says how much memory is used");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
}

/// In a process of its own, as what other tests take meanwhile would be counted.
#[cfg(target_os = "linux")]
#[test]
fn measurements_do_not_wait_in_memory_for_a_reader() {
    let tests = std::env::current_exe().expect("the test binary knows its path");
    let one = ["--exact", "--ignored", "app::memory::many_measurements_and_no_reader"];
    let run = std::process::Command::new(tests).args(one).output().expect("the test binary runs");
    let told = [String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr)].concat();
    assert!(run.status.success() && told.contains("1 passed"), "{told}");
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
#[ignore = "runs in a process of its own"]
async fn many_measurements_and_no_reader() {
    // Nothing is there, and nobody reads: the agents of the service try again, in time that passes at once.
    let mut settings = Settings::defaults();
    // Samples for charts are a reader, too.
    settings.metrics_history_interval = Duration::ZERO;
    let database = Database::open(DatabaseSettings {
        url: "postgresql://nobody@127.0.0.1:1/none".into(),
        pooler_url: None,
        connections_max: 4,
        connect_timeout: Duration::from_secs(1),
        silence_timeout: Duration::from_secs(1),
    })
    .expect("the URL can be read");
    let lifecycle = Lifecycle::new();
    let observer = Observer::new();
    let service = Service::start(database, Vec::new(), service_settings(&settings), lifecycle.clone(), observer);
    let before = resident();
    for _ in 0..ROUNDS {
        for _ in 0..MEASUREMENTS {
            service.observer.record(Observation::AcksCommitted { requests: 1, took: Duration::from_millis(1) });
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let grown = resident().saturating_sub(before);
    lifecycle.drain();
    assert!(grown < GROWN_MAX, "{} MB more after {} measurements", grown >> 20, ROUNDS * MEASUREMENTS);
}
