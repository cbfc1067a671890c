//! Which streams and types an aggregated stream takes its messages from.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::stream_name::category;

/// A pattern for stream names: `%` matches any run of characters, also none; every other character matches itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wildcard {
    /// The texts between the `%`; one if there is no `%`.
    pieces: Vec<Box<str>>,
}

impl Wildcard {
    /// Reads a pattern; every text is one.
    pub fn new(pattern: &str) -> Self {
        Self::with(pattern, '%')
    }

    /// The same with another character for any run of characters.
    pub fn with(pattern: &str, any: char) -> Self {
        Self { pieces: pattern.split(any).map(Into::into).collect() }
    }

    /// The pattern, with this character for any run of characters.
    pub fn to_text(&self, any: char) -> String {
        self.pieces.join(any.encode_utf8(&mut [0; 4]))
    }

    /// Whether the pattern fits the whole name.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.pieces.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else { return name == &**first };
        let Some(mut rest) = name.strip_prefix(&**first) else { return false };
        for piece in middle {
            // The first place where a piece fits leaves most for those that follow.
            let Some(at) = rest.find(&**piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(&**last)
    }

    /// The category that all its streams belong to, if the pattern fixes it.
    pub fn category(&self) -> Option<&str> {
        let first = self.pieces.first()?;
        (first.contains('-') || self.pieces.len() == 1).then(|| category(first))
    }
}

/// Streams by their names.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    /// Every stream, whatever the other fields name.
    everything: bool,
    categories: HashSet<Box<str>>,
    wildcards: Vec<Wildcard>,
}

impl Streams {
    /// The streams that a wildcard matches or that belong to a category; all of them if neither is given.
    pub fn new(wildcards: &[String], categories: &[String]) -> Self {
        Self {
            everything: wildcards.is_empty() && categories.is_empty(),
            categories: categories.iter().map(|name| name.as_str().into()).collect(),
            wildcards: wildcards.iter().map(|pattern| Wildcard::new(pattern)).collect(),
        }
    }

    /// Whether every stream is one of them.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// The categories that were given by name.
    pub fn named_categories(&self) -> impl Iterator<Item = &str> {
        self.categories.iter().map(|name| &**name)
    }

    /// The patterns that were given.
    pub fn wildcards(&self) -> &[Wildcard] {
        &self.wildcards
    }

    /// Whether a stream of this name is one of them.
    pub fn matches(&self, stream_name: &str) -> bool {
        self.everything
            || (!self.categories.is_empty() && self.categories.contains(category(stream_name)))
            || self.wildcards.iter().any(|wildcard| wildcard.matches(stream_name))
    }

    /// The categories that hold all of these streams, sorted; `None` if they may be in any.
    pub fn categories(&self) -> Option<Vec<String>> {
        if self.everything {
            return None;
        }
        let of_wildcards: Option<Vec<&str>> = self.wildcards.iter().map(Wildcard::category).collect();
        let mut categories: Vec<String> =
            of_wildcards?.into_iter().chain(self.categories.iter().map(|name| &**name)).map(str::to_owned).collect();
        categories.sort_unstable();
        categories.dedup();
        Some(categories)
    }

    fn add(&mut self, other: &Streams) {
        self.everything |= other.everything;
        self.categories.extend(other.categories.iter().cloned());
        for wildcard in &other.wildcards {
            if !self.wildcards.contains(wildcard) {
                self.wildcards.push(wildcard.clone());
            }
        }
    }
}

/// What several aggregated streams select together, so that a message is looked at once for all of them. Two values are
/// equal only if one is a copy of the other.
#[derive(Debug, Clone)]
pub struct Selections(Arc<Sets>);

#[derive(Debug, Default)]
struct Sets {
    of_any_type: Streams,
    by_type: HashMap<Box<str>, Streams>,
    is_empty: bool,
}

impl Selections {
    /// Of aggregated streams, each with the types that it selects; none: any.
    pub fn new<'a>(selections: impl IntoIterator<Item = (&'a Streams, &'a [String])>) -> Self {
        let mut sets = Sets { is_empty: true, ..Sets::default() };
        for (streams, types) in selections {
            sets.is_empty = false;
            if types.is_empty() {
                sets.of_any_type.add(streams);
            }
            for name in types {
                sets.by_type.entry(name.as_str().into()).or_default().add(streams);
            }
        }
        Self(Arc::new(sets))
    }

    /// Whether it was made of no aggregated stream, and so takes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty
    }

    /// Whether any of them may select a message of this stream and type. `None`: the type is not known, so any may be it.
    pub fn take(&self, stream_name: &str, message_type: Option<&str>) -> bool {
        let sets = &*self.0;
        sets.of_any_type.matches(stream_name)
            || match message_type {
                Some(name) => sets.by_type.get(name).is_some_and(|streams| streams.matches(stream_name)),
                None => sets.by_type.values().any(|streams| streams.matches(stream_name)),
            }
    }
}

impl PartialEq for Selections {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Selections {}

impl Hash for Selections {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_is_any_run_of_characters_and_nothing_else_is_special() {
        for (pattern, name, expected) in [
            ("aggregate-me-%", "aggregate-me-0", true),
            ("aggregate-me-%", "aggregate-me-", true),
            ("aggregate-me-%", "aggregate-me", false),
            ("%", "anything", true),
            ("a%b", "ab", true),
            ("a%b", "axxb", true),
            ("a%b", "a", false),
            ("a%a", "a", false),
            ("%-1", "x-1", true),
            ("%-1", "x-11", false),
            ("a%b%c", "a-b-b-c", true),
            ("a%b%c", "acb", false),
            ("a_b*", "a_b*", true),
            ("a_b*", "axb*", false),
            ("a.%", "abc", false),
            ("%b%", "aba", true),
            ("%%", "x", true),
            ("grö%", "größe-1", true),
        ] {
            assert_eq!(Wildcard::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_wildcard_within_one_category_says_so() {
        assert_eq!(Wildcard::new("aggregate-me-%").category(), Some("aggregate"));
        assert_eq!(Wildcard::new("account").category(), Some("account"));
        assert_eq!(Wildcard::new("acc%").category(), None);
        assert_eq!(Wildcard::new("%-1").category(), None);
    }

    #[test]
    fn categories_are_known_only_if_all_streams_are_in_them() {
        let streams = |wildcards: &[&str], categories: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(std::string::ToString::to_string).collect::<Vec<_>>();
            Streams::new(&owned(wildcards), &owned(categories)).categories()
        };
        assert_eq!(streams(&[], &[]), None);
        assert_eq!(streams(&["b-%"], &["a", "b"]), Some(vec!["a".into(), "b".into()]));
        assert_eq!(streams(&["b%"], &["a"]), None);
    }

    #[test]
    fn selections_take_what_any_of_them_takes() {
        let orders = Streams::new(&[], &["order".into()]);
        let every = Streams::new(&[], &[]);
        let placed = ["Placed".to_owned()];
        let both = Selections::new([(&orders, &[][..]), (&every, &placed[..])]);
        assert!(both.take("order-1", Some("Shipped")));
        assert!(both.take("account-1", Some("Placed")));
        assert!(!both.take("account-1", Some("Opened")));
        assert!(both.take("account-1", None), "the type is not known");
        assert!(!Selections::new([]).take("order-1", None));
    }
}
