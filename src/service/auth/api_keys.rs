//! API keys: all that can be used are in memory, so that a request costs no look-up, and one that is revoked ends at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{AuthError, Caller};
use crate::domain::api_key::{self, ApiKey, ID_BYTES, SECRET_BYTES};
use crate::domain::scope::{Rights, Scope};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::store::api_keys::{Created, KeyHash, KeysState, LiveKey, NewKey};
use crate::store::{Database, StoreError};

/// Between two looks at the database for keys that are not known here: somebody who guesses keys causes no more.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// How often it is noted which keys were used.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
/// How often a key is tried to be made, if the database's answers are lost.
const CREATE_ATTEMPTS_MAX: usize = 3;

/// What a new key is to be.
#[derive(Debug)]
pub struct KeyRequest<'a> {
    pub name: &'a str,
    pub scopes: &'a [Scope],
    pub expires_at: Option<Timestamp>,
    /// The caller that makes the key.
    pub created_by: &'a str,
}

/// A key that was made: the only time that it can be read.
#[derive(Debug)]
pub struct NewApiKey {
    pub secret: Secret,
    pub key: ApiKey,
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateKeyError {
    #[error("there are {max} keys already, which is the limit (--api-keys-max)")]
    TooMany { max: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys that can be used, as this instance knows them.
pub struct Keys {
    database: Database,
    keys_max: usize,
    known: Mutex<Known>,
    /// When the last look began, and what came of it.
    looking: tokio::sync::Mutex<Option<(Instant, Result<(), StoreError>)>>,
    wake: Notify,
    noted_at: Mutex<Instant>,
}

#[derive(Default)]
struct Known {
    state: Option<KeysState>,
    /// Some were left out because they had expired: by a clock that may be set back.
    is_partial: bool,
    keys: HashMap<String, Arc<Key>>,
}

struct Key {
    hash: KeyHash,
    scopes: Vec<Scope>,
    caller: Caller,
    /// 0: not since that was noted last.
    used_at: AtomicI64,
}

impl Keys {
    pub fn new(database: Database, keys_max: usize) -> Self {
        Self {
            database,
            keys_max,
            known: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            noted_at: Mutex::new(Instant::now()),
        }
    }

    /// The caller whose key this is.
    pub async fn caller(&self, text: &str) -> Result<Caller, AuthError> {
        let id = api_key::id_in(text).ok_or(AuthError::Unknown)?;
        let key = self.find(id).await?;
        // What differs takes as long to find as what does not.
        if !bool::from(key.hash.ct_eq(&hash_of(text))) {
            return Err(AuthError::Unknown);
        }
        if key.caller.has_ended() {
            return Err(AuthError::Expired);
        }
        key.used_at.store(Timestamp::now().0, Ordering::Relaxed);
        Ok(key.caller.clone())
    }

    /// The caller of a key that is known by its id.
    pub async fn caller_of_id(&self, id: &str) -> Result<Caller, AuthError> {
        let caller = self.find(id).await?.caller.clone();
        if caller.has_ended() { Err(AuthError::Expired) } else { Ok(caller) }
    }

    /// One that is not known may have been made by another instance a moment ago.
    async fn find(&self, id: &str) -> Result<Arc<Key>, AuthError> {
        let asked_at = Instant::now();
        if let Some(key) = self.known.lock().keys.get(id) {
            return Ok(key.clone());
        }
        self.look(asked_at).await?;
        self.known.lock().keys.get(id).cloned().ok_or(AuthError::Unknown)
    }

    pub fn ticket_secret(&self) -> Option<KeyHash> {
        self.known.lock().state.as_ref().map(|state| state.ticket_secret)
    }

    pub fn len(&self) -> usize {
        self.known.lock().keys.len()
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Looks whether keys have changed, unless that was done since then. All that ask meanwhile wait for one look.
    pub async fn look(&self, since: Instant) -> Result<(), StoreError> {
        let mut last = self.looking.lock().await;
        if let Some((began, outcome)) = &*last {
            if *began >= since {
                return outcome.clone();
            }
            tokio::time::sleep_until((*began + LOOK_PAUSE_MIN).into()).await;
        }
        let began = Instant::now();
        let outcome = self.read().await;
        *last = Some((began, outcome.clone()));
        outcome
    }

    /// The same, and notes which keys were used, once a minute.
    pub async fn look_and_note(&self) -> Result<(), StoreError> {
        self.look(Instant::now()).await?;
        {
            let mut noted_at = self.noted_at.lock();
            if noted_at.elapsed() < NOTE_INTERVAL {
                return Ok(());
            }
            *noted_at = Instant::now();
        }
        let uses = self.take_uses();
        if uses.is_empty() { Ok(()) } else { self.database.api_keys().used(&uses).await }
    }

    fn take_uses(&self) -> Vec<(String, Timestamp)> {
        let known = self.known.lock();
        let uses = known.keys.iter().map(|(id, key)| (id.clone(), key.used_at.swap(0, Ordering::Relaxed)));
        uses.filter(|(_, at)| *at > 0).map(|(id, at)| (id, Timestamp(at))).collect()
    }

    async fn read(&self) -> Result<(), StoreError> {
        // The state first: a change after it is seen by the next look.
        let state = self.database.api_keys().state().await?;
        if self.known.lock().is_current(&state) {
            return Ok(());
        }
        // All of them: a limit that was lowered is no reason to lock somebody out.
        let live = self.database.api_keys().live().await?;
        self.known.lock().take(state, live);
        Ok(())
    }

    /// Ends the keys that have expired.
    pub fn expire(&self) {
        let mut known = self.known.lock();
        let before = known.keys.len();
        known.keys.retain(|_, key| {
            let has_ended = key.caller.has_ended();
            if has_ended {
                key.caller.end();
            }
            !has_ended
        });
        known.is_partial |= known.keys.len() < before;
    }

    pub async fn create(&self, request: KeyRequest<'_>) -> Result<NewApiKey, CreateKeyError> {
        let made = new_key(&self.database, self.keys_max, request).await?;
        // So that it can be used here at once; elsewhere it is looked for when it is not known.
        let _ = self.look(Instant::now()).await;
        Ok(made)
    }

    pub async fn revoke(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let revoked = self.database.api_keys().revoke(id).await?;
        // A look that is under way may have read the key as it was; if this one fails, the key ends all the same.
        let _ = self.look(Instant::now()).await;
        if revoked.is_some()
            && let Some(key) = self.known.lock().keys.remove(id)
        {
            key.caller.end();
        }
        Ok(revoked)
    }

    pub async fn list(&self, after: Option<&str>, limit: i64) -> Result<Vec<ApiKey>, StoreError> {
        self.database.api_keys().list(after, limit).await
    }
}

impl Known {
    /// Takes what the database has: a key that is as it was goes on, one that is not ends for all that use it.
    fn is_current(&self, state: &KeysState) -> bool {
        !self.is_partial && self.state.as_ref() == Some(state)
    }

    fn take(&mut self, state: KeysState, live: Vec<LiveKey>) {
        let mut former = std::mem::take(&mut self.keys);
        for LiveKey { id, hash, scopes, expires_at } in live {
            let is_same = |key: &Key| key.hash == hash && key.scopes == scopes && key.caller.expires_at() == expires_at;
            let key = match former.remove(&id) {
                Some(key) if is_same(&key) => key,
                other => {
                    if let Some(changed) = other {
                        changed.caller.end();
                    }
                    let rights = Rights::of(scopes.iter().cloned());
                    let caller = Caller::of(format!("key:{id}"), rights, expires_at, CancellationToken::new());
                    Arc::new(Key { hash, scopes, caller, used_at: AtomicI64::new(0) })
                }
            };
            self.keys.insert(id, key);
        }
        former.values().for_each(|gone| gone.caller.end());
        (self.state, self.is_partial) = (Some(state), false);
    }
}

/// Makes a key in the database. If an answer is lost, the same key is asked for again: it is made once.
pub async fn new_key(
    database: &Database,
    keys_max: usize,
    request: KeyRequest<'_>,
) -> Result<NewApiKey, CreateKeyError> {
    let KeyRequest { name, scopes, expires_at, created_by } = request;
    let mut id = api_key::id_of(random::<ID_BYTES>());
    let mut text = api_key::text_of(&id, random::<SECRET_BYTES>());
    let mut attempt = 1;
    loop {
        let new = NewKey { id: &id, hash: hash_of(&text), name, scopes, created_by, expires_at };
        match database.api_keys().create(&new, keys_max as i64).await {
            Ok(Created::Yes(key)) => return Ok(NewApiKey { secret: Secret::new(text), key }),
            Ok(Created::IdTaken) => {
                id = api_key::id_of(random::<ID_BYTES>());
                text = api_key::text_of(&id, random::<SECRET_BYTES>());
            }
            // An attempt whose answer was lost may have been under way still.
            Ok(Created::TooMany) if attempt == 1 || attempt >= CREATE_ATTEMPTS_MAX => {
                return Err(CreateKeyError::TooMany { max: keys_max });
            }
            Err(error) if !error.may_pass() || attempt >= CREATE_ATTEMPTS_MAX => return Err(error.into()),
            Ok(Created::TooMany) | Err(_) => {}
        }
        attempt += 1;
    }
}

/// SHA-256: enough for what has 256 random bits.
pub fn hash_of(text: &str) -> KeyHash {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().unwrap_or_else(|_| unreachable!("SHA-256 has 32 bytes"))
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    // A system without random numbers can do nothing that is secret.
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes
}
