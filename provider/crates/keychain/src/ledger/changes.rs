//! What operators changed from another process, for the running provider to notice.

use std::collections::BTreeSet;

use kcp_client_rs::LogicalCluster;
use sqlx::Row;

use super::{Deed, Ledger, Tx, decode::Cells};
use crate::error::Result;

/// Changes kept; a poller that is further behind looks at everything.
const KEPT: i64 = 10_000;

/// What happened since a token was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// For the next call.
    pub token: i64,
    /// Workspaces to look at again, each once. `None`: too long ago to tell, look at all.
    pub clusters: Option<Vec<LogicalCluster>>,
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

    /// Workspaces that an operator's command touched since. One small read when nothing happened: poll it.
    pub async fn changes_since(&self, token: i64) -> Result<Changes> {
        let now = self.change_token().await?;
        if now == token {
            return Ok(Changes { token, clusters: Some(Vec::new()) });
        }
        // A token from the future belongs to a ledger that was replaced by a backup since.
        if now < token || now - token >= KEPT {
            return Ok(Changes { token: now, clusters: None });
        }
        let rows = sqlx::query("SELECT cluster FROM changes WHERE token > $1 AND token <= $2")
            .bind(token)
            .bind(now)
            .fetch_all(&self.reader)
            .await
            .deed("read changes")?;
        let clusters: Result<BTreeSet<_>> = rows
            .iter()
            .map(|row| Cells { table: "changes", row }.parse("cluster", |text| text.parse().ok()))
            .collect();
        Ok(Changes { token: now, clusters: Some(clusters?.into_iter().collect()) })
    }
}

impl Tx {
    /// Tells the other processes to look at this workspace. Last in a transaction: it serialises operators.
    pub(super) async fn announce(&mut self, cluster: &LogicalCluster) -> Result<()> {
        let token: i64 = sqlx::query("UPDATE change_counter SET value = value + 1 RETURNING value")
            .fetch_one(&mut *self.inner)
            .await
            .and_then(|row| row.try_get(0))
            .deed("announce a change")?;
        sqlx::query("INSERT INTO changes (token, cluster) VALUES ($1, $2)")
            .bind(token)
            .bind(cluster.as_str())
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
