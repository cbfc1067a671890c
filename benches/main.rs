//! The targets, measured: each row of the service beside its peer, in one run on one machine.
//!
//! `./scripts/bench` runs all rows; words after it choose rows by a part of their name. A peer that is not installed is
//! skipped, and that is said. `HEADWATER_BENCH_SECONDS` sets how long each load lasts (default 8).
//! `HEADWATER_BENCH_PROGRAM` names another build of the program to measure.

mod appends;
mod at_size;
mod crowd;
mod fan_out;
mod follows;
mod load;
mod peers;
mod projections;
mod reads;
mod report;
mod subscriptions;
mod trims;

use std::time::Duration;

use report::Report;

fn main() {
    raise_open_files();
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let seconds = std::env::var("HEADWATER_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let stand = peers::Stand::start().await;
        let mut report = Report::new(words);
        let span = Duration::from_secs(seconds);
        appends::run(&stand, &mut report, span).await;
        reads::run(&stand, &mut report, span).await;
        follows::run(&stand, &mut report, span).await;
        projections::run(&stand, &mut report, span).await;
        subscriptions::run(&stand, &mut report, span).await;
        trims::run(&stand, &mut report).await;
        at_size::run(&stand, &mut report, span).await;
        stand.stop().await;
        report.finish();
    });
}

/// Ten thousand connections need as many open files, here and in the service, which inherits the limit.
fn raise_open_files() {
    // SAFETY: the structure is filled by the call before it is read.
    unsafe {
        let mut limit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
