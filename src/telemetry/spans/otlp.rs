//! Exports spans by OTLP over HTTP. What the standard's variables say holds: `OTEL_EXPORTER_OTLP_ENDPOINT`, `…_HEADERS`,
//! `…_TIMEOUT`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SDK_DISABLED`.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::{mpsc, oneshot};

use super::{ENDPOINTS, Span};
use crate::domain::trace::SpanRef;

/// Spans that may wait; further ones are dropped: a trace is worth less than what it is about.
const WAITING_MAX: usize = 4_096;
/// Spans in one request.
const BATCH_MAX: usize = 512;
/// Links of one span. A batch may serve more requests.
const LINKS_MAX: usize = 128;
/// How long spans are collected before they are sent.
const COLLECTED_FOR: Duration = Duration::from_millis(500);
/// A collector that cannot be reached is complained of at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

enum Order {
    Export(Box<Span>),
    /// Answered once everything before it is sent, or was tried to be.
    Flush(oneshot::Sender<()>),
}

/// The way to the task that sends.
pub struct SpanExporter(mpsc::Sender<Order>);

impl SpanExporter {
    /// If a collector is named. To be called where tasks can be started.
    pub fn from_environment() -> Option<Self> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if is_disabled || !ENDPOINTS.iter().any(|name| is_set(name)) {
            return None;
        }
        let client = reqwest::Client::new();
        let built = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client).build();
        let mut exporter = match built {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::warn!(%error, "spans are not exported");
                return None;
            }
        };
        let mut resource = Resource::builder();
        let is_named = std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|given| given.contains("service.name="));
        if !is_set("OTEL_SERVICE_NAME") && !is_named {
            resource = resource.with_service_name("headwater");
        }
        exporter.set_resource(&resource.build());
        let (orders, taken) = mpsc::channel(WAITING_MAX);
        tokio::spawn(send(exporter, taken));
        Some(Self(orders))
    }

    pub fn export(&self, span: Span) {
        let _ = self.0.try_send(Order::Export(Box::new(span)));
    }

    /// Waits until what was exported is sent, or was tried to be.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Order::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

async fn send(exporter: opentelemetry_otlp::SpanExporter, mut taken: mpsc::Receiver<Order>) {
    let scope = InstrumentationScope::builder("headwater").with_version(env!("CARGO_PKG_VERSION")).build();
    let mut complained_at: Option<tokio::time::Instant> = None;
    let mut orders = Vec::new();
    loop {
        if taken.recv_many(&mut orders, BATCH_MAX).await == 0 {
            return;
        }
        if !orders.iter().any(|order| matches!(order, Order::Flush(_))) {
            tokio::time::sleep(COLLECTED_FOR).await;
            while orders.len() < BATCH_MAX
                && let Ok(order) = taken.try_recv()
            {
                orders.push(order);
            }
        }
        let (mut spans, mut flushes) = (Vec::new(), Vec::new());
        for order in orders.drain(..) {
            match order {
                Order::Export(span) => spans.push(data(*span, &scope)),
                Order::Flush(done) => flushes.push(done),
            }
        }
        if !spans.is_empty()
            && let Err(error) = exporter.export(spans).await
            && complained_at.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL)
        {
            complained_at = Some(tokio::time::Instant::now());
            tracing::warn!(%error, "spans could not be exported");
        }
        for done in flushes {
            // The caller may not wait any more.
            let _ = done.send(());
        }
    }
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let mut links = SpanLinks::default();
    links.dropped_count = u32::try_from(span.links.len().saturating_sub(LINKS_MAX)).unwrap_or(u32::MAX);
    links.links =
        span.links.iter().take(LINKS_MAX).map(|link| Link::new(context(*link, true), Vec::new(), 0)).collect();
    let kind = match span.name {
        "append" => SpanKind::Server,
        "frame" => SpanKind::Producer,
        _ => SpanKind::Internal,
    };
    SpanData {
        span_context: context(span.own, false),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_be_bytes())),
        parent_span_is_remote: span.is_parent_remote,
        span_kind: kind,
        name: Cow::Borrowed(span.name),
        start_time: span.began,
        end_time: span.ended,
        attributes: span.facts.into_iter().map(|(name, value)| KeyValue::new(name, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    }
}

fn context(of: SpanRef, is_remote: bool) -> SpanContext {
    let (trace_id, span_id) =
        (TraceId::from_bytes(of.trace_id.to_be_bytes()), SpanId::from_bytes(of.span_id.to_be_bytes()));
    SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, is_remote, TraceState::NONE)
}
