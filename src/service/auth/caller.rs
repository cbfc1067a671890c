//! Who asks: what a credential allows, and until when.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::scope::Rights;
use crate::domain::time::Timestamp;

/// A wait for the end of a credential looks at the clock at least this often: the clock may be set.
const CLOCK_CHECK: Duration = Duration::from_secs(5);

/// The caller of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rights: Rights,
    credential: Option<Arc<str>>,
    expires_at: Option<Timestamp>,
    revoked: CancellationToken,
}

impl Caller {
    /// Everybody, where credentials are off.
    pub fn anybody() -> Self {
        Self(Arc::new(Inner {
            rights: Rights::Everything,
            credential: None,
            expires_at: None,
            revoked: CancellationToken::new(),
        }))
    }

    /// Who has shown a credential. `credential` names it in limits and logs, and is no secret; `revoked` is cancelled when
    /// it is revoked.
    pub fn of(
        credential: impl Into<Arc<str>>,
        rights: Rights,
        expires_at: Option<Timestamp>,
        revoked: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { rights, credential: Some(credential.into()), expires_at, revoked }))
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

    /// Whether the credential has expired or was revoked.
    pub fn has_ended(&self) -> bool {
        self.0.revoked.is_cancelled() || self.0.expires_at.is_some_and(|at| at <= Timestamp::now())
    }

    /// Waits until the credential has expired or was revoked; for ever, if it does neither.
    pub async fn ended(&self) {
        let revoked = self.0.revoked.cancelled();
        let Some(expires_at) = self.0.expires_at else { return revoked.await };
        let expired = async {
            while let left @ 1.. = expires_at.0.saturating_sub(Timestamp::now().0) {
                tokio::time::sleep(Duration::from_micros(left.unsigned_abs()).min(CLOCK_CHECK)).await;
            }
        };
        tokio::select! {
            () = revoked => {}
            () = expired => {}
        }
    }
}
