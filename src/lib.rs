//! Headwater: an event store that a browser can subscribe to.

pub mod domain;
pub mod embedded_postgres;
pub mod store;
