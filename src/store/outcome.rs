//! What a function of schema `headwater` answers of the step that it was asked to do: one list of words for all of them.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Decode, Type};

use super::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// What the step is about does not exist.
    Missing,
    /// There are as many as may be.
    Full,
    /// The lease or the delivery belongs to another holder by now.
    Fenced,
    /// A definition or a state has changed since the caller looked.
    Changed,
    /// What the caller assumed is not so any more: a cursor has moved, a projection is elsewhere, something has stopped.
    Stale,
    /// The append was done before.
    Duplicate,
    /// The stream has another version than the append expects.
    WrongVersion,
    /// A message's id belongs to another message.
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

    /// For a step that can fail in one way only.
    pub(super) fn is_done(self) -> bool {
        self == Self::Done
    }

    /// The error for an outcome that the function does not have.
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
