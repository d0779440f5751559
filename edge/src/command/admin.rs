//! `/healthz`, `/readyz` and `/metrics`, for the operator.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use openkcm_edge::{agent::AgentStatus, metrics::Metrics, store::KeyStore};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
struct Admin {
    store: Arc<KeyStore>,
    metrics: Arc<Metrics>,
    agent: watch::Receiver<AgentStatus>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    store: Arc<KeyStore>,
    metrics: Arc<Metrics>,
    agent: watch::Receiver<AgentStatus>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Admin { store, metrics, agent });
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

/// Ready is: applications get answers. Without a lease they do not.
async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let (lease, keys) = (admin.store.lease(), admin.store.stats().live);
    let status = admin.agent.borrow().clone();
    let trouble = status.trouble.map(|trouble| format!("; {trouble}")).unwrap_or_default();
    if lease.remaining.is_zero() {
        let had = if lease.ever { "the lease is over" } else { "there has been no lease yet" };
        return (StatusCode::SERVICE_UNAVAILABLE, format!("no lease: {had}{trouble}\n"));
    }
    let left = lease.remaining.as_secs_f64();
    (StatusCode::OK, format!("ready: {keys} keys, lease ends in {left:.1} s unless renewed{trouble}\n"))
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.metrics.encode() {
        Ok(text) => {
            Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
        }
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
