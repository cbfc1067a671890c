//! What the tests share.
pub mod app;
pub mod database;
pub mod embedded_process;
pub mod events;
pub mod own_server;
pub mod proxy;
pub mod raw_http;
pub mod service_process;
pub mod sql_writer;
pub mod waiting;
pub mod writers;

/// Replays one seed of a simulation.
const SEED_VARIABLE: &str = "HEADWATER_TEST_SEED";
/// How many seeds a simulation tries, instead of as many as take a second or two.
const ROUNDS_VARIABLE: &str = "HEADWATER_TEST_ROUNDS";

/// The seeds of a simulation. Each is printed as its turn comes, so the last one printed is the one that failed.
pub fn seeds(rounds: u64) -> impl Iterator<Item = u64> {
    let read =
        |variable: &str| std::env::var(variable).ok().map(|number| number.parse::<u64>().expect("it is a number"));
    let given = read(SEED_VARIABLE);
    let rounds = if given.is_some() { 1 } else { read(ROUNDS_VARIABLE).unwrap_or(rounds) };
    (0..rounds).map(move |_| {
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("again with: {SEED_VARIABLE}={seed}");
        seed
    })
}

/// An HTTP client. The crate's TLS is built without a provider of its own, so it gets the service's.
pub fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().pool_max_idle_per_host(256).build().expect("a client can be built")
}
