//! Signals that ask the process to stop.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::lifecycle::Lifecycle;

/// The first signal drains, after `grace` if a balancer has to find out first; a second one ends the process at once.
pub fn stop_on_signals(lifecycle: Lifecycle, says: &'static str, grace: Duration) {
    let (interrupt, terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            return tracing::error!(%error, "signals to stop cannot be heard: they end the process at once");
        }
    };
    tokio::spawn(async move {
        // Kept from the first to the second: one that comes in between is not lost.
        let mut signals = [interrupt, terminate];
        next(&mut signals).await;
        lifecycle.leave();
        tokio::spawn(async move {
            if lifecycle.is_watched() && !grace.is_zero() {
                tracing::info!(?grace, "not ready any more: requests are served until the balancers have noticed");
                tokio::time::sleep(grace).await;
            }
            tracing::info!("{says}");
            lifecycle.drain();
        });
        next(&mut signals).await;
        tracing::warn!("a second signal: ending at once");
        std::process::exit(1);
    });
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
