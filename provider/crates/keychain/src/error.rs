//! What can go wrong, and whether trying again helps.

use crate::rows::{AccountId, KeyId, TenantId};

/// A result of this crate.
pub type Result<T, E = KeychainError> = std::result::Result<T, E>;

/// An error of the ledger or of the key hierarchy. No variant carries key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeychainError {
    /// The database refused or failed.
    #[error("{deed} in the ledger")]
    Database {
        /// What was tried.
        deed: &'static str,
        /// The database's words.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("migrate the ledger")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A file of the ledger could not be read or written.
    #[error("{deed} {path}")]
    File {
        /// What was tried.
        deed: &'static str,
        /// The file.
        path: String,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// A row does not make sense. `verify` finds the first such row.
    #[error("the ledger's {table} row {row} is broken: {what}")]
    Broken {
        /// The table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong with it.
        what: String,
    },
    /// There is no such tenant, or it is destroyed.
    #[error("no tenant {0} in the ledger")]
    NoTenant(String),
    /// There is no such account.
    #[error("no account {0} in the ledger")]
    NoAccount(AccountId),
    /// There is no such service key.
    #[error("no service key {0} in the ledger")]
    NoKey(KeyId),
    /// The service key has no such version.
    #[error("service key {key} has no version v{version}")]
    NoVersion {
        /// The service key.
        key: KeyId,
        /// The version.
        version: u32,
    },
    /// The tenant is suspended: nothing new is made for it.
    #[error("tenant {0} is suspended")]
    TenantSuspended(TenantId),
    /// The account is deleted.
    #[error("account {0} is deleted")]
    AccountDeleted(AccountId),
    /// The service key is pending deletion.
    #[error("service key {0} is pending deletion")]
    KeyPendingDeletion(KeyId),
    /// The service key is destroyed.
    #[error("service key {key} was destroyed on {at}")]
    KeyDestroyed {
        /// The service key.
        key: KeyId,
        /// When.
        at: jiff::Timestamp,
    },
    /// The version is destroyed.
    #[error("version v{version} of service key {key} was destroyed on {at}")]
    VersionDestroyed {
        /// The service key.
        key: KeyId,
        /// The version.
        version: u32,
        /// When.
        at: jiff::Timestamp,
    },
    /// A deleted key of the same name belongs to another account.
    #[error(
        "a deleted key of this name belongs to account {owner:?} and can be brought back until {until}: \
         reference that account, or choose another name"
    )]
    OtherAccount {
        /// Name of the account that it belongs to.
        owner: String,
        /// End of the deletion window.
        until: jiff::Timestamp,
    },
    /// A service key of this name exists under another account.
    #[error("a key of this name exists under account {owner:?}")]
    NameTaken {
        /// Name of the account that it belongs to.
        owner: String,
    },
    /// Versions are known outside that the ledger has not: it was restored from an older backup.
    #[error(
        "{namespace}/{name} was seen with v{seen}, the ledger has {}: the ledger was restored from an older backup; restore a \
         newer one, or let an operator accept that the versions in between are lost",
        if *current == 0 { "nothing".to_owned() } else { format!("v{current}") }
    )]
    LedgerBehind {
        /// Namespace of the key.
        namespace: String,
        /// Name of the key.
        name: String,
        /// The ledger's current version, 0 if it does not know the key.
        current: u32,
        /// The highest version seen.
        seen: u32,
    },
    /// The account key version is not the one that is in use. Read the account again.
    #[error("account {account} seals with account key version {current:?}, not {given}")]
    StaleAccountKey {
        /// The account.
        account: AccountId,
        /// The version in use.
        current: Option<u32>,
        /// The version that was given.
        given: u32,
    },
    /// The account key version still seals service key versions.
    #[error("account key version {version} of account {account} still seals {versions} service key versions")]
    StillInUse {
        /// The account.
        account: AccountId,
        /// The account key version.
        version: u32,
        /// How many depend on it.
        versions: u64,
    },
    /// The account has service keys.
    #[error("account {account} still has {keys} service keys")]
    HasDependents {
        /// The account.
        account: AccountId,
        /// How many.
        keys: u64,
    },
    /// The two account keys of a re-wrap belong to different accounts, or are the same.
    #[error("re-wrap between account keys that do not belong together")]
    WrongSealers,
    /// The retention or deletion window has not ended.
    #[error("{what} may not be destroyed before {until}")]
    TooEarly {
        /// What was to be destroyed.
        what: String,
        /// End of the window.
        until: jiff::Timestamp,
    },
    /// The sealed key does not open: wrong account key, moved row, or changed bytes.
    #[error(
        "version v{version} of service key {key} does not open with account key version {account_key_version}"
    )]
    DoesNotOpen {
        /// The service key.
        key: KeyId,
        /// The version.
        version: u32,
        /// The account key version that was tried.
        account_key_version: u32,
    },
    /// Sealing failed.
    #[error("seal version v{version} of service key {key}")]
    Seal {
        /// The service key.
        key: KeyId,
        /// The version.
        version: u32,
    },
    /// No memory or randomness for a key.
    #[error("make a key")]
    Secret(#[from] openkcm_secret::SecretError),
    /// The other replicas have taken this one for dead.
    #[error("replica {0} was silent for so long that the others went on without it")]
    Expelled(String),
    /// The engine cannot do this.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The export could not be written.
    #[error("write the export")]
    Export(#[source] std::io::Error),
}

impl KeychainError {
    /// Whether the same call may succeed later with nothing changed by a person.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } => match source {
                sqlx::Error::Database(error) => {
                    // SQLite BUSY and LOCKED; PostgreSQL serialization failure, deadlock, shutdown, no connection.
                    error.code().is_some_and(|code| {
                        matches!(
                            &*code,
                            "5" | "6"
                                | "261"
                                | "517"
                                | "40001"
                                | "40P01"
                                | "53300"
                                | "57P01"
                                | "57P02"
                                | "57P03"
                        ) || code.starts_with("08") && code.len() == 5
                    })
                }
                // A row that another replica destroyed between two statements is not there the next time either, visibly.
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::RowNotFound => true,
                _ => false,
            },
            Self::File { .. } | Self::Secret(_) | Self::StaleAccountKey { .. } => true,
            _ => false,
        }
    }

    /// A fixed word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Database { .. } | Self::Migrate(_) => "database",
            Self::File { .. } | Self::Export(_) => "file",
            Self::Broken { .. } | Self::DoesNotOpen { .. } => "broken",
            Self::LedgerBehind { .. } => "ledger_behind",
            Self::Seal { .. } | Self::Secret(_) => "crypto",
            Self::Unsupported(_) => "unsupported",
            _ => "refused",
        }
    }
}
