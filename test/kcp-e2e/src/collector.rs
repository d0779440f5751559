//! A collector of traces: OTLP over HTTP, in the official protobuf.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

/// Keeps every span that it is sent.
#[derive(Debug)]
pub struct Collector {
    url: String,
    received: Arc<Mutex<Received>>,
    server: JoinHandle<std::io::Result<()>>,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    everything: String,
    asleep: bool,
}

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    /// `service.name` of who sent it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its attributes, those that are text.
    pub attributes: BTreeMap<String, String>,
    /// The names and texts of its events.
    pub events: String,
    /// Whether it says that something failed.
    pub failed: bool,
    /// Whether it is part of another.
    pub has_parent: bool,
}

impl Collector {
    /// Listens on a free port of loopback.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the collector")?;
        let url = format!("http://{}", listener.local_addr().context("the collector's port")?);
        let received = Arc::<Mutex<Received>>::default();
        let app = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&received));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { url, received, server })
    }

    /// What goes into `--otlp-endpoint`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.received).spans.clone()
    }

    /// Everything received so far, as text: to search for what must not be there.
    pub fn everything(&self) -> String {
        lock(&self.received).everything.clone()
    }

    /// From now on it takes connections and answers nobody.
    pub fn fall_asleep(&self) {
        lock(&self.received).asleep = true;
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(State(received): State<Arc<Mutex<Received>>>, body: Bytes) -> StatusCode {
    if lock(&received).asleep {
        std::future::pending::<()>().await;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut received = lock(&received);
    let _ = writeln!(received.everything, "{request:?}");
    for resource in request.resource_spans {
        let about = texts(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = about.get("service.name").cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let failed = span.status.is_some_and(|status| status.code == 2);
            let event = |(name, attributes)| format!("{name} {:?}; ", texts(attributes));
            let events = span.events.into_iter().map(|it| event((it.name, it.attributes))).collect();
            received.spans.push(Span {
                service: service.clone(),
                name: span.name,
                attributes: texts(span.attributes),
                events,
                failed,
                has_parent: !span.parent_span_id.is_empty(),
            });
        }
    }
    StatusCode::OK
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |KeyValue { key, value, .. }| match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some((key, text)),
        _ => None,
    };
    attributes.into_iter().filter_map(text).collect()
}
