//! Which logs are read or followed: the whole log, a category, a stream, or several of them.

use std::sync::Arc;

use super::message::Message;
use super::scope::{Missing, Readable, Rights};
use super::selection::Selections;

/// One log that can be followed, and the name under which its followers are woken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Every message.
    All,
    /// The messages of all streams of a category.
    Category(Arc<str>),
    /// The messages of one stream.
    Stream(Arc<str>),
    /// What aggregated streams select.
    Selected(Selections),
}

impl Topic {
    /// Whether a message is in this log.
    pub fn has(&self, message: &Message) -> bool {
        match self {
            Topic::All => true,
            Topic::Category(name) => message.category() == &**name,
            Topic::Stream(name) => *message.stream_name == **name,
            Topic::Selected(selections) => selections.take(&message.stream_name, Some(&message.message_type)),
        }
    }
}

/// The most topics on one connection.
pub const SOURCE_TOPICS_MAX: usize = 100;

/// What one follower follows: from 1 to [`SOURCE_TOPICS_MAX`] topics, none of them twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    topics: Arc<[Topic]>,
    /// Cursors are global positions, even if there is only one stream.
    is_global: bool,
}

impl Source {
    /// The whole log.
    pub fn all() -> Self {
        Self { topics: Arc::new([Topic::All]), is_global: true }
    }

    /// One stream, by its own positions.
    pub fn stream(name: &str) -> Self {
        Self { topics: Arc::new([Topic::Stream(name.into())]), is_global: false }
    }

    /// One category, by global positions.
    pub fn category(name: &str) -> Self {
        Self { topics: Arc::new([Topic::Category(name.into())]), is_global: true }
    }

    /// What aggregated streams select, and perhaps more: the reader has to pass over messages that none of them takes.
    pub fn selected(selections: Selections) -> Self {
        Self { topics: Arc::new([Topic::Selected(selections)]), is_global: true }
    }

    /// Several at once, in global order; `None` if there are none or more than [`SOURCE_TOPICS_MAX`]. A stream whose
    /// category is followed too is not listed, so that no message comes twice.
    pub fn several(streams: &[String], categories: &[String]) -> Option<Self> {
        let mut topics: Vec<Topic> = Vec::new();
        let category_topics = categories.iter().map(|name| Topic::Category(name.as_str().into()));
        let stream_topics = streams
            .iter()
            .filter(|name| !categories.iter().any(|category| category == super::stream_name::category(name)))
            .map(|name| Topic::Stream(name.as_str().into()));
        for topic in category_topics.chain(stream_topics) {
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        (1..=SOURCE_TOPICS_MAX).contains(&topics.len()).then(|| Self { topics: topics.into(), is_global: true })
    }

    /// What of it may be read. Refused if nothing of it can be.
    pub fn readable(&self, rights: &Rights) -> Result<Readable, Missing> {
        let mut parts = self.topics.iter().map(|topic| match topic {
            Topic::All => rights.read_log(),
            Topic::Category(name) => rights.read_category(name),
            Topic::Stream(name) => rights.read_stream(name).map(|()| Readable::All),
            Topic::Selected(_) => rights.read_everything().map(|()| Readable::All),
        });
        let first = parts.next().unwrap_or(Ok(Readable::All));
        parts.fold(first, |all, part| match (all, part) {
            (Ok(Readable::All), Ok(Readable::All)) => Ok(Readable::All),
            (Err(missing), Err(_)) => Err(missing),
            // A part that is left out whole is left out by the same patterns.
            _ => Ok(rights.readable_streams()),
        })
    }

    /// What a follower of it joins.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The stream, if one stream is followed by its own positions: cursors are positions in it then.
    pub fn single_stream(&self) -> Option<&Arc<str>> {
        match &*self.topics {
            [Topic::Stream(name)] if !self.is_global => Some(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_inside_a_followed_category_is_not_followed_twice() {
        let source = Source::several(&["a-1".into(), "b-1".into(), "b-1".into()], &["a".into()]).unwrap();
        assert_eq!(source.topics(), [Topic::Category("a".into()), Topic::Stream("b-1".into())]);
    }

    #[test]
    fn of_several_topics_what_may_be_read_is_told_by_one_set_of_patterns() {
        let rights = |scopes: &[&str]| Rights::of(scopes.iter().map(|scope| scope.parse().unwrap()));
        let source = Source::several(&["a-1".into(), "a-2".into()], &["b".into()]).unwrap();
        for scopes in [&["read:*"][..], &["read:a-*", "read:b*"], &["admin"]] {
            assert_eq!(source.readable(&rights(scopes)), Ok(Readable::All), "{scopes:?}");
        }
        for (scopes, stream_names) in [
            (&["read:a-1"][..], &["a-1"][..]),
            (&["read:b-*"], &["b-1", "b-7"]),
            (&["read:a-*", "read:b-1"], &["a-1", "a-2", "b-1"]),
        ] {
            let readable = source.readable(&rights(scopes)).unwrap();
            for name in ["a-1", "a-2", "b-1", "b-7"] {
                assert_eq!(readable.has(name), stream_names.contains(&name), "{scopes:?} {name}");
            }
        }
        assert!(source.readable(&rights(&["read:c*", "append:*"])).is_err());
        assert!(Source::all().readable(&rights(&["append:*"])).is_err());
    }

    #[test]
    fn sources_are_bounded_and_never_empty() {
        assert_eq!(Source::several(&[], &[]), None);
        let many: Vec<String> = (0..=SOURCE_TOPICS_MAX).map(|n| format!("s-{n}")).collect();
        assert_eq!(Source::several(&many, &[]), None);
    }
}
