//! OpenKCM's provider. A library only so that two programs can be made of it: `openkcm-provider`, and the one that tests
//! kill at named places (`openkcm-provider-crashing`, feature `crash-points`).
#![warn(missing_docs)]

mod cli;
mod operator;
mod run;

use anyhow::Context;
use clap::Parser;
use openkcm_logical::CancellationToken;
use openkcm_telemetry::{Options, Telemetry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command};

/// The command line.
pub fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("openkcm-provider: {}", openkcm_logical::chain(error.as_ref()));
            std::process::ExitCode::FAILURE
        }
    }
}

/// Every edge is a file, and the customary soft limit of 1,024 is for programs that use `select`.
fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raise the limit of open files")
}

fn start(cli: Cli) -> anyhow::Result<()> {
    openkcm_secret::harden_process()?;
    raise_file_limit()?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed first");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    // The exporter of traces wants the runtime to be there.
    let telemetry = {
        let _inside = runtime.enter();
        Telemetry::install(Options {
            service: "openkcm-provider",
            spans: &[run::SPANS, openkcm_logical::SPANS],
            format: cli.log_format,
            filter: &cli.log,
            otlp_endpoint: cli.otlp_endpoint.as_deref(),
        })?
    };
    let result = runtime.block_on(dispatch(cli.command));
    telemetry.shutdown();
    // A thread that hangs in an HSM's library cannot be ended, and must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Bootstrap(args) => operator::bootstrap(args).await,
        Command::Run(args) => run::run(*args, stop_on_signal()?).await,
        Command::Tenants(command) => operator::tenants(command).await,
        Command::Accounts(command) => operator::accounts(command).await,
        Command::Keys(command) => operator::keys(command).await,
        Command::Ledger(command) => operator::ledger(command).await,
        Command::Edges(command) => operator::edges(command),
    }
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = token.clone();
    // Ends with the process at the latest, and holds nothing.
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(token)
}
