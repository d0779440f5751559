//! What operators and other replicas changed, for a running provider to notice.

use std::collections::BTreeSet;

use kcp_client_rs::LogicalCluster;
use sqlx::Row;

use super::{
    Deed, Ledger, Tx,
    decode::{Cells, id},
};
use crate::{error::Result, rows::KeyId};

/// Changes kept; a poller that is further behind looks at everything.
const KEPT: i64 = 10_000;

/// What happened since a token was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// For the next call.
    pub token: i64,
    /// What to look at again, each once. `None`: too long ago to tell, look at all.
    pub changed: Option<Vec<Changed>>,
}

/// Something to look at again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// The workspace.
    pub cluster: LogicalCluster,
    /// Namespace and name of the one key that changed; `None`: everything in the workspace may have.
    pub key: Option<(String, String)>,
}

impl Ledger {
    /// Now, for [`Ledger::changes_since`].
    pub async fn change_token(&self) -> Result<i64> {
        sqlx::query("SELECT value FROM change_counter")
            .fetch_one(&self.reader)
            .await
            .and_then(|row| row.try_get(0))
            .deed("read the change counter")
    }

    /// What operators' commands and other replicas touched since. One small read when nothing happened: poll it.
    pub async fn changes_since(&self, token: i64) -> Result<Changes> {
        let now = self.change_token().await?;
        if now == token {
            return Ok(Changes { token, changed: Some(Vec::new()) });
        }
        // A token from the future belongs to a ledger that was replaced by a backup since.
        if now < token || now - token >= KEPT {
            return Ok(Changes { token: now, changed: None });
        }
        let rows =
            sqlx::query("SELECT cluster, namespace, name FROM changes WHERE token > $1 AND token <= $2")
                .bind(token)
                .bind(now)
                .fetch_all(&self.reader)
                .await
                .deed("read changes")?;
        let decode = |row| {
            let cells = Cells { table: "changes", row };
            let cluster = cells.parse("cluster", |text| text.parse().ok())?;
            Ok(Changed { cluster, key: cells.opt_text("namespace")?.zip(cells.opt_text("name")?) })
        };
        let changed = rows.iter().map(decode).collect::<Result<BTreeSet<_>>>()?;
        Ok(Changes { token: now, changed: Some(changed.into_iter().collect()) })
    }
}

impl Tx {
    /// Tells the other processes to look at this workspace. Last in a transaction: it serialises them.
    pub(super) async fn announce(&mut self, cluster: &LogicalCluster) -> Result<()> {
        self.announce_change(cluster.as_str(), None).await
    }

    /// Tells the other processes to look at one key.
    pub(super) async fn announce_key(&mut self, key: KeyId) -> Result<()> {
        let row = sqlx::query(
            "SELECT t.cluster, k.namespace, k.name FROM service_keys k JOIN tenants t ON t.seq = k.tenant \
             WHERE k.id = $1",
        )
        .bind(id(key.0))
        .fetch_one(&mut *self.inner)
        .await
        .deed("announce a change")?;
        let cells = Cells { table: "service_keys", row: &row };
        let (namespace, name) = (cells.text("namespace")?, cells.text("name")?);
        self.announce_change(&cells.text("cluster")?, Some((&namespace, &name))).await
    }

    async fn announce_change(&mut self, cluster: &str, key: Option<(&str, &str)>) -> Result<()> {
        let token: i64 = sqlx::query("UPDATE change_counter SET value = value + 1 RETURNING value")
            .fetch_one(&mut *self.inner)
            .await
            .and_then(|row| row.try_get(0))
            .deed("announce a change")?;
        sqlx::query("INSERT INTO changes (token, cluster, namespace, name) VALUES ($1, $2, $3, $4)")
            .bind(token)
            .bind(cluster)
            .bind(key.map(|(namespace, _)| namespace))
            .bind(key.map(|(_, name)| name))
            .execute(&mut *self.inner)
            .await
            .deed("announce a change")?;
        sqlx::query("DELETE FROM changes WHERE token <= $1")
            .bind(token - KEPT)
            .execute(&mut *self.inner)
            .await
            .deed("announce a change")?;
        Ok(())
    }
}
