//! How much one credential may use at the same time. Where credentials are off there is none, and nothing is counted.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use super::auth::Caller;
use crate::domain::append::AppendError;

/// So many credentials are remembered before those that have not appended lately are forgotten.
const REMEMBERED_MAX: usize = 1_000;

type AppendRates =
    RateLimiter<Arc<str>, HashMapStateStore<Arc<str>>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// The limits of each credential.
#[derive(Debug, Clone, Copy)]
pub struct PerCredentialSettings {
    /// Event streams that may be open; 0: no limit but that of all together.
    pub followers_max: usize,
    /// Append sessions that may be open; 0: no limit but that of all together.
    pub append_sessions_max: usize,
    /// Append requests, and commits of append sessions, in a second; 0: no limit.
    pub appends_per_second_max: usize,
}

/// What all credentials use now. Cheap to clone.
#[derive(Clone)]
pub struct CredentialLimits(Arc<Shared>);

struct Shared {
    settings: PerCredentialSettings,
    followers: Arc<Places>,
    append_sessions: Arc<Places>,
    rates: Option<AppendRates>,
}

/// Places of one kind, which each credential has as many of.
struct Places {
    /// 0: no limit.
    max: usize,
    /// Of credentials that have taken any.
    taken: Mutex<HashMap<Arc<str>, usize>>,
}

/// A place of a credential; given back when it goes.
pub struct CredentialPlace(Option<(Arc<Places>, Arc<str>)>);

impl CredentialLimits {
    pub fn new(settings: PerCredentialSettings) -> Self {
        let rate = u32::try_from(settings.appends_per_second_max).ok().and_then(NonZeroU32::new);
        let rates =
            rate.map(|rate| RateLimiter::new(Quota::per_second(rate), HashMapStateStore::default(), MonotonicClock));
        let followers = Places::new(settings.followers_max);
        let append_sessions = Places::new(settings.append_sessions_max);
        Self(Arc::new(Shared { settings, followers, append_sessions, rates }))
    }

    /// A place for an event stream; `Err`: how many places a credential has, all of which are taken.
    pub fn take_follower(&self, caller: &Caller) -> Result<CredentialPlace, usize> {
        self.0.followers.take(caller)
    }

    /// A place for an append session.
    pub fn take_session(&self, caller: &Caller) -> Result<CredentialPlace, AppendError> {
        self.0.append_sessions.take(caller).map_err(|max| AppendError::TooManySessionsOfCredential { max })
    }

    /// Counts an append, unless there were as many in the last second as there may be.
    pub fn take_append(&self, caller: &Caller) -> Result<(), AppendError> {
        match self.until_append(caller) {
            None => Ok(()),
            Some(_) => Err(AppendError::TooFast { max: self.0.settings.appends_per_second_max }),
        }
    }

    /// The same, but waits for as long as it takes.
    pub async fn turn_to_append(&self, caller: &Caller) {
        while let Some(pause) = self.until_append(caller) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Counts an append, or answers how long it has to wait.
    fn until_append(&self, caller: &Caller) -> Option<Duration> {
        let (Some(rates), Some(credential)) = (&self.0.rates, caller.credential()) else { return None };
        if rates.len() > REMEMBERED_MAX {
            rates.retain_recent();
        }
        rates.check_key(credential).err().map(|early| early.wait_time_from(MonotonicClock.now()))
    }
}

impl Places {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    fn take(self: &Arc<Self>, caller: &Caller) -> Result<CredentialPlace, usize> {
        let Some(credential) = caller.credential().filter(|_| self.max > 0) else { return Ok(CredentialPlace(None)) };
        let mut taken = self.taken.lock();
        let count = taken.entry(credential.clone()).or_default();
        if *count >= self.max {
            return Err(self.max);
        }
        *count += 1;
        Ok(CredentialPlace(Some((self.clone(), credential.clone()))))
    }
}

impl Drop for CredentialPlace {
    fn drop(&mut self) {
        let Some((places, credential)) = self.0.take() else { return };
        let mut taken = places.taken.lock();
        if let Some(count) = taken.get_mut(&credential) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&credential);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::scope::Rights;

    fn caller(name: &str) -> Caller {
        Caller::of(name, Rights::of(["admin".parse().unwrap()]), None, CancellationToken::new())
    }

    fn limits(followers_max: usize, appends_per_second_max: usize) -> CredentialLimits {
        CredentialLimits::new(PerCredentialSettings { followers_max, append_sessions_max: 0, appends_per_second_max })
    }

    #[test]
    fn a_credential_has_its_own_places_and_gets_them_back() {
        let limits = limits(2, 0);
        let (one, two) = (caller("one"), caller("two"));
        let places = [limits.take_follower(&one).unwrap(), limits.take_follower(&one).unwrap()];
        assert_eq!(limits.take_follower(&one).err(), Some(2));
        let _other = limits.take_follower(&two).unwrap();
        drop(places);
        assert_eq!(limits.0.followers.taken.lock().len(), 1, "a credential that follows nothing is forgotten");
        assert!(limits.take_follower(&one).is_ok());
    }

    #[test]
    fn a_credential_has_its_own_rate_and_nobody_has_none() {
        let limits = limits(0, 2);
        let (one, two) = (caller("one"), caller("two"));
        assert!(limits.take_append(&one).is_ok() && limits.take_append(&one).is_ok());
        assert_eq!(limits.take_append(&one), Err(AppendError::TooFast { max: 2 }));
        assert!(limits.take_append(&two).is_ok());
        let anybody = Caller::anybody();
        assert!((0..100).all(|_| limits.take_append(&anybody).is_ok() && limits.take_follower(&anybody).is_ok()));
    }

    #[test]
    fn what_is_not_limited_is_not_counted() {
        let limits = limits(0, 0);
        let one = caller("one");
        let _places: Vec<_> = (0..100).map(|_| limits.take_follower(&one).unwrap()).collect();
        assert!((0..100).all(|_| limits.take_append(&one).is_ok()));
        assert!(limits.0.followers.taken.lock().is_empty());
    }
}
