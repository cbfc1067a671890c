//! What the tests share.
pub mod database;
pub mod embedded_process;
pub mod waiting;
