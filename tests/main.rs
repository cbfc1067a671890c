//! One binary, a module a promise.
mod support;
