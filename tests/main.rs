//! One binary, a module a promise.
mod append;
mod back_pressure;
mod conformance;
mod crash;
mod embedded_postgres;
mod idempotence;
mod migrations;
mod outage;
mod smoke;
mod support;
