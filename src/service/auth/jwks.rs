//! The keys of a JWKS URL: fetched, kept while the URL is away, and fetched again when a token names one that is not
//! known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::jwt_keys::JwtKey;
use crate::domain::observation::Observation;
use crate::telemetry::Observer;

/// The longest that a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document.
const BYTES_MAX: usize = 256 << 10;
/// The most keys that are kept of one.
const KEYS_MAX: usize = 100;
/// After a fetch that failed, the next is tried this much later.
const RETRY: Duration = Duration::from_secs(5);
/// Tokens that name keys which are not known cause a fetch this often at most: anybody can make such tokens.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(10);

/// Where keys are fetched.
#[derive(Debug, Clone)]
pub struct JwksSettings {
    pub url: String,
    /// How often.
    pub refresh: Duration,
}

/// The keys of a URL.
pub struct Jwks {
    settings: JwksSettings,
    keys: Mutex<Arc<[JwtKey]>>,
    /// When a token last caused a fetch.
    unknown: tokio::sync::Mutex<Option<Instant>>,
    has_failed: AtomicBool,
    observer: Observer,
}

#[derive(Deserialize)]
struct Document {
    /// Each is read by itself: one that is of an unknown kind leaves the others.
    keys: Vec<serde_json::Value>,
}

impl Jwks {
    pub fn new(settings: JwksSettings, observer: Observer) -> Self {
        // What fetches has no provider of cryptography of its own. A second call finds it done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (keys, unknown) = (Mutex::new(Arc::from([])), tokio::sync::Mutex::default());
        Self { settings, keys, unknown, has_failed: AtomicBool::new(false), observer }
    }

    pub fn keys(&self) -> Arc<[JwtKey]> {
        self.keys.lock().clone()
    }

    /// Fetches the keys because of a token that names an unknown one. All that come meanwhile wait for the same fetch.
    pub async fn look_for_unknown(&self) {
        let asked_at = Instant::now();
        let mut last = self.unknown.lock().await;
        if last.is_some_and(|last| last >= asked_at || last.elapsed() < UNKNOWN_PAUSE) {
            return;
        }
        self.refresh().await;
        *last = Some(Instant::now());
    }

    /// Fetches the keys; those that there are go on if that fails. Answers whether it was done.
    async fn refresh(&self) -> bool {
        let fetched = self.fetch().await;
        let is_done = fetched.is_ok();
        let had_failed = self.has_failed.swap(!is_done, Ordering::SeqCst);
        match fetched {
            Ok(keys) => {
                let count = keys.len();
                *self.keys.lock() = keys.into();
                self.observer.record(Observation::JwksFetched { keys: count });
            }
            Err(error) => self.observer.record(Observation::JwksFailed { error, is_news: !had_failed }),
        }
        is_done
    }

    async fn fetch(&self) -> Result<Vec<JwtKey>, String> {
        let failed = |error: reqwest::Error| error.without_url().to_string();
        // A client for each fetch: there are few, and nothing of it has to be kept meanwhile.
        let http = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            // An attacker that can redirect the fetch could give the service keys.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("headwater")
            .build()
            .map_err(failed)?;
        let mut response = http.get(&self.settings.url).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("it answers with status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > BYTES_MAX {
                return Err(format!("it answers with more than {BYTES_MAX} bytes"));
            }
        }
        read(&body)
    }

    /// Keeps the keys as the URL has them, until the service stops. `removed` is called after a key was taken away.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken, removed: impl Fn() + Send) {
        let mut known = self.keys();
        while !stopping.is_cancelled() {
            let pause = if self.refresh().await { self.settings.refresh } else { RETRY.min(self.settings.refresh) };
            let keys = self.keys();
            if known.iter().any(|key| !keys.contains(key)) {
                removed();
            }
            known = keys;
            stopping.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }
}

/// The keys of a document that can be used.
fn read(body: &[u8]) -> Result<Vec<JwtKey>, String> {
    let document: Document = serde_json::from_slice(body).map_err(|_| "what it answers is no JWKS".to_owned())?;
    let jwks = document.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys: Vec<JwtKey> = jwks.filter_map(|jwk| JwtKey::of_jwk(&jwk)).take(KEYS_MAX).collect();
    // A document without any is a mistake of its author, and would lock everybody out.
    if keys.is_empty() { Err("it has no key that can be used".into()) } else { Ok(keys) }
}
