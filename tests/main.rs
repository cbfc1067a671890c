//! One binary, a module a promise.
mod bad_input;
mod conformance;
mod embedded_postgres;
mod house;
mod migrations;
mod operations;
mod program;
mod reads;
mod seeds;

mod smoke;
mod support;
