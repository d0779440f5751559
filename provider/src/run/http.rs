//! `/healthz`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use openkcm_logical::CancellationToken;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::{metrics::Scrape, provider::Provider};

/// A watch that says nothing for so long makes no progress: its server ends each one sooner.
const STALLED: Duration = Duration::from_secs(60);

struct Shared {
    provider: Arc<Provider>,
    registry: Registry,
}

pub async fn serve(
    address: SocketAddr,
    provider: Arc<Provider>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(&provider))));
    let shared = Arc::new(Shared { provider, registry });
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared);
    tracing::info!(%address, "health and metrics");
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("serve health and metrics")
}

/// Ready means: the ledger answers, and no watch is stuck. A shard that is away is told, and is not our failure.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let provider = &shared.provider;
    let mut problems = Vec::new();
    let health = provider.world.health();
    if let Some(error) = &health.slice_error {
        problems.push(format!("the endpoint slice cannot be followed: {error}"));
    }
    for watch in health.stalled(STALLED) {
        problems.push(format!(
            "no progress for {:.0?} at {:?} on {:?}",
            watch.silent_for, watch.endpoint, watch.kind
        ));
    }
    if !provider.world.synced() {
        problems.push("not every kind has been listed at every endpoint".to_owned());
    }
    if let Err(error) = provider.ledger.change_token().await {
        problems.push(format!("the ledger does not answer: {error}"));
    }
    if problems.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
