//! Starts tasks by name and stops them in order. A task that dies brings the process down.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A balancer that has not asked for this long whether the service is ready does not go by the answer.
const WATCHED_WITHIN: Duration = Duration::from_secs(60);

/// The life of one service: the tokens that stop it, and its tasks.
#[derive(Clone, Default)]
pub struct Lifecycle {
    leaving: CancellationToken,
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
    failure: Arc<Mutex<Option<String>>>,
    /// When somebody last asked whether the service is ready.
    asked: Arc<Mutex<Option<Instant>>>,
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the service is about to stop: it says that it is not ready any more, and still serves whatever comes.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// Is about to stop.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// Somebody asks whether the service is ready.
    pub fn readiness_was_asked(&self) {
        *self.asked.lock() = Some(Instant::now());
    }

    /// Whether a balancer asks now and then if the service is ready, so that it has to be told before the service stops.
    pub fn is_watched(&self) -> bool {
        let asked = *self.asked.lock();
        asked.is_some_and(|at| at.elapsed() < WATCHED_WITHIN)
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
        self.leaving.cancel();
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
        self.failure.lock().get_or_insert(reason);
        self.drain();
    }

    /// Why the service had to stop, if it was not asked to.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Ends the agents and waits for them.
    pub async fn stop_agents(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
