//! One binary, a module a promise.
mod embedded_postgres;
mod support;
