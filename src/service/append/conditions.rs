//! Conditions with a query: the messages that they are about are looked at without a lock, as far as they are there. What
//! comes after them is judged where the request is written.

use std::sync::Arc;

use super::appends::Appends;
use crate::domain::append::{AppendError, AppendRequest, Condition, QueryCondition};
use crate::store::StoreError;

/// Looks at what conditions are about. Cheap to clone.
#[derive(Clone)]
pub(super) struct Conditions {
    pub database: Arc<dyn Appends>,
    /// Messages that are looked at for one request.
    pub messages_max: usize,
}

impl Conditions {
    /// The request with its conditions as far as they can be judged now: each has its first match, or the positions up to
    /// which there is none.
    ///
    /// In one category, all that write with its lock commit in the order of their positions. So nothing appears any more
    /// before the last message that is seen in it.
    pub async fn look(&self, request: &AppendRequest) -> Result<AppendRequest, AppendError> {
        let mut request = request.clone();
        let mut left = self.messages_max;
        for (condition, query) in request.conditions.iter_mut().enumerate() {
            if let Condition::Query(query) = query {
                self.look_at(query, condition, &mut left).await?;
            }
        }
        Ok(request)
    }

    async fn look_at(&self, query: &mut QueryCondition, condition: usize, left: &mut usize) -> Result<(), AppendError> {
        for (category, after) in &mut query.categories {
            // A match in another category is the first one of all only if there is none before it here.
            while query.found.is_none_or(|found| *after < found) {
                let looking = self.database.condition_window(category.as_str(), *after, &query.filter);
                let window = looking.await.map_err(|error| failed(&error))?;
                *left = left.saturating_sub(window.messages);
                if let Some(found) = window.found {
                    query.found = Some(query.found.map_or(found, |known| known.min(found)));
                    break;
                }
                *after = window.up_to;
                if window.is_end {
                    break;
                }
                if *left == 0 {
                    return Err(AppendError::ConditionTooWide { condition, max: self.messages_max });
                }
            }
        }
        Ok(())
    }
}

fn failed(error: &StoreError) -> AppendError {
    if error.is_unavailable() { AppendError::DatabaseUnavailable } else { AppendError::WriteRefused }
}
