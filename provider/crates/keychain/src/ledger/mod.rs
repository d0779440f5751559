//! The durable record: one schema on SQLite or PostgreSQL.

use std::{io::Write, path::{Path, PathBuf}};

use jiff::Timestamp;
use kcp_client_rs::LogicalCluster;
use serde_json::Value;

use crate::{AccountKeys, error::Result, rows::*, seal::{Place, Sealer}};

/// Where the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// SQLite, in the file `ledger.sqlite` of this directory (created if need be).
    Directory(PathBuf),
    /// PostgreSQL, by connection URL.
    Postgres(String),
}

/// The durable record. Cheap to clone; every clone is the same ledger.
#[derive(Clone)]
pub struct Ledger {}

/// A new account key version, as the root key wrapped it.
#[derive(Debug, Clone)]
pub struct AccountKeyInput {
    /// Its number: one more than the newest version the account ever had (1 for the first). This is the
    /// version check: a second writer with the same number is refused or, with the same blob, welcomed.
    pub version: u32,
    /// The blob that the root key returned.
    pub wrapped: Vec<u8>,
    /// Who wrapped it.
    pub root: Root,
}

/// What happened since a token was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// For the next call.
    pub token: i64,
    /// Workspaces to look at again, each once. `None`: too long ago to tell, look at all.
    pub clusters: Option<Vec<LogicalCluster>>,
}

/// A service key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its account.
    pub account: AccountId,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// What is needed to put the object back.
    pub spec: Value,
    /// When the planner wants to look at it.
    pub next_rotation: Option<Timestamp>,
    /// The highest version that the object's status names, 0 if none. If the ledger knows nothing of the name, the ledger is
    /// older than the world, and the key is refused with `LedgerBehind`-like care: numbering starts above it.
    pub seen_version: u32,
}

/// What `create_key` found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// A new key.
    New(ServiceKeyRow),
    /// It was there already.
    Existing(ServiceKeyRow),
    /// It was pending deletion and is back with every version.
    Recovered(ServiceKeyRow),
}

/// What `rotate` found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// A new version is current.
    New(ServiceKeyRow),
    /// The request was served before: nothing done.
    AlreadyServed(ServiceKeyRow),
    /// The current version is not the expected one (someone else rotated): nothing done.
    Superseded(ServiceKeyRow),
}

/// What one batch of a re-wrap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewrapBatch {
    /// Versions re-wrapped, durably.
    pub done: u64,
    /// Versions that do not open with the old account key. They stay as they are; see `verify`.
    pub failed: u64,
}

/// The first row that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenRow {
    /// The table.
    pub table: &'static str,
    /// Which row.
    pub row: String,
    /// What is wrong.
    pub what: String,
}

/// What `verify` read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Tenants read.
    pub tenants: u64,
    /// Accounts read.
    pub accounts: u64,
    /// Account key versions read.
    pub account_keys: u64,
    /// Service keys read.
    pub keys: u64,
    /// Service key versions read.
    pub versions: u64,
    /// Versions that were opened; the others' account keys were not at hand.
    pub opened: u64,
    /// The first broken row, if any.
    pub broken: Option<BrokenRow>,
}

#[allow(unused_variables, clippy::unused_async)]
impl Ledger {
    /// Opens the ledger and brings its schema up to date.
    pub async fn open(location: &Location) -> Result<Self> { todo!() }
    /// Closes all connections.
    pub async fn close(&self) { todo!() }
    /// Copies the ledger to a new file while it is in use. SQLite only.
    pub async fn backup(&self, path: &Path) -> Result<()> { todo!() }
    /// Reads everything; opens every version whose account key is at hand.
    pub async fn verify(&self, keys: &AccountKeys) -> Result<VerifyReport> { todo!() }
    /// Writes everything as JSON lines, wrapped material only.
    pub async fn export(&self, out: &mut (dyn Write + Send)) -> Result<()> { todo!() }
    /// Now, for `changes_since`.
    pub async fn change_token(&self) -> Result<i64> { todo!() }
    /// What operators changed since. Cheap: poll it.
    pub async fn changes_since(&self, token: i64) -> Result<Changes> { todo!() }

    /// The workspace is bound: makes the tenant, or recovers it if it was unbound, or takes note of a new path.
    pub async fn bind_tenant(&self, cluster: &LogicalCluster, path: &str, now: Timestamp) -> Result<TenantRow> { todo!() }
    /// The binding is gone: suspended, kept until `retention_until`. Idempotent (the first deadline stays).
    pub async fn unbind_tenant(&self, tenant: TenantId, retention_until: Timestamp, now: Timestamp) -> Result<TenantRow> { todo!() }
    /// The operator suspends a tenant. Idempotent; a re-bind does not lift it.
    pub async fn suspend_tenant(&self, tenant: TenantId, reason: &str, now: Timestamp) -> Result<TenantRow> { todo!() }
    /// Lifts the operator's suspension. Idempotent; an unbound tenant stays suspended.
    pub async fn resume_tenant(&self, tenant: TenantId, now: Timestamp) -> Result<TenantRow> { todo!() }
    /// The living tenant of a workspace (not a destroyed one).
    pub async fn tenant(&self, cluster: &LogicalCluster) -> Result<Option<TenantRow>> { todo!() }
    /// Every tenant that is not destroyed, by path.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>> { todo!() }
    /// Unbound tenants whose retention is over.
    pub async fn tenants_to_shred(&self, now: Timestamp) -> Result<Vec<TenantRow>> { todo!() }
    /// Overwrites every key of an unbound tenant whose retention is over. Refused before.
    pub async fn shred_tenant(&self, tenant: TenantId, now: Timestamp) -> Result<()> { todo!() }

    /// Makes the account, or records its new spec, or brings a deleted one back.
    pub async fn upsert_account(&self, tenant: TenantId, name: &str, spec: &Value, now: Timestamp) -> Result<AccountRow> { todo!() }
    /// The account of that name that is not destroyed.
    pub async fn account(&self, tenant: TenantId, name: &str) -> Result<Option<AccountRow>> { todo!() }
    /// An account by id.
    pub async fn account_by_id(&self, account: AccountId) -> Result<Option<AccountRow>> { todo!() }
    /// Every account of a tenant that is not destroyed.
    pub async fn accounts(&self, tenant: TenantId) -> Result<Vec<AccountRow>> { todo!() }
    /// The result of a probe: `Ok` time, or since when the root is lost (the first time stays).
    pub async fn record_probe(&self, account: AccountId, verified: bool, now: Timestamp) -> Result<AccountRow> { todo!() }
    /// A new account key version becomes the one that seals; the previous one retires.
    pub async fn install_account_key(&self, account: AccountId, key: &AccountKeyInput, now: Timestamp) -> Result<AccountRow> { todo!() }
    /// The same account key, wrapped anew (by a new version of its root key).
    pub async fn replace_wrapping(&self, account: AccountId, key: &AccountKeyInput, expected: &[u8], now: Timestamp) -> Result<AccountRow> { todo!() }
    /// Overwrites a retiring account key version that seals nothing any more. Refused otherwise. Idempotent.
    pub async fn erase_account_key(&self, account: AccountId, version: u32, now: Timestamp) -> Result<AccountRow> { todo!() }
    /// The object is gone. Refused while an active service key references it; idempotent.
    pub async fn delete_account(&self, account: AccountId, now: Timestamp) -> Result<AccountRow> { todo!() }

    /// Makes a service key with version 1, durable when this returns; or finds it; or brings it back.
    pub async fn create_key(&self, new: &NewKey, sealer: &Sealer, now: Timestamp) -> Result<Created> { todo!() }
    /// One new version, which becomes current: only if `expected_current` still is, and never twice for one request.
    pub async fn rotate(&self, key: KeyId, expected_current: u32, served_request: Option<&str>, next_rotation: Option<Timestamp>, sealer: &Sealer, now: Timestamp) -> Result<Rotated> { todo!() }
    /// The key of that name that is not destroyed.
    pub async fn key(&self, tenant: TenantId, namespace: &str, name: &str) -> Result<Option<ServiceKeyRow>> { todo!() }
    /// A key by id, also a destroyed one.
    pub async fn key_by_id(&self, key: KeyId) -> Result<Option<ServiceKeyRow>> { todo!() }
    /// Every key of a tenant that is not destroyed.
    pub async fn keys(&self, tenant: TenantId) -> Result<Vec<ServiceKeyRow>> { todo!() }
    /// How many service keys of the account have an object / are pending deletion.
    pub async fn dependents(&self, account: AccountId) -> Result<u64> { todo!() }
    /// Every version of a key, oldest first.
    pub async fn history(&self, key: KeyId) -> Result<Vec<VersionRow>> { todo!() }
    /// One version.
    pub async fn version(&self, key: KeyId, version: u32) -> Result<VersionRow> { todo!() }
    /// Records what is needed to put the object back, and the next rotation under its schedule. Also Disable and Enable.
    pub async fn record_spec(&self, key: KeyId, spec: &Value, next_rotation: Option<Timestamp>, now: Timestamp) -> Result<ServiceKeyRow> { todo!() }
    /// A version was seen outside the ledger (status of a restored object, an edge). Remembers the highest.
    pub async fn record_seen_version(&self, key: KeyId, version: u32) -> Result<ServiceKeyRow> { todo!() }
    /// The operator accepts that the ledger is older: the key may rotate again, numbering above what was seen.
    pub async fn accept_older_ledger(&self, key: KeyId) -> Result<ServiceKeyRow> { todo!() }
    /// The version must not be used any more. Its key should be rotated at once.
    pub async fn mark_compromised(&self, key: KeyId, version: u32, now: Timestamp) -> Result<VersionRow> { todo!() }
    /// The object is gone: every version is kept until `until`. Idempotent (the first date stays).
    pub async fn schedule_deletion(&self, key: KeyId, until: Timestamp, now: Timestamp) -> Result<ServiceKeyRow> { todo!() }
    /// Brings a key back from pending deletion. Idempotent.
    pub async fn undelete(&self, key: KeyId, now: Timestamp) -> Result<ServiceKeyRow> { todo!() }
    /// Overwrites the versions of up to `limit` keys whose window is over, and the account keys of deleted accounts that nothing needs.
    pub async fn destroy_due(&self, limit: u32, now: Timestamp) -> Result<Vec<ServiceKeyRow>> { todo!() }
    /// Keys with a date, the earliest first.
    pub async fn next_due(&self, limit: u32) -> Result<Vec<DueKey>> { todo!() }
    /// What sealed material is bound to.
    pub async fn place(&self, account: AccountId) -> Result<Place> { todo!() }
    /// Re-wraps up to `limit` versions from one account key version to another, in one transaction.
    pub async fn rewrap_batch(&self, from: &Sealer, to: &Sealer, limit: u32) -> Result<RewrapBatch> { todo!() }
    /// What each account key version still seals.
    pub async fn rewrap_progress(&self, account: AccountId) -> Result<Vec<SealedBy>> { todo!() }
}
