//! What came of a step that SQL does or does not do: one list of words for all functions of `headwater`.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Decode, Type};

use super::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// There is no such thing, or no longer.
    Missing,
    /// There are as many as there may be.
    Full,
    /// Another one has the lease, or the delivery, by now.
    Fenced,
    /// A definition or a state has changed since the caller looked.
    Changed,
    /// What the caller went by is not so any more: a cursor has moved, a projection is elsewhere, something has stopped.
    Stale,
    /// An append that was done before.
    Duplicate,
    /// A stream has another version than the append expects.
    WrongVersion,
    /// A message's id is used for something else.
    IdReused,
    /// Another transaction holds the lock of a category.
    Locked,
}

impl Outcome {
    pub(super) fn parse(word: &str) -> Result<Self, StoreError> {
        Ok(match word {
            "done" => Self::Done,
            "missing" => Self::Missing,
            "full" => Self::Full,
            "fenced" => Self::Fenced,
            "changed" => Self::Changed,
            "stale" => Self::Stale,
            "duplicate" => Self::Duplicate,
            "wrong_version" => Self::WrongVersion,
            "id_reused" => Self::IdReused,
            "locked" => Self::Locked,
            _ => return Err(StoreError::Bug(format!("the outcome {word:?} is not known to this version"))),
        })
    }

    /// Of a step that is done or is not, for one reason.
    pub(super) fn is_done(self) -> bool {
        self == Self::Done
    }

    /// A function has answered what it does not answer.
    pub(super) fn unexpected(self) -> StoreError {
        StoreError::Bug(format!("the outcome {self:?} was not expected here"))
    }
}

impl Type<Postgres> for Outcome {
    fn type_info() -> PgTypeInfo {
        <&str as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Outcome {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self::parse(Decode::<Postgres>::decode(value)?)?)
    }
}
