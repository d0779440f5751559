//! `openkcm-edge run`: wires agent, store and service, and ends when one of them does.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, bail};
use openkcm_edge::{
    agent::{Agent, AgentConfig},
    auth::{Authenticator, load_issuers},
    engine::Engine,
    metrics::Metrics,
    service::{self, Listeners, TlsConfig},
    store::KeyStore,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{admin, args::RunArgs};

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let store = Arc::new(KeyStore::new());
    let metrics = Arc::new(Metrics::new(Arc::clone(&store)));
    let issuers = load_issuers(&args.issuers)?;
    if issuers.is_empty() && args.listen.is_none() {
        tracing::warn!("no issuer is trusted: nobody can use this edge");
    }
    let auth = Arc::new(Authenticator::new(issuers, &args.audience)?);

    let listeners = listeners(&args)?;
    let admin_listener = match args.http_address {
        Some(address) => {
            Some(TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?)
        }
        None => None,
    };
    let agent = Agent::new(agent_config(&args)?, Arc::clone(&store));
    let agent_status = agent.status();
    let gate = service::service(
        Engine::new(Arc::clone(&store)),
        auth,
        Arc::clone(&metrics),
        &args.tls_client_issuer,
    );
    if !openkcm_secret::memory_is_locked() {
        tracing::warn!("key memory cannot be locked (RLIMIT_MEMLOCK): it may reach swap");
    }
    tracing::info!(name = args.name, "edge started");

    let administration = async {
        match admin_listener {
            Some(listener) => {
                admin::serve(listener, Arc::clone(&store), metrics, agent_status, stop.clone()).await
            }
            None => {
                stop.cancelled().await;
                Ok(())
            }
        }
        .context("serve /healthz, /readyz and /metrics")
    };
    let applications =
        async { service::serve(listeners, gate, stop.clone()).await.context("serve applications") };
    // Both end by themselves when told to stop, each when it is done; the agent is dropped, which ends its stream.
    let result = tokio::select! {
        ended = async { tokio::try_join!(applications, administration) } => ended.map(|_| ()),
        gave_up = agent.run() => match gave_up {
            Err(error) => Err(error).context("stay connected to an orchestrator"),
        },
    };
    store.end_lease();
    tracing::info!("edge ended");
    result
}

fn listeners(args: &RunArgs) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners::default();
    if let Some(threads) = args.threads {
        listeners = listeners.on_threads(threads);
    }
    if let Some(path) = &args.socket {
        listeners = listeners.bind_unix(path, args.socket_mode)?;
    }
    if let Some(address) = args.listen {
        let (Some(certificate), Some(key), Some(authorities)) =
            (&args.tls_certificate_file, &args.tls_key_file, &args.tls_client_ca_file)
        else {
            bail!("--listen needs --tls-certificate-file, --tls-key-file and --tls-client-ca-file");
        };
        let tls = TlsConfig {
            certificate: read(certificate)?,
            key: read(key)?,
            client_authorities: read(authorities)?,
        };
        listeners = listeners.bind_tcp(address, tls)?;
    }
    if args.socket.is_none() && args.listen.is_none() {
        bail!("neither --socket nor --listen is given: there is no door for applications");
    }
    Ok(listeners)
}

fn agent_config(args: &RunArgs) -> anyhow::Result<AgentConfig> {
    let join_token = match &args.join_token_file {
        Some(path) if path.exists() => {
            let text = String::from_utf8(read(path)?).context("the join token is not text")?;
            Some(text.trim().parse().with_context(|| format!("parse the join token in {}", path.display()))?)
        }
        // A token is used once and may be gone when the edge starts again.
        _ => None,
    };
    let all = args.tenants.iter().any(|tenant| tenant == "all");
    Ok(AgentConfig {
        name: args.name.clone(),
        orchestrators: args.orchestrator.clone(),
        data_dir: args.data_dir.clone(),
        join_token,
        authority_file: args.ca_file.clone(),
        tenants: if all { Vec::new() } else { args.tenants.clone() },
        region: args.region.clone(),
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = token.clone();
    // Ends with the process at the latest, and holds nothing.
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}
