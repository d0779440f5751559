//! Runs one of the test servers until it is ended.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use openkcm_key_store_servers::{aws, azure, gcp, hsm};

/// Servers that speak the protocols of key stores, for tests. Prints one line of JSON with its addresses, then serves until it is ended.
#[derive(Parser)]
struct Options {
    /// Where to serve; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", global = true)]
    listen: SocketAddr,
    /// Where to be controlled (see `control`); port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", global = true)]
    control: SocketAddr,
    #[command(subcommand)]
    store: Store,
}

#[derive(Subcommand)]
enum Store {
    /// A stub of AWS KMS and STS: refusals, throttling, errors, silence.
    Aws,
    /// Azure Key Vault, Managed HSM and Microsoft Entra, over TLS.
    Azure {
        /// Where to write the certificate authority that clients must trust.
        #[arg(long)]
        ca_file: PathBuf,
    },
    /// Google Cloud KMS, over plain HTTP.
    Gcp,
    /// Switches a key in a PKCS#11 token on or off, and ends.
    Hsm {
        /// The PKCS#11 library.
        #[arg(long)]
        module: PathBuf,
        /// File that holds the user's PIN.
        #[arg(long)]
        pin_file: PathBuf,
        /// Label of the token.
        #[arg(long)]
        token: String,
        /// Label of the key.
        #[arg(long)]
        key: String,
        /// Whether the key may be used from now on.
        #[arg(long, action = clap::ArgAction::Set)]
        enabled: bool,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Options { listen, control, store } = Options::parse();
    // Each server ends when its value is dropped, so it is kept here.
    let (address, control_address, _server): (_, _, Box<dyn std::any::Any>) = match store {
        Store::Aws => {
            let server = aws::Server::start(listen, control).await?;
            (server.address, server.control_address, Box::new(server))
        }
        Store::Azure { ca_file } => {
            let server = azure::Server::start(listen, control).await?;
            std::fs::write(&ca_file, &server.ca_pem)?;
            (server.address, server.control_address, Box::new(server))
        }
        Store::Gcp => {
            let server = gcp::Server::start(listen, control).await?;
            (server.address, server.control_address, Box::new(server))
        }
        Store::Hsm { module, pin_file, token, key, enabled } => {
            let pin = std::fs::read_to_string(pin_file)?;
            return hsm::set_enabled(&module, pin.trim_end(), &token, &key, enabled);
        }
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::json!({"address": address, "control": control_address}))?;
    out.flush()?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        _ = terminated.recv() => {}
    }
    Ok(())
}
