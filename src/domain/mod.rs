//! Pure rules: no runtime, no SQL, no HTTP.
#![warn(missing_docs)]

pub mod aggregated_stream;
pub mod api_key;
pub mod append;
pub mod browser;
pub mod closing;
pub mod database_url;
pub mod delivery;
pub mod duration;
pub mod event_id;
pub mod exported_message;
pub mod expression;
pub mod filter;
pub mod history;
pub mod json_text;
pub mod keyed;
pub mod message;
pub mod named;
pub mod object;
pub mod observation;
pub mod partitioner;
pub mod percent;
pub mod primary;
pub mod replica;
pub mod scope;
pub mod secret;
pub mod selection;
pub mod setting;
pub mod settling;
pub mod signal;
pub mod source;
pub mod stream_name;
pub mod subscription;
pub mod time;
pub mod trace;

/// A field that breaks a rule, as a problem document names both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field as the caller wrote it: `messages[3].type`, `from`, `Last-Event-ID`.
    pub field: String,
    /// The rule, as a sentence about the field.
    pub message: String,
}

impl Violation {
    /// A violation of `field`; `message` is the rule, as in `must be 0 or more`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}
