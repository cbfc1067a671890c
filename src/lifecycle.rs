//! Starts tasks by name and stops them in order. A task that dies brings the process down.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The life of one service: the tokens that stop it, and its tasks.
#[derive(Clone, Default)]
pub struct Lifecycle {
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
    failure: Arc<Mutex<Option<String>>>,
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the service begins to stop: no new work, and event streams are closed.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled once HTTP is drained: agents finish what they hold and end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Begins to stop.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Starts an agent, which runs until [`stopping`](Self::stopping) is cancelled. If it ends before, or panics, the whole
    /// service stops for that reason.
    pub fn spawn(&self, name: &'static str, agent: impl Future<Output = ()> + Send + 'static) {
        let lifecycle = self.clone();
        self.tasks.spawn(async move {
            let outcome = tokio::spawn(agent).await;
            if lifecycle.stopping.is_cancelled() {
                return;
            }
            let reason = match outcome {
                Ok(()) => format!("the task {name} ended"),
                Err(error) => format!("the task {name} failed: {error}"),
            };
            lifecycle.fail(reason);
        });
    }

    /// Stops the service because of a failure. The first reason is kept.
    pub fn fail(&self, reason: String) {
        tracing::error!(%reason, "stopping because of a failure");
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(reason);
        }
        self.draining.cancel();
    }

    /// Why the service had to stop, if it was not asked to.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().ok().and_then(|failure| failure.clone())
    }

    /// Ends the agents and waits for them.
    pub async fn stop_agents(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
