//! What a credential allows: scopes, and how they are compared with names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::selection::{Streams, Wildcard};
use super::stream_name::{NameError, check_name};

/// The most scopes of one credential.
pub const SCOPES_MAX: usize = 100;

/// Any run of characters in a pattern.
const ANY: char = '*';

/// A pattern of names: `*` matches any run of characters, also none; every other character matches itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    wildcard: Wildcard,
}

impl Pattern {
    /// Takes a pattern that keeps the rules of stream names.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(Self::of(text))
    }

    fn of(text: &str) -> Self {
        Self { text: text.into(), wildcard: Wildcard::with(text, ANY) }
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole name fits.
    pub fn matches(&self, name: &str) -> bool {
        self.wildcard.matches(name)
    }

    /// Whether every name that fits the other pattern fits this one.
    ///
    /// A `*` of the other pattern may be any text, also one that nothing but a `*` matches. So it is compared as a
    /// character that no literal part has: [`parse`](Self::parse) refuses control characters.
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_text(&other.text, ANY)
    }

    /// The same for a pattern in which another character is any run of characters.
    fn covers_text(&self, other: &str, any: char) -> bool {
        self.wildcard.matches(&other.replace(any, "\u{0}"))
    }

    /// Whether every stream of the category that has an id fits: those that there are, and those that there may be. The
    /// stream that is named as the category has none.
    pub fn covers_ids_of(&self, category: &str) -> bool {
        self.covers_text(&format!("{category}-\u{0}"), '\u{0}')
    }

    /// Whether a stream of the category may fit.
    pub fn touches_category(&self, category: &str) -> bool {
        if self.matches(category) {
            return true;
        }
        let begin = format!("{category}-");
        match self.text.split_once(ANY) {
            None => self.text.starts_with(&begin),
            Some((literal, _)) => literal.starts_with(&begin) || begin.starts_with(literal),
        }
    }
}

/// One thing that a credential allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Reads and follows streams whose names fit.
    Read(Pattern),
    /// Appends to streams whose names fit.
    Append(Pattern),
    /// Makes and uses subscriptions and aggregated streams whose names fit, if their sources may be read.
    Subscribe(Pattern),
    /// Everything, keys and deletions included.
    Admin,
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// It has another form.
    #[error("must be read:<pattern>, append:<pattern>, subscribe:<pattern> or admin")]
    Unknown,
    /// Its pattern can be no pattern of names.
    #[error("has a pattern that {0}")]
    Pattern(NameError),
}

impl Scope {
    /// To read one stream; what is missing where that is refused.
    pub fn read(stream_name: &str) -> Self {
        Self::Read(Pattern::of(stream_name))
    }

    /// To read all streams of a category.
    pub fn read_category(category: &str) -> Self {
        Self::Read(Pattern::of(&format!("{category}{ANY}")))
    }

    /// To read every stream.
    pub fn read_everything() -> Self {
        Self::Read(Pattern::of("*"))
    }

    /// To append to one stream.
    pub fn append(stream_name: &str) -> Self {
        Self::Append(Pattern::of(stream_name))
    }

    /// To use one subscription or aggregated stream.
    pub fn subscribe(name: &str) -> Self {
        Self::Subscribe(Pattern::of(name))
    }

    /// Whether a caller that has this scope may do all that the other one allows.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Admin, _) => true,
            (Self::Read(own), Self::Read(other))
            | (Self::Append(own), Self::Append(other))
            | (Self::Subscribe(own), Self::Subscribe(other)) => own.covers(other),
            _ => false,
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text == "admin" {
            return Ok(Self::Admin);
        }
        let (verb, pattern) = text.split_once(':').ok_or(ScopeError::Unknown)?;
        let make = match verb {
            "read" => Self::Read,
            "append" => Self::Append,
            "subscribe" => Self::Subscribe,
            _ => return Err(ScopeError::Unknown),
        };
        Pattern::parse(pattern).map(make).map_err(ScopeError::Pattern)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(pattern) => write!(formatter, "read:{}", pattern.text),
            Self::Append(pattern) => write!(formatter, "append:{}", pattern.text),
            Self::Subscribe(pattern) => write!(formatter, "subscribe:{}", pattern.text),
            Self::Admin => formatter.write_str("admin"),
        }
    }
}

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Rights {
    /// Everything: credentials are off, or the scope `admin` is there.
    Everything,
    /// What these scopes allow.
    Only(Arc<[Scope]>),
}

/// Which streams of a source a caller may read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Readable {
    /// All that it has, and may have.
    #[default]
    All,
    /// Those whose names fit one of these patterns; others are left out.
    Only(ReadableStreams),
}

/// Streams that may be read, by patterns of their names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReadableStreams(Arc<[Scope]>);

impl Readable {
    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// Whether a stream of this name is not left out.
    pub fn has(&self, stream_name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(streams) => streams.matches(stream_name),
        }
    }
}

impl ReadableStreams {
    /// Whether a stream of this name is one of them.
    pub fn matches(&self, stream_name: &str) -> bool {
        self.0.iter().any(|scope| matches!(scope, Scope::Read(pattern) if pattern.matches(stream_name)))
    }
}

/// A caller may not do something: the scope that allows it is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scope {0} is missing")]
pub struct Missing(pub Scope);

impl Rights {
    /// What these scopes allow together.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let scopes: Arc<[Scope]> = scopes.into_iter().collect();
        if scopes.contains(&Scope::Admin) { Self::Everything } else { Self::Only(scopes) }
    }

    /// The scopes as they are written.
    pub fn to_texts(&self) -> Vec<String> {
        match self {
            Self::Everything => vec![Scope::Admin.to_string()],
            Self::Only(scopes) => scopes.iter().map(ToString::to_string).collect(),
        }
    }

    /// Refused without the scope, or one that covers it.
    pub fn require(&self, wanted: Scope) -> Result<(), Missing> {
        let is_covered = match self {
            Self::Everything => true,
            Self::Only(scopes) => scopes.iter().any(|scope| scope.covers(&wanted)),
        };
        if is_covered { Ok(()) } else { Err(Missing(wanted)) }
    }

    /// Refused unless this stream may be read.
    pub fn read_stream(&self, stream_name: &str) -> Result<(), Missing> {
        // A `*` in the name of a stream is an ordinary character of it.
        let fits = |scope: &Scope| matches!(scope, Scope::Read(pattern) if pattern.matches(stream_name));
        self.any(fits, || Scope::read(stream_name))
    }

    /// The streams that may be read.
    pub fn readable_streams(&self) -> Readable {
        match self {
            Self::Everything => Readable::All,
            Self::Only(scopes) => Readable::Only(ReadableStreams(scopes.clone())),
        }
    }

    /// Refused unless this stream may be appended to.
    pub fn append_to_stream(&self, stream_name: &str) -> Result<(), Missing> {
        let fits = |scope: &Scope| matches!(scope, Scope::Append(pattern) if pattern.matches(stream_name));
        self.any(fits, || Scope::append(stream_name))
    }

    /// Refused unless the subscription or aggregated stream of this name may be used.
    pub fn subscribe(&self, name: &str) -> Result<(), Missing> {
        let fits = |scope: &Scope| matches!(scope, Scope::Subscribe(pattern) if pattern.matches(name));
        self.any(fits, || Scope::subscribe(name))
    }

    /// What of a category may be read. Refused if no stream of it can be.
    pub fn read_category(&self, category: &str) -> Result<Readable, Missing> {
        let Self::Only(scopes) = self else { return Ok(Readable::All) };
        let patterns = || read_patterns(scopes);
        let is_whole = patterns().any(|pattern| pattern.matches(category))
            && patterns().any(|pattern| pattern.covers_ids_of(category));
        if is_whole {
            Ok(Readable::All)
        } else if patterns().any(|pattern| pattern.touches_category(category)) {
            Ok(self.readable_streams())
        } else {
            Err(Missing(Scope::read_category(category)))
        }
    }

    /// What of the whole log may be read. Refused if nothing can be.
    pub fn read_log(&self) -> Result<Readable, Missing> {
        let Self::Only(scopes) = self else { return Ok(Readable::All) };
        if self.read_everything().is_ok() {
            Ok(Readable::All)
        } else if read_patterns(scopes).next().is_some() {
            Ok(self.readable_streams())
        } else {
            Err(Missing(Scope::read_everything()))
        }
    }

    /// Refused unless every stream may be read.
    pub fn read_everything(&self) -> Result<(), Missing> {
        self.require(Scope::read_everything())
    }

    /// Refused unless some stream may be appended to.
    pub fn append_to_something(&self) -> Result<(), Missing> {
        self.any(|scope| matches!(scope, Scope::Append(_)), || Scope::Append(Pattern::of("*")))
    }

    /// Refused unless every stream of the category may be read.
    pub fn read_whole_category(&self, category: &str) -> Result<(), Missing> {
        match self.read_category(category)? {
            Readable::All => Ok(()),
            Readable::Only(_) => Err(Missing(Scope::read_category(category))),
        }
    }

    /// Refused unless all of these streams may be read: what an aggregated stream has is not divided by rights.
    pub fn read_streams(&self, streams: &Streams) -> Result<(), Missing> {
        let Self::Only(scopes) = self else { return Ok(()) };
        if self.read_everything().is_ok() {
            return Ok(());
        }
        if streams.is_everything() {
            return Err(Missing(Scope::read_everything()));
        }
        for category in streams.named_categories() {
            self.read_whole_category(category)?;
        }
        for wildcard in streams.wildcards() {
            let wildcard = wildcard.to_text(ANY);
            // A literal `*` cannot be told from any run here: the wider meaning is the safe one.
            let wanted = Pattern::of(&wildcard);
            if !read_patterns(scopes).any(|pattern| pattern.covers(&wanted)) {
                return Err(Missing(Scope::Read(wanted)));
            }
        }
        Ok(())
    }

    fn any(&self, fits: impl FnMut(&Scope) -> bool, wanted: impl FnOnce() -> Scope) -> Result<(), Missing> {
        match self {
            Self::Everything => Ok(()),
            Self::Only(scopes) if scopes.iter().any(fits) => Ok(()),
            Self::Only(_) => Err(Missing(wanted())),
        }
    }
}

fn read_patterns(scopes: &[Scope]) -> impl Iterator<Item = &Pattern> {
    scopes.iter().filter_map(|scope| match scope {
        Scope::Read(pattern) => Some(pattern),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rights(scopes: &[&str]) -> Rights {
        Rights::of(scopes.iter().map(|scope| scope.parse().unwrap()))
    }

    #[test]
    fn a_scope_is_read_as_it_is_written_and_everything_else_is_refused() {
        for text in ["admin", "read:*", "read:order-*", "append:a:b-1", "subscribe:billing*"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["", "read", "read:", "write:*", "Admin", "admin:*", " read:*", "read:a\u{0}b", "read:a\nb"] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_category_is_read_whole_in_part_or_not_at_all() {
        for (scopes, category, expected) in [
            (&["read:*"][..], "order", Some(true)),
            (&["read:order*"], "order", Some(true)),
            // The stream `order` is of the category, too, and does not fit.
            (&["read:order-*"], "order", Some(false)),
            (&["read:order-*", "read:order"], "order", Some(true)),
            (&["read:order-1*", "read:order"], "order", Some(false)),
            (&["read:order-1*"], "order", Some(false)),
            (&["read:order-12"], "order", Some(false)),
            (&["read:order"], "order", Some(false)),
            (&["read:*-7"], "order", Some(false)),
            (&["read:o*r-*"], "order", Some(false)),
            (&["read:orders-*"], "order", None),
            (&["read:ord"], "order", None),
            (&["append:order*", "subscribe:*"], "order", None),
            (&["admin"], "order", Some(true)),
        ] {
            let found = rights(scopes).read_category(category).ok().map(|readable| readable == Readable::All);
            assert_eq!(found, expected, "{scopes:?} {category}");
        }
    }

    #[test]
    fn an_aggregated_stream_is_read_whole_or_not_at_all() {
        let streams = |wildcards: &[&str], categories: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            Streams::new(&texts(wildcards), &texts(categories))
        };
        assert!(rights(&["read:a-*"]).read_streams(&streams(&["a-%"], &[])).is_ok());
        assert!(rights(&["read:a-*"]).read_streams(&streams(&["a-1%2"], &[])).is_ok());
        assert!(rights(&["read:a-*"]).read_streams(&streams(&["a%"], &[])).is_err());
        assert!(rights(&["read:a-*"]).read_streams(&streams(&["a-%"], &["b"])).is_err());
        assert!(rights(&["read:a*", "read:b*"]).read_streams(&streams(&["a-%"], &["b"])).is_ok());
        assert!(rights(&["read:a*"]).read_streams(&streams(&[], &[])).is_err());
        assert!(rights(&["read:*"]).read_streams(&streams(&[], &[])).is_ok());
    }

    proptest! {
        #[test]
        fn a_pattern_that_covers_another_matches_whatever_that_matches(
            own in "[ab*]{1,5}", other in "[ab*]{1,5}", name in "[abc-]{0,6}",
        ) {
            let (own, other) = (Pattern::of(&own), Pattern::of(&other));
            if own.covers(&other) && other.matches(&name) {
                prop_assert!(own.matches(&name));
            }
        }

        #[test]
        fn a_pattern_that_does_not_cover_another_misses_some_name_of_it(own in "[ab*]{1,5}", other in "[ab*]{1,5}") {
            let (own, other) = (Pattern::of(&own), Pattern::of(&other));
            if !own.covers(&other) {
                // The name that has, for each `*`, a character that neither pattern has.
                let name = other.as_str().replace('*', "z");
                prop_assert!(!own.matches(&name));
            }
        }

        #[test]
        fn what_is_told_of_a_category_holds_for_its_streams(pattern in "[ab*-]{1,6}", id in "[ab-]{0,4}") {
            let (pattern, stream) = (Pattern::of(&pattern), format!("a-{id}"));
            if pattern.covers_ids_of("a") {
                prop_assert!(pattern.matches(&stream));
            }
            if pattern.matches(&stream) {
                prop_assert!(pattern.touches_category("a"));
            }
        }
    }
}
