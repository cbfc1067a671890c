//! One binary, a module a promise.
mod conformance;
mod crash_follow;
mod embedded_postgres;
mod follow;
mod hints;
mod long_poll;
mod migrations;
mod settled;
mod slow_follower;
mod smoke;
mod support;
