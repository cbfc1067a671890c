//! Signals that ask the process to stop.

use std::time::Duration;

use crate::lifecycle::Lifecycle;

/// The first signal drains, after `grace` if a balancer has to find out first; a second one ends the process at once.
pub fn stop_on_signals(lifecycle: Lifecycle, says: &'static str, grace: Duration) {
    tokio::spawn(async move {
        next_signal().await;
        lifecycle.leave();
        tokio::spawn(async move {
            if lifecycle.is_watched() && !grace.is_zero() {
                tracing::info!(?grace, "not ready any more: requests are served until the balancers have noticed");
                tokio::time::sleep(grace).await;
            }
            tracing::info!("{says}");
            lifecycle.drain();
        });
        next_signal().await;
        tracing::warn!("a second signal: ending at once");
        std::process::exit(1);
    });
}

async fn next_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
