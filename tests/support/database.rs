//! A database for each test, on one server that the whole run shares.
#![allow(dead_code)]

/// A database of its own for one test; dropped (with force) when the value goes.
pub struct TestDatabase {
    pub url: String,
    name: String,
}

/// The administration URL of the server that this run shares.
async fn server_url() -> String {
    std::env::var("HEADWATER_TEST_SERVER_URL").expect("HEADWATER_TEST_SERVER_URL names a PostgreSQL server")
}
