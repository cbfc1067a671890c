//! One binary, a module a promise.
mod conformance;
mod migrations;
mod support;
