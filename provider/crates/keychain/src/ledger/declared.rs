//! Keys that are declared and have no version yet.

use serde_json::Value;
use sqlx::any::AnyRow;

use super::{
    Deed, Ledger, Tx,
    decode::{Cells, id},
};
use crate::{
    error::Result,
    rows::{DeclaredKey, TenantId},
};

macro_rules! select_declared {
    ($rest:literal) => {
        concat!(
            "SELECT t.id AS tenant_id, d.namespace, d.name, d.spec, d.seen_version \
             FROM declared_keys d JOIN tenants t ON t.seq = d.tenant ",
            $rest
        )
    };
}
pub(super) use select_declared;

pub(super) fn decode(row: &AnyRow) -> Result<DeclaredKey> {
    let cells = Cells { table: "declared_keys", row };
    Ok(DeclaredKey {
        tenant: TenantId(cells.uuid("tenant_id")?),
        namespace: cells.text("namespace")?,
        name: cells.text("name")?,
        spec: cells.json("spec")?,
        seen_version: cells.u32("seen_version")?,
    })
}

impl Ledger {
    /// Records a key that cannot be made yet, so that its object can be put back. The highest seen version stays.
    pub async fn declare_key(
        &self,
        tenant: TenantId,
        namespace: &str,
        name: &str,
        spec: &Value,
        seen_version: u32,
    ) -> Result<()> {
        let mut tx = self.write().await?;
        let (tenant_seq, _) = tx.share_tenant(tenant).await?;
        sqlx::query(
            "INSERT INTO declared_keys (tenant, namespace, name, spec, seen_version) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, namespace, name) DO UPDATE SET spec = excluded.spec, seen_version = \
             CASE WHEN declared_keys.seen_version < excluded.seen_version THEN excluded.seen_version \
             ELSE declared_keys.seen_version END",
        )
        .bind(tenant_seq)
        .bind(namespace)
        .bind(name)
        .bind(spec.to_string())
        .bind(i64::from(seen_version))
        .execute(&mut *tx.inner)
        .await
        .deed("record a declared key")?;
        tx.commit().await
    }

    /// Its user deleted it before it was made.
    pub async fn forget_declared_key(&self, tenant: TenantId, namespace: &str, name: &str) -> Result<()> {
        let mut tx = self.write().await?;
        let (tenant_seq, _) = tx.share_tenant(tenant).await?;
        tx.undeclare(tenant_seq, namespace, name).await?;
        tx.commit().await
    }

    /// The declared key of that name, if it has not been made.
    pub async fn declared_key(
        &self,
        tenant: TenantId,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DeclaredKey>> {
        let row = sqlx::query(select_declared!("WHERE t.id = $1 AND d.namespace = $2 AND d.name = $3"))
            .bind(id(tenant.0))
            .bind(namespace)
            .bind(name)
            .fetch_optional(&self.reader)
            .await
            .deed("read a declared key")?;
        row.as_ref().map(decode).transpose()
    }

    /// Every declared key of a tenant that has not been made, by namespace and name.
    pub async fn declared_keys(&self, tenant: TenantId) -> Result<Vec<DeclaredKey>> {
        let rows = sqlx::query(select_declared!("WHERE t.id = $1 ORDER BY d.namespace, d.name"))
            .bind(id(tenant.0))
            .fetch_all(&self.reader)
            .await
            .deed("read declared keys")?;
        rows.iter().map(decode).collect()
    }
}

impl Tx {
    /// The key is made, is back or is given up.
    pub(super) async fn undeclare(&mut self, tenant_seq: i64, namespace: &str, name: &str) -> Result<()> {
        sqlx::query("DELETE FROM declared_keys WHERE tenant = $1 AND namespace = $2 AND name = $3")
            .bind(tenant_seq)
            .bind(namespace)
            .bind(name)
            .execute(&mut *self.inner)
            .await
            .deed("forget a declared key")?;
        Ok(())
    }
}
