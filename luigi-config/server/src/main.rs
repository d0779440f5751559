//! Serves the console: the micro-frontend under `/mfe/`, and for a local set-up a small Luigi shell
//! under `/` and a way to kcp under `/kcp/`, all from one origin and under a strict content security policy.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use url::Url;

mod headers;
mod proxy;
mod server;
mod shell;

/// Serves the OpenKCM console.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where to listen.
    #[arg(long, env = "OPENKCM_ADDRESS", default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// The built micro-frontend.
    #[arg(long, env = "OPENKCM_MFE_DIR")]
    mfe_dir: PathBuf,
    /// The built local shell; without it only the micro-frontend is served.
    #[arg(long, env = "OPENKCM_SHELL_DIR", requires = "shell_config")]
    shell_dir: Option<PathBuf>,
    /// What the local shell needs to know (JSON): `workspace`, `tokenFile`, and `kcpUrl` unless `--kcp-url` is given.
    #[arg(long, env = "OPENKCM_SHELL_CONFIG")]
    shell_config: Option<PathBuf>,
    /// An origin that the pages may send requests to, besides their own: the portal's gateway, or a kcp with CORS.
    #[arg(long, env = "OPENKCM_CONNECT_SRC", value_delimiter = ',')]
    connect_src: Vec<Url>,
    /// An origin that may embed the micro-frontend and load its tile: the portal.
    #[arg(long, env = "OPENKCM_FRAME_ANCESTORS", value_delimiter = ',')]
    frame_ancestors: Vec<Url>,
    /// A kcp to offer under `/kcp/`, so that the browser needs neither CORS nor its certificate authority.
    /// Only the caller's own bearer token is passed on.
    #[arg(long, env = "OPENKCM_KCP_URL")]
    kcp_url: Option<Url>,
    /// The certificate authority of that kcp (PEM).
    #[arg(long, env = "OPENKCM_KCP_CA", requires = "kcp_url")]
    kcp_ca: Option<PathBuf>,
    /// What to log.
    #[arg(long, env = "OPENKCM_LOG", default_value = "info")]
    log: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&args.log))
        .with_writer(std::io::stderr)
        .init();
    ensure!(
        args.shell_dir.is_none() || args.address.ip().is_loopback(),
        "the local shell hands out a token: it is only served on a loopback address, not on {}",
        args.address
    );
    let listener = tokio::net::TcpListener::bind(args.address)
        .await
        .with_context(|| format!("listening on {}", args.address))?;
    let address = listener.local_addr().context("reading the own address")?;
    let policy = headers::Policy::new(&args.connect_src, &args.frame_ancestors)?;
    let proxy = args.kcp_url.map(|url| proxy::Proxy::new(url, args.kcp_ca.as_deref())).transpose()?;
    let shell = match (args.shell_dir, args.shell_config) {
        (Some(dir), Some(config)) => Some(shell::Shell::new(dir, &config, address, proxy.is_some())?),
        _ => None,
    };
    // The line that a starting script waits for; nothing else goes to stdout.
    println!("http://{address}/");
    let router = server::router(&args.mfe_dir, shell, proxy, policy);
    axum::serve(listener, router).with_graceful_shutdown(stopped()).await.context("serving")
}

/// Resolves on SIGTERM or SIGINT.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
