//! Where spans go: to an OpenTelemetry collector, if the program was built with the feature `otlp` and one is named.

#[cfg(feature = "otlp")]
mod otlp;

use std::sync::Arc;

#[cfg(feature = "otlp")]
pub use otlp::SpanExporter;

use super::Observer;
use crate::domain::trace::Span;

/// The standard's variables that name a collector.
pub(super) const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Without the feature there is none.
#[cfg(not(feature = "otlp"))]
pub enum SpanExporter {}

#[cfg(not(feature = "otlp"))]
impl SpanExporter {
    /// Always none; says so if somebody expects one.
    pub fn from_environment() -> Option<Self> {
        if ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
            tracing::warn!("spans are not exported: this program was built without the feature otlp");
        }
        None
    }

    pub fn export(&self, _: Span) {
        match *self {}
    }

    #[allow(clippy::unused_async)] // as with the feature
    pub async fn flush(&self) {
        match *self {}
    }
}

/// A span that is under way; it ends when this goes.
pub struct OpenSpan {
    pub span: Span,
    observer: Observer,
}

impl Observer {
    /// A new one, with spans if the environment names a collector of them.
    pub fn with_spans() -> Self {
        let mut observer = Self::new();
        if let Some(inner) = Arc::get_mut(&mut observer.inner) {
            inner.spans = SpanExporter::from_environment();
        }
        observer
    }

    /// Whether spans are exported.
    pub fn traces(&self) -> bool {
        self.inner.spans.is_some()
    }

    /// Exports a span that has ended.
    pub fn span(&self, span: Span) {
        if let Some(spans) = &self.inner.spans {
            spans.export(span);
        }
    }

    /// Waits until all spans are exported.
    pub async fn flush(&self) {
        if let Some(spans) = &self.inner.spans {
            spans.flush().await;
        }
    }

    /// The span, if spans are exported.
    pub fn open(&self, span: impl FnOnce() -> Span) -> Option<OpenSpan> {
        self.traces().then(|| OpenSpan { span: span(), observer: self.clone() })
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.span.ended = std::time::SystemTime::now();
        self.observer.span(self.span.clone());
    }
}
