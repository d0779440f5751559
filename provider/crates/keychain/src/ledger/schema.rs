//! The schema's migrations, and the file that SQLite keeps it in.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

use sqlx::{
    AnyPool, AssertSqlSafe, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{Engine, FILE};
use crate::error::{KeychainError, Result};

/// Common part, triggers for SQLite, triggers for PostgreSQL. Never changed once released; only added to.
const MIGRATIONS: &[(&str, &str, &str, &str)] = &[
    (
        "ledger",
        include_str!("../../migrations/0001_ledger.sql"),
        include_str!("../../migrations/0001_ledger.sqlite.sql"),
        include_str!("../../migrations/0001_ledger.postgres.sql"),
    ),
    (
        "replicas",
        include_str!("../../migrations/0002_replicas.sql"),
        include_str!("../../migrations/0002_replicas.sqlite.sql"),
        include_str!("../../migrations/0002_replicas.postgres.sql"),
    ),
    ("declared keys", include_str!("../../migrations/0003_declared_keys.sql"), "", ""),
];

/// The newest version of the schema.
pub(super) const NEWEST: usize = MIGRATIONS.len();

/// What the engines spell differently.
const SPELLING: &[(&str, &str, &str)] = &[
    ("{serial}", "INTEGER PRIMARY KEY", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    ("{int}", "INTEGER", "BIGINT"),
    ("{bytes}", "BLOB", "BYTEA"),
    ("{rowid_table}", "STRICT", ""),
    ("{keyed_table}", "STRICT, WITHOUT ROWID", ""),
    // SQLite cannot add a foreign key later, PostgreSQL cannot reference a table before it exists.
    (
        "{current_version_exists}",
        ",\n    FOREIGN KEY (seq, current_version) REFERENCES versions (service_key, version) DEFERRABLE INITIALLY DEFERRED",
        "",
    ),
];

/// Brings the schema to a version, [`NEWEST`] but in tests. Replicas that start together wait for one another (PostgreSQL's advisory lock).
pub(super) async fn migrate(engine: Engine, pool: &AnyPool, version: usize) -> Result<()> {
    let migrations =
        MIGRATIONS.iter().take(version).zip(1..).map(|(&(name, common, sqlite, postgres), number)| {
            let mut sql = common.to_owned();
            for (placeholder, in_sqlite, in_postgres) in SPELLING {
                sql =
                    sql.replace(placeholder, if engine == Engine::Sqlite { in_sqlite } else { in_postgres });
            }
            sql.push_str(if engine == Engine::Sqlite { sqlite } else { postgres });
            Migration::new(
                number,
                name.into(),
                MigrationType::Simple,
                AssertSqlSafe(sql).into_sql_str(),
                false,
            )
        });
    Migrator::with_migrations(migrations.collect()).run(pool).await.map_err(KeychainError::Migrate)
}

/// Makes the directory and the file, readable by this user alone, and returns the file's URL.
pub(super) fn prepare_file(directory: &Path) -> Result<String> {
    let failed = |deed: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |source: io::Error| KeychainError::File { deed, path, source }
    };
    let directory = std::path::absolute(directory).map_err(failed("find", directory))?;
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(&directory).map_err(failed("create", &directory))?;
    let path = directory.join(FILE);
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    file.and_then(|file| file.sync_all()).map_err(failed("create", &path))?;
    sync_directory(&directory)?;
    Ok(format!("sqlite://{}?mode=rw", percent_encode(&path)))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<()> {
    fs::File::open(directory).and_then(|file| file.sync_all()).map_err(|source| KeychainError::File {
        deed: "sync",
        path: directory.display().to_string(),
        source,
    })
}

fn percent_encode(path: &Path) -> String {
    use std::{fmt::Write, os::unix::ffi::OsStrExt};
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut url, &byte| {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}"); // writing to a String does not fail
        }
        url
    })
}
