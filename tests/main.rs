//! One binary, a module a promise.
mod append;
mod back_pressure;
mod conformance;
mod embedded_postgres;
mod idempotence;
mod migrations;
mod smoke;
mod support;
