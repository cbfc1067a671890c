//! Credentials: who asks, and what for.

pub mod caller;
