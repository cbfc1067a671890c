//! Credentials: which callers they make, what those may do, and until when.

mod api_keys;
pub mod caller;
mod jwks;
mod jwt;
mod jwt_keys;
mod known;
mod tickets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::api_keys::Keys;
pub use self::api_keys::{CreateKeyError, KeyRequest, NewApiKey, new_key};
pub use self::caller::Caller;
use self::jwks::Jwks;
pub use self::jwks::JwksSettings;
pub use self::jwt::JwtSettings;
use self::jwt::{JwtError, Jwts};
pub use self::jwt_keys::{JwtKey, KeyError};
use self::known::KnownCallers;
pub use self::tickets::{Ticket, TicketError};
use super::back_off::BackOff;
use crate::domain::api_key::{self, ApiKey};
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// How often it is looked whether keys have changed, and which credentials have expired. A key that is revoked on another
/// instance ends here within this time, whatever becomes of the signal.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of credentials.
#[derive(Debug, Clone)]
pub struct CredentialSettings {
    /// Without: everybody may do everything.
    pub are_required: bool,
    /// How many keys there may be that can be used.
    pub api_keys_max: usize,
    /// How many callers are remembered that nobody uses at the moment.
    pub callers_cached_max: usize,
    /// The longest that a ticket may be valid.
    pub ticket_ttl_max: Duration,
    /// `None`: JWTs are not taken.
    pub jwt: Option<JwtSettings>,
}

/// Why a credential is not taken. None of these has anything of the credential in it.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the credential is unknown here: it was mistyped, or made for another service, or revoked")]
    Unknown,
    #[error("the credential has expired")]
    Expired,
    #[error("a ticket is for the parameter `ticket` or the cookie, not for this header")]
    TicketInHeader,
    #[error("the JWT is not taken: {0}")]
    Jwt(#[from] JwtError),
    /// It cannot be known whether the credential is one.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All credentials. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    settings: CredentialSettings,
    keys: Keys,
    /// Tickets that were checked.
    tickets: KnownCallers,
    jwts: Option<Jwts>,
    jwks: Option<Arc<Jwks>>,
    /// JWTs that were checked.
    tokens: KnownCallers,
    observer: Observer,
}

impl Credentials {
    pub fn new(database: Database, settings: CredentialSettings, observer: Observer) -> Self {
        let known = || KnownCallers::new(settings.callers_cached_max);
        let (tickets, tokens) = (known(), known());
        let keys = Keys::new(database, settings.api_keys_max);
        let jwks = settings.jwt.as_ref().and_then(|jwt| jwt.jwks.clone());
        let jwks = jwks.map(|jwks| Arc::new(Jwks::new(jwks, observer.clone())));
        let jwts = settings.jwt.clone().map(|jwt| Jwts::new(jwt, jwks.clone()));
        Self(Arc::new(Shared { settings, keys, tickets, jwts, jwks, tokens, observer }))
    }

    /// Whether there must be one.
    pub fn are_required(&self) -> bool {
        self.0.settings.are_required
    }

    /// The caller whose credential this is: that of an `Authorization` header.
    pub async fn caller(&self, token: &Secret) -> Result<Caller, AuthError> {
        let text = token.expose();
        if api_key::id_in(text).is_some() {
            return self.0.keys.caller(text).await;
        }
        if tickets::is_one(text) {
            return Err(AuthError::TicketInHeader);
        }
        let Some(jwts) = &self.0.jwts else { return Err(AuthError::Unknown) };
        let fingerprint = api_keys::hash_of(text);
        self.0.tokens.find_or_check(fingerprint, || async { Ok(jwts.caller(token).await?) }).await
    }

    /// Whether JWTs are taken.
    pub fn take_jwts(&self) -> bool {
        self.0.jwts.is_some()
    }

    /// The caller whose ticket this is.
    pub async fn ticket_caller(&self, ticket: &Secret) -> Result<Caller, AuthError> {
        let fingerprint = api_keys::hash_of(ticket.expose());
        let check = || tickets::caller_of(ticket, &self.0.keys, self.0.jwts.as_ref());
        self.0.tickets.find_or_check(fingerprint, check).await
    }

    /// Makes a ticket for a caller.
    pub fn issue_ticket(&self, caller: &Caller, scopes: &[Scope], ttl: Duration) -> Result<Ticket, TicketError> {
        tickets::issue(caller, scopes, ttl, self.0.keys.ticket_secret())
    }

    /// The longest that a ticket may be valid.
    pub fn ticket_ttl_max(&self) -> Duration {
        self.0.settings.ticket_ttl_max
    }

    /// Makes a key. It can be used on every instance as soon as this answers.
    pub async fn create_key(&self, request: KeyRequest<'_>) -> Result<NewApiKey, CreateKeyError> {
        let made = self.0.keys.create(request).await;
        self.look_again();
        made
    }

    /// Revokes a key, here before it answers, on other instances within a second or two. `None`: there is none.
    pub async fn revoke_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let revoked = self.0.keys.revoke(id).await;
        self.look_again();
        revoked
    }

    /// Keys in the order in which they were made, after one of them.
    pub async fn list_keys(&self, after: Option<&str>, limit: i64) -> Result<Vec<ApiKey>, StoreError> {
        self.0.keys.list(after, limit).await
    }

    /// How many keys can be used, as far as this instance knows.
    pub fn live_keys(&self) -> usize {
        self.0.keys.len()
    }

    /// Keys may have changed.
    pub fn look_again(&self) {
        self.0.keys.wake();
    }

    /// Looks at the keys for the first time: before that, no key is known.
    pub async fn load(&self) -> Result<(), StoreError> {
        self.0.keys.look(Instant::now()).await
    }

    /// Keeps what is known of keys as the database has it, until the service stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut back_off = BackOff::new("credentials", self.0.observer.clone());
        // Kept from one look to the next, as others look in between.
        let mut secret = self.0.keys.ticket_secret();
        while !stopping.is_cancelled() {
            let looked = self.0.keys.look_and_note().await;
            let before = std::mem::replace(&mut secret, self.0.keys.ticket_secret());
            if before.is_some() && before != secret {
                self.0.tickets.end_all(|_| true);
            }
            let has_failed = looked.is_err();
            back_off.after(looked, &stopping).await;
            if has_failed {
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.0.keys.woken() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Keeps the keys of the JWKS URL, if there is one, until the service stops.
    pub async fn fetch_keys(self, stopping: CancellationToken) {
        let Some(jwks) = self.0.jwks.clone() else { return stopping.cancelled().await };
        // A key is taken away for a reason: what was signed with it ends, and everybody else comes back at once.
        let removed = || {
            for known in [&self.0.tokens, &self.0.tickets] {
                known.end_all(|caller| caller.signed_with().is_some());
            }
        };
        jwks.run(stopping, removed).await;
    }

    /// Ends what has expired, for all that use it: one clock for all. It is the wall's, so that a clock that is set counts.
    pub async fn expire(self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {
                    self.0.keys.expire();
                    self.0.tickets.expire();
                    self.0.tokens.expire();
                }
            }
        }
    }
}
