//! Flags, environment and configuration file, in this order of precedence.

use std::{
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use openkcm_telemetry::LogFormat;
use serde_yaml_ng::Value;

/// OpenKCM's Crypto Edge: keys next to the applications, under a lease.
#[derive(Debug, Parser)]
#[command(name = "openkcm-edge", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold keys for the applications on this machine.
    Run(Box<RunArgs>),
    /// Encrypt standard input to standard output.
    Encrypt(KeyArgs),
    /// Decrypt standard input to standard output. If it ends with an error, throw the output away.
    Decrypt(KeyArgs),
    /// Show a key's versions and the edge's lease, as JSON.
    Describe(KeyArgs),
    /// Make a data key and show it with its wrapped form, as JSON; or open a wrapped one.
    DataKey {
        #[command(flatten)]
        key: KeyArgs,
        /// Open the wrapped data key (base64) on standard input instead.
        #[arg(long)]
        open: bool,
    },
}

#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The edge's unix socket.
    #[arg(long, env = "OPENKCM_SOCKET")]
    pub socket: PathBuf,
    /// File with the caller's token.
    #[arg(long, env = "OPENKCM_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// The Tenant's name or its logical cluster.
    #[arg(long, env = "OPENKCM_TENANT")]
    pub tenant: String,
    /// The key: namespace/name.
    #[arg(long, env = "OPENKCM_KEY")]
    pub key: String,
    /// Additional authenticated data: the same text is needed to decrypt.
    #[arg(long, env = "OPENKCM_AAD", default_value = "")]
    pub aad: String,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct RunArgs {
    /// YAML file with any of these flags as keys (`data-dir: /var/lib/openkcm-edge`). Flags and environment win.
    #[arg(long, env = "OPENKCM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name of this edge.
    #[arg(long, env = "OPENKCM_NAME")]
    pub name: String,
    /// https:// addresses of orchestrators; others are learned from them.
    #[arg(long, env = "OPENKCM_ORCHESTRATOR", value_delimiter = ',', required = true)]
    pub orchestrator: Vec<String>,
    /// Certificate authority of the orchestrators, if it was brought here by hand (the join token names it too).
    #[arg(long, env = "OPENKCM_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with the join token; needed until this edge has its certificate.
    #[arg(long, env = "OPENKCM_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Directory for this edge's certificate.
    #[arg(long, env = "OPENKCM_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Unix socket for applications.
    #[arg(long, env = "OPENKCM_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Permissions of the socket, in octal. Callers need a token in any case.
    #[arg(long, env = "OPENKCM_SOCKET_MODE", default_value = "0660", value_parser = octal)]
    pub socket_mode: u32,
    /// Threads that serve applications; without it one for each core.
    #[arg(long, env = "OPENKCM_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Address for applications over mutual TLS.
    #[arg(long, env = "OPENKCM_LISTEN", requires_all = ["tls_certificate_file", "tls_key_file", "tls_client_ca_file"])]
    pub listen: Option<SocketAddr>,
    /// Certificate chain for --listen (PEM).
    #[arg(long, env = "OPENKCM_TLS_CERTIFICATE_FILE")]
    pub tls_certificate_file: Option<PathBuf>,
    /// Private key for --listen (PEM).
    #[arg(long, env = "OPENKCM_TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// Authorities of client certificates for --listen (PEM).
    #[arg(long, env = "OPENKCM_TLS_CLIENT_CA_FILE")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// What spec.clients calls the issuer of client certificates.
    #[arg(long, env = "OPENKCM_TLS_CLIENT_ISSUER", default_value = "x509")]
    pub tls_client_issuer: String,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, env = "OPENKCM_HTTP_ADDRESS")]
    pub http_address: Option<SocketAddr>,
    /// YAML file with the trusted issuers of tokens.
    #[arg(long, env = "OPENKCM_ISSUERS")]
    pub issuers: PathBuf,
    /// Audience that tokens must have.
    #[arg(long, env = "OPENKCM_AUDIENCE", default_value = "openkcm-edge")]
    pub audience: String,
    /// Tenants to hold keys of, by name or logical cluster; all: all that this edge may have.
    #[arg(long, env = "OPENKCM_TENANTS", value_delimiter = ',', default_value = "all")]
    pub tenants: Vec<String>,
    /// The region that this edge is in, which must be the one that it joined with (`edges token --region`): a guard against
    /// an edge in the wrong place. Default: whatever its certificate says.
    #[arg(long, env = "OPENKCM_REGION")]
    pub region: Option<String>,
    /// Log lines for people or for collectors.
    #[arg(long, env = "OPENKCM_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines, for example `info,openkcm_edge=debug`.
    #[arg(long, env = "OPENKCM_LOG", default_value = "info")]
    pub log: String,
    /// Base URL of an OTLP/HTTP collector for traces. Without it no traces are made.
    #[arg(long, env = "OPENKCM_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| mode & !0o777 == 0)
        .ok_or_else(|| "not permissions in octal, such as 0660".to_owned())
}

pub enum ParseError {
    Clap(clap::Error),
    File(anyhow::Error),
}

/// The command line of this process, with the configuration file put under it.
pub fn parse() -> Result<Cli, ParseError> {
    let arguments =
        with_file(env::args_os().collect(), |name| env::var_os(name)).map_err(ParseError::File)?;
    Cli::try_parse_from(arguments).map_err(ParseError::Clap)
}

/// Puts the file's settings in front of the flags, where the flags override them; what the environment sets is left out.
fn with_file(
    mut arguments: Vec<OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Vec<OsString>> {
    if arguments.get(1).is_none_or(|command| command != "run") {
        return Ok(arguments);
    }
    let Some(path) = config_flag(&arguments).or_else(|| environment("OPENKCM_CONFIG")) else {
        return Ok(arguments);
    };
    let path = Path::new(&path);
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let settings = settings(&text).with_context(|| format!("parse {}", path.display()))?;
    let from_file = settings.into_iter().filter(|(name, _)| {
        environment(&format!("OPENKCM_{}", name.to_uppercase().replace('-', "_"))).is_none()
    });
    let from_file: Vec<OsString> =
        from_file.map(|(name, value)| format!("--{name}={value}").into()).collect();
    arguments.splice(2..2, from_file);
    Ok(arguments)
}

fn config_flag(arguments: &[OsString]) -> Option<OsString> {
    let mut found = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            found = rest.next().cloned();
        } else if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            found = Some(path.into());
        }
    }
    found
}

/// The file's settings as flags.
fn settings(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let command = Cli::command();
    let run = command.find_subcommand("run").context("the command line has no `run`")?;
    let known: Vec<&str> = run.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => bail!("expected a text, a number or a list of them"),
    };
    let mapping: serde_yaml_ng::Mapping = if text.trim().is_empty() {
        serde_yaml_ng::Mapping::new()
    } else {
        serde_yaml_ng::from_str(text).context("expected `flag: value` lines")?
    };
    let mut settings = Vec::new();
    for (name, value) in &mapping {
        let name = name.as_str().context("names of settings are texts")?;
        if !known.contains(&name) || name == "config" {
            bail!("there is no setting {name:?}");
        }
        let value = match value {
            Value::Sequence(list) => list.iter().map(scalar).collect::<Result<Vec<_>, _>>()?.join(","),
            other => scalar(other).with_context(|| format!("setting {name}"))?,
        };
        settings.push((name.to_owned(), value));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parse(file: &str, flags: &[&str], environment: &[&str]) -> anyhow::Result<Box<RunArgs>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.yaml");
        fs::write(&path, file).unwrap();
        let config = path.to_str().unwrap();
        let arguments = ["openkcm-edge", "run", "--config", config]
            .into_iter()
            .chain(flags.iter().copied())
            .map(OsString::from);
        let set = |name: &str| environment.contains(&name).then(OsString::new);
        let arguments = with_file(arguments.collect(), set)?;
        match Cli::try_parse_from(arguments)?.command {
            Command::Run(args) => Ok(args),
            _ => panic!("not run"),
        }
    }

    const FILE: &str =
        "name: one\norchestrator: [https://a, https://b]\ndata-dir: /d\nissuers: /i\nsocket-mode: '0600'\n";

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let args = parse(FILE, &["--name", "two"], &[]).unwrap();
        assert_eq!(args.name, "two");
        assert_eq!(args.orchestrator, ["https://a", "https://b"]);
        assert_eq!(args.socket_mode, 0o600);
        assert_eq!(args.audience, "openkcm-edge");
    }

    #[test]
    fn what_the_environment_sets_is_not_taken_from_the_file() {
        let error = parse(FILE, &[], &["OPENKCM_NAME"]).unwrap_err();
        assert!(error.to_string().contains("--name"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_or_refused_and_never_brings_a_flag_of_its_own(text in "[ -~\n]{0,60}|(name|data-dir|socket-mode|config): [ -~]{0,20}") {
            for (name, _) in settings(&text).into_iter().flatten() {
                let command = Cli::command();
                let run = command.find_subcommand("run").unwrap();
                assert!(run.get_arguments().any(|argument| argument.get_long() == Some(name.as_str())));
                assert_ne!(name, "config");
            }
        }
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        for (file, expected) in [
            ("nmae: x", "nmae"),
            ("config: x", "config"),
            ("name: {a: b}", "name"),
            ("- a", "flag: value"),
            ("socket-mode: 8x", "octal"),
        ] {
            let error = parse(&format!("{file}\n"), &[], &[]).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{file}: {error:#}");
        }
    }
}
