//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use jiff::SignedDuration;
use kcp_client_rs::LogicalCluster;
use openkcm_telemetry::LogFormat;

/// OpenKCM's provider for kcp: a key chain for every workspace that binds its export.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// Log lines for people or for collectors.
    #[arg(long, global = true, env = "OPENKCM_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines, for example `info,openkcm_provider=debug`.
    #[arg(long, global = true, env = "OPENKCM_LOG", default_value = "info")]
    pub log: String,
    /// Base URL of an OTLP/HTTP collector for traces. Without it no traces are made.
    #[arg(long, global = true, env = "OPENKCM_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish the export in the provider workspace, or bring it up to date.
    Bootstrap(BootstrapArgs),
    /// Reconcile every workspace that binds the export, and serve the Crypto Edges.
    Run(Box<RunArgs>),
    /// Look at tenants, suspend them, resume them.
    #[command(subcommand)]
    Tenants(TenantsCommand),
    /// Look at Accounts across tenants.
    #[command(subcommand)]
    Accounts(AccountsCommand),
    /// Look at service keys, and bring back deleted ones.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Back up, verify or export the ledger, also while the provider runs.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Let Crypto Edges join, and list them.
    #[command(subcommand)]
    Edges(EdgesCommand),
}

#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Kubeconfig of an administrator of the kcp.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Workspace that publishes the export; it is created if it does not exist.
    #[arg(long, env = "OPENKCM_WORKSPACE", default_value = "root:providers:openkcm")]
    pub workspace: String,
    /// Where browsers find the console's micro-frontend. Without it the console is not registered.
    #[arg(long, env = "OPENKCM_CONSOLE_URL")]
    pub console_url: Option<String>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Write a kubeconfig there that has just the rights `run` needs.
    #[arg(long, env = "OPENKCM_KUBECONFIG_OUT")]
    pub kubeconfig_out: Option<PathBuf>,
}

/// Where the ledger is.
#[derive(Debug, Clone, Args)]
pub struct LedgerArgs {
    /// Folder of the SQLite ledger and of the edges' certificate authority; replicas share it.
    #[arg(long, env = "OPENKCM_DATA_DIR")]
    pub data_dir: PathBuf,
    /// PostgreSQL instead of SQLite, needed for more than one replica.
    #[arg(long, env = "OPENKCM_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Kubeconfig whose server is the provider workspace.
    #[arg(long, env = "OPENKCM_KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Name of the APIExport and of its endpoint slice.
    #[arg(long, env = "OPENKCM_EXPORT", default_value = "openkcm.io")]
    pub export: String,
    #[command(flatten)]
    pub ledger: LedgerArgs,
    /// Health, readiness and metrics.
    #[arg(long, env = "OPENKCM_HTTP_ADDRESS", default_value = "127.0.0.1:8080")]
    pub http_address: SocketAddr,
    /// Where Crypto Edges connect to.
    #[arg(long, env = "OPENKCM_ORCHESTRATOR_ADDRESS", default_value = "127.0.0.1:9443")]
    pub orchestrator_address: SocketAddr,
    /// The URLs under which edges reach the replicas, this one's first: an edge that loses one goes to the next. Default: the
    /// address itself.
    #[arg(long, env = "OPENKCM_ORCHESTRATOR_URL", value_delimiter = ',')]
    pub orchestrator_url: Vec<String>,
    /// The operator's configuration of key stores.
    #[arg(long, env = "OPENKCM_KEY_STORES")]
    pub key_stores: Option<PathBuf>,
    /// How often every root key is probed.
    #[arg(long, env = "OPENKCM_PROBE_INTERVAL", default_value = "60s", value_parser = duration)]
    pub probe_interval: SignedDuration,
    /// How long a root key may fail before its keys leave the edges.
    #[arg(long, env = "OPENKCM_ROOT_LOSS_GRACE", default_value = "2m", value_parser = duration)]
    pub root_loss_grace: SignedDuration,
    /// How long a tenant's keys are kept after it unbinds.
    #[arg(long, env = "OPENKCM_RETENTION", default_value = "30d", value_parser = duration)]
    pub retention: SignedDuration,
    /// How long a deleted service key can be brought back.
    #[arg(long, env = "OPENKCM_DELETION_WINDOW", default_value = "7d", value_parser = duration)]
    pub deletion_window: SignedDuration,
    /// How long an edge may use its keys without hearing from the provider, 1s to 60s.
    #[arg(long, env = "OPENKCM_LEASE", default_value = "5s", value_parser = lease)]
    pub lease: SignedDuration,
    /// Objects that are reconciled at the same time.
    #[arg(long, env = "OPENKCM_WORKERS", default_value_t = 32)]
    pub workers: usize,
}

#[derive(Debug, Subcommand)]
pub enum TenantsCommand {
    /// All tenants, also those that have unbound.
    List(LedgerArgs),
    /// Take a tenant's keys off all edges until it is resumed.
    Suspend {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Logical cluster, or path if only one tenant has it.
        tenant: String,
        /// What the tenant reads as the reason.
        #[arg(long)]
        reason: String,
    },
    /// Lift the suspension.
    Resume {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Logical cluster, or path if only one tenant has it.
        tenant: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum AccountsCommand {
    /// Accounts of all tenants or of one, with the id that metrics name.
    List {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Only this tenant.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// What a re-key, disable or delete of an Account would touch.
    Impact {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Kubeconfig of `run`: with it the clients that are active now are counted, which the ledger does not know.
        #[arg(long, env = "OPENKCM_KUBECONFIG")]
        kubeconfig: Option<PathBuf>,
        /// Name of the APIExport and of its endpoint slice.
        #[arg(long, env = "OPENKCM_EXPORT", default_value = "openkcm.io")]
        export: String,
        /// Logical cluster, or path if only one tenant has it.
        tenant: String,
        /// The Account's name.
        account: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Service keys of all tenants or of one.
    List {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Only this tenant.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Every version of one key.
    History {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Logical cluster, or path if only one tenant has it.
        tenant: String,
        /// NAMESPACE/NAME.
        key: String,
    },
    /// Bring a deleted key back before its window ends.
    Undelete {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Logical cluster, or path if only one tenant has it.
        tenant: String,
        /// NAMESPACE/NAME.
        key: String,
    },
    /// Go on with a key whose workspace has seen newer versions than this (restored) ledger, or than it knows at all.
    AcceptRestore {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Logical cluster, or path if only one tenant has it.
        tenant: String,
        /// NAMESPACE/NAME.
        key: String,
        /// For a key that the ledger does not know: the newest version that its object's status names, like `v7`.
        #[arg(long)]
        up_to: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Copy the ledger while it is in use.
    Backup {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// The file to write; it must not exist.
        file: PathBuf,
    },
    /// Read everything again and report the first broken row.
    Verify(LedgerArgs),
    /// Everything as JSON, key material only in wrapped form.
    Export(LedgerArgs),
}

#[derive(Debug, Subcommand)]
pub enum EdgesCommand {
    /// A join token for one edge.
    Token {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// The edge's name.
        name: String,
        /// How long it can be used.
        #[arg(long, default_value = "1h", value_parser = duration)]
        ttl: SignedDuration,
        /// Tenants whose keys it may hold, by logical cluster: a tenant's name is not unique. Default: all.
        #[arg(long, value_delimiter = ',')]
        tenants: Vec<LogicalCluster>,
        /// The region that the edge is in, for example eu-central-1. Keys of an Account with `spec.edgeRegions` travel only to
        /// edges of those regions; an edge without a region gets the others only.
        #[arg(long, value_parser = region)]
        region: Option<String>,
    },
    /// Refuse an edge's certificate from now on.
    Revoke {
        #[command(flatten)]
        ledger: LedgerArgs,
        /// Its id, as `edges list` shows it.
        id: uuid::Uuid,
    },
    /// Edges that have joined.
    List(LedgerArgs),
}

/// `5s`, `2m`, `12h`, `7d`, also combined.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let span: jiff::Span =
        text.parse().map_err(|_| "expected a duration such as 5s, 2m, 12h or 7d".to_owned())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| "expected a duration in days, hours, minutes or seconds".to_owned())?;
    if duration.is_positive() { Ok(duration) } else { Err("expected a duration above zero".to_owned()) }
}

fn region(text: &str) -> Result<String, String> {
    if openkcm_apis::is_region(text) {
        Ok(text.to_owned())
    } else {
        Err("expected up to 63 lower-case letters, digits, inner '-' and '.'".to_owned())
    }
}

fn lease(text: &str) -> Result<SignedDuration, String> {
    let lease = duration(text)?;
    if lease >= SignedDuration::from_secs(1) && lease <= SignedDuration::from_secs(60) {
        Ok(lease)
    } else {
        Err("expected 1s to 60s".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(duration("90s").unwrap(), SignedDuration::from_secs(90));
        assert_eq!(duration("7d").unwrap(), SignedDuration::from_hours(168));
        for text in ["", "5", "-5s", "0s", "1 month"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for (text, allowed) in
            [("1s", true), ("5s", true), ("60s", true), ("999ms", false), ("60s 1ms", false)]
        {
            assert_eq!(lease(text).is_ok(), allowed, "{text}");
        }
    }
}
