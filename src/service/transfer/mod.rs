//! A store as NDJSON, a message a line: out of the log, and into one.

pub mod batches;
pub mod export;
pub mod import;
pub mod seen;
