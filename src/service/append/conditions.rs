//! Conditions with a query: the messages that they are about are looked at without a lock, as far as they are there. What
//! comes after them is judged where the request is written.
//!
//! A condition on a key becomes a query: what the index of its aggregated stream has is looked up, and the log is looked at
//! from there on. What was looked up says something of the log, which stays true if the aggregated stream is rebuilt or
//! deleted meanwhile.

use std::sync::Arc;

use super::appends::Appends;
use crate::domain::aggregated_stream::Definition;
use crate::domain::append::{
    AppendError, AppendRequest, Condition, KeyCondition, KeyRefusal, Predicate, QueryCondition, READ_CATEGORIES_MAX,
};
use crate::domain::filter::Filter;
use crate::domain::scope::Rights;
use crate::domain::stream_name::Category;
use crate::service::aggregated::may_read;
use crate::store::StoreError;
use crate::store::keyed_streams::IndexedKey;

/// Looks at what conditions are about. Cheap to clone.
#[derive(Clone)]
pub(super) struct Conditions {
    pub database: Arc<dyn Appends>,
    /// Messages that are looked at for one request.
    pub messages_max: usize,
}

impl Conditions {
    /// The request with its conditions on keys as queries. One that cannot be judged stays what it is, with the reason: the
    /// request may have been done before. One on what the caller may not read is refused at once.
    pub async fn find_keys(&self, request: &mut AppendRequest, rights: &Rights) -> Result<(), AppendError> {
        let mut read = request.read_categories().count();
        for (at, condition) in request.conditions.iter_mut().enumerate() {
            let Condition::Key(key) = condition else { continue };
            let looking = self.database.indexed_key(key, self.messages_max);
            let Some(index) = looking.await.map_err(|error| failed(&error))? else { continue };
            let definition: Definition =
                serde_json::from_str(&index.definition).map_err(|_| AppendError::WriteRefused)?;
            may_read(&key.aggregated_stream, &definition, rights)?;
            let refused = |refusal| key.refused(at, refusal);
            match query_of(key, definition, &index)? {
                Err(refusal) => key.refusal = refused(refusal),
                Ok(_) if index.found.is_none() && index.links > self.messages_max as i64 => {
                    key.refusal = AppendError::ConditionTooWide { condition: at, max: self.messages_max };
                }
                Ok(query) if read + query.categories.len() > READ_CATEGORIES_MAX => {
                    key.refusal = refused(KeyRefusal::Categories(read + query.categories.len()));
                }
                Ok(query) => {
                    read += query.categories.len();
                    *condition = Condition::Query(query);
                }
            }
        }
        Ok(())
    }

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
                let looking = self.database.condition_window(category.as_str(), *after, &query.predicate);
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

/// What the log must not have after what is in the index.
fn query_of(
    key: &KeyCondition,
    definition: Definition,
    index: &IndexedKey,
) -> Result<Result<QueryCondition, KeyRefusal>, AppendError> {
    if !definition.is_keyed() {
        return Ok(Err(KeyRefusal::NotKeyed));
    }
    // It was compiled before, when it was made.
    let aggregation = definition.compile().map_err(|_| AppendError::WriteRefused)?;
    let Some(categories) = aggregation.streams().categories() else { return Ok(Err(KeyRefusal::Unbound)) };
    let after = key.after.max(index.projected_position);
    let categories = categories.into_iter().map(|category| (Category::of_streams(category), after)).collect();
    let filter = Filter { types: aggregation.definition().types.as_slice().into(), ..Filter::default() };
    let predicate = Predicate { filter, key: Some((Arc::new(aggregation), key.key.clone())) };
    Ok(Ok(QueryCondition { categories, predicate, found: index.found }))
}

fn failed(error: &StoreError) -> AppendError {
    if error.may_pass() { AppendError::DatabaseUnavailable } else { AppendError::WriteRefused }
}
