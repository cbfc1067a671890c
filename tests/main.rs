//! One binary, a module a promise.
mod conformance;
mod embedded_postgres;
mod migrations;
mod smoke;
mod support;
