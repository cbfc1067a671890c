//! The metrics of the embedded server's backup. They are there once there is one: an age of 0 would say that there is.

use std::time::Duration;

use metrics::{Key, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{METADATA, Observer};

const AGE: &str = "headwater_backup_age_seconds";
const BEHIND: &str = "headwater_backup_wal_behind_bytes";
const LOST: &str = "headwater_backup_wal_lost";

impl Observer {
    pub(super) fn measure_backup(&self, age: Duration, wal_behind_bytes: Option<i64>) {
        let set = |name: &'static str, value: f64| {
            self.inner.recorder.register_gauge(&Key::from_static_name(name), &METADATA).set(value);
        };
        set(AGE, age.as_secs_f64());
        set(BEHIND, wal_behind_bytes.map_or(f64::NAN, |bytes| bytes as f64));
        set(LOST, f64::from(wal_behind_bytes.is_none()));
    }
}

pub(super) fn describe(recorder: &PrometheusRecorder) {
    for (name, text) in [
        (AGE, "Time since the newest base backup of the embedded server was finished."),
        (BEHIND, "Changes that `headwater backup` has not received yet."),
        (LOST, "1 once changes were removed before `headwater backup` received them."),
    ] {
        recorder.describe_gauge(name.into(), None, text.into());
    }
}
