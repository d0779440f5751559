//! Moving an account's service key versions from one account key to another.
//!
//! Rows say which account key version seals them, so a re-wrap can be cut off anywhere and goes on where it was.

use std::fmt::Write;

use sqlx::{Any, AssertSqlSafe, any::AnyArguments, query::Query};

use super::{
    Deed, Ledger,
    decode::{Cells, id},
};
use crate::{
    crash_point,
    error::{KeychainError, Result},
    rows::{AccountId, KeyId, SealedBy},
    seal::Sealer,
};

/// Rows of one UPDATE statement: three parameters each, and both engines allow 32,000.
const ROWS_PER_STATEMENT: usize = 500;

/// Where a batch ended. Good within one run; a new run starts without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewrapCursor {
    service_key: i64,
    version: i64,
}

/// What one batch of a re-wrap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewrapBatch {
    /// Versions re-wrapped, durably.
    pub done: u64,
    /// Versions that do not open with the old account key. They stay as they are; `verify` names the first.
    pub failed: u64,
    /// Where to go on; none at the end.
    pub next: Option<RewrapCursor>,
}

/// A re-wrap under way; see [`Ledger::rewrap`]. Dropped anywhere, what it has returned is durable and the rest as before.
pub struct Rewrap {
    ledger: Ledger,
    from: Sealer,
    to: Sealer,
    limit: u32,
    ahead: Ahead,
}

enum Ahead {
    Start,
    Ready(Resealed),
    End,
}

impl Rewrap {
    /// The next batch, once it is durable; none at the end.
    pub async fn next(&mut self) -> Result<Option<RewrapBatch>> {
        let Self { ledger, from, to, limit, ahead } = self;
        let resealed = match std::mem::replace(ahead, Ahead::End) {
            Ahead::Start => ledger.reseal_after(from, to, None, *limit).await?,
            Ahead::Ready(resealed) => resealed,
            Ahead::End => return Ok(None),
        };
        let after = resealed.next;
        let read_ahead = async {
            match after {
                Some(after) => Ok(Ahead::Ready(ledger.reseal_after(from, to, Some(after), *limit).await?)),
                None => Ok(Ahead::End),
            }
        };
        let (batch, next) = futures::try_join!(ledger.write_resealed(from, to, resealed), read_ahead)?;
        *ahead = next;
        Ok(Some(batch))
    }
}

/// A batch that is sealed anew and not yet written.
struct Resealed {
    account_seq: i64,
    rows: Vec<Sealed>,
    failed: u64,
    next: Option<RewrapCursor>,
}

struct Sealed {
    service_key: i64,
    key: KeyId,
    version: u32,
    blob: Vec<u8>,
}

impl Ledger {
    /// Re-wraps up to `limit` versions from the account key `from` to the account key `to`, in one transaction.
    ///
    /// Decrypts go on all the while: a version opens under the account key version that its row names.
    pub async fn rewrap_batch(&self, from: &Sealer, to: &Sealer, limit: u32) -> Result<RewrapBatch> {
        self.rewrap_after(from, to, None, limit).await
    }

    /// The same from where a batch ended, so that versions that do not open are tried once per run only.
    pub async fn rewrap_after(
        &self,
        from: &Sealer,
        to: &Sealer,
        after: Option<RewrapCursor>,
        limit: u32,
    ) -> Result<RewrapBatch> {
        let resealed = self.reseal_after(from, to, after, limit).await?;
        self.write_resealed(from, to, resealed).await
    }

    /// Re-wraps batch after batch: while one is written, the next is read and sealed.
    pub fn rewrap(&self, from: Sealer, to: Sealer, limit: u32) -> Rewrap {
        Rewrap { ledger: self.clone(), from, to, limit, ahead: Ahead::Start }
    }

    /// Reads the next versions and seals them anew. That needs no lock: what seals a version only changes by a re-wrap,
    /// and the update passes over rows that have changed since.
    async fn reseal_after(
        &self,
        from: &Sealer,
        to: &Sealer,
        after: Option<RewrapCursor>,
        limit: u32,
    ) -> Result<Resealed> {
        if from.place() != to.place() || from.account_key_version() == to.account_key_version() {
            return Err(KeychainError::WrongSealers);
        }
        let (account_seq, batch) = self.sealed_by(from, after, limit).await?;
        let last = batch.last().filter(|_| batch.len() == limit as usize);
        let next =
            last.map(|last| RewrapCursor { service_key: last.service_key, version: i64::from(last.version) });
        let (opener, sealer) = (from.clone(), to.clone());
        let (rows, failed) = tokio::task::spawn_blocking(move || reseal(&opener, &sealer, batch))
            .await
            .map_err(|_| KeychainError::WrongSealers)?;
        Ok(Resealed { account_seq, rows, failed, next })
    }

    /// One transaction.
    async fn write_resealed(&self, from: &Sealer, to: &Sealer, resealed: Resealed) -> Result<RewrapBatch> {
        let Resealed { account_seq, rows, failed, next } = resealed;
        if rows.is_empty() {
            return Ok(RewrapBatch { done: 0, failed, next });
        }
        let mut tx = self.write().await?;
        crash_point!("rewrap.before-update");
        let mut done = 0;
        for rows in rows.chunks(ROWS_PER_STATEMENT) {
            let statement = update_statement(rows.len());
            let query = bind_rows(sqlx::query(AssertSqlSafe(statement)), from, to, account_seq, rows);
            done += query.execute(&mut *tx.inner).await.deed("re-wrap versions")?.rows_affected();
        }
        crash_point!("rewrap.before-commit");
        tx.commit().await?;
        crash_point!("rewrap.after-commit");
        Ok(RewrapBatch { done, failed, next })
    }

    /// What each account key version of the account still seals, oldest first.
    pub async fn rewrap_progress(&self, account: AccountId) -> Result<Vec<SealedBy>> {
        let rows = sqlx::query(
            "SELECT v.account_key_version, COUNT(*) AS versions, COUNT(DISTINCT v.service_key) AS keys \
             FROM versions v JOIN accounts a ON a.seq = v.account \
             WHERE a.id = $1 AND v.sealed IS NOT NULL GROUP BY v.account_key_version ORDER BY v.account_key_version",
        )
        .bind(id(account.0))
        .fetch_all(&self.reader)
        .await
        .deed("count what account keys seal")?;
        rows.iter()
            .map(|row| {
                let cells = Cells { table: "versions", row };
                Ok(SealedBy {
                    account_key_version: cells.u32("account_key_version")?,
                    versions: cells.int("versions")? as u64,
                    keys: cells.int("keys")? as u64,
                })
            })
            .collect()
    }

    /// The next versions that an account key seals, in the order of the index that finds them.
    async fn sealed_by(
        &self,
        from: &Sealer,
        after: Option<RewrapCursor>,
        limit: u32,
    ) -> Result<(i64, Vec<Sealed>)> {
        let account = from.place().account;
        let row = sqlx::query("SELECT seq FROM accounts WHERE id = $1")
            .bind(id(account.0))
            .fetch_optional(&self.reader)
            .await
            .deed("read an account")?
            .ok_or(KeychainError::NoAccount(account))?;
        let account_seq = Cells { table: "accounts", row: &row }.int("seq")?;
        let after = after.unwrap_or(RewrapCursor { service_key: i64::MIN, version: 0 });
        let rows = sqlx::query(
            "SELECT v.service_key, v.version, v.sealed, k.id \
             FROM versions v JOIN service_keys k ON k.seq = v.service_key \
             WHERE v.account = $1 AND v.account_key_version = $2 AND v.sealed IS NOT NULL \
             AND (v.service_key, v.version) > ($3, $4) ORDER BY v.service_key, v.version LIMIT $5",
        )
        .bind(account_seq)
        .bind(i64::from(from.account_key_version()))
        .bind(after.service_key)
        .bind(after.version)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .deed("read versions to re-wrap")?;
        let decode = |row| {
            let cells = Cells { table: "versions", row };
            Ok(Sealed {
                service_key: cells.int("service_key")?,
                key: KeyId(cells.uuid("id")?),
                version: cells.u32("version")?,
                blob: cells.opt_bytes("sealed")?.unwrap_or_default(),
            })
        };
        Ok((account_seq, rows.iter().map(decode).collect::<Result<_>>()?))
    }
}

fn reseal(from: &Sealer, to: &Sealer, mut batch: Vec<Sealed>) -> (Vec<Sealed>, u64) {
    let all = batch.len();
    batch.retain_mut(|row| match from.rewrap(to, row.key, row.version, &row.blob) {
        Ok(sealed) => {
            row.blob = sealed;
            true
        }
        Err(_) => false,
    });
    let failed = (all - batch.len()) as u64;
    (batch, failed)
}

/// Both engines name the columns of VALUES `column1`, `column2`, …. The `+` keeps SQLite from finding rows by what seals them, which
/// is all that are left: each statement would look at every one of them.
fn update_statement(rows: usize) -> String {
    let mut sql = String::with_capacity(200 + rows * 20);
    sql.push_str("UPDATE versions SET sealed = n.column3, account_key_version = $2 FROM (VALUES ");
    for row in 0..rows {
        let first = 4 + row * 3;
        let comma = if row == 0 { "" } else { "," };
        let _ = write!(sql, "{comma}(${},${},${})", first, first + 1, first + 2); // a String takes all
    }
    sql.push_str(
        ") AS n WHERE versions.service_key = n.column1 AND versions.version = n.column2 \
         AND +versions.account = $1 AND +versions.account_key_version = $3 AND versions.sealed IS NOT NULL",
    );
    sql
}

fn bind_rows<'q>(
    query: Query<'q, Any, AnyArguments>,
    from: &Sealer,
    to: &Sealer,
    account_seq: i64,
    rows: &[Sealed],
) -> Query<'q, Any, AnyArguments> {
    let query = query
        .bind(account_seq)
        .bind(i64::from(to.account_key_version()))
        .bind(i64::from(from.account_key_version()));
    rows.iter().fold(query, |query, row| {
        query.bind(row.service_key).bind(i64::from(row.version)).bind(row.blob.clone())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::{Location, SecretKey, rows::TenantId, seal::Place};

    #[tokio::test]
    async fn an_update_finds_each_row_by_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&Location::Directory(directory.path().to_owned())).await.unwrap();
        let place = Place {
            cluster: "c1".parse().unwrap(),
            tenant: TenantId(uuid::Uuid::nil()),
            account: AccountId(uuid::Uuid::nil()),
        };
        let seal = |version| Sealer::new(place.clone(), version, &SecretKey::random().unwrap());
        let row = |n| Sealed { service_key: n, key: KeyId(uuid::Uuid::nil()), version: 1, blob: vec![1] };
        let rows: Vec<_> = (0..500).map(row).collect();
        let statement = format!("EXPLAIN QUERY PLAN {}", update_statement(rows.len()));
        let query = bind_rows(sqlx::query(AssertSqlSafe(statement)), &seal(1), &seal(2), 1, &rows);
        let plan = query.fetch_all(&ledger.reader).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let by_key =
            |step: &String| step.contains("versions USING PRIMARY KEY (service_key=? AND version=?)");
        assert!(plan.iter().any(by_key), "{plan:#?}");
    }
}
