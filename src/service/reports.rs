//! Reports on categories, streams, types and the settled position, at a cost that does not grow with the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::counting::Counting;
use super::tail::Tail;
use crate::domain::keyed::first_after_prefix;
use crate::domain::stream_name;
pub use crate::store::reports::{CountLine, CountedBy, HolderLine, NameQuery, StreamLine};
use crate::store::reports::{Counts, NameRange};
use crate::store::{Database, StoreError};

/// How many names of streams one request may look at for a search. After these the page ends, and names where to go on.
/// Each costs a descent into an index, 10 to 20 microseconds.
const NAMES_EXAMINED_MAX: usize = 10_000;
/// How many names are read at once for a search.
const NAMES_AT_ONCE: usize = 500;

impl NameQuery {
    fn passes_stream(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
            && self.of.as_deref().is_none_or(|category| stream_name::category(name) == category)
            && (self.contains.is_empty() || name.to_ascii_lowercase().contains(&self.contains.to_ascii_lowercase()))
    }

    /// A text with which every name begins that can pass.
    fn common_prefix(&self) -> &str {
        self.of.as_deref().filter(|category| category.len() >= self.prefix.len()).unwrap_or(&self.prefix)
    }
}

/// A page of names.
#[derive(Debug)]
pub struct StreamsPage {
    pub lines: Vec<StreamLine>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Some names of streams of a category.
#[derive(Debug)]
pub struct StreamNames {
    pub found: Vec<String>,
    /// How many names were looked at. Where names are not in the order of code points, others are among them.
    pub examined: usize,
    /// After which name to go on; `None` at the end.
    pub next: Option<String>,
}

/// A page of counts.
#[derive(Debug)]
pub struct CountsPage {
    pub lines: Vec<CountLine>,
    pub next: Option<String>,
    /// Every message up to this position is in the counts.
    pub counted_position: i64,
    pub settled_position: i64,
    pub message_count: i64,
}

/// The settled position, and what holds it back.
#[derive(Debug)]
pub struct SettledReport {
    pub head: i64,
    pub settled: i64,
    pub held_back: Option<HeldBackReport>,
}

#[derive(Debug)]
pub struct HeldBackReport {
    pub at: i64,
    pub age: Duration,
    pub holders: Vec<HolderLine>,
}

/// Reports. Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    database: Database,
    tail: Tail,
    counting: Counting,
    in_code_point_order: Arc<OnceCell<bool>>,
}

impl Reports {
    pub fn new(database: Database, tail: Tail) -> Self {
        let counting = Counting::new(database.clone(), tail.clone());
        Self { database, tail, counting, in_code_point_order: Arc::default() }
    }

    /// Streams in order of name, as the database sorts.
    pub async fn streams(&self, query: &NameQuery) -> Result<StreamsPage, StoreError> {
        let mut range = self.range(query).await?;
        let mut found = Vec::new();
        let mut examined = 0;
        loop {
            let wanted = query.limit + 1 - found.len();
            let chunk = if query.prefix.is_empty() && query.contains.is_empty() && query.of.is_none() {
                wanted
            } else {
                NAMES_AT_ONCE
            };
            let names = self.database.reports().stream_names(&range, chunk as i64).await?;
            let is_last = names.len() < chunk;
            examined += names.len();
            let last = names.last().map(|(name, _)| name.clone());
            found.extend(names.into_iter().filter(|(name, _)| query.passes_stream(name)));
            if found.len() > query.limit {
                found.truncate(query.limit + 1);
                let next = found.pop().map(|(name, _)| name);
                return Ok(StreamsPage { lines: self.database.reports().stream_ends(&found).await?, next });
            }
            let Some(last) = last.filter(|_| !is_last) else {
                return Ok(StreamsPage { lines: self.database.reports().stream_ends(&found).await?, next: None });
            };
            range.from = last;
            range.exclusive = true;
            if examined >= NAMES_EXAMINED_MAX {
                // A page begins with a name: the next one, whether it passes or not.
                let next = self.database.reports().stream_names(&range, 1).await?.pop().map(|(name, _)| name);
                return Ok(StreamsPage { lines: self.database.reports().stream_ends(&found).await?, next });
            }
        }
    }

    /// The next names of the streams of a category, after one.
    pub async fn streams_of(&self, category: &str, after: Option<String>) -> Result<StreamNames, StoreError> {
        let query = NameQuery { of: Some(category.to_owned()), ..NameQuery::default() };
        let mut range = self.range(&query).await?;
        if let Some(after) = after {
            (range.from, range.exclusive) = (after, true);
        }
        let names = self.database.reports().stream_names(&range, NAMES_AT_ONCE as i64).await?;
        let examined = names.len();
        let next = names.last().map(|(name, _)| name.clone()).filter(|_| examined == NAMES_AT_ONCE);
        let found = names.into_iter().map(|(name, _)| name).filter(|name| query.passes_stream(name)).collect();
        Ok(StreamNames { found, examined, next })
    }

    /// The range in which names that can pass may be.
    async fn range(&self, query: &NameQuery) -> Result<NameRange, StoreError> {
        let prefix = query.common_prefix();
        let in_code_point_order =
            *self.in_code_point_order.get_or_try_init(|| self.database.reports().is_in_code_point_order()).await?;
        let mut range = NameRange::default();
        // In other orders too a longer name comes later, as long as they do not take two letters for one.
        if in_code_point_order || prefix.is_ascii() {
            range.from = prefix.to_owned();
        }
        if in_code_point_order {
            let all_of_category = query.of.as_deref().filter(|category| *category == prefix);
            range.before = match all_of_category {
                Some(category) => first_after_prefix(&format!("{category}-")),
                None => first_after_prefix(prefix),
            };
        }
        if let Some(from) = query.from.as_ref().filter(|from| !in_code_point_order || **from > range.from) {
            range.from.clone_from(from);
        }
        Ok(range)
    }

    /// Categories or types in order of name. First counts new messages, for a while.
    pub async fn counts(&self, by: CountedBy, query: &NameQuery) -> Result<CountsPage, StoreError> {
        let settled_position = self.counting.catch_up().await?;
        let Counts { mut lines, counted_position, message_count } =
            self.database.reports().counts(by, query, query.limit + 1).await?;
        let next = if lines.len() > query.limit { lines.pop().map(|line| line.name) } else { None };
        Ok(CountsPage { lines, next, counted_position, settled_position, message_count })
    }

    /// The settled position, and what holds it back.
    pub async fn settled(&self) -> Result<SettledReport, StoreError> {
        let settled = self.tail.refresh().await;
        let held_back = match self.tail.held_back() {
            None => None,
            Some(held) => Some(HeldBackReport {
                at: held.at,
                age: held.since.elapsed(),
                holders: self.database.reports().holder_lines(&held.holders).await?,
            }),
        };
        Ok(SettledReport { head: self.tail.head().max(settled), settled, held_back })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_passes_by_prefix_category_and_part_of_its_name() {
        let query = |prefix: &str, contains: &str, of: Option<&str>| NameQuery {
            prefix: prefix.into(),
            contains: contains.into(),
            of: of.map(str::to_owned),
            ..NameQuery::default()
        };
        assert!(query("acc", "T-1", Some("account")).passes_stream("account-1"));
        assert!(!query("", "", Some("account")).passes_stream("accounts-1"));
        assert!(query("", "", Some("account")).passes_stream("account"));
        assert!(!query("b", "", None).passes_stream("account-1"));
        assert!(!query("", "x", None).passes_stream("account-1"));
    }
}
