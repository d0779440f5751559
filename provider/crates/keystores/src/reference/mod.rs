//! Key references: text of a tenant becomes a closed form, or is refused with what would be right.

mod aws;
mod azure;
mod gcp;
mod pkcs11;

use std::fmt;

use openkcm_apis::ProviderType;

pub use aws::{AwsKey, AwsKeyName, AwsRole, Partition};
pub use azure::{AzureKey, Cloud, VaultKind};
pub use gcp::{GcpKey, ServiceAccount};
pub use pkcs11::Pkcs11Key;

/// A kind of key store, named as an Account's `providerType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreKind {
    /// `AWSKMS`
    AwsKms = 0,
    /// `AzureKeyVault`
    AzureKeyVault = 1,
    /// `GCPKMS`
    GcpKms = 2,
    /// `ThalesHSM`
    ThalesHsm = 3,
}

impl StoreKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::AwsKms, Self::AzureKeyVault, Self::GcpKms, Self::ThalesHsm];

    /// The name as an Account's `providerType` and as metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwsKms => "AWSKMS",
            Self::AzureKeyVault => "AzureKeyVault",
            Self::GcpKms => "GCPKMS",
            Self::ThalesHsm => "ThalesHSM",
        }
    }
}

impl From<ProviderType> for StoreKind {
    fn from(provider: ProviderType) -> Self {
        match provider {
            ProviderType::AwsKms => Self::AwsKms,
            ProviderType::AzureKeyVault => Self::AzureKeyVault,
            ProviderType::GcpKms => Self::GcpKms,
            ProviderType::ThalesHsm => Self::ThalesHsm,
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked key reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// AWS KMS key or alias.
    Aws(AwsKey),
    /// Key Vault or Managed HSM key.
    Azure(AzureKey),
    /// Google Cloud KMS key.
    Gcp(GcpKey),
    /// A key in a PKCS#11 token.
    Pkcs11(Pkcs11Key),
}

impl Reference {
    /// Checks the text for this kind of store.
    pub fn parse(kind: StoreKind, text: &str) -> Result<Self, ReferenceError> {
        Ok(match kind {
            StoreKind::AwsKms => Self::Aws(text.parse()?),
            StoreKind::AzureKeyVault => Self::Azure(text.parse()?),
            StoreKind::GcpKms => Self::Gcp(text.parse()?),
            StoreKind::ThalesHsm => Self::Pkcs11(text.parse()?),
        })
    }

    /// Which store it is in.
    pub fn kind(&self) -> StoreKind {
        match self {
            Self::Aws(_) => StoreKind::AwsKms,
            Self::Azure(_) => StoreKind::AzureKeyVault,
            Self::Gcp(_) => StoreKind::GcpKms,
            Self::Pkcs11(_) => StoreKind::ThalesHsm,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws(key) => key.fmt(f),
            Self::Azure(key) => key.fmt(f),
            Self::Gcp(key) => key.fmt(f),
            Self::Pkcs11(key) => key.fmt(f),
        }
    }
}

/// The text is not a reference of this kind. Says what is wrong and what would be right; repeats nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; expected {expected}")]
pub struct ReferenceError {
    /// What is wrong.
    pub problem: &'static str,
    /// What would be right.
    pub expected: &'static str,
}

/// Longest reference of any kind: the CRD's limit.
const MAX_LEN: usize = 1024;

/// One run of allowed characters, within a length.
fn is_name(text: &str, max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
}

pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => c == b'-',
            _ => c.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests;
