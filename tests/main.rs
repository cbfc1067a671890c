//! One binary, a module a promise.
mod conformance;
mod embedded_postgres;
mod follow;
mod hints;
mod long_poll;
mod migrations;
mod settled;
mod smoke;
mod support;
