//! The documents that the product was begun from: what they describe, as calls of this service.

mod coredis;
mod depeche_db;
mod depeche_subscriptions;
mod kstreams;
mod message_db_py;
mod walrus;
