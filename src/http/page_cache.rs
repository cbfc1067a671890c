//! What caches may keep of pages, in browsers and in front of the service.
//!
//! A full page of settled messages never changes but by erasures and trims. Its ETag is made of what it was asked for and of
//! the generation of the log's past, which those raise, so that "is it still the same?" is answered without reading it. All
//! other pages are for their caller alone, but for those of long polls that many may ask for together.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::parameters::Validator;
use crate::domain::scope::Readable;

/// Raised when the form of pages changes, so that those that caches have are not taken for the same.
const FORM: u8 = 1;
/// For so long a cache may give the answer of a long poll to those that come a little late.
const FOLDED_AGE: Duration = Duration::from_secs(5);
/// The shortest `wait` with a cursor.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// What JSON's readers take as it is.
const CURSOR_MAX: i64 = (1 << 53) - 1;

/// Which caches may keep pages, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct PageCaching {
    /// Caches that others share may keep them as well.
    pub is_public: bool,
    pub max_age: Duration,
    pub stale_while_revalidate: Duration,
}

impl PageCaching {
    fn by(&self) -> &'static str {
        if self.is_public { "public" } else { "private" }
    }

    /// Of a page that stays the same.
    fn settled(&self) -> String {
        let (by, max_age, stale) = (self.by(), self.max_age.as_secs(), self.stale_while_revalidate.as_secs());
        match (max_age, stale) {
            (0, _) => format!("{by}, no-cache"),
            (_, 0) => format!("{by}, max-age={max_age}"),
            _ => format!("{by}, max-age={max_age}, stale-while-revalidate={stale}"),
        }
    }

    fn folded(&self) -> String {
        format!("{}, max-age={}", self.by(), FOLDED_AGE.as_secs())
    }
}

/// The ETag of a page, if it is a full one of settled messages. Made before the page is read, so that a page is never older
/// than its tag says.
pub struct PageTag(Option<String>);

impl PageTag {
    /// `projection`: the one that the page is of.
    pub async fn of(app: &App, uri: &Uri, readable: &Readable, projection: Option<i64>) -> Self {
        let mut generation = app.tail.generation();
        if generation.is_none() {
            // Something was erased a moment ago: the next look at the log knows how often.
            app.tail.refresh().await;
            generation = app.tail.generation();
        }
        Self(generation.map(|generation| {
            let mut hasher = DefaultHasher::new();
            let asked = (uri.path(), uri.query(), readable, projection);
            (FORM, generation, asked).hash(&mut hasher);
            format!("\"p-{:016x}\"", hasher.finish())
        }))
    }

    /// The answer to a client that has the page, if it is the same.
    pub fn not_modified(&self, app: &App, headers: &HeaderMap) -> Option<Response> {
        let tag = self.0.as_deref()?;
        let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|known| matches(known, tag));
        is_known.then(|| {
            let caching = app.limits.page_caching.settled();
            (StatusCode::NOT_MODIFIED, [(header::ETAG, tag), (header::CACHE_CONTROL, &caching)]).into_response()
        })
    }

    /// A page, with what caches may do with it.
    pub fn answer(&self, app: &App, is_settled: bool, interval: Option<Interval>, mut page: Response) -> Response {
        let caching = &app.limits.page_caching;
        let (control, tag) = match (&self.0, interval) {
            // One that waits has another cursor each time.
            (_, Some(_)) => (caching.folded(), None),
            (Some(tag), None) if is_settled => (caching.settled(), Some(tag)),
            _ => ("no-store".to_owned(), None),
        };
        let headers = page.headers_mut();
        // Both are made of ASCII, so that this cannot fail.
        if let Ok(control) = control.parse() {
            headers.insert(header::CACHE_CONTROL, control);
        }
        if let Some(Ok(tag)) = tag.map(|tag| tag.parse()) {
            headers.insert(header::ETAG, tag);
        }
        page
    }
}

/// Whether one of the tags that a client knows is this one.
pub fn matches(known: &HeaderValue, tag: &str) -> bool {
    let known = known.to_str().unwrap_or_default();
    known.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag)
}

/// A long poll that a cache can fold: all who wait for the same ask with the same number of an interval of the clock, wait up
/// to its end, and are told the next one. Intervals are as long as the wait.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    cursor: i64,
    wait: Duration,
    phase: Duration,
}

impl Interval {
    /// What is asked for, and how long it is to wait now.
    pub fn checked(rules: &mut Validator, cursor: Option<i64>, wait: &mut Duration, uri: &Uri) -> Option<Self> {
        let cursor = cursor?;
        if !(0..=CURSOR_MAX).contains(&cursor) {
            rules.invalid("cursor", "must be 0, or what an earlier answer had as cursor");
            return None;
        }
        if *wait < INTERVAL_MIN {
            rules.invalid("cursor", "must be given with a wait of at least 1s");
            return None;
        }
        // So that not all intervals end at the same moment. The same of all instances and for all who wait.
        let mut hasher = DefaultHasher::new();
        uri.path().hash(&mut hasher);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let interval = Self { cursor, wait: *wait, phase: Duration::from_millis(hasher.finish() % wait_ms) };
        *wait = interval.left_at(now());
        Some(interval)
    }

    /// How long to wait: up to the end of the interval; not at all in a former one.
    fn left_at(&self, now: Duration) -> Duration {
        let (current, begun) = self.current(now);
        match self.cursor {
            cursor if cursor < current => Duration::ZERO,
            cursor if cursor == current => self.wait - begun,
            // The clock of another instance is ahead.
            _ => self.wait,
        }
    }

    /// The number of the interval, and how long ago it began.
    fn current(&self, now: Duration) -> (i64, Duration) {
        let (now, wait) = ((now + self.phase).as_millis(), self.wait.as_millis());
        let current = i64::try_from(now / wait).unwrap_or(CURSOR_MAX);
        (current, Duration::from_millis((now % wait) as u64))
    }

    /// What to ask with next. Another one than before if the page was empty, or a cache would answer with that again.
    pub fn next(&self, is_empty: bool) -> i64 {
        self.next_at(now(), is_empty)
    }

    fn next_at(&self, now: Duration, is_empty: bool) -> i64 {
        self.current(now).0.max(self.cursor + i64::from(is_empty)).min(CURSOR_MAX)
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    fn interval(cursor: i64) -> Interval {
        Interval { cursor, wait: WAIT, phase: Duration::from_secs(3) }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn all_who_wait_in_an_interval_wait_up_to_its_end_and_go_on_with_the_next_one() {
        // 20 to 37: the interval 1, which begins 3 s early.
        assert_eq!(interval(1).left_at(at(17)), WAIT);
        assert_eq!(interval(1).left_at(at(30)), at(7));
        assert_eq!(interval(1).next_at(at(37), true), 2);
        assert_eq!(interval(2).left_at(at(37)), WAIT);
    }

    #[test]
    fn one_that_comes_new_or_late_does_not_wait_and_is_told_the_interval() {
        for cursor in [0, 1] {
            assert_eq!(interval(cursor).left_at(at(100)), Duration::ZERO);
            assert_eq!(interval(cursor).next_at(at(100), true), 5);
        }
    }

    #[test]
    fn an_empty_answer_names_another_interval_even_if_the_clock_or_the_service_was_early() {
        assert_eq!(interval(5).next_at(at(100), true), 6);
        assert_eq!(interval(5).next_at(at(100), false), 5);
        assert_eq!(interval(6).left_at(at(100)), WAIT);
        assert_eq!(interval(6).next_at(at(100), true), 7);
        assert_eq!(interval(CURSOR_MAX).next_at(at(100), true), CURSOR_MAX);
    }
}
