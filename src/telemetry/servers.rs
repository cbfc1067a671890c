//! Metrics of the servers of the database: which is the primary, and how far replicas are read.

use metrics::{Counter, Gauge, Key, Label, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{METADATA, Observer};
use crate::domain::observation::Observation;

const CHANGES: &str = "headwater_primary_changes_total";
const OTHER: &str = "headwater_other_primary";

pub(super) fn describe(recorder: &PrometheusRecorder) {
    // They are shown before anything has happened.
    recorder.register_counter(&Key::from_static_name(CHANGES), &METADATA).absolute(0);
    recorder.register_gauge(&Key::from_static_name(OTHER), &METADATA).set(0.0);
    for (name, text) in [
        (CHANGES, "Times that another server became the primary."),
        ("headwater_replica_reads_total", "Pages asked of a replica, by where they were read in the end."),
    ] {
        recorder.describe_counter(name.into(), None, text.into());
    }
    for (name, text) in [
        (OTHER, "1 while another server of the database URL takes writes too."),
        ("headwater_replica_used", "1 while a replica is read from."),
        ("headwater_replica_position", "Global position up to which a replica may be read."),
    ] {
        recorder.describe_gauge(name.into(), None, text.into());
    }
}

impl Observer {
    /// Counts what is about one of the servers.
    pub(super) fn count_server(&self, observation: &Observation) {
        match observation {
            Observation::PrimaryChanged { .. } => self.counter(CHANGES, Vec::new()).increment(1),
            Observation::OtherPrimary { other, .. } => {
                self.gauge(OTHER, Vec::new()).set(f64::from(other.is_some()));
            }
            Observation::ReplicaSeen { name, used, up_to, .. } => {
                let labels = || vec![Label::new("replica", name.clone())];
                self.gauge("headwater_replica_used", labels()).set(f64::from(*used));
                self.gauge("headwater_replica_position", labels()).set(*up_to as f64);
            }
            Observation::ReplicaRead { name, is_used } => {
                let from = if *is_used { "replica" } else { "primary" };
                let labels = vec![Label::new("replica", name.clone()), Label::new("from", from)];
                self.counter("headwater_replica_reads_total", labels).increment(1);
            }
            _ => {}
        }
    }

    /// A metric that is rare, or of one of a few replicas.
    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.inner.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.inner.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }
}
