//! One binary, a module a promise.
mod append;
mod back_pressure;
mod conformance;
mod crash;
mod embedded_postgres;
mod follow;
mod hints;
mod idempotence;
mod long_poll;
mod migrations;
mod outage;
mod settled;
mod smoke;
mod support;
