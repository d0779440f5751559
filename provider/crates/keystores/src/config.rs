//! The operator's configuration of key stores: `--key-stores FILE`.
//!
//! `example-key-stores.yaml` beside this crate shows every field. Secrets are never in the file: it names other files that hold them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use kcp_client_rs::LogicalCluster;
use serde::{Deserialize, Deserializer, de::Error as _};
use zeroize::Zeroizing;

use crate::Error;

/// Everything that the operator decides about key stores. The default has no credentials and no grants: nothing can be opened except
/// with a tenant's own federated access.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Limits on calls.
    pub limits: LimitsConfig,
    /// Who may use what with the provider's own credentials.
    pub grants: Vec<Grant>,
    /// AWS KMS.
    pub aws: AwsConfig,
    /// Azure Key Vault and Managed HSM.
    pub azure: AzureConfig,
    /// Google Cloud KMS.
    pub gcp: GcpConfig,
    /// PKCS#11 libraries (Thales Luna, SoftHSM).
    pub pkcs11: Vec<Pkcs11Library>,
}

/// Limits on calls to key stores.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitsConfig {
    /// The longest that one call may take, retries of the client library included. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub deadline: Duration,
    /// Calls under way to one endpoint. Default 16.
    pub per_endpoint: usize,
    /// Calls under way for one workspace. Default 8.
    pub per_workspace: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(5), per_endpoint: 16, per_workspace: 8 }
    }
}

/// Lets some workspaces use some root keys with the provider's own credentials. Patterns: `*` stands for any run of characters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Grant {
    /// Workspaces by path: exact, or a pattern. `root:acme:*` is all below `root:acme`; `root:acme*` is also `root:acme2`.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Workspaces by logical cluster: exact, never used again by another workspace.
    #[serde(default)]
    pub logical_clusters: Vec<String>,
    /// Key references, as an Account spells them.
    #[serde(default)]
    pub references: Vec<String>,
    /// Identities that an Account's `access` may name where nothing else tells one workspace from another: Azure `TENANT_ID/CLIENT_ID`,
    /// Google service accounts, ARNs of AWS roles in the provider's own accounts.
    #[serde(default)]
    pub identities: Vec<String>,
}

/// AWS KMS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AwsConfig {
    /// Where the provider's own credentials come from; they are also what assumes a tenant's role. Absent: AWS accounts are refused.
    pub credentials: Option<AwsCredentials>,
    /// Another address than AWS's own for KMS and STS, for tests.
    pub endpoint: Option<String>,
    /// Another address for STS alone, for tests.
    pub sts_endpoint: Option<String>,
    /// The accounts that the provider's own identity belongs to, 12 digits each. A role there needs a grant in `identities`: inside one
    /// account trust policies often ask for no external id.
    pub own_accounts: Vec<String>,
}

/// The provider's own AWS credentials.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AwsCredentials {
    /// From the process's surroundings: environment, web identity token, instance or container role.
    Ambient,
    /// A long-lived access key.
    AccessKey {
        /// The access key id.
        id: String,
        /// File that holds the secret access key.
        secret_file: PathBuf,
    },
}

/// Azure Key Vault and Managed HSM.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AzureConfig {
    /// The provider's own identity. Absent: vaults are refused unless the Account brings its access.
    pub credentials: Option<AzureCredentials>,
    /// Signed token that a tenant's application trusts. With `{logicalCluster}` in the path there is one per workspace, and a tenant may
    /// name any application; without, the application must be granted in `identities`.
    pub assertion_file: Option<String>,
    /// Vault and login hosts that are somewhere else, for tests: host name to address.
    pub resolve: BTreeMap<String, SocketAddr>,
    /// Further certificate authority, PEM, for tests.
    pub ca_file: Option<PathBuf>,
    /// Vault hosts that may resolve to private addresses (private endpoints). Loopback, link-local and metadata addresses stay refused.
    pub private_hosts: Vec<String>,
}

/// The provider's own identity at Azure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AzureCredentials {
    /// An application with a secret.
    ClientSecret {
        /// Directory id.
        tenant_id: String,
        /// Application id.
        client_id: String,
        /// File that holds the secret.
        secret_file: PathBuf,
    },
    /// An application that trusts a signed token (workload identity).
    Assertion {
        /// Directory id.
        tenant_id: String,
        /// Application id.
        client_id: String,
        /// File that holds the token; read again for every exchange.
        token_file: PathBuf,
    },
    /// The managed identity of the machine.
    ManagedIdentity,
}

/// Google Cloud KMS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct GcpConfig {
    /// The provider's own identity. Absent: Google accounts are refused.
    pub credentials: Option<GcpCredentials>,
    /// Another address than Google's own, for tests.
    pub endpoint: Option<String>,
}

/// The provider's own identity at Google.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum GcpCredentials {
    /// From the process's surroundings (application default credentials).
    Ambient,
    /// A credential file: service account key or workload identity federation.
    File {
        /// The JSON file.
        path: PathBuf,
    },
    /// No credentials, for tests. Only together with `endpoint`.
    Anonymous,
}

/// A PKCS#11 library. It is loaded into this process: an operator must trust it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pkcs11Library {
    /// Path of the shared library.
    pub module: PathBuf,
    /// Tokens (Luna: partitions) that may be used.
    pub tokens: Vec<Pkcs11Token>,
}

/// A token of a PKCS#11 library.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pkcs11Token {
    /// Its label, as references name it.
    pub label: String,
    /// Its serial number, where labels are not unique.
    #[serde(default)]
    pub serial: Option<String>,
    /// File that holds the PIN of the user (Luna: crypto officer).
    pub pin_file: PathBuf,
    /// How keys are wrapped.
    #[serde(default)]
    pub mechanism: Pkcs11Mechanism,
}

/// How an HSM wraps keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Pkcs11Mechanism {
    /// `CKM_AES_GCM` by `C_Encrypt`, with a nonce of ours; binding as AAD.
    #[default]
    AesGcm,
    /// AES key wrap by `C_WrapKey`, with the binding inside: for HSMs that take no nonce from outside (Luna in FIPS mode). Numbers differ:
    /// RFC 5649 is 0x210a in SoftHSM and 0x80000171 in Luna, RFC 3394 is 0x2109.
    KeyWrap {
        /// The number of the mechanism.
        number: u64,
    },
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read key store configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid. The text names the place, and never a secret: there is none in the file.
    #[error("key store configuration {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
}

impl Config {
    /// Reads the file given by `--key-stores`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|message| ConfigError::Parse { path: path.to_owned(), message })
    }

    /// Parses YAML.
    pub fn parse(yaml: &str) -> Result<Self, String> {
        serde_yaml_ng::from_str(yaml).map_err(|error| error.to_string())
    }
}

impl Grant {
    /// Whether this workspace is meant. A path counts only while the workspace is at it; an empty path is none.
    pub(crate) fn covers(&self, cluster: &LogicalCluster, path: &str) -> bool {
        let is_path = !path.is_empty() && !path.ends_with(':');
        self.logical_clusters.iter().any(|granted| granted == cluster.as_str())
            || (is_path && self.paths.iter().any(|pattern| matches(pattern, path)))
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any run of characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

/// The text of a file that holds one secret, without the line break that editors add.
pub(crate) fn secret_file(path: &Path) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(std::fs::read_to_string(path).map_err(|source| {
        Error::misconfigured(format!("cannot read the secret file {}", path.display())).with_source(&source)
    })?);
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    Ok(text)
}

/// `5s`, `500ms` or `2m`.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 =
        digits.parse().map_err(|_| D::Error::custom("expected a duration such as 5s or 500ms"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(D::Error::custom("expected a duration such as 5s or 500ms")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_is_valid_and_uses_every_part() {
        let config = Config::parse(include_str!("../example-key-stores.yaml")).unwrap();
        assert_eq!(config.grants.len(), 2);
        assert!(
            config.aws.credentials.is_some()
                && config.azure.credentials.is_some()
                && config.gcp.credentials.is_some()
        );
        assert_eq!(config.pkcs11[0].tokens[0].mechanism, Pkcs11Mechanism::AesGcm);
        assert_eq!(config.limits.deadline, Duration::from_secs(5));
    }

    #[test]
    fn an_empty_file_grants_nothing() {
        let config = Config::parse("{}").unwrap();
        assert!(config.grants.is_empty() && config.aws.credentials.is_none() && config.pkcs11.is_empty());
    }

    #[test]
    fn typing_errors_and_inline_secrets_are_refused() {
        for yaml in [
            "grant: []",
            "limits: {deadline: 5}",
            "limits: {deadline: five}",
            "limits: {deadline: 5h}",
            "aws: {credentials: !accessKey {id: x, secret: y}}",
            "aws: {credentials: !accessKey {id: x}}",
            "azure: {credentials: !clientSecret {tenantId: x, clientId: y, secret: z}}",
            "gcp: {credentials: {}}",
            "pkcs11: [{module: x, tokens: [{label: l, pin: '1234'}]}]",
            "pkcs11: [{module: x, tokens: [{label: l, pinFile: p, mechanism: des}]}]",
            "grants: [{paths: root:acme}]",
        ] {
            assert!(Config::parse(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*b", "ab", true),
            ("a*a", "a", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("a**c", "abc", true),
            ("projects/acme/*", "projects/acme2/x", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_grant_covers_its_workspaces_and_nothing_that_looks_like_them() {
        let grant = Grant {
            paths: vec!["root:acme".into(), "root:big:*".into(), "root:team-*".into()],
            logical_clusters: vec!["2x7k1pq9vd3mzs0a".into()],
            references: Vec::new(),
            identities: Vec::new(),
        };
        let (named, other): (LogicalCluster, LogicalCluster) =
            ("2x7k1pq9vd3mzs0a".parse().unwrap(), "other".parse().unwrap());
        assert!(grant.covers(&named, ""));
        for (path, expected) in [
            ("root:acme", true),
            ("root:acme:x", false),
            ("root:acme2", false),
            ("root:big", false),
            ("root:big:", false),
            ("root:big:a", true),
            ("root:big:a:b", true),
            ("root:bigger:a", false),
            ("root:team-1", true),
            ("root:team-1:a", true),
            ("root:team", false),
            ("", false),
        ] {
            assert_eq!(grant.covers(&other, path), expected, "{path}");
        }
    }

    #[test]
    fn a_secret_file_loses_its_line_break_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, " 43 21 \r\n").unwrap();
        assert_eq!(secret_file(&path).unwrap().as_str(), " 43 21 ");
        let missing = secret_file(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.reason, crate::Reason::Misconfigured);
    }
}
