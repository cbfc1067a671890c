//! What the tests share.
pub mod app;
pub mod append_session;
pub mod certificate;
pub mod database;
pub mod embedded_process;
pub mod events;
pub mod front;
pub mod jwt;
pub mod log_scan;
pub mod own_server;
pub mod proxy;
pub mod raw_http;
pub mod raw_http2;
pub mod seeds;
pub mod service_process;
pub mod sql_writer;
pub mod tmpfs;
pub mod waiting;
pub mod writers;

/// An HTTP client. The crate's TLS is built without a provider of its own, so it gets the service's.
pub fn http_client() -> reqwest::Client {
    http_client_with(None)
}

/// The same, with a credential in each request.
pub fn http_client_with(token: Option<&str>) -> reqwest::Client {
    client_builder(token).build().expect("a client can be built")
}

/// The same, over HTTP/2 without TLS.
pub fn http2_client_with(token: Option<&str>) -> reqwest::Client {
    client_builder(token).http2_prior_knowledge().build().expect("a client can be built")
}

fn client_builder(token: Option<&str>) -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut headers = reqwest::header::HeaderMap::new();
    if let Some(token) = token {
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    reqwest::Client::builder().pool_max_idle_per_host(256).default_headers(headers)
}
