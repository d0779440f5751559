//! Backup, verification and export of the whole ledger.

use std::{fs, io, io::Write, path::Path, time::Instant};

use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Row};

use super::{
    Deed, Engine, Ledger,
    accounts::{self, select_account_keys, select_accounts},
    declared::{self, select_declared},
    decode::Cells,
    keys::{self, select_keys},
    schema::sync_directory,
    tenants::{self, select_tenants},
    versions::{self, select_versions},
};
use crate::{
    AccountKeys,
    error::{KeychainError, Result},
    rows::{AccountId, ServiceKeyState, TenantId, VersionState},
    seal::{Place, Sealer},
};

/// The first row that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenRow {
    /// The table.
    pub table: String,
    /// Which row.
    pub row: String,
    /// What is wrong with it.
    pub what: String,
}

/// What [`Ledger::verify`] read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
    /// Versions that were opened; the account keys of the others were not at hand.
    pub opened: u64,
    /// The first broken row, if any.
    pub broken: Option<BrokenRow>,
}

impl Ledger {
    /// Copies the ledger to a new file while it is in use. SQLite only; PostgreSQL has `pg_dump`.
    ///
    /// The copy is complete, compact and on disk when this returns; a file that exists is not overwritten.
    pub async fn backup(&self, path: &Path) -> Result<()> {
        if self.engine == Engine::Postgres {
            return Err(KeychainError::Unsupported("back a PostgreSQL ledger up with pg_dump"));
        }
        let failed = |deed: &'static str| {
            let path = path.display().to_string();
            move |source: io::Error| KeychainError::File { deed, path, source }
        };
        let path = std::path::absolute(path).map_err(failed("find"))?;
        let text = path.to_str().ok_or_else(|| failed("name")(io::ErrorKind::InvalidFilename.into()))?;
        // VACUUM INTO fills an empty file; this one is ours, new, and readable by nobody else.
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600)
            .open(&path)
            .map_err(failed("create"))?;
        let copied = self.copy_into(text).await;
        if let Err(error) = copied {
            let _ = fs::remove_file(&path); // what is there is not a backup
            return Err(error);
        }
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync"))?;
        path.parent().map_or(Ok(()), sync_directory)
    }

    async fn copy_into(&self, path: &str) -> Result<()> {
        // A reader: the writer goes on. SQLite counts the copy as a write, though, even to another file.
        let mut reader = self.reader.acquire().await.deed("back up")?;
        sqlx::raw_sql("PRAGMA query_only = OFF").execute(&mut *reader).await.deed("back up")?;
        let copied = sqlx::query("VACUUM INTO $1").bind(path).execute(&mut *reader).await.deed("back up");
        sqlx::raw_sql("PRAGMA query_only = ON").execute(&mut *reader).await.deed("back up")?;
        copied.map(drop)
    }

    /// Re-reads everything: the file's structure, every row, every rule that joins rows, and opens each sealed
    /// version whose account key is at hand. Stops at the first broken row.
    pub async fn verify(&self, account_keys: &AccountKeys) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        match self.verify_into(&mut report, account_keys, Instant::now()).await {
            Ok(()) => {}
            Err(KeychainError::Broken { table, row, what }) => {
                report.broken = Some(BrokenRow { table: table.to_owned(), row, what });
            }
            Err(error) => return Err(error),
        }
        Ok(report)
    }

    async fn verify_into(&self, report: &mut VerifyReport, cache: &AccountKeys, now: Instant) -> Result<()> {
        if self.engine == Engine::Sqlite {
            self.verify_file().await?;
        }
        let mut rows = sqlx::query(select_tenants!("ORDER BY seq")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read tenants")? {
            tenants::decode(&row)?;
            report.tenants += 1;
        }
        let mut rows = sqlx::query(select_accounts!("ORDER BY a.seq")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read accounts")? {
            accounts::decode(&row)?;
            report.accounts += 1;
        }
        let mut rows = sqlx::query(select_account_keys!("ORDER BY k.account, k.version")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read account keys")? {
            accounts::decode_key(&row)?;
            report.account_keys += 1;
        }
        let mut rows = sqlx::query(select_declared!("ORDER BY d.tenant")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read declared keys")? {
            declared::decode(&row)?;
        }
        self.verify_keys(report).await?;
        self.verify_versions(report, cache, now).await
    }

    /// The engine's own checks of pages, indexes, constraints and references.
    async fn verify_file(&self) -> Result<()> {
        let broken = |row: &str, what: String| KeychainError::Broken {
            table: "ledger.sqlite",
            row: row.to_owned(),
            what,
        };
        let row =
            sqlx::query("PRAGMA integrity_check(1)").fetch_one(&self.reader).await.deed("check the file")?;
        let verdict: String = row.try_get(0).deed("check the file")?;
        if verdict != "ok" {
            return Err(broken("integrity", verdict));
        }
        let row = sqlx::query("PRAGMA foreign_key_check")
            .fetch_optional(&self.reader)
            .await
            .deed("check references")?;
        match row {
            None => Ok(()),
            Some(row) => {
                let (table, parent): (String, String) =
                    (row.try_get(0).deed("check references")?, row.try_get(2).deed("check references")?);
                Err(broken(&table, format!("refers to a row of {parent} that is not there")))
            }
        }
    }

    async fn verify_keys(&self, report: &mut VerifyReport) -> Result<()> {
        let mut rows = sqlx::query(select_keys!("ORDER BY k.seq")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read service keys")? {
            let key = keys::decode(&row)?;
            let state_fits = match key.state() {
                ServiceKeyState::Destroyed => key.current_state == VersionState::Destroyed,
                _ => matches!(key.current_state, VersionState::Active | VersionState::Compromised),
            };
            if !state_fits {
                return Err(KeychainError::Broken {
                    table: "service_keys",
                    row: key.id.to_string(),
                    what: format!("is {} but its current version is {}", key.state(), key.current_state),
                });
            }
            report.keys += 1;
        }
        // The join above passes over a key whose current version is missing.
        let row = sqlx::query("SELECT COUNT(*) FROM service_keys")
            .fetch_one(&self.reader)
            .await
            .deed("count keys")?;
        let all: i64 = row.try_get(0).deed("count keys")?;
        if all as u64 > report.keys {
            return Err(KeychainError::Broken {
                table: "service_keys",
                row: "?".to_owned(),
                what: "its current version is missing".to_owned(),
            });
        }
        Ok(())
    }

    async fn verify_versions(
        &self,
        report: &mut VerifyReport,
        cache: &AccountKeys,
        now: Instant,
    ) -> Result<()> {
        let mut rows = sqlx::query(
            "SELECT v.service_key AS seq, k.id AS key_id, v.version, v.state, v.account_key_version, v.sealed, \
             v.created_at, v.destroyed_at, k.current_version, t.cluster, t.id AS tenant_id, a.id AS account_id \
             FROM versions v JOIN service_keys k ON k.seq = v.service_key \
             JOIN accounts a ON a.seq = v.account JOIN tenants t ON t.seq = k.tenant \
             ORDER BY v.account, v.account_key_version, v.service_key, v.version",
        )
        .fetch(&self.reader);
        let mut sealer: Option<(AccountId, u32, Option<Sealer>)> = None;
        while let Some(row) = rows.try_next().await.deed("read versions")? {
            let cells = Cells { table: "versions", row: &row };
            let version = versions::decode(&row)?;
            let broken = |what: String| KeychainError::Broken {
                table: "versions",
                row: format!("{} v{}", version.key, version.version),
                what,
            };
            let current = cells.u32("current_version")?;
            if version.version > current || version.state == VersionState::PreActive {
                return Err(broken(format!("is newer than the current version v{current}")));
            }
            report.versions += 1;
            let account = AccountId(cells.uuid("account_id")?);
            if !matches!(&sealer, Some((a, v, _)) if (*a, *v) == (account, version.account_key_version)) {
                let place = Place {
                    cluster: cells.parse("cluster", |text| text.parse().ok())?,
                    tenant: TenantId(cells.uuid("tenant_id")?),
                    account,
                };
                let key = cache.get(account, version.account_key_version, now);
                let ready = key.map(|key| Sealer::new(place, version.account_key_version, &key));
                sealer = Some((account, version.account_key_version, ready));
            }
            if let (Some((_, _, Some(sealer))), Some(sealed)) = (&sealer, &version.sealed) {
                if !sealer.opens(version.key, version.version, sealed) {
                    return Err(broken(format!(
                        "does not open with account key {}",
                        version.account_key_version
                    )));
                }
                report.opened += 1;
            }
        }
        Ok(())
    }

    /// Writes every tenant, account, key and version as one line of JSON, wrapped material only, parents before children.
    pub async fn export(&self, out: &mut (dyn Write + Send)) -> Result<()> {
        let mut rows = sqlx::query(select_tenants!("ORDER BY seq")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read tenants")? {
            line(out, "tenant", &tenants::decode(&row)?)?;
        }
        let mut rows = sqlx::query(select_accounts!("ORDER BY a.seq")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read accounts")? {
            line(out, "account", &accounts::decode(&row)?)?;
        }
        let mut rows = sqlx::query(select_account_keys!("ORDER BY k.account, k.version")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read account keys")? {
            line(out, "accountKey", &accounts::decode_key(&row)?)?;
        }
        let mut rows =
            sqlx::query(select_declared!("ORDER BY d.tenant, d.namespace, d.name")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read declared keys")? {
            line(out, "declaredKey", &declared::decode(&row)?)?;
        }
        let mut rows = sqlx::query(select_keys!("ORDER BY k.seq")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read service keys")? {
            line(out, "serviceKey", &keys::decode(&row)?)?;
        }
        let mut rows = sqlx::query(select_versions!("ORDER BY v.service_key, v.version")).fetch(&self.reader);
        while let Some(row) = rows.try_next().await.deed("read versions")? {
            line(out, "version", &versions::decode(&row)?)?;
        }
        out.flush().map_err(KeychainError::Export)
    }

    /// After something was overwritten: moves the change into the file, so that no log keeps what was there.
    /// Best effort: a reader that holds on to the past delays it to a later checkpoint.
    pub(super) async fn scrub(&self) {
        if self.engine == Engine::Sqlite {
            let done =
                sqlx::raw_sql(AssertSqlSafe("PRAGMA wal_checkpoint(TRUNCATE)")).execute(&self.writer).await;
            if let Err(error) = done {
                tracing::warn!(%error, "the ledger's log could not be emptied after keys were destroyed");
            }
        }
    }
}

fn line(out: &mut (dyn Write + Send), kind: &str, row: &impl Serialize) -> Result<()> {
    let mut object = serde_json::Map::new();
    let value = serde_json::to_value(row).map_err(|error| KeychainError::Export(error.into()))?;
    object.insert(kind.to_owned(), value);
    serde_json::to_writer(&mut *out, &object).map_err(|error| KeychainError::Export(error.into()))?;
    out.write_all(b"\n").map_err(KeychainError::Export)
}
