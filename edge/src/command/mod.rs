//! `openkcm-edge run`, and the client commands.

mod admin;
mod args;
mod client;
mod run;

use std::process::ExitCode;

use anyhow::Context;
use openkcm_telemetry::{Options, Telemetry};

use self::args::{Cli, Command};

/// Runs the command line. Exit code 0: done; 1: refused or failed; 2: wrong usage.
pub fn main() -> ExitCode {
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(args::ParseError::Clap(error)) => error.exit(),
        Err(args::ParseError::File(error)) => {
            eprintln!("openkcm-edge: usage: {error:#}");
            return ExitCode::from(2);
        }
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("openkcm-edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    openkcm_secret::harden_process()?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed first");
    }
    match cli.command {
        Command::Run(args) => {
            // For the orchestrator's stream and the operator; applications have threads of their own.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("start the runtime")?;
            // The exporter of traces wants the runtime to be there.
            let telemetry = {
                let _inside = runtime.enter();
                Telemetry::install(Options {
                    service: "openkcm-edge",
                    spans: &[openkcm_edge::service::SPANS],
                    format: args.log_format,
                    filter: &args.log,
                    otlp_endpoint: args.otlp_endpoint.as_deref(),
                })?
            };
            let result = runtime.block_on(run::run(*args));
            telemetry.shutdown();
            result
        }
        client => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            let result = runtime.block_on(client::run(client));
            // A read of standard input that nobody waits for any more must not keep the process.
            runtime.shutdown_background();
            result
        }
    }
}
