//! Headwater: an event store that a browser can subscribe to.

// A crate that nothing uses any more leaves Cargo.toml too.
#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod app;
mod backup;
mod build_info;
pub mod config;
mod doctor;
pub mod domain;
pub mod embedded_postgres;
pub mod http;
pub mod lifecycle;
pub mod program;
pub mod service;
pub mod store;
pub mod telemetry;
mod transfer;
