//! The only SQL and the only database drivers.
pub mod migrate;
