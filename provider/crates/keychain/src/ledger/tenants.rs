//! Tenants: bind, unbind, suspend, shred.

use jiff::Timestamp;
use kcp_client_rs::LogicalCluster;
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
    rows::{TenantId, TenantRow, TenantState},
};

macro_rules! select_tenants {
    ($rest:literal) => {
        concat!(
            "SELECT seq, id, cluster, path, created_at, unbound_at, retention_until, operator_suspended_at, \
             operator_reason, recovered_at, epoch, destroyed_at FROM tenants ",
            $rest
        )
    };
}
pub(super) use select_tenants;

pub(super) fn decode(row: &AnyRow) -> Result<TenantRow> {
    let cells = Cells { table: "tenants", row };
    Ok(TenantRow {
        id: TenantId(cells.uuid("id")?),
        cluster: cells.parse("cluster", |text| text.parse().ok())?,
        path: cells.text("path")?,
        created_at: cells.time("created_at")?,
        unbound_at: cells.opt_time("unbound_at")?,
        retention_until: cells.opt_time("retention_until")?,
        operator_suspended_at: cells.opt_time("operator_suspended_at")?,
        operator_reason: cells.opt_text("operator_reason")?,
        recovered_at: cells.opt_time("recovered_at")?,
        epoch: cells.u32("epoch")?,
        destroyed_at: cells.opt_time("destroyed_at")?,
    })
}

impl Ledger {
    /// The workspace is bound: makes the tenant, recovers it if it was unbound, takes note of a new path.
    /// Writes nothing if all of that is so already.
    pub async fn bind_tenant(
        &self,
        cluster: &LogicalCluster,
        path: &str,
        now: Timestamp,
    ) -> Result<TenantRow> {
        if let Some(tenant) = self.tenant(cluster).await?
            && tenant.unbound_at.is_none()
            && tenant.path == path
        {
            return Ok(tenant);
        }
        let mut tx = self.write().await?;
        // Of two replicas that see a new binding, one inserts and the other finds.
        sqlx::query(
            "INSERT INTO tenants (id, cluster, path, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(id(Uuid::now_v7()))
        .bind(cluster.as_str())
        .bind(path)
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("make a tenant")?;
        sqlx::query(
            "UPDATE tenants SET path = $2, \
             recovered_at = CASE WHEN unbound_at IS NULL THEN recovered_at ELSE $3 END, \
             epoch = CASE WHEN unbound_at IS NULL THEN epoch ELSE epoch + 1 END, \
             unbound_at = NULL, retention_until = NULL \
             WHERE cluster = $1 AND destroyed_at IS NULL",
        )
        .bind(cluster.as_str())
        .bind(path)
        .bind(now.as_microsecond())
        .execute(&mut *tx.inner)
        .await
        .deed("bind a tenant")?;
        let row = sqlx::query(select_tenants!("WHERE cluster = $1 AND destroyed_at IS NULL"))
            .bind(cluster.as_str())
            .fetch_one(&mut *tx.inner)
            .await
            .deed("read a tenant")?;
        let tenant = decode(&row)?;
        tx.commit().await?;
        Ok(tenant)
    }

    /// The binding is gone: suspended, kept until `retention_until`. The first deadline stays.
    pub async fn unbind_tenant(
        &self,
        tenant: TenantId,
        retention_until: Timestamp,
        now: Timestamp,
    ) -> Result<TenantRow> {
        let mut tx = self.write().await?;
        let (_, before) = tx.lock_tenant(tenant).await?;
        if before.unbound_at.is_some() {
            return Ok(before);
        }
        sqlx::query("UPDATE tenants SET unbound_at = $2, retention_until = $3 WHERE id = $1")
            .bind(id(tenant.0))
            .bind(now.as_microsecond())
            .bind(retention_until.as_microsecond())
            .execute(&mut *tx.inner)
            .await
            .deed("unbind a tenant")?;
        tx.finish_tenant(tenant, false).await
    }

    /// The operator suspends a tenant. A re-bind does not lift it. The first time and reason stay.
    pub async fn suspend_tenant(&self, tenant: TenantId, reason: &str, now: Timestamp) -> Result<TenantRow> {
        let mut tx = self.write().await?;
        let (_, before) = tx.lock_tenant(tenant).await?;
        if before.operator_suspended_at.is_some() {
            return Ok(before);
        }
        sqlx::query("UPDATE tenants SET operator_suspended_at = $2, operator_reason = $3 WHERE id = $1")
            .bind(id(tenant.0))
            .bind(now.as_microsecond())
            .bind(reason)
            .execute(&mut *tx.inner)
            .await
            .deed("suspend a tenant")?;
        tx.finish_tenant(tenant, true).await
    }

    /// Lifts the operator's suspension. An unbound tenant stays suspended.
    pub async fn resume_tenant(&self, tenant: TenantId, _now: Timestamp) -> Result<TenantRow> {
        let mut tx = self.write().await?;
        let (_, before) = tx.lock_tenant(tenant).await?;
        if before.operator_suspended_at.is_none() {
            return Ok(before);
        }
        sqlx::query("UPDATE tenants SET operator_suspended_at = NULL, operator_reason = NULL WHERE id = $1")
            .bind(id(tenant.0))
            .execute(&mut *tx.inner)
            .await
            .deed("resume a tenant")?;
        tx.finish_tenant(tenant, true).await
    }

    /// The living tenant of a workspace; a destroyed one is gone.
    pub async fn tenant(&self, cluster: &LogicalCluster) -> Result<Option<TenantRow>> {
        let row = sqlx::query(select_tenants!("WHERE cluster = $1 AND destroyed_at IS NULL"))
            .bind(cluster.as_str())
            .fetch_optional(&self.reader)
            .await
            .deed("read a tenant")?;
        row.as_ref().map(decode).transpose()
    }

    /// Every tenant that is not destroyed, by path.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>> {
        let rows = sqlx::query(select_tenants!("WHERE destroyed_at IS NULL ORDER BY path, seq"))
            .fetch_all(&self.reader)
            .await
            .deed("read tenants")?;
        rows.iter().map(decode).collect()
    }

    /// Unbound tenants whose retention is over, the longest first.
    pub async fn tenants_to_shred(&self, now: Timestamp) -> Result<Vec<TenantRow>> {
        let rows = sqlx::query(select_tenants!(
            "WHERE retention_until IS NOT NULL AND destroyed_at IS NULL AND retention_until <= $1 \
             ORDER BY retention_until"
        ))
        .bind(now.as_microsecond())
        .fetch_all(&self.reader)
        .await
        .deed("read tenants")?;
        rows.iter().map(decode).collect()
    }

    /// Overwrites every key of an unbound tenant whose retention is over; refused before. Idempotent.
    ///
    /// Backups taken earlier still hold the wrapped keys, and so does the customer's root key.
    pub async fn shred_tenant(&self, tenant: TenantId, now: Timestamp) -> Result<()> {
        let mut tx = self.write().await?;
        let (seq, row) = match tx.lock_tenant(tenant).await {
            Ok(found) => found,
            Err(KeychainError::NoTenant(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match row.retention_until {
            Some(until) if until <= now => {}
            until => {
                let until = until.unwrap_or(Timestamp::MAX);
                return Err(KeychainError::TooEarly { what: format!("tenant {tenant}"), until });
            }
        }
        crash_point!("destroy.before-overwrite");
        for statement in [
            "UPDATE versions SET state = 'Destroyed', sealed = NULL, destroyed_at = $2 WHERE sealed IS NOT NULL \
             AND service_key IN (SELECT seq FROM service_keys WHERE tenant = $1 AND destroyed_at IS NULL)",
            "UPDATE service_keys SET destroyed_at = $2, next_rotation = NULL, \
             deleted_at = COALESCE(deleted_at, $2), delete_after = COALESCE(delete_after, $2) \
             WHERE tenant = $1 AND destroyed_at IS NULL",
            "UPDATE account_keys SET state = 'Erased', wrapped = NULL, erased_at = $2 WHERE wrapped IS NOT NULL \
             AND account IN (SELECT seq FROM accounts WHERE tenant = $1)",
            "UPDATE accounts SET destroyed_at = $2, deleted_at = COALESCE(deleted_at, $2) \
             WHERE tenant = $1 AND destroyed_at IS NULL",
            "UPDATE tenants SET destroyed_at = $2 WHERE seq = $1",
        ] {
            sqlx::query(statement)
                .bind(seq)
                .bind(now.as_microsecond())
                .execute(&mut *tx.inner)
                .await
                .deed("shred a tenant")?;
        }
        sqlx::query("DELETE FROM declared_keys WHERE tenant = $1")
            .bind(seq)
            .execute(&mut *tx.inner)
            .await
            .deed("shred a tenant")?;
        crash_point!("destroy.before-commit");
        tx.commit().await?;
        crash_point!("destroy.after-commit");
        self.scrub().await;
        Ok(())
    }
}

impl Tx {
    /// Locks a living tenant.
    pub(super) async fn lock_tenant(&mut self, tenant: TenantId) -> Result<(i64, TenantRow)> {
        let query =
            locked!(self, "SELECT seq FROM tenants WHERE id = $1 AND destroyed_at IS NULL", "NO KEY UPDATE");
        self.locked_tenant(query, tenant).await
    }

    /// Locks a living tenant against suspension and shredding, but not against other users of it.
    pub(super) async fn share_tenant(&mut self, tenant: TenantId) -> Result<(i64, TenantRow)> {
        let query = locked!(self, "SELECT seq FROM tenants WHERE id = $1 AND destroyed_at IS NULL", "SHARE");
        self.locked_tenant(query, tenant).await
    }

    async fn locked_tenant(&mut self, query: &'static str, tenant: TenantId) -> Result<(i64, TenantRow)> {
        let lock = sqlx::query(query)
            .bind(id(tenant.0))
            .fetch_optional(&mut *self.inner)
            .await
            .deed("lock a tenant")?;
        let Some(lock) = lock else { return Err(KeychainError::NoTenant(tenant.to_string())) };
        let seq = Cells { table: "tenants", row: &lock }.int("seq")?;
        Ok((seq, self.read_tenant(tenant).await?))
    }

    async fn read_tenant(&mut self, tenant: TenantId) -> Result<TenantRow> {
        let row = sqlx::query(select_tenants!("WHERE id = $1"))
            .bind(id(tenant.0))
            .fetch_one(&mut *self.inner)
            .await
            .deed("read a tenant")?;
        decode(&row)
    }

    async fn finish_tenant(mut self, tenant: TenantId, announce: bool) -> Result<TenantRow> {
        let row = self.read_tenant(tenant).await?;
        if announce {
            self.announce(&row.cluster).await?;
        }
        self.commit().await?;
        Ok(row)
    }
}

impl TenantRow {
    /// Nothing new is made for a tenant that is not active.
    pub(super) fn require_active(&self) -> Result<()> {
        match self.state() {
            TenantState::Active => Ok(()),
            TenantState::Suspended => Err(KeychainError::TenantSuspended(self.id)),
            TenantState::Destroyed => Err(KeychainError::NoTenant(self.id.to_string())),
        }
    }
}
