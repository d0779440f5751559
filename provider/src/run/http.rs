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
use openkcm_logical::{CancellationToken, Health};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::{metrics::Scrape, provider::Provider};

/// A watch that says nothing for so long makes no progress: its server ends each one sooner.
const STALLED: Duration = Duration::from_secs(60);
/// Whoever asks for `/readyz` waits no longer for the ledger: a database that is away is otherwise tried for a minute.
const LEDGER_ANSWERS: Duration = Duration::from_secs(2);

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

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let provider = &shared.provider;
    let ledger = match tokio::time::timeout(LEDGER_ANSWERS, provider.ledger.change_token()).await {
        Ok(answer) => answer.err().map(|error| error.to_string()),
        Err(_) => Some(format!("not within {LEDGER_ANSWERS:?}")),
    };
    let problems = problems(&provider.world.health(), provider.world.synced(), ledger);
    if problems.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
    }
}

/// Ready means: everything has been seen once, no watch is stuck, and the ledger answers.
fn problems(health: &Health, synced: bool, ledger: Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(error) = &health.slice_error {
        problems.push(format!("the endpoint slice cannot be followed: {error}"));
    }
    for watch in health.stalled(STALLED) {
        problems.push(format!(
            "no progress for {:.0?} at {:?} on {:?}",
            watch.silent_for, watch.endpoint, watch.kind
        ));
    }
    if !synced {
        problems.push("not every kind has been listed at every endpoint".to_owned());
    }
    problems.extend(ledger.map(|error| format!("the ledger does not answer: {error}")));
    problems
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

#[cfg(test)]
mod tests {
    use openkcm_apis::Account;
    use openkcm_logical::{Kind, State, WatchHealth};

    use super::*;

    #[test]
    fn it_is_ready_only_while_every_watch_makes_progress() {
        let watch = |silent_for| WatchHealth {
            endpoint: "https://shard-1/services/apiexport/1abc/openkcm.io".into(),
            kind: Kind::of::<Account>(),
            state: State::Live,
            synced: true,
            silent_for,
        };
        let health =
            |seconds| Health { slice_error: None, watches: vec![watch(Duration::from_secs(seconds))] };
        assert_eq!(problems(&health(59), true, None), Vec::<String>::new());
        let said = problems(&health(61), true, None);
        assert!(said.len() == 1 && said[0].contains("61s") && said[0].contains("Account"), "{said:?}");

        let slice = Health { slice_error: Some("connection refused".to_owned()), watches: Vec::new() };
        assert!(problems(&slice, true, None)[0].contains("endpoint slice"));
        assert!(problems(&health(1), false, None)[0].contains("listed"));
        assert!(problems(&health(1), true, Some("disk full".to_owned()))[0].contains("disk full"));
    }
}
