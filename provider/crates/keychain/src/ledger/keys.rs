//! Service keys: create, rotate, delete, bring back, destroy.

use jiff::Timestamp;
use openkcm_secret::SecretKey;
use serde_json::Value;
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
    rows::{AccountId, DueKey, KeyId, ServiceKeyRow, ServiceKeyState, TenantId, VersionState, Withheld},
    seal::Sealer,
};

/// A service key to be made, found or brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its account.
    pub account: AccountId,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// What is needed to put the object back (spec, labels).
    pub spec: Value,
    /// When the planner wants to rotate it; none for `Never`.
    pub next_rotation: Option<Timestamp>,
    /// The highest version that the object's status names, 0 if none. If the ledger does not know the key, the
    /// ledger is older than the world: refused with [`KeychainError::LedgerBehind`] until an operator accepts that.
    pub seen_version: u32,
}

/// What [`Ledger::create_key`] found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// A new key.
    New(ServiceKeyRow),
    /// It was there already. Nothing is written, not even the spec.
    Existing(ServiceKeyRow),
    /// It was pending deletion and is back with every version.
    Recovered(ServiceKeyRow),
}

impl Created {
    /// The key, whichever way it came.
    pub fn into_row(self) -> ServiceKeyRow {
        match self {
            Self::New(row) | Self::Existing(row) | Self::Recovered(row) => row,
        }
    }
}

/// What [`Ledger::rotate`] found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// A new version is current.
    New(ServiceKeyRow),
    /// The request was served before: nothing done.
    AlreadyServed(ServiceKeyRow),
    /// The current version is not the expected one, someone else rotated: nothing done.
    Superseded(ServiceKeyRow),
}

impl Rotated {
    /// The key as it is now.
    pub fn into_row(self) -> ServiceKeyRow {
        match self {
            Self::New(row) | Self::AlreadyServed(row) | Self::Superseded(row) => row,
        }
    }
}

macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT k.seq, k.id, t.id AS tenant_id, a.id AS account_id, a.name AS account_name, k.namespace, k.name, \
             k.spec, k.created_at, k.current_version, v.state AS current_state, k.last_rotation, k.served_request, \
             k.next_rotation, k.seen_version, k.accepted_version, k.deleted_at, k.delete_after, k.recovered_at, \
             k.destroyed_at, k.withheld FROM service_keys k JOIN accounts a ON a.seq = k.account \
             JOIN tenants t ON t.seq = k.tenant \
             JOIN versions v ON v.service_key = k.seq AND v.version = k.current_version ",
            $rest
        )
    };
}

pub(super) use select_keys;

pub(super) fn decode(row: &AnyRow) -> Result<ServiceKeyRow> {
    let cells = Cells { table: "service_keys", row };
    Ok(ServiceKeyRow {
        id: KeyId(cells.uuid("id")?),
        tenant: TenantId(cells.uuid("tenant_id")?),
        account: AccountId(cells.uuid("account_id")?),
        account_name: cells.text("account_name")?,
        namespace: cells.text("namespace")?,
        name: cells.text("name")?,
        spec: cells.json("spec")?,
        created_at: cells.time("created_at")?,
        current_version: cells.u32("current_version")?,
        current_state: cells.parse("current_state", VersionState::parse)?,
        last_rotation: cells.time("last_rotation")?,
        served_request: cells.opt_text("served_request")?,
        next_rotation: cells.opt_time("next_rotation")?,
        seen_version: cells.u32("seen_version")?,
        accepted_version: cells.u32("accepted_version")?,
        deleted_at: cells.opt_time("deleted_at")?,
        delete_after: cells.opt_time("delete_after")?,
        recovered_at: cells.opt_time("recovered_at")?,
        destroyed_at: cells.opt_time("destroyed_at")?,
        withheld: cells.opt_parse("withheld", Withheld::parse)?,
    })
}

impl Ledger {
    /// Makes a service key with its first version, durable when this returns; or finds the living one; or brings
    /// one back from its deletion window.
    ///
    /// `sealer` is the account's active account key; [`KeychainError::StaleAccountKey`] if it is not.
    pub async fn create_key(&self, new: &NewKey, sealer: &Sealer, now: Timestamp) -> Result<Created> {
        let mut tx = self.write().await?;
        let (tenant_seq, tenant) = tx.lock_tenant(new.tenant).await?;
        if let Some(key) = tx.key_by_name(new.tenant, &new.namespace, &new.name).await? {
            return tx.find_or_recover(tenant_seq, key, new, now).await;
        }
        tenant.require_active()?;
        let account_seq = tx.sealing_account(new.account, sealer).await?;
        let accepted = tx.accepted_loss(tenant_seq, &new.namespace, &new.name).await?;
        if new.seen_version > accepted {
            return Err(KeychainError::LedgerBehind {
                namespace: new.namespace.clone(),
                name: new.name.clone(),
                current: 0,
                seen: new.seen_version,
            });
        }
        // No number is used again, also not one of a history that was lost.
        let first = accepted.max(new.seen_version).saturating_add(1);
        let key = KeyId(Uuid::now_v7());
        let blob = sealer.seal(key, first, &SecretKey::random()?)?;
        crash_point!("create.before-insert");
        let row = sqlx::query(
            "INSERT INTO service_keys (id, tenant, account, namespace, name, spec, created_at, current_version, \
             last_rotation, next_rotation, seen_version, accepted_version) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7, $9, $10, $11) RETURNING seq",
        )
        .bind(id(key.0))
        .bind(tenant_seq)
        .bind(account_seq)
        .bind(&new.namespace)
        .bind(&new.name)
        .bind(new.spec.to_string())
        .bind(now.as_microsecond())
        .bind(i64::from(first))
        .bind(new.next_rotation.map(Timestamp::as_microsecond))
        .bind(i64::from(new.seen_version))
        .bind(i64::from(accepted))
        .fetch_one(&mut *tx.inner)
        .await
        .deed("make a service key")?;
        crash_point!("create.before-version");
        let key_seq = Cells { table: "service_keys", row: &row }.int("seq")?;
        tx.undeclare(tenant_seq, &new.namespace, &new.name).await?;
        tx.insert_version(key_seq, first, account_seq, sealer, "Active", blob, now).await?;
        crash_point!("create.before-commit");
        let row = tx.finish_key(key).await?;
        crash_point!("create.after-commit");
        Ok(Created::New(row))
    }

    /// One new version, which becomes current; the previous one only decrypts from then on.
    ///
    /// Compare-and-swap: only if `expected_current` still is current, and never twice in a row for one
    /// `served_request`. So replicas, crashes and repetitions lead to one version.
    pub async fn rotate(
        &self,
        key: KeyId,
        expected_current: u32,
        served_request: Option<&str>,
        next_rotation: Option<Timestamp>,
        sealer: &Sealer,
        now: Timestamp,
    ) -> Result<Rotated> {
        let mut tx = self.write().await?;
        let owner = tx.read_key(key).await?; // tenant and account of a key never change
        let (_, tenant) = tx.share_tenant(owner.tenant).await?;
        let account_seq = tx.sealing_account(owner.account, sealer).await?;
        let (key_seq, row) = tx.lock_key(key).await?;
        row.require_active()?;
        if served_request.is_some() && served_request == row.served_request.as_deref() {
            return Ok(Rotated::AlreadyServed(row));
        }
        if row.current_version != expected_current {
            return Ok(Rotated::Superseded(row));
        }
        tenant.require_active()?;
        if row.is_behind() {
            let ServiceKeyRow { namespace, name, current_version: current, seen_version: seen, .. } = row;
            return Err(KeychainError::LedgerBehind { namespace, name, current, seen });
        }
        let version = row.current_version.max(row.seen_version).saturating_add(1);
        let blob = sealer.seal(key, version, &SecretKey::random()?)?;
        crash_point!("rotate.before-insert");
        tx.insert_version(key_seq, version, account_seq, sealer, "PreActive", blob, now).await?;
        crash_point!("rotate.before-pointer");
        // The database moves the states of both versions with the pointer.
        sqlx::query(
            "UPDATE service_keys SET current_version = $2, last_rotation = $3, next_rotation = $4, \
             served_request = COALESCE($5, served_request) WHERE seq = $1",
        )
        .bind(key_seq)
        .bind(i64::from(version))
        .bind(now.as_microsecond())
        .bind(next_rotation.map(Timestamp::as_microsecond))
        .bind(served_request)
        .execute(&mut *tx.inner)
        .await
        .deed("rotate a service key")?;
        if tx.replicated {
            tx.announce_key(key).await?;
        }
        crash_point!("rotate.before-commit");
        let row = tx.finish_key(key).await?;
        crash_point!("rotate.after-commit");
        Ok(Rotated::New(row))
    }

    /// The key of that name that is not destroyed.
    pub async fn key(&self, tenant: TenantId, namespace: &str, name: &str) -> Result<Option<ServiceKeyRow>> {
        let row = sqlx::query(select_keys!(
            "WHERE t.id = $1 AND k.namespace = $2 AND k.name = $3 AND k.destroyed_at IS NULL"
        ))
        .bind(id(tenant.0))
        .bind(namespace)
        .bind(name)
        .fetch_optional(&self.reader)
        .await
        .deed("read a service key")?;
        row.as_ref().map(decode).transpose()
    }

    /// A key by id, also a destroyed one.
    pub async fn key_by_id(&self, key: KeyId) -> Result<Option<ServiceKeyRow>> {
        let row = sqlx::query(select_keys!("WHERE k.id = $1"))
            .bind(id(key.0))
            .fetch_optional(&self.reader)
            .await
            .deed("read a service key")?;
        row.as_ref().map(decode).transpose()
    }

    /// Every key of a tenant that is not destroyed, by namespace and name.
    pub async fn keys(&self, tenant: TenantId) -> Result<Vec<ServiceKeyRow>> {
        let rows = sqlx::query(select_keys!(
            "WHERE t.id = $1 AND k.destroyed_at IS NULL ORDER BY k.namespace, k.name"
        ))
        .bind(id(tenant.0))
        .fetch_all(&self.reader)
        .await
        .deed("read service keys")?;
        rows.iter().map(decode).collect()
    }

    /// Keys whose material was destroyed at that time or later, the earliest first.
    pub async fn destroyed_since(&self, since: Timestamp) -> Result<Vec<ServiceKeyRow>> {
        let rows = sqlx::query(select_keys!("WHERE k.destroyed_at >= $1 ORDER BY k.destroyed_at"))
            .bind(since.as_microsecond())
            .fetch_all(&self.reader)
            .await
            .deed("read destroyed service keys")?;
        rows.iter().map(decode).collect()
    }

    /// Keys of active tenants whose next rotation has a date, the earliest first.
    pub async fn next_due(&self, limit: u32) -> Result<Vec<DueKey>> {
        let rows = sqlx::query(
            "SELECT k.seq, t.cluster, k.namespace, k.name, k.id, k.next_rotation \
             FROM service_keys k JOIN tenants t ON t.seq = k.tenant \
             WHERE k.next_rotation IS NOT NULL AND k.deleted_at IS NULL \
             AND t.unbound_at IS NULL AND t.operator_suspended_at IS NULL \
             ORDER BY k.next_rotation LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .deed("find what is due")?;
        rows.iter()
            .map(|row| {
                let cells = Cells { table: "service_keys", row };
                Ok(DueKey {
                    cluster: cells.parse("cluster", |text| text.parse().ok())?,
                    namespace: cells.text("namespace")?,
                    name: cells.text("name")?,
                    key: KeyId(cells.uuid("id")?),
                    at: cells.time("next_rotation")?,
                })
            })
            .collect()
    }

    /// Records what is needed to put the object back, and when it is to be rotated: a new schedule, labels,
    /// Disabled, Enabled. Writes nothing if both are so already.
    pub async fn record_spec(
        &self,
        key: KeyId,
        spec: &Value,
        next_rotation: Option<Timestamp>,
        _now: Timestamp,
    ) -> Result<ServiceKeyRow> {
        let micros = |time: Option<Timestamp>| time.map(Timestamp::as_microsecond);
        let before = self.key_by_id(key).await?.ok_or(KeychainError::NoKey(key))?;
        if before.spec == *spec && micros(before.next_rotation) == micros(next_rotation) {
            return Ok(before);
        }
        let mut tx = self.write().await?;
        let (seq, row) = tx.lock_key(key).await?;
        row.require_not_destroyed()?;
        sqlx::query("UPDATE service_keys SET spec = $2, next_rotation = $3 WHERE seq = $1")
            .bind(seq)
            .bind(spec.to_string())
            .bind(micros(next_rotation))
            .execute(&mut *tx.inner)
            .await
            .deed("record a service key's spec")?;
        crash_point!("disable.before-commit");
        let row = tx.finish_key(key).await?;
        crash_point!("disable.after-commit");
        Ok(row)
    }

    /// A version was seen outside the ledger (in a status, on an edge). Remembers the highest.
    pub async fn record_seen_version(&self, key: KeyId, version: u32) -> Result<ServiceKeyRow> {
        let before = self.key_by_id(key).await?.ok_or(KeychainError::NoKey(key))?;
        // What the ledger has itself is no news.
        if version <= before.seen_version.max(before.current_version) || before.destroyed_at.is_some() {
            return Ok(before);
        }
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE service_keys SET seen_version = $2 \
             WHERE id = $1 AND seen_version < $2 AND destroyed_at IS NULL",
        )
        .bind(id(key.0))
        .bind(i64::from(version))
        .execute(&mut *tx.inner)
        .await
        .deed("record a seen version")?;
        tx.finish_key(key).await
    }

    /// An operator accepts that the ledger is older than what was seen of this key: the versions in between are lost,
    /// and it may rotate again, with numbers above. Idempotent.
    pub async fn accept_older_ledger(&self, key: KeyId) -> Result<ServiceKeyRow> {
        let row = self.key_by_id(key).await?.ok_or(KeychainError::NoKey(key))?;
        if row.is_behind() {
            self.accept_loss(row.tenant, &row.namespace, &row.name, row.seen_version).await?;
        }
        self.key_by_id(key).await?.ok_or(KeychainError::NoKey(key))
    }

    /// The same for a key that the ledger may not know at all: an operator accepts that versions up to `up_to` of the
    /// key of this name are lost. It may be made or rotated again, with numbers above.
    pub async fn accept_loss(&self, tenant: TenantId, namespace: &str, name: &str, up_to: u32) -> Result<()> {
        let mut tx = self.write().await?;
        let (tenant_seq, tenant) = tx.lock_tenant(tenant).await?;
        sqlx::query(
            "UPDATE service_keys SET accepted_version = $4, \
             seen_version = CASE WHEN seen_version < $4 THEN $4 ELSE seen_version END \
             WHERE tenant = $1 AND namespace = $2 AND name = $3 AND destroyed_at IS NULL AND accepted_version < $4",
        )
        .bind(tenant_seq)
        .bind(namespace)
        .bind(name)
        .bind(i64::from(up_to))
        .execute(&mut *tx.inner)
        .await
        .deed("accept a loss")?;
        sqlx::query(
            "INSERT INTO accepted_losses (tenant, namespace, name, version) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, namespace, name) DO UPDATE SET version = excluded.version \
             WHERE accepted_losses.version < excluded.version",
        )
        .bind(tenant_seq)
        .bind(namespace)
        .bind(name)
        .bind(i64::from(up_to))
        .execute(&mut *tx.inner)
        .await
        .deed("accept a loss")?;
        tx.announce(&tenant.cluster).await?;
        tx.commit().await
    }

    /// The object is gone: every version is kept until `until`. The first date stays.
    pub async fn schedule_deletion(
        &self,
        key: KeyId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<ServiceKeyRow> {
        let mut tx = self.write().await?;
        let (seq, row) = tx.lock_key(key).await?;
        if row.deleted_at.is_some() {
            return Ok(row);
        }
        sqlx::query("UPDATE service_keys SET deleted_at = $2, delete_after = $3 WHERE seq = $1")
            .bind(seq)
            .bind(now.as_microsecond())
            .bind(until.as_microsecond())
            .execute(&mut *tx.inner)
            .await
            .deed("delete a service key")?;
        crash_point!("delete.before-commit");
        let row = tx.finish_key(key).await?;
        crash_point!("delete.after-commit");
        Ok(row)
    }

    /// An operator brings a key back from its deletion window. Idempotent.
    pub async fn undelete(&self, key: KeyId, now: Timestamp) -> Result<ServiceKeyRow> {
        let mut tx = self.write().await?;
        let owner = tx.read_key(key).await?.tenant; // never changes
        let (tenant_seq, tenant) = tx.share_tenant(owner).await?;
        let (seq, row) = tx.lock_key(key).await?;
        row.require_not_destroyed()?;
        if row.deleted_at.is_none() {
            return Ok(row);
        }
        tx.recover(seq, &row.spec, row.next_rotation, now).await?;
        tx.undeclare(tenant_seq, &row.namespace, &row.name).await?;
        tx.announce(&tenant.cluster).await?;
        crash_point!("recover.before-commit");
        let row = tx.finish_key(key).await?;
        crash_point!("recover.after-commit");
        Ok(row)
    }

    /// Overwrites the versions of up to `limit` keys whose deletion window is over, and the account keys of deleted
    /// accounts that nothing needs any more. Gives back the destroyed keys.
    pub async fn destroy_due(&self, limit: u32, now: Timestamp) -> Result<Vec<ServiceKeyRow>> {
        let mut tx = self.write().await?;
        let query = locked!(
            tx,
            "SELECT seq, id FROM service_keys WHERE delete_after IS NOT NULL AND destroyed_at IS NULL \
             AND delete_after <= $1 ORDER BY delete_after LIMIT $2",
            "NO KEY UPDATE SKIP LOCKED" // another replica is at it
        );
        let due = sqlx::query(query)
            .bind(now.as_microsecond())
            .bind(i64::from(limit))
            .fetch_all(&mut *tx.inner)
            .await
            .deed("find keys to destroy")?;
        let mut destroyed = Vec::with_capacity(due.len());
        for row in &due {
            let cells = Cells { table: "service_keys", row };
            let (seq, key) = (cells.int("seq")?, KeyId(cells.uuid("id")?));
            crash_point!("destroy.before-overwrite");
            for statement in [
                "UPDATE versions SET state = 'Destroyed', sealed = NULL, destroyed_at = $2 \
                 WHERE service_key = $1 AND sealed IS NOT NULL",
                "UPDATE service_keys SET destroyed_at = $2, next_rotation = NULL WHERE seq = $1",
            ] {
                sqlx::query(statement)
                    .bind(seq)
                    .bind(now.as_microsecond())
                    .execute(&mut *tx.inner)
                    .await
                    .deed("destroy a service key")?;
            }
            destroyed.push(tx.read_key(key).await?);
        }
        let accounts = tx.destroy_deleted_accounts(now).await?;
        if destroyed.is_empty() && accounts == 0 {
            return Ok(destroyed);
        }
        crash_point!("destroy.before-commit");
        tx.commit().await?;
        crash_point!("destroy.after-commit");
        self.scrub().await;
        Ok(destroyed)
    }
}

impl Tx {
    async fn find_or_recover(
        mut self,
        tenant_seq: i64,
        key: ServiceKeyRow,
        new: &NewKey,
        now: Timestamp,
    ) -> Result<Created> {
        let (seq, key) = self.lock_key(key.id).await?;
        let same_account = key.account == new.account;
        match (key.state(), same_account) {
            (ServiceKeyState::Active, true) => Ok(Created::Existing(key)),
            (ServiceKeyState::Active, false) => Err(KeychainError::NameTaken { owner: key.account_name }),
            (ServiceKeyState::PendingDeletion, true) => {
                self.recover(seq, &new.spec, new.next_rotation, now).await?;
                self.undeclare(tenant_seq, &new.namespace, &new.name).await?;
                crash_point!("recover.before-commit");
                let row = self.finish_key(key.id).await?;
                crash_point!("recover.after-commit");
                Ok(Created::Recovered(row))
            }
            (ServiceKeyState::PendingDeletion, false) => Err(KeychainError::OtherAccount {
                owner: key.account_name,
                until: key.delete_after.unwrap_or(now),
            }),
            (ServiceKeyState::Destroyed, _) => {
                Err(KeychainError::KeyDestroyed { key: key.id, at: key.destroyed_at.unwrap_or(now) })
            }
        }
    }

    async fn recover(
        &mut self,
        seq: i64,
        spec: &Value,
        next: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE service_keys SET deleted_at = NULL, delete_after = NULL, recovered_at = $2, spec = $3, \
             next_rotation = $4 WHERE seq = $1",
        )
        .bind(seq)
        .bind(now.as_microsecond())
        .bind(spec.to_string())
        .bind(next.map(Timestamp::as_microsecond))
        .execute(&mut *self.inner)
        .await
        .deed("bring a service key back")?;
        Ok(())
    }

    /// Locks the account and makes sure that `sealer` is its active account key.
    async fn sealing_account(&mut self, account: AccountId, sealer: &Sealer) -> Result<i64> {
        let seq = self.share_account(account).await?;
        let row = self.read_account(account).await?;
        if row.deleted_at.is_some() {
            return Err(KeychainError::AccountDeleted(account));
        }
        let given = sealer.account_key_version();
        if sealer.place().account != account || row.current_key_version != Some(given) {
            return Err(KeychainError::StaleAccountKey { account, current: row.current_key_version, given });
        }
        Ok(seq)
    }

    #[allow(clippy::too_many_arguments)] // the columns of one row
    async fn insert_version(
        &mut self,
        key_seq: i64,
        version: u32,
        account_seq: i64,
        sealer: &Sealer,
        state: &'static str,
        blob: Vec<u8>,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO versions (service_key, version, account, account_key_version, state, sealed, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(key_seq)
        .bind(i64::from(version))
        .bind(account_seq)
        .bind(i64::from(sealer.account_key_version()))
        .bind(state)
        .bind(blob)
        .bind(now.as_microsecond())
        .execute(&mut *self.inner)
        .await
        .deed("write a version")?;
        Ok(())
    }

    async fn accepted_loss(&mut self, tenant_seq: i64, namespace: &str, name: &str) -> Result<u32> {
        let row = sqlx::query(
            "SELECT version FROM accepted_losses WHERE tenant = $1 AND namespace = $2 AND name = $3",
        )
        .bind(tenant_seq)
        .bind(namespace)
        .bind(name)
        .fetch_optional(&mut *self.inner)
        .await
        .deed("read accepted losses")?;
        row.map_or(Ok(0), |row| Cells { table: "accepted_losses", row: &row }.u32("version"))
    }

    /// Deleted accounts that no service key needs lose their keys. Gives back how many.
    async fn destroy_deleted_accounts(&mut self, now: Timestamp) -> Result<u64> {
        let query = locked!(
            self,
            "SELECT seq FROM accounts WHERE deleted_at IS NOT NULL AND destroyed_at IS NULL AND NOT EXISTS \
             (SELECT 1 FROM service_keys k WHERE k.account = accounts.seq AND k.destroyed_at IS NULL)",
            "NO KEY UPDATE SKIP LOCKED"
        );
        let rows = sqlx::query(query).fetch_all(&mut *self.inner).await.deed("find accounts to destroy")?;
        for row in &rows {
            let seq = Cells { table: "accounts", row }.int("seq")?;
            for statement in [
                "UPDATE account_keys SET state = 'Erased', wrapped = NULL, erased_at = $2 \
                 WHERE account = $1 AND wrapped IS NOT NULL",
                "UPDATE accounts SET destroyed_at = $2 WHERE seq = $1",
            ] {
                sqlx::query(statement)
                    .bind(seq)
                    .bind(now.as_microsecond())
                    .execute(&mut *self.inner)
                    .await
                    .deed("destroy an account")?;
            }
        }
        Ok(rows.len() as u64)
    }

    /// Locks a service key, also a destroyed one.
    pub(super) async fn lock_key(&mut self, key: KeyId) -> Result<(i64, ServiceKeyRow)> {
        let query = locked!(self, "SELECT seq FROM service_keys WHERE id = $1", "NO KEY UPDATE");
        let row = sqlx::query(query)
            .bind(id(key.0))
            .fetch_optional(&mut *self.inner)
            .await
            .deed("lock a service key")?
            .ok_or(KeychainError::NoKey(key))?;
        let seq = Cells { table: "service_keys", row: &row }.int("seq")?;
        Ok((seq, self.read_key(key).await?))
    }

    pub(super) async fn read_key(&mut self, key: KeyId) -> Result<ServiceKeyRow> {
        let row = sqlx::query(select_keys!("WHERE k.id = $1"))
            .bind(id(key.0))
            .fetch_optional(&mut *self.inner)
            .await
            .deed("read a service key")?
            .ok_or(KeychainError::NoKey(key))?;
        decode(&row)
    }

    async fn key_by_name(
        &mut self,
        tenant: TenantId,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ServiceKeyRow>> {
        let row = sqlx::query(select_keys!(
            "WHERE t.id = $1 AND k.namespace = $2 AND k.name = $3 AND k.destroyed_at IS NULL"
        ))
        .bind(id(tenant.0))
        .bind(namespace)
        .bind(name)
        .fetch_optional(&mut *self.inner)
        .await
        .deed("read a service key")?;
        row.as_ref().map(decode).transpose()
    }

    pub(super) async fn finish_key(mut self, key: KeyId) -> Result<ServiceKeyRow> {
        let row = self.read_key(key).await?;
        self.commit().await?;
        Ok(row)
    }
}

impl ServiceKeyRow {
    fn require_not_destroyed(&self) -> Result<()> {
        match self.destroyed_at {
            Some(at) => Err(KeychainError::KeyDestroyed { key: self.id, at }),
            None => Ok(()),
        }
    }

    fn require_active(&self) -> Result<()> {
        self.require_not_destroyed()?;
        match self.state() {
            ServiceKeyState::Active => Ok(()),
            _ => Err(KeychainError::KeyPendingDeletion(self.id)),
        }
    }
}
