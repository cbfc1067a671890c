//! Watches which server is the primary. A server that has fallen silent, or does not know yet that another one was promoted,
//! shows no error to those that are connected to it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::observation::Observation;
use crate::store::Database;
use crate::telemetry::Observer;

/// The agent that looks for another primary.
pub struct PrimaryWatch {
    pub database: Database,
    pub interval: Duration,
    pub observer: Observer,
}

impl PrimaryWatch {
    /// Runs until the service stops. Where no primary is found, the agents that need one say so.
    pub async fn run(self, stopping: CancellationToken) {
        let mut other_before = None;
        let mut primary = self.database.primary();
        let mut is_known = primary.borrow_and_update().is_some();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                // The sender lives as long as the database itself.
                _ = primary.changed() => {
                    let name = primary.borrow_and_update().as_ref().map(|server| server.name.clone());
                    if std::mem::replace(&mut is_known, true) {
                        self.observer.record(Observation::PrimaryChanged { name: name.unwrap_or_default() });
                    }
                    continue;
                }
                () = tokio::time::sleep(self.interval) => {}
            }
            let looking = tokio::select! {
                () = stopping.cancelled() => return,
                looking = self.database.look_for_primary() => looking,
            };
            let Ok(found) = looking else { continue };
            if found.other != other_before {
                self.observer.record(Observation::OtherPrimary { used: found.name, other: found.other.clone() });
                other_before = found.other;
            }
        }
    }
}
