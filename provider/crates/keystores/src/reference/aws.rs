//! ARNs of AWS KMS keys, aliases and IAM roles.

use std::{fmt, str::FromStr};

use super::{MAX_LEN, ReferenceError, is_name, is_uuid};

const EXPECTED: &str = "arn:aws:kms:REGION:ACCOUNT:key/ID or arn:aws:kms:REGION:ACCOUNT:alias/NAME";
const EXPECTED_ROLE: &str = "arn:aws:iam::ACCOUNT:role/NAME";

/// An AWS partition: a set of regions with its own credentials and its own domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Partition {
    /// `aws`
    Aws,
    /// `aws-cn`
    China,
    /// `aws-us-gov`
    UsGov,
    /// `aws-eusc`
    EuSovereign,
    /// `aws-iso`
    Iso,
    /// `aws-iso-b`
    IsoB,
    /// `aws-iso-e`
    IsoE,
    /// `aws-iso-f`
    IsoF,
}

impl Partition {
    const ALL: [Self; 8] = [
        Self::Aws,
        Self::China,
        Self::UsGov,
        Self::EuSovereign,
        Self::Iso,
        Self::IsoB,
        Self::IsoE,
        Self::IsoF,
    ];

    /// As ARNs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::China => "aws-cn",
            Self::UsGov => "aws-us-gov",
            Self::EuSovereign => "aws-eusc",
            Self::Iso => "aws-iso",
            Self::IsoB => "aws-iso-b",
            Self::IsoE => "aws-iso-e",
            Self::IsoF => "aws-iso-f",
        }
    }

    /// How region names begin. `None`: anything that no other partition claims.
    const fn region_prefix(self) -> Option<&'static str> {
        match self {
            Self::Aws => None,
            Self::China => Some("cn-"),
            Self::UsGov => Some("us-gov-"),
            Self::EuSovereign => Some("eusc-"),
            Self::Iso => Some("us-iso-"),
            Self::IsoB => Some("us-isob-"),
            Self::IsoE => Some("eu-isoe-"),
            Self::IsoF => Some("us-isof-"),
        }
    }

    fn holds(self, region: &str) -> bool {
        match self.region_prefix() {
            Some(prefix) => region.starts_with(prefix),
            None => !Self::ALL
                .iter()
                .filter_map(|other| other.region_prefix())
                .any(|other| region.starts_with(other)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|partition| partition.as_str() == text)
    }
}

/// A KMS key or alias.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AwsKey {
    /// The partition.
    pub partition: Partition,
    /// The region, for example `eu-central-1`. Its form is checked, since it becomes part of a host name.
    pub region: String,
    /// The account, 12 digits.
    pub account: String,
    /// Key or alias.
    pub name: AwsKeyName,
}

/// What an ARN names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AwsKeyName {
    /// A key id: a UUID, or `mrk-` and 32 hexadecimal digits.
    Key(String),
    /// An alias, without `alias/`.
    Alias(String),
}

impl AwsKey {
    /// Whether another ARN is of the same partition, region and account.
    pub fn same_place(&self, other: &Self) -> bool {
        self.partition == other.partition && self.region == other.region && self.account == other.account
    }
}

/// `xx-word[-word…]-N`
fn is_region(text: &str) -> bool {
    let mut parts = text.split('-');
    let (Some(area), Some(number)) = (parts.next(), parts.next_back()) else { return false };
    let middle: Vec<_> = parts.collect();
    text.len() <= 32
        && (2..=4).contains(&area.len())
        && area.bytes().all(|c| c.is_ascii_lowercase())
        && (1..=2).contains(&middle.len())
        && middle.iter().all(|part| is_name(part, 16, |c| c.is_ascii_lowercase()))
        && is_name(number, 2, |c| c.is_ascii_digit())
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|c| c.is_ascii_digit())
}

fn is_key_id(text: &str) -> bool {
    is_uuid(text)
        || text
            .strip_prefix("mrk-")
            .is_some_and(|id| id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()))
}

impl FromStr for AwsKey {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ReferenceError { problem, expected: EXPECTED };
        if text.len() > MAX_LEN {
            return Err(wrong("the reference is too long"));
        }
        let mut fields = text.splitn(6, ':');
        let mut field = || fields.next().unwrap_or_default();
        if field() != "arn" {
            return Err(wrong("not an ARN: key ids and alias names alone do not say region and account"));
        }
        let partition = Partition::parse(field()).ok_or_else(|| wrong("unknown AWS partition"))?;
        if field() != "kms" {
            return Err(wrong("not an ARN of AWS KMS"));
        }
        let (region, account, resource) = (field(), field(), field());
        if !is_region(region) {
            return Err(wrong("not a region"));
        }
        if !partition.holds(region) {
            return Err(wrong("the region is not in this partition"));
        }
        if !is_account(account) {
            return Err(wrong("an account has 12 digits"));
        }
        let name = match resource.split_once('/') {
            Some(("key", id)) if is_key_id(id) => AwsKeyName::Key(id.to_owned()),
            Some(("key", _)) => return Err(wrong("a key id is a UUID, or mrk- and 32 hexadecimal digits")),
            Some(("alias", name))
                if is_name(name, 250, |c| c.is_ascii_alphanumeric() || matches!(c, b'/' | b'_' | b'-')) =>
            {
                AwsKeyName::Alias(name.to_owned())
            }
            Some(("alias", _)) => return Err(wrong("an alias has letters, digits, '/', '_' and '-'")),
            _ => return Err(wrong("the ARN names neither a key nor an alias")),
        };
        Ok(Self { partition, region: region.to_owned(), account: account.to_owned(), name })
    }
}

impl fmt::Display for AwsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:{}:kms:{}:{}:", self.partition.as_str(), self.region, self.account)?;
        match &self.name {
            AwsKeyName::Key(id) => write!(f, "key/{id}"),
            AwsKeyName::Alias(name) => write!(f, "alias/{name}"),
        }
    }
}

/// An IAM role to assume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AwsRole {
    /// The partition.
    pub partition: Partition,
    /// The account, 12 digits.
    pub account: String,
    /// Path and name.
    pub name: String,
}

impl FromStr for AwsRole {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ReferenceError { problem, expected: EXPECTED_ROLE };
        if text.len() > MAX_LEN {
            return Err(wrong("the role is too long"));
        }
        let fields: Vec<_> = text.splitn(6, ':').collect();
        let ["arn", partition, "iam", "", account, resource] = fields[..] else {
            return Err(wrong("not the ARN of an IAM role"));
        };
        let partition = Partition::parse(partition).ok_or_else(|| wrong("unknown AWS partition"))?;
        if !is_account(account) {
            return Err(wrong("an account has 12 digits"));
        }
        let name = resource.strip_prefix("role/").ok_or_else(|| wrong("not the ARN of an IAM role"))?;
        if !is_name(name, 512, |c| {
            c.is_ascii_alphanumeric() || matches!(c, b'/' | b'_' | b'-' | b'+' | b'=' | b',' | b'.' | b'@')
        }) {
            return Err(wrong("a role name has letters, digits and _+=,.@-"));
        }
        Ok(Self { partition, account: account.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for AwsRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:{}:iam::{}:role/{}", self.partition.as_str(), self.account, self.name)
    }
}
