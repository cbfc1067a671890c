//! Waits for a fact, with a deadline, in place of sleeping.
#![allow(dead_code)]
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// Returns what `fact` finds as soon as it finds something; panics with `what` when that takes longer than `within`.
pub async fn until_some<T>(what: &str, within: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain until {what}");
        tokio::time::sleep(POLL).await;
    }
}

pub async fn until(what: &str, within: Duration, mut fact: impl FnMut() -> bool) {
    until_some(what, within, || fact().then_some(())).await;
}

/// The same for a fact that is asked for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut fact: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + super::app::PATIENCE;
    loop {
        if let Some(found) = fact().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a statement in SQL answers true.
pub async fn until_true(sql: &tokio_postgres::Client, statement: &str) {
    eventually(statement, async || sql.query_one(statement, &[]).await.unwrap().get::<_, bool>(0).then_some(())).await;
}

/// The duration that a variable gives to a test: `90s`, `10m`, `1h`.
pub fn lasting(variable: &str, text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => panic!("{variable} is not a duration such as 10m: {text}"),
    };
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("{variable} is not a duration such as 10m: {text}"));
    Duration::from_secs(number * seconds)
}
