//! Accounts and the account keys under them.

use jiff::{SignedDuration, Timestamp};
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{
    Deed, Ledger, Tx,
    decode::{Cells, id},
    locked,
};
use crate::{
    crash_point,
    error::{KeychainError, Result},
    rows::{AccountId, AccountKeyRow, AccountKeyState, AccountRow, Root, TenantId},
    seal::Place,
};

/// A successful probe is written down this often, not every time: probes are frequent, and nothing waits for it.
const VERIFIED_GRAIN: SignedDuration = SignedDuration::from_mins(15);

/// An account key version, as a root key wrapped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountKeyInput {
    /// Its number. For a new one: one more than the newest that the account ever had, 1 for the first.
    pub version: u32,
    /// The blob that the root key returned.
    pub wrapped: Vec<u8>,
    /// Who wrapped it.
    pub root: Root,
}

macro_rules! select_accounts {
    ($rest:literal) => {
        concat!(
            "SELECT a.seq, a.id, t.id AS tenant_id, a.name, a.spec, a.created_at, a.root_lost_since, \
             a.last_verified, a.deleted_at, a.recovered_at, a.destroyed_at \
             FROM accounts a JOIN tenants t ON t.seq = a.tenant ",
            $rest
        )
    };
}
pub(super) use select_accounts;

macro_rules! select_account_keys {
    ($rest:literal) => {
        concat!(
            "SELECT k.account AS seq, a.id AS account_id, k.version, k.state, k.wrapped, k.root_provider, \
             k.root_reference, k.root_version, k.root_spec, k.created_at, k.erased_at \
             FROM account_keys k JOIN accounts a ON a.seq = k.account ",
            $rest
        )
    };
}
pub(super) use select_account_keys;

/// An account without its keys.
pub(super) fn decode(row: &AnyRow) -> Result<AccountRow> {
    let cells = Cells { table: "accounts", row };
    Ok(AccountRow {
        id: AccountId(cells.uuid("id")?),
        tenant: TenantId(cells.uuid("tenant_id")?),
        name: cells.text("name")?,
        spec: cells.json("spec")?,
        created_at: cells.time("created_at")?,
        current_key_version: None,
        keys: Vec::new(),
        root_lost_since: cells.opt_time("root_lost_since")?,
        last_verified: cells.opt_time("last_verified")?,
        deleted_at: cells.opt_time("deleted_at")?,
        recovered_at: cells.opt_time("recovered_at")?,
        destroyed_at: cells.opt_time("destroyed_at")?,
    })
}

pub(super) fn decode_key(row: &AnyRow) -> Result<AccountKeyRow> {
    let cells = Cells { table: "account_keys", row };
    Ok(AccountKeyRow {
        account: AccountId(cells.uuid("account_id")?),
        version: cells.u32("version")?,
        state: cells.parse("state", AccountKeyState::parse)?,
        wrapped: cells.opt_bytes("wrapped")?,
        root: Root {
            provider_type: cells.text("root_provider")?,
            reference: cells.text("root_reference")?,
            version: cells.text("root_version")?,
            spec: cells.json("root_spec")?,
        },
        created_at: cells.time("created_at")?,
        erased_at: cells.opt_time("erased_at")?,
    })
}

/// Puts account keys into their accounts.
fn assemble(accounts: &[AnyRow], keys: &[AnyRow]) -> Result<Vec<AccountRow>> {
    let mut accounts = accounts.iter().map(decode).collect::<Result<Vec<_>>>()?;
    for key in keys {
        let key = decode_key(key)?;
        if let Some(account) = accounts.iter_mut().find(|account| account.id == key.account) {
            if key.state == AccountKeyState::Active {
                account.current_key_version = Some(key.version);
            }
            account.keys.push(key);
        }
    }
    Ok(accounts)
}

impl Ledger {
    /// Makes the account, records its new spec, or brings a deleted one back with the keys it still has.
    /// Writes nothing if all of that is so already.
    pub async fn upsert_account(
        &self,
        tenant: TenantId,
        name: &str,
        spec: &serde_json::Value,
        now: Timestamp,
    ) -> Result<AccountRow> {
        if let Some(account) = self.account(tenant, name).await?
            && account.deleted_at.is_none()
            && account.spec == *spec
        {
            return Ok(account);
        }
        let mut tx = self.write().await?;
        let (tenant_seq, _) = tx.share_tenant(tenant).await?;
        let spec = spec.to_string();
        sqlx::query(
            "INSERT INTO accounts (id, tenant, name, spec, created_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT DO NOTHING",
        )
        .bind(id(Uuid::now_v7()))
        .bind(tenant_seq)
        .bind(name)
        .bind(&spec)
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("make an account")?;
        sqlx::query(
            "UPDATE accounts SET spec = $3, \
             recovered_at = CASE WHEN deleted_at IS NULL THEN recovered_at ELSE $4 END, deleted_at = NULL \
             WHERE tenant = $1 AND name = $2 AND destroyed_at IS NULL",
        )
        .bind(tenant_seq)
        .bind(name)
        .bind(&spec)
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("record an account")?;
        let row =
            sqlx::query(select_accounts!("WHERE a.tenant = $1 AND a.name = $2 AND a.destroyed_at IS NULL"))
                .bind(tenant_seq)
                .bind(name)
                .fetch_one(&mut *tx.inner)
                .await
                .deed("read an account")?;
        let account = tx.read_account(decode(&row)?.id).await?;
        tx.commit().await?;
        Ok(account)
    }

    /// The account of that name that is not destroyed.
    pub async fn account(&self, tenant: TenantId, name: &str) -> Result<Option<AccountRow>> {
        let row = sqlx::query(select_accounts!("WHERE t.id = $1 AND a.name = $2 AND a.destroyed_at IS NULL"))
            .bind(id(tenant.0))
            .bind(name)
            .fetch_optional(&self.reader)
            .await
            .deed("read an account")?;
        match row {
            Some(row) => self.account_by_id(decode(&row)?.id).await,
            None => Ok(None),
        }
    }

    /// An account by id, also a destroyed one.
    pub async fn account_by_id(&self, account: AccountId) -> Result<Option<AccountRow>> {
        let row = sqlx::query(select_accounts!("WHERE a.id = $1"))
            .bind(id(account.0))
            .fetch_all(&self.reader)
            .await
            .deed("read an account")?;
        let keys =
            sqlx::query(select_account_keys!("WHERE a.id = $1 AND k.wrapped IS NOT NULL ORDER BY k.version"))
                .bind(id(account.0))
                .fetch_all(&self.reader)
                .await
                .deed("read account keys")?;
        Ok(assemble(&row, &keys)?.pop())
    }

    /// Every account of a tenant that is not destroyed, by name.
    pub async fn accounts(&self, tenant: TenantId) -> Result<Vec<AccountRow>> {
        let rows =
            sqlx::query(select_accounts!("WHERE t.id = $1 AND a.destroyed_at IS NULL ORDER BY a.name"))
                .bind(id(tenant.0))
                .fetch_all(&self.reader)
                .await
                .deed("read accounts")?;
        let keys = sqlx::query(select_account_keys!(
            "JOIN tenants t ON t.seq = a.tenant WHERE t.id = $1 AND k.wrapped IS NOT NULL ORDER BY k.version"
        ))
        .bind(id(tenant.0))
        .fetch_all(&self.reader)
        .await
        .deed("read account keys")?;
        assemble(&rows, &keys)
    }

    /// What the account's sealed material is bound to.
    pub async fn place(&self, account: AccountId) -> Result<Place> {
        let row = sqlx::query(
            "SELECT a.seq, t.cluster, t.id AS tenant_id FROM accounts a JOIN tenants t ON t.seq = a.tenant \
             WHERE a.id = $1",
        )
        .bind(id(account.0))
        .fetch_optional(&self.reader)
        .await
        .deed("read an account")?
        .ok_or(KeychainError::NoAccount(account))?;
        let cells = Cells { table: "accounts", row: &row };
        let cluster = cells.parse("cluster", |text| text.parse().ok())?;
        Ok(Place { cluster, tenant: TenantId(cells.uuid("tenant_id")?), account })
    }

    /// Every version of an account's key, also the erased ones, oldest first.
    pub async fn account_key_history(&self, account: AccountId) -> Result<Vec<AccountKeyRow>> {
        let rows = sqlx::query(select_account_keys!("WHERE a.id = $1 ORDER BY k.version"))
            .bind(id(account.0))
            .fetch_all(&self.reader)
            .await
            .deed("read account keys")?;
        rows.iter().map(decode_key).collect()
    }

    /// The result of probing the root key in use. When it is lost, the first time stays; when it is verified, the
    /// time is written at most every 15 minutes.
    pub async fn record_probe(
        &self,
        account: AccountId,
        verified: bool,
        now: Timestamp,
    ) -> Result<AccountRow> {
        let before = self.account_by_id(account).await?.ok_or(KeychainError::NoAccount(account))?;
        let fresh =
            before.last_verified.is_some_and(|at| at <= now && now.duration_since(at) < VERIFIED_GRAIN);
        if before.root_lost_since.is_none() == verified && (!verified || fresh) {
            return Ok(before);
        }
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE accounts SET last_verified = CASE WHEN $2 = 1 THEN $3 ELSE last_verified END, \
             root_lost_since = CASE WHEN $2 = 1 THEN NULL ELSE COALESCE(root_lost_since, $3) END \
             WHERE id = $1 AND destroyed_at IS NULL",
        )
        .bind(id(account.0))
        .bind(i64::from(verified))
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("record a probe")?;
        tx.finish_account(account).await
    }

    /// A new account key version becomes the one that seals; the previous one retires. The same version with the
    /// same blob again changes nothing; with another blob, someone else was first: [`KeychainError::StaleAccountKey`].
    pub async fn install_account_key(
        &self,
        account: AccountId,
        key: &AccountKeyInput,
        now: Timestamp,
    ) -> Result<AccountRow> {
        let mut tx = self.write().await?;
        let seq = tx.lock_account(account).await?;
        let newest = tx.newest_account_key(account).await?;
        if let Some(newest) = &newest
            && newest.version == key.version
            && newest.wrapped.as_ref() == Some(&key.wrapped)
        {
            return tx.read_account(account).await;
        }
        let next = newest.as_ref().map_or(1, |newest| newest.version.saturating_add(1));
        if key.version != next {
            let current = tx.read_account(account).await?.current_key_version;
            return Err(KeychainError::StaleAccountKey { account, current, given: key.version });
        }
        crash_point!("install.before-insert");
        sqlx::query("UPDATE account_keys SET state = 'Retiring' WHERE account = $1 AND state = 'Active'")
            .bind(seq)
            .execute(&mut *tx.inner)
            .await
            .deed("retire an account key")?;
        crash_point!("install.before-pointer");
        sqlx::query(
            "INSERT INTO account_keys (account, version, state, wrapped, root_provider, root_reference, \
             root_version, root_spec, created_at) VALUES ($1, $2, 'Active', $3, $4, $5, $6, $7, $8)",
        )
        .bind(seq)
        .bind(i64::from(key.version))
        .bind(key.wrapped.clone())
        .bind(&key.root.provider_type)
        .bind(&key.root.reference)
        .bind(&key.root.version)
        .bind(key.root.spec.to_string())
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("install an account key")?;
        crash_point!("install.before-commit");
        let row = tx.finish_account(account).await?;
        crash_point!("install.after-commit");
        Ok(row)
    }

    /// The same account key under a new wrapping (the root key got a new version of its own). `expected` is the
    /// blob that it replaces: if it is not there any more, nothing changes.
    pub async fn replace_wrapping(
        &self,
        account: AccountId,
        key: &AccountKeyInput,
        expected: &[u8],
        _now: Timestamp,
    ) -> Result<AccountRow> {
        let mut tx = self.write().await?;
        let seq = tx.lock_account(account).await?;
        sqlx::query(
            "UPDATE account_keys SET wrapped = $4, root_provider = $5, root_reference = $6, root_version = $7, \
             root_spec = $8 WHERE account = $1 AND version = $2 AND wrapped = $3",
        )
        .bind(seq)
        .bind(i64::from(key.version))
        .bind(expected.to_vec())
        .bind(key.wrapped.clone())
        .bind(&key.root.provider_type)
        .bind(&key.root.reference)
        .bind(&key.root.version)
        .bind(key.root.spec.to_string())
        .execute(&mut *tx.inner)
        .await
        .deed("replace the wrapping of an account key")?;
        crash_point!("refresh.before-commit");
        let row = tx.finish_account(account).await?;
        crash_point!("refresh.after-commit");
        Ok(row)
    }

    /// Overwrites a retiring account key version that seals nothing any more; refused otherwise. Idempotent.
    pub async fn erase_account_key(
        &self,
        account: AccountId,
        version: u32,
        now: Timestamp,
    ) -> Result<AccountRow> {
        let mut tx = self.write().await?;
        let seq = tx.lock_account(account).await?;
        let row = sqlx::query(
            "SELECT COUNT(*) AS versions FROM versions \
             WHERE account = $1 AND account_key_version = $2 AND sealed IS NOT NULL",
        )
        .bind(seq)
        .bind(i64::from(version))
        .fetch_one(&mut *tx.inner)
        .await
        .deed("count what an account key seals")?;
        let versions = Cells { table: "versions", row: &row }.int("versions")? as u64;
        if versions > 0 {
            return Err(KeychainError::StillInUse { account, version, versions });
        }
        sqlx::query(
            "UPDATE account_keys SET state = 'Erased', wrapped = NULL, erased_at = $3 \
             WHERE account = $1 AND version = $2 AND state = 'Retiring'",
        )
        .bind(seq)
        .bind(i64::from(version))
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("erase an account key")?;
        crash_point!("erase.before-commit");
        let row = tx.finish_account(account).await?;
        crash_point!("erase.after-commit");
        self.scrub().await;
        Ok(row)
    }

    /// The object is gone. Refused while a service key with an object references it; keys in their deletion
    /// window keep the account's keys alive until `destroy_due`. Idempotent.
    pub async fn delete_account(&self, account: AccountId, now: Timestamp) -> Result<AccountRow> {
        let mut tx = self.write().await?;
        let seq = tx.lock_account(account).await?;
        let row = sqlx::query(
            "SELECT COUNT(*) AS keys FROM service_keys WHERE account = $1 AND deleted_at IS NULL",
        )
        .bind(seq)
        .fetch_one(&mut *tx.inner)
        .await
        .deed("count dependents")?;
        let keys = Cells { table: "service_keys", row: &row }.int("keys")? as u64;
        if keys > 0 {
            return Err(KeychainError::HasDependents { account, keys });
        }
        sqlx::query("UPDATE accounts SET deleted_at = $2 WHERE seq = $1 AND deleted_at IS NULL")
            .bind(seq)
            .bind(now.as_microsecond())
            .execute(&mut *tx.inner)
            .await
            .deed("delete an account")?;
        tx.finish_account(account).await
    }
}

impl Tx {
    /// Locks an account that is not destroyed, against everything else that needs it to stay as it is.
    async fn lock_account(&mut self, account: AccountId) -> Result<i64> {
        let query =
            locked!(self, "SELECT seq FROM accounts WHERE id = $1 AND destroyed_at IS NULL", "NO KEY UPDATE");
        self.locked_account(query, account).await
    }

    /// Locks an account that is not destroyed against a change of its account key and deletion.
    pub(super) async fn share_account(&mut self, account: AccountId) -> Result<i64> {
        let query = locked!(self, "SELECT seq FROM accounts WHERE id = $1 AND destroyed_at IS NULL", "SHARE");
        self.locked_account(query, account).await
    }

    async fn locked_account(&mut self, query: &'static str, account: AccountId) -> Result<i64> {
        let row = sqlx::query(query)
            .bind(id(account.0))
            .fetch_optional(&mut *self.inner)
            .await
            .deed("lock an account")?
            .ok_or(KeychainError::NoAccount(account))?;
        Cells { table: "accounts", row: &row }.int("seq")
    }

    pub(super) async fn read_account(&mut self, account: AccountId) -> Result<AccountRow> {
        let row = sqlx::query(select_accounts!("WHERE a.id = $1"))
            .bind(id(account.0))
            .fetch_all(&mut *self.inner)
            .await
            .deed("read an account")?;
        let keys =
            sqlx::query(select_account_keys!("WHERE a.id = $1 AND k.wrapped IS NOT NULL ORDER BY k.version"))
                .bind(id(account.0))
                .fetch_all(&mut *self.inner)
                .await
                .deed("read account keys")?;
        assemble(&row, &keys)?.pop().ok_or(KeychainError::NoAccount(account))
    }

    async fn newest_account_key(&mut self, account: AccountId) -> Result<Option<AccountKeyRow>> {
        let row = sqlx::query(select_account_keys!("WHERE a.id = $1 ORDER BY k.version DESC LIMIT 1"))
            .bind(id(account.0))
            .fetch_optional(&mut *self.inner)
            .await
            .deed("read account keys")?;
        row.as_ref().map(decode_key).transpose()
    }

    async fn finish_account(mut self, account: AccountId) -> Result<AccountRow> {
        let row = self.read_account(account).await?;
        self.commit().await?;
        Ok(row)
    }
}
