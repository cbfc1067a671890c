//! Parameters that several endpoints share, and their rules.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::domain::Violation;
use crate::domain::duration;
use crate::domain::expression::Expression;
use crate::domain::filter::{FILTER_TYPES_MAX, Filter};
use crate::domain::scope::Readable;
use crate::domain::stream_name::{Category, StreamName, check_type};
use crate::domain::time::Timestamp;

/// The most messages that a page can have, and how many it has by default.
pub const PAGE_LIMIT_MAX: usize = 1_000;
pub const PAGE_LIMIT_DEFAULT: usize = 100;

/// Collects what is wrong with a request, so that one answer names all of it.
#[derive(Default)]
pub struct Validator {
    malformed: Vec<Violation>,
    invalid: Vec<Violation>,
}

impl Validator {
    /// Notes a field that cannot be read.
    pub fn malformed(&mut self, field: &str, message: impl Into<String>) {
        self.malformed.push(Violation::new(field, message));
    }

    /// Notes a field that can be read, but breaks a rule.
    pub fn invalid(&mut self, field: &str, message: impl Into<String>) {
        self.invalid.push(Violation::new(field, message));
    }

    /// Notes what is wrong with a part of the request, whose fields have these words before their names.
    pub fn take_in(&mut self, part: Self, prefix: &str) {
        let prefixed = |violations: Vec<Violation>| {
            violations.into_iter().map(|one| Violation::new(format!("{prefix}{}", one.field), one.message))
        };
        self.malformed.extend(prefixed(part.malformed).collect::<Vec<_>>());
        self.invalid.extend(prefixed(part.invalid).collect::<Vec<_>>());
    }

    /// The value, unless anything was wrong.
    pub fn finish<T>(self, value: T) -> Result<T, Problem> {
        if !self.malformed.is_empty() {
            return Err(Problem::malformed(self.malformed));
        }
        if !self.invalid.is_empty() {
            return Err(Problem::invalid(self.invalid));
        }
        Ok(value)
    }

    pub fn limit(&mut self, limit: Option<u64>) -> usize {
        match limit {
            None => PAGE_LIMIT_DEFAULT,
            Some(limit) if (1..=PAGE_LIMIT_MAX as u64).contains(&limit) => limit as usize,
            Some(_) => {
                self.invalid("limit", format!("must be from 1 to {PAGE_LIMIT_MAX}"));
                PAGE_LIMIT_DEFAULT
            }
        }
    }

    /// The name after which a list goes on; without one, its beginning.
    pub fn after(&mut self, after: Option<String>) -> String {
        let after = after.unwrap_or_default();
        if after.contains('\0') {
            self.invalid("after", "must not contain NUL characters");
        }
        after
    }

    /// How long to wait until a position is reached.
    pub fn wait_for(&mut self, min_position: Option<i64>, wait: Option<&str>, max: Duration) -> Duration {
        if min_position.is_some_and(|position| position < 0) {
            self.invalid("min_position", "must be 0 or more");
        }
        if wait.is_some() && min_position.is_none() {
            self.invalid("wait", "must be given with min_position: there is nothing else to wait for");
        }
        self.duration("wait", wait, Duration::ZERO, max).unwrap_or_default()
    }

    pub fn from(&mut self, from: Option<i64>) -> Option<i64> {
        if from.is_some_and(|from| from < 0) {
            self.invalid("from", "must be 0 or more");
        }
        from
    }

    pub fn duration(&mut self, field: &str, text: Option<&str>, min: Duration, max: Duration) -> Option<Duration> {
        let text = text?;
        match duration::parse(text) {
            Some(duration) if (min..=max).contains(&duration) => Some(duration),
            Some(_) => {
                let (min, max) = (duration::text(min), duration::text(max));
                self.invalid(field, format!("must be from {min} to {max}"));
                None
            }
            None => {
                self.malformed(field, "must be a duration such as 500ms, 30s or 5m");
                None
            }
        }
    }

    pub fn time(&mut self, field: &str, text: Option<&str>) -> Option<Timestamp> {
        let text = text?;
        let time = Timestamp::parse_rfc3339(text);
        if time.is_none() {
            self.malformed(field, "must be an RFC 3339 time such as 2026-11-20T12:00:00Z");
        }
        time
    }

    /// `readable`: what the caller may read of the source.
    pub fn filter(&mut self, given: &GivenFilter, readable: Readable) -> Filter {
        let types: Vec<String> = given
            .types
            .iter()
            .flat_map(|types| types.split(','))
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if types.len() > FILTER_TYPES_MAX {
            self.invalid("types", format!("must name at most {FILTER_TYPES_MAX} types"));
        }
        for name in &types {
            if let Err(error) = check_type(name) {
                self.invalid("types", error.to_string());
            }
        }
        let expression = given.filter.as_deref().and_then(|source| match Expression::compile(source) {
            Ok(expression) => Some(Arc::new(expression)),
            Err(error) => {
                self.invalid("filter", error.to_string());
                None
            }
        });
        Filter {
            types: types.into(),
            expression,
            from_time: self.time("from_time", given.from_time.as_deref()),
            to_time: self.time("to_time", given.to_time.as_deref()),
            readable,
        }
    }
}

/// A filter as the query gives it.
#[derive(Default)]
pub struct GivenFilter {
    pub types: Vec<String>,
    pub filter: Option<String>,
    pub from_time: Option<String>,
    pub to_time: Option<String>,
}

/// Which way a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Forward,
    Backward,
}

pub fn stream_name(raw: String) -> Result<StreamName, Problem> {
    StreamName::parse(raw).map_err(|error| Problem::invalid(vec![Violation::new("stream_name", error.to_string())]))
}

pub fn category(raw: String) -> Result<Category, Problem> {
    Category::parse(raw).map_err(|error| Problem::invalid(vec![Violation::new("category", error.to_string())]))
}
