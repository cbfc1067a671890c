//! Measurements of histograms wait in memory until somebody sums them up: where nobody reads the metrics, that is done here.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Observer;

const INTERVAL: Duration = Duration::from_secs(5);

impl Observer {
    /// Runs until the service stops.
    pub async fn keep_up(self, stopping: CancellationToken) {
        while !stopping.is_cancelled() {
            self.inner.handle.run_upkeep();
            stopping.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
        }
    }
}
