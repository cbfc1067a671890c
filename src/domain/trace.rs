//! The trace that a request belongs to (W3C Trace Context), and how it is kept with the messages that the request writes.

use std::time::SystemTime;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::message::{Message, push_json_string};

/// The key in metadata, and the name of the header.
pub const TRACEPARENT: &str = "traceparent";
/// The key in metadata, and the name of the header.
pub const TRACESTATE: &str = "tracestate";
/// The length of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;
/// The most that is kept of `tracestate`: what the standard asks everybody to pass on.
const TRACESTATE_BYTES_MAX: usize = 512;
/// Members of `tracestate` at most; with more, all of it is invalid.
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// A longer member is the first to go where all together are too long.
const LONG_MEMBER_BYTES: usize = 128;
/// A key, or a value, of a member at most.
const MEMBER_PART_BYTES_MAX: usize = 256;

/// A valid `traceparent` and what of `tracestate` is kept with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// As version 00 writes it.
    traceparent: String,
    /// Empty: there is none, or it was invalid.
    tracestate: String,
}

impl TraceContext {
    /// Reads the headers. What is invalid is as if it were not there, as the standard says: a request never fails for it.
    pub fn parse<'a>(
        mut traceparents: impl Iterator<Item = &'a [u8]>,
        tracestates: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let traceparent = parse_traceparent(traceparents.next()?)?;
        // Two of them: nobody knows which one is meant.
        if traceparents.next().is_some() {
            return None;
        }
        Some(Self { traceparent, tracestate: parse_tracestate(tracestates).unwrap_or_default() })
    }

    /// Reads what is kept in metadata.
    pub fn of_metadata(metadata: &str) -> Option<Self> {
        // Nearly every message has none, and is not read for it.
        if !metadata.contains(TRACEPARENT) {
            return None;
        }
        // What is beside it may be deeper, or larger numbers, than serde_json's own values can be.
        #[derive(Deserialize)]
        struct Kept {
            traceparent: String,
        }
        let is_object = metadata.trim_start().starts_with('{');
        let kept: Kept = is_object.then(|| serde_json::from_str(metadata).ok())??;
        Self::parse(std::iter::once(kept.traceparent.as_bytes()), std::iter::empty())
    }

    /// 16 bytes, as hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.traceparent[3..35]
    }

    /// The span that the request was sent in: 8 bytes, as hexadecimal digits.
    pub fn span_id(&self) -> &str {
        &self.traceparent[36..52]
    }

    /// Whether the caller records this trace.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.traceparent[53..], 16).is_ok_and(|flags| flags & 1 == 1)
    }

    /// The caller's span, if the caller records this trace.
    pub fn sampled(&self) -> Option<SpanRef> {
        let trace_id = u128::from_str_radix(self.trace_id(), 16).ok()?;
        let span_id = u64::from_str_radix(self.span_id(), 16).ok()?;
        self.is_sampled().then_some(SpanRef { trace_id, span_id })
    }

    /// The metadata with the trace in it. Metadata that has one of the keys already, or is no object, stays as it is.
    pub fn keep_in(&self, metadata: Option<String>) -> Option<String> {
        let Some(text) = metadata else { return Some(format!("{{{}}}", self.members())) };
        match serde_json::from_str::<Keys>(&text) {
            Ok(Keys { has_trace: false, is_empty: true }) => Some(format!("{{{}}}", self.members())),
            // JSON that was checked: after blanks, it begins with its bracket.
            Ok(Keys { has_trace: false, is_empty: false }) => match text.trim_start().strip_prefix('{') {
                Some(rest) => Some(format!("{{{},{rest}", self.members())),
                None => Some(text),
            },
            Ok(Keys { has_trace: true, .. }) | Err(_) => Some(text),
        }
    }

    fn members(&self) -> String {
        let mut out = format!("\"{TRACEPARENT}\":\"{}\"", self.traceparent);
        if !self.tracestate.is_empty() {
            out.push_str(",\"tracestate\":");
            push_json_string(&mut out, &self.tracestate);
        }
        out
    }
}

/// A place in a trace that other spans refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanRef {
    /// Of the whole trace.
    pub trace_id: u128,
    /// Of the span in it.
    pub span_id: u64,
}

/// A step of the work, as a trace shows it.
#[derive(Debug, Clone)]
pub struct Span {
    /// `append`, `batch`, `commit`, `tail` or `frame`.
    pub name: &'static str,
    /// Where others refer to it.
    pub own: SpanRef,
    /// The span in the same trace that it belongs to; `None`: it is the first of its trace.
    pub parent: Option<u64>,
    /// The parent is a span of another service.
    pub is_parent_remote: bool,
    /// What it has to do with, in other traces.
    pub links: Vec<SpanRef>,
    /// When it began.
    pub began: SystemTime,
    /// When it ended; as long as it is open, when it began.
    pub ended: SystemTime,
    /// Numbers that say more of it.
    pub facts: Vec<(&'static str, i64)>,
}

impl Span {
    /// The first of a trace of its own.
    pub fn root(name: &'static str) -> Self {
        Self::new(name, uuid::Uuid::new_v4().as_u128(), None)
    }

    /// A step of what another service does.
    pub fn in_request(name: &'static str, of: SpanRef) -> Self {
        Self { is_parent_remote: true, ..Self::new(name, of.trace_id, Some(of.span_id)) }
    }

    /// A step of this one.
    pub fn child(&self, name: &'static str) -> Self {
        Self::new(name, self.own.trace_id, Some(self.own.span_id))
    }

    /// The step at which a message arrives somewhere, in the trace that its metadata keeps.
    pub fn of_message(name: &'static str, message: &Message) -> Option<Self> {
        let kept = TraceContext::of_metadata(message.metadata())?.sampled()?;
        let mut span = Self::in_request(name, kept);
        span.facts.push(("headwater.global_position", message.global_position));
        Some(span)
    }

    fn new(name: &'static str, trace_id: u128, parent: Option<u64>) -> Self {
        // Version 4 leaves two groups of its 128 bits to chance; this is of the second, and never 0.
        let span_id = (uuid::Uuid::new_v4().as_u128() as u64) | 1;
        let now = SystemTime::now();
        Self {
            name,
            own: SpanRef { trace_id, span_id },
            parent,
            is_parent_remote: false,
            links: Vec::new(),
            began: now,
            ended: now,
            facts: Vec::new(),
        }
    }
}

/// The known part, with the version that we know.
fn parse_traceparent(header: &[u8]) -> Option<String> {
    let header = std::str::from_utf8(header.trim_ascii()).ok()?;
    let known = header.get(..TRACEPARENT_BYTES)?;
    let version = known.get(..2)?;
    let mut parts = known.split('-');
    let [_, trace_id, span_id, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let lengths = (version.len(), trace_id.len(), span_id.len(), flags.len());
    let is_hex = known.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    let is_whole = match version {
        "00" => header.len() == TRACEPARENT_BYTES,
        // What a later version adds comes after another dash.
        _ => header.len() == TRACEPARENT_BYTES || header.as_bytes()[TRACEPARENT_BYTES] == b'-',
    };
    let is_valid = lengths == (2, 32, 16, 2)
        && parts.next().is_none()
        && is_hex
        && is_whole
        && version != "ff"
        && !is_zero(trace_id)
        && !is_zero(span_id);
    if !is_valid {
        return None;
    }
    match version {
        "00" => Some(known.to_owned()),
        // Of a later version only the flag that version 00 has too.
        _ => {
            let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
            Some(format!("00-{trace_id}-{span_id}-{sampled:02x}"))
        }
    }
}

/// The headers as one list, cut to what is kept; `None` if one of its members is invalid.
fn parse_tracestate<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut members: Vec<&str> = Vec::new();
    for header in headers {
        for member in std::str::from_utf8(header).ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            if !is_key(key) || !is_value(value) || members.len() == TRACESTATE_MEMBERS_MAX {
                return None;
            }
            members.push(member);
        }
    }
    let bytes = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    while bytes(&members) > TRACESTATE_BYTES_MAX + 1 {
        let long = members.iter().rposition(|member| member.len() > LONG_MEMBER_BYTES);
        members.remove(long.unwrap_or(members.len() - 1));
    }
    Some(members.join(","))
}

fn is_key(key: &str) -> bool {
    let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    key.len() <= MEMBER_PART_BYTES_MAX
        && key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && key.bytes().all(is_allowed)
}

fn is_value(value: &str) -> bool {
    (1..=MEMBER_PART_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| matches!(byte, 0x20..=0x7E) && byte != b',' && byte != b'=')
}

/// What the keys of an object say; no other JSON can be read as this.
struct Keys {
    has_trace: bool,
    is_empty: bool,
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor;

        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Keys { has_trace: false, is_empty: true };
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.is_empty = false;
                    keys.has_trace |= key == TRACEPARENT || key == TRACESTATE;
                }
                Ok(keys)
            }
        }

        deserializer.deserialize_map(KeysVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(traceparent: &str, tracestates: &[&str]) -> Option<TraceContext> {
        TraceContext::parse(std::iter::once(traceparent.as_bytes()), tracestates.iter().map(|text| text.as_bytes()))
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let context = parse(PARENT, &[]).unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.span_id(), context.is_sampled()), ("00f067aa0ba902b7", true));
        assert!(!parse(&PARENT.replace("-01", "-00"), &[]).unwrap().is_sampled());
        // A later version: what is known of it, as version 00.
        for later in [PARENT.replace("00-4", "01-4"), format!("{}-more", PARENT.replace("00-4", "cc-4"))] {
            assert_eq!(parse(&later, &[]), Some(context.clone()), "{later}");
        }
        assert!(parse(&PARENT.replace("00-4", "01-4").replace("-01", "-fe"), &[]).is_some_and(|c| !c.is_sampled()));
    }

    #[test]
    fn an_invalid_traceparent_is_none() {
        for wrong in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-"),
            &format!("{PARENT}0"),
            &PARENT.to_uppercase(),
            &PARENT.replace("00-4", "ff-4"),
            &PARENT.replace("00-4", "0g-4"),
            &PARENT.replace("00-4", "01-4").replace("-01", "-01x"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0-",
            "00 4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bé-1",
        ] {
            assert_eq!(parse(wrong, &["a=1"]), None, "{wrong}");
        }
        let two = [PARENT.as_bytes(), PARENT.as_bytes()];
        assert_eq!(TraceContext::parse(two.into_iter(), std::iter::empty()), None);
    }

    #[test]
    fn a_tracestate_that_is_invalid_or_too_long_does_not_take_the_traceparent_with_it() {
        let state = |states: &[&str]| parse(PARENT, states).unwrap().tracestate;
        assert_eq!(state(&["rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE", "", "a@b=\"x\\y\""]), {
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,a@b=\"x\\y\""
        });
        for wrong in ["a", "A=1", "a=", "=1", "a=1=2", "a=é", "ä=1", "_a=1", "a=\u{7f}"] {
            assert_eq!(state(&["x=1", wrong]), "", "{wrong}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
        assert_eq!(state(&[&many.join(",")]), "");
        assert_eq!(state(&[&many[..32].join(",")]), many[..32].join(","));
        // Long members go first, then those at the end.
        let (long, short) = (format!("long={}", "v".repeat(200)), format!("short={}", "v".repeat(100)));
        let numbered: Vec<String> = (0..6).map(|n| format!("k{n}={}", "v".repeat(97))).collect();
        let all = format!("{short},{long},{}", numbered.join(","));
        assert_eq!(state(&[&all]), format!("{short},{}", numbered[..4].join(",")));
        assert!(state(&[&all]).len() <= TRACESTATE_BYTES_MAX);
    }

    #[test]
    fn metadata_keeps_what_it_has_and_gets_the_trace_if_it_has_none() {
        let context = parse(PARENT, &["a=\"1\""]).unwrap();
        let keep = |metadata: &str| context.keep_in(Some(metadata.to_owned())).unwrap();
        let own = format!(r#""traceparent":"{PARENT}","tracestate":"a=\"1\"""#);
        assert_eq!(context.keep_in(None).unwrap(), format!("{{{own}}}"));
        assert_eq!(keep("{ }"), format!("{{{own}}}"));
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for object in
            [r#"{"user":"ann"}"#, r#"{ "n": 1e900, "nested": {"traceparent": 1} }"#, &format!(r#"{{"d":{deep}}}"#)]
        {
            let kept = keep(object);
            assert_eq!(kept, format!("{{{own},{}", &object[1..]));
            assert_eq!(TraceContext::of_metadata(&kept).map(|kept| kept.traceparent), Some(PARENT.to_owned()));
        }
        for brings_its_own in
            [r#"{"traceparent":null}"#, r#"{"a":1,"tracestate":"x=1"}"#, r#"{"trace\u0070arent":"x"}"#]
        {
            assert_eq!(keep(brings_its_own), brings_its_own);
        }
        for no_object in ["[]", "\"traceparent\"", "7", "null", "true", "[{\"a\":1}]"] {
            assert_eq!(keep(no_object), no_object);
        }
    }

    #[test]
    fn metadata_without_a_valid_trace_has_none() {
        for metadata in ["null", "{}", "[]", r#"{"traceparent":7}"#, r#"["traceparent"]"#, r#"{"traceparent":"x"}"#] {
            assert_eq!(TraceContext::of_metadata(metadata), None, "{metadata}");
        }
    }
}
