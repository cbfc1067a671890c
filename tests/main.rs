//! One binary, a module a promise.
mod conformance;
mod embedded_postgres;
mod follow;
mod migrations;
mod settled;
mod smoke;
mod support;
