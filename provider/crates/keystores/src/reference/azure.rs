//! URLs of keys in Azure Key Vault and Managed HSM.

use std::{fmt, str::FromStr};

use super::{MAX_LEN, ReferenceError, is_name};

const EXPECTED: &str = "https://VAULT.vault.azure.net/keys/NAME[/VERSION] or https://HSM.managedhsm.azure.net/keys/NAME[/VERSION]";

/// A cloud of Azure: its vault, HSM and login domains belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// `azure.net`
    Public,
    /// `azure.cn`
    China,
    /// `usgovcloudapi.net`
    UsGov,
}

impl Cloud {
    const ALL: [Self; 3] = [Self::Public, Self::China, Self::UsGov];

    const fn domain(self) -> &'static str {
        match self {
            Self::Public => "azure.net",
            Self::China => "azure.cn",
            Self::UsGov => "usgovcloudapi.net",
        }
    }

    /// Host that issues tokens.
    pub const fn login_host(self) -> &'static str {
        match self {
            Self::Public => "login.microsoftonline.com",
            Self::China => "login.chinacloudapi.cn",
            Self::UsGov => "login.microsoftonline.us",
        }
    }
}

/// What holds the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VaultKind {
    /// Key Vault: RSA keys.
    Vault,
    /// Managed HSM: RSA and AES keys.
    ManagedHsm,
}

impl VaultKind {
    const ALL: [Self; 2] = [Self::Vault, Self::ManagedHsm];

    const fn label(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::ManagedHsm => "managedhsm",
        }
    }
}

/// A key in a vault or a Managed HSM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AzureKey {
    /// Which Azure.
    pub cloud: Cloud,
    /// Vault or Managed HSM.
    pub kind: VaultKind,
    /// The vault's name: 3 to 24 letters, digits and inner hyphens, in lower case.
    pub vault: String,
    /// The key's name.
    pub name: String,
    /// One version, 32 hexadecimal digits; `None` follows the newest.
    pub version: Option<String>,
}

impl AzureKey {
    /// Host name, for example `acme.vault.azure.net`.
    pub fn host(&self) -> String {
        format!("{}.{}.{}", self.vault, self.kind.label(), self.cloud.domain())
    }

    /// Base URL.
    pub fn vault_url(&self) -> String {
        format!("https://{}/", self.host())
    }

    /// The same key at one version.
    #[must_use]
    pub fn at_version(&self, version: &str) -> Self {
        Self { version: Some(version.to_owned()), ..self.clone() }
    }

    /// The same key at whatever version.
    pub fn same_key(&self, other: &Self) -> bool {
        Self { version: None, ..self.clone() } == Self { version: None, ..other.clone() }
    }
}

fn is_vault_name(text: &str) -> bool {
    (3..=24).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
        && !text.contains("--")
}

impl FromStr for AzureKey {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ReferenceError { problem, expected: EXPECTED };
        if text.len() > MAX_LEN {
            return Err(wrong("the reference is too long"));
        }
        let rest = text.strip_prefix("https://").ok_or_else(|| wrong("not an https URL"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| wrong("the URL names no key"))?;
        let host = host.to_ascii_lowercase();
        let (vault, domain) =
            host.split_once('.').ok_or_else(|| wrong("the host is not a vault of Azure"))?;
        let (cloud, kind) = Cloud::ALL
            .into_iter()
            .flat_map(|cloud| VaultKind::ALL.map(|kind| (cloud, kind)))
            .find(|(cloud, kind)| domain.split_once('.') == Some((kind.label(), cloud.domain())))
            .ok_or_else(|| wrong("the host is not a vault of Azure"))?;
        if !is_vault_name(vault) {
            return Err(wrong("a vault name has 3 to 24 letters, digits and inner hyphens"));
        }
        let mut segments = path.split('/');
        if segments.next() != Some("keys") {
            return Err(wrong("the URL names no key"));
        }
        let name = segments.next().unwrap_or_default();
        if !is_name(name, 127, |c| c.is_ascii_alphanumeric() || c == b'-') {
            return Err(wrong("a key name has 1 to 127 letters, digits and hyphens"));
        }
        let version = match segments.next() {
            // Consoles copy versionless URLs with a slash at the end.
            None | Some("") => None,
            Some(version) if version.len() == 32 && version.bytes().all(|c| c.is_ascii_hexdigit()) => {
                Some(version.to_ascii_lowercase())
            }
            Some(_) => return Err(wrong("a key version has 32 hexadecimal digits")),
        };
        if segments.next().is_some() {
            return Err(wrong("something follows the key version"));
        }
        Ok(Self { cloud, kind, vault: vault.to_owned(), name: name.to_owned(), version })
    }
}

impl fmt::Display for AzureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}/keys/{}", self.host(), self.name)?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "/{version}"))
    }
}
