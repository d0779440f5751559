//! Logs, and traces over OTLP when configured: the same for provider and edge.
//!
//! Spans have targets of their own, at level TRACE: no usual `--log` shows them, and without an exporter they cost next to
//! nothing. What is logged at INFO and above while a span is open becomes an event of that span.
#![warn(missing_docs)]

use std::{io::IsTerminal, time::Duration};

use anyhow::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::Level;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// A collector that takes longer for a batch of spans has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Which program this is, and what its operator wants to see of it.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// `service.name` of the traces.
    pub service: &'static str,
    /// Targets of the spans that are exported.
    pub spans: &'a [&'static str],
    /// How log lines look.
    pub format: LogFormat,
    /// Which log lines, for example `info,openkcm_provider=debug`.
    pub filter: &'a str,
    /// Base URL of an OTLP/HTTP collector.
    pub otlp_endpoint: Option<&'a str>,
}

/// Keeps the exporter of traces; what is still buffered is sent when it is shut down.
#[must_use = "traces stop when this is dropped"]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Installs the process's subscriber. To be called inside the runtime: it sends the traces.
    pub fn install(options: Options<'_>) -> anyhow::Result<Self> {
        // The client logs each failure without a word on what was asked; who asked logs it, too, and knows.
        let filter = format!("kube_client::client::builder=off,{}", options.filter);
        let filter = EnvFilter::try_new(filter).context("parse --log")?;
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let logs = match options.format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let provider =
            options.otlp_endpoint.map(|endpoint| exporter(options.service, endpoint)).transpose()?;
        let traces = provider.as_ref().map(|provider| {
            let spans = options.spans.iter().map(|target| (*target, Level::TRACE));
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer(options.service))
                .with_location(false)
                .with_threads(false)
                .with_filter(Targets::new().with_target("openkcm_", Level::INFO).with_targets(spans))
        });
        tracing_subscriber::registry()
            .with(logs.with_filter(filter))
            .with(traces)
            .try_init()
            .context("install the log subscriber")?;
        Ok(Self(provider))
    }

    /// Sends what is buffered. Blocks: call it last, outside the runtime, while the runtime is still there.
    pub fn shutdown(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

fn exporter(service: &'static str, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("make the client of --otlp-endpoint")?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(OnRuntime { client, runtime: Handle::current() })
        .with_timeout(PATIENCE)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .context("make the exporter of traces")?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

/// The exporter has a thread of its own, which an asynchronous client cannot run on. reqwest's blocking client would bring a
/// second runtime into the process; this one sends on the runtime that is there.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}
