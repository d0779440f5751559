//! Names of Google Cloud KMS keys and service accounts.

use std::{fmt, str::FromStr};

use super::{MAX_LEN, ReferenceError, is_name};

const EXPECTED: &str =
    "projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY[/cryptoKeyVersions/N]";
const EXPECTED_ACCOUNT: &str = "NAME@PROJECT.iam.gserviceaccount.com";

/// A key, or one version of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GcpKey {
    /// Project id, may be domain-scoped (`example.com:project`).
    pub project: String,
    /// Location, for example `europe-west3` or `global`.
    pub location: String,
    /// Key ring.
    pub key_ring: String,
    /// Key.
    pub key: String,
    /// One version; `None` follows the primary version. Required for asymmetric keys.
    pub version: Option<u32>,
}

impl GcpKey {
    /// The name without version.
    pub fn key_name(&self) -> String {
        Self { version: None, ..self.clone() }.to_string()
    }

    /// The same key at whatever version.
    pub fn same_key(&self, other: &Self) -> bool {
        self.key_name() == other.key_name()
    }
}

fn is_id(text: &str) -> bool {
    is_name(text, 63, |c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
}

fn is_project(text: &str) -> bool {
    let (domain, id) = text.split_once(':').unwrap_or(("", text));
    let part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    is_name(id, 63, part)
        && (domain.is_empty() != text.contains(':'))
        && (domain.is_empty() || is_name(domain, 63, |c| part(c) || c == b'.'))
}

impl FromStr for GcpKey {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ReferenceError { problem, expected: EXPECTED };
        if text.len() > MAX_LEN {
            return Err(wrong("the reference is too long"));
        }
        let segments: Vec<_> = text.split('/').collect();
        let (head, version) = match segments[..] {
            [.., "cryptoKeyVersions", version] if segments.len() == 10 => (&segments[..8], Some(version)),
            _ => (&segments[..], None),
        };
        let ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] = head[..]
        else {
            return Err(wrong("not the full name of a key"));
        };
        if !is_project(project) {
            return Err(wrong("not a project id"));
        }
        if !is_name(location, 63, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
            return Err(wrong("not a location"));
        }
        if !is_id(ring) || !is_id(key) {
            return Err(wrong("key rings and keys have 1 to 63 letters, digits, '_' and '-'"));
        }
        let version = version
            .map(|text| match text.parse::<u32>() {
                Ok(number) if number > 0 && number.to_string() == text => Ok(number),
                _ => Err(wrong("a key version is a positive number")),
            })
            .transpose()?;
        Ok(Self {
            project: project.to_owned(),
            location: location.to_owned(),
            key_ring: ring.to_owned(),
            key: key.to_owned(),
            version,
        })
    }
}

impl fmt::Display for GcpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "projects/{}/locations/{}/keyRings/{}/cryptoKeys/{}",
            self.project, self.location, self.key_ring, self.key
        )?;
        self.version.map_or(Ok(()), |version| write!(f, "/cryptoKeyVersions/{version}"))
    }
}

/// A service account to impersonate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccount(String);

impl ServiceAccount {
    /// Its e-mail address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceAccount {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ReferenceError { problem, expected: EXPECTED_ACCOUNT };
        let part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let (name, domain) = text.split_once('@').ok_or_else(|| wrong("not an e-mail address"))?;
        let project = domain
            .strip_suffix(".iam.gserviceaccount.com")
            .ok_or_else(|| wrong("not a service account of a project"))?;
        if is_name(name, 63, part) && is_name(project, 63, |c| part(c) || c == b'.') {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong("not a service account"))
        }
    }
}
