//! Logs, and traces over OTLP when configured.

use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Keeps the exporter of traces; what is still buffered is sent when it is shut down.
#[must_use = "traces stop when this is dropped"]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Installs the process's subscriber. `otlp_endpoint` is the base URL of an OTLP/HTTP collector.
    pub fn install(format: LogFormat, filter: &str, otlp_endpoint: Option<&str>) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(filter).context("parse --log")?;
        let text = (format == LogFormat::Text).then(|| {
            tracing_subscriber::fmt::layer()
                .with_target(true)
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
        });
        let json = (format == LogFormat::Json).then(|| {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)
        });
        let provider = otlp_endpoint.map(exporter).transpose()?;
        let traces = provider
            .as_ref()
            .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("openkcm-provider")));
        tracing_subscriber::registry()
            .with(text)
            .with(json)
            .with(traces)
            .with(filter)
            .try_init()
            .context("install the log subscriber")?;
        Ok(Self(provider))
    }

    /// Sends what is buffered. Blocks: call it last, outside the runtime.
    pub fn shutdown(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

fn exporter(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .context("make the exporter of traces")?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("openkcm-provider").build())
        .build())
}
