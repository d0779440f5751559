//! Versions of service keys.

use jiff::Timestamp;
use sqlx::any::AnyRow;

use super::{
    Deed, Ledger,
    decode::{Cells, id},
};
use crate::{
    error::{KeychainError, Result},
    rows::{KeyId, VersionRow, VersionState},
};

macro_rules! select_versions {
    ($rest:literal) => {
        concat!(
            "SELECT v.service_key AS seq, k.id AS key_id, v.version, v.state, v.account_key_version, v.sealed, \
             v.created_at, v.destroyed_at FROM versions v JOIN service_keys k ON k.seq = v.service_key ",
            $rest
        )
    };
}
pub(super) use select_versions;

pub(super) fn decode(row: &AnyRow) -> Result<VersionRow> {
    let cells = Cells { table: "versions", row };
    Ok(VersionRow {
        key: KeyId(cells.uuid("key_id")?),
        version: cells.u32("version")?,
        state: cells.parse("state", VersionState::parse)?,
        account_key_version: cells.u32("account_key_version")?,
        sealed: cells.opt_bytes("sealed")?,
        created_at: cells.time("created_at")?,
        destroyed_at: cells.opt_time("destroyed_at")?,
    })
}

impl Ledger {
    /// Every version of a key, oldest first.
    pub async fn history(&self, key: KeyId) -> Result<Vec<VersionRow>> {
        let rows = sqlx::query(select_versions!("WHERE k.id = $1 ORDER BY v.version"))
            .bind(id(key.0))
            .fetch_all(&self.reader)
            .await
            .deed("read versions")?;
        rows.iter().map(decode).collect()
    }

    /// The newest versions of a key, newest first.
    pub async fn newest_versions(&self, key: KeyId, limit: u32) -> Result<Vec<VersionRow>> {
        let rows = sqlx::query(select_versions!("WHERE k.id = $1 ORDER BY v.version DESC LIMIT $2"))
            .bind(id(key.0))
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await
            .deed("read versions")?;
        rows.iter().map(decode).collect()
    }

    /// One version.
    pub async fn version(&self, key: KeyId, version: u32) -> Result<VersionRow> {
        let row = sqlx::query(select_versions!("WHERE k.id = $1 AND v.version = $2"))
            .bind(id(key.0))
            .bind(i64::from(version))
            .fetch_optional(&self.reader)
            .await
            .deed("read a version")?
            .ok_or(KeychainError::NoVersion { key, version })?;
        decode(&row)
    }

    /// The version must not be used any more; if it is the current one, rotate at once. Idempotent.
    pub async fn mark_compromised(&self, key: KeyId, version: u32, now: Timestamp) -> Result<VersionRow> {
        let before = self.version(key, version).await?;
        match before.state {
            VersionState::Compromised => return Ok(before),
            VersionState::Destroyed => {
                return Err(KeychainError::VersionDestroyed {
                    key,
                    version,
                    at: before.destroyed_at.unwrap_or(now),
                });
            }
            VersionState::PreActive | VersionState::Active | VersionState::Deactivated => {}
        }
        let mut tx = self.write().await?;
        let owner = tx.read_key(key).await?.tenant; // never changes
        let (_, tenant) = tx.share_tenant(owner).await?;
        let (seq, _) = tx.lock_key(key).await?;
        sqlx::query(
            "UPDATE versions SET state = 'Compromised' \
             WHERE service_key = $1 AND version = $2 AND state IN ('Active', 'Deactivated')",
        )
        .bind(seq)
        .bind(i64::from(version))
        .execute(&mut *tx.inner)
        .await
        .deed("mark a version compromised")?;
        let row = sqlx::query(select_versions!("WHERE k.id = $1 AND v.version = $2"))
            .bind(id(key.0))
            .bind(i64::from(version))
            .fetch_one(&mut *tx.inner)
            .await
            .deed("read a version")?;
        let row = decode(&row)?;
        tx.announce(&tenant.cluster).await?;
        tx.commit().await?;
        Ok(row)
    }
}
