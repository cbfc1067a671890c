//! The caller of a request: what its credential allows, and until when.

use std::sync::{Arc, LazyLock};

use tokio_util::sync::CancellationToken;

use crate::domain::scope::Rights;
use crate::domain::time::Timestamp;
use crate::store::api_keys::KeyHash;

/// The caller of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rights: Rights,
    credential: Option<Arc<str>>,
    expires_at: Option<Timestamp>,
    ended: CancellationToken,
    /// What the key is recognised by that the credential was signed with, for a JWT and what was made with it.
    signed_with: Option<KeyHash>,
}

impl Caller {
    /// Everybody, where credentials are off.
    pub fn anybody() -> Self {
        static ANYBODY: LazyLock<Caller> =
            LazyLock::new(|| Caller::new(Rights::Everything, None, None, CancellationToken::new(), None));
        ANYBODY.clone()
    }

    /// A caller that has shown no credential where one is required, on a path that needs none.
    pub fn nobody() -> Self {
        static NOBODY: LazyLock<Caller> =
            LazyLock::new(|| Caller::new(Rights::of([]), None, None, CancellationToken::new(), None));
        NOBODY.clone()
    }

    /// A caller that has shown a credential. `credential` names it in limits and logs, and is no secret; `ended` is cancelled when
    /// it expires or is revoked, by the agent that looks at the clock for all of them.
    pub fn of(
        credential: impl Into<Arc<str>>,
        rights: Rights,
        expires_at: Option<Timestamp>,
        ended: CancellationToken,
    ) -> Self {
        Self::new(rights, Some(credential.into()), expires_at, ended, None)
    }

    /// The same, which counts for no longer than the key that it was signed with.
    pub(super) fn signed(
        credential: impl Into<Arc<str>>,
        rights: Rights,
        expires_at: Option<Timestamp>,
        key: KeyHash,
    ) -> Self {
        Self::new(rights, Some(credential.into()), expires_at, CancellationToken::new(), Some(key))
    }

    fn new(
        rights: Rights,
        credential: Option<Arc<str>>,
        expires_at: Option<Timestamp>,
        ended: CancellationToken,
        signed_with: Option<KeyHash>,
    ) -> Self {
        Self(Arc::new(Inner { rights, credential, expires_at, ended, signed_with }))
    }

    /// What the caller may do.
    pub fn rights(&self) -> &Rights {
        &self.0.rights
    }

    /// The credential's name, if credentials are in use: what is limited for each credential is counted by it.
    pub fn credential(&self) -> Option<&Arc<str>> {
        self.0.credential.as_ref()
    }

    /// When the credential expires, if it does.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.0.expires_at
    }

    /// What the key is recognised by that the credential was signed with, if it was.
    pub(super) fn signed_with(&self) -> Option<&KeyHash> {
        self.0.signed_with.as_ref()
    }

    /// Whether the credential has expired or was revoked.
    pub fn has_ended(&self) -> bool {
        self.0.ended.is_cancelled() || self.0.expires_at.is_some_and(|at| at <= Timestamp::now())
    }

    /// Waits until the credential has expired or was revoked; for ever, if it does neither.
    pub async fn ended(&self) {
        match self.0.credential {
            Some(_) => self.0.ended.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it for all that use it.
    pub(super) fn end(&self) {
        self.0.ended.cancel();
    }

    /// Ends with this one.
    pub(super) fn child_token(&self) -> CancellationToken {
        self.0.ended.child_token()
    }

    /// Whether both end together.
    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether anybody but the one that asks has it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}
