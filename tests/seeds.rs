//! The documents that the product was begun from: what they describe, as calls of this service.

mod depeche_db;
mod message_db_py;
