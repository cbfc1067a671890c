//! Callers of credentials that were checked: checked again they would cost a signature each time, and those that use one
//! credential end together.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{AuthError, Caller};
use crate::store::api_keys::KeyHash;

/// Callers by the SHA-256 of their credential, which itself is not kept.
pub struct KnownCallers {
    callers: Mutex<Callers>,
    cached_max: usize,
}

struct Callers {
    by_hash: HashMap<KeyHash, Caller>,
    /// With so many, those that nobody uses are forgotten.
    purge_at: usize,
    ends: u64,
}

impl KnownCallers {
    /// Remembers so many that nobody uses, and all that somebody does: those are bounded by what they are used for.
    pub fn new(cached_max: usize) -> Self {
        Self { callers: Mutex::new(Callers { by_hash: HashMap::new(), purge_at: cached_max, ends: 0 }), cached_max }
    }

    /// The caller of a credential, which is checked if that was not done before; an error if it has ended since.
    pub async fn find_or_check<C>(&self, hash: KeyHash, check: impl Fn() -> C) -> Result<Caller, AuthError>
    where
        C: Future<Output = Result<Caller, AuthError>>,
    {
        loop {
            if let Some(known) = self.find(&hash) {
                return known;
            }
            let ends = self.callers.lock().ends;
            if let Some(caller) = self.remember(hash, check().await?, ends) {
                return Ok(caller);
            }
        }
    }

    fn find(&self, hash: &KeyHash) -> Option<Result<Caller, AuthError>> {
        let mut callers = self.callers.lock();
        let caller = callers.by_hash.get(hash)?.clone();
        if caller.has_ended() {
            callers.by_hash.remove(hash);
            caller.end();
            return Some(Err(AuthError::Expired));
        }
        Some(Ok(caller))
    }

    /// Remembers a caller, and answers the one to use: another request may have brought the same credential meanwhile, and
    /// only the one that is remembered ends when it expires. `ends`: how often some had been ended when it was looked at.
    /// `None`: it has to be checked once more.
    fn remember(&self, hash: KeyHash, caller: Caller, ends: u64) -> Option<Caller> {
        let mut callers = self.callers.lock();
        if callers.ends != ends {
            return None;
        }
        if callers.by_hash.len() >= callers.purge_at {
            callers.by_hash.retain(|_, caller| caller.is_in_use());
            // Not again for each, if most of them are in use.
            callers.purge_at = self.cached_max.max(callers.by_hash.len() * 2);
        }
        Some(callers.by_hash.entry(hash).or_insert(caller).clone())
    }

    /// Ends those that have expired.
    pub fn expire(&self) {
        self.callers.lock().by_hash.retain(|_, caller| {
            let has_ended = caller.has_ended();
            if has_ended {
                caller.end();
            }
            !has_ended
        });
    }

    /// Ends all of which this is true, also those that are being checked at this moment.
    pub fn end_all(&self, which: impl Fn(&Caller) -> bool) {
        let mut callers = self.callers.lock();
        callers.ends += 1;
        callers.by_hash.extract_if(|_, caller| which(caller)).for_each(|(_, caller)| caller.end());
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::scope::Rights;
    use crate::domain::time::Timestamp;

    fn caller(expires_at: Option<Timestamp>) -> Caller {
        Caller::of("test", Rights::of([]), expires_at, CancellationToken::new())
    }

    #[test]
    fn callers_that_nobody_uses_are_bounded_and_those_in_use_stay() {
        let known = KnownCallers::new(10);
        let used = known.remember([255; 32], caller(None), 0).unwrap();
        assert!(known.remember([255; 32], caller(None), 0).unwrap().is_same(&used));
        for at in 0..100 {
            known.remember([at; 32], caller(None), 0);
            assert!(known.callers.lock().by_hash.len() <= 11);
        }
        assert!(known.find(&[255; 32]).is_some());
    }

    #[test]
    fn one_that_has_expired_is_ended_for_all_that_use_it() {
        let known = KnownCallers::new(10);
        let (past, future) = (Timestamp(0), Timestamp(i64::MAX));
        let remember = |hash, expires_at| known.remember([hash; 32], caller(Some(expires_at)), 0).unwrap();
        let (ended, lasting) = (remember(1, past), remember(2, future));
        known.expire();
        assert!(ended.has_ended() && known.find(&[1; 32]).is_none());
        assert!(!lasting.has_ended() && matches!(known.find(&[2; 32]), Some(Ok(_))));
    }

    #[test]
    fn what_is_checked_while_others_are_ended_is_checked_once_more() {
        let known = KnownCallers::new(10);
        known.end_all(|_| true);
        assert!(known.remember([1; 32], caller(None), 0).is_none());
        assert!(known.remember([1; 32], caller(None), 1).is_some());
    }
}
