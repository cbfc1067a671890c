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
}

impl KnownCallers {
    /// Remembers so many that nobody uses, and all that somebody does: those are bounded by what they are used for.
    pub fn new(cached_max: usize) -> Self {
        Self { callers: Mutex::new(Callers { by_hash: HashMap::new(), purge_at: cached_max }), cached_max }
    }

    /// The caller, if the credential was checked before; an error if it has ended since.
    pub fn find(&self, hash: &KeyHash) -> Option<Result<Caller, AuthError>> {
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
    /// only the one that is remembered ends when it expires.
    pub fn remember(&self, hash: KeyHash, caller: Caller) -> Caller {
        let mut callers = self.callers.lock();
        if callers.by_hash.len() >= callers.purge_at {
            callers.by_hash.retain(|_, caller| caller.is_in_use());
            // Not again for each, if most of them are in use.
            callers.purge_at = self.cached_max.max(callers.by_hash.len() * 2);
        }
        callers.by_hash.entry(hash).or_insert(caller).clone()
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

    /// Ends all of them.
    pub fn end_all(&self) {
        self.callers.lock().by_hash.drain().for_each(|(_, caller)| caller.end());
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
        let used = known.remember([255; 32], caller(None));
        assert!(known.remember([255; 32], caller(None)).is_same(&used));
        for at in 0..100 {
            known.remember([at; 32], caller(None));
            assert!(known.callers.lock().by_hash.len() <= 11);
        }
        assert!(known.find(&[255; 32]).is_some());
    }

    #[test]
    fn one_that_has_expired_is_ended_for_all_that_use_it() {
        let known = KnownCallers::new(10);
        let (past, future) = (Timestamp(0), Timestamp(i64::MAX));
        let (ended, lasting) =
            (known.remember([1; 32], caller(Some(past))), known.remember([2; 32], caller(Some(future))));
        known.expire();
        assert!(ended.has_ended() && known.find(&[1; 32]).is_none());
        assert!(!lasting.has_ended() && matches!(known.find(&[2; 32]), Some(Ok(_))));
    }
}
