//! The durable record: one schema on SQLite or PostgreSQL.
//!
//! The same SQL runs on both (`$1` parameters, no dialect beyond what `schema` substitutes). A mutation is one
//! transaction: SQLite takes its write lock at the start; on PostgreSQL the rows that a decision rests on are
//! locked first, always in the order tenant, account, service key, so that mutations cannot wait in a circle.

mod accounts;
mod changes;
mod declared;
mod decode;
mod keys;
mod maintenance;
mod replicas;
mod rewrap;
mod schema;
mod tenants;
mod versions;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{Any, AnyPool, Transaction, any::AnyPoolOptions};

pub use accounts::AccountKeyInput;
pub use changes::{Changed, Changes};
pub use keys::{Created, NewKey, Rotated};
pub use maintenance::{BrokenRow, VerifyReport};
pub use replicas::{HandOut, Replica};
pub use rewrap::{Rewrap, RewrapBatch, RewrapCursor};

use crate::error::{KeychainError, Result};

/// Name of the ledger's file in its directory.
const FILE: &str = "ledger.sqlite";
/// SQLite: one writer, and this many connections that only read.
const READERS: u32 = 4;
/// PostgreSQL: connections of one provider.
const CONNECTIONS: u32 = 16;

/// Where the ledger is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// SQLite, in the file `ledger.sqlite` of this directory (created if need be).
    Directory(PathBuf),
    /// PostgreSQL, by connection URL.
    Postgres(String),
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(…)"), // the URL may hold a password
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// The durable record. Cheap to clone; every clone is the same ledger.
#[derive(Clone)]
pub struct Ledger {
    engine: Engine,
    writer: AnyPool,
    reader: AnyPool,
    /// There are other replicas: what one of them does to a key, the others must hear of.
    replicated: Arc<AtomicBool>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger and brings its schema up to date. A schema from a newer version is refused.
    pub async fn open(location: &Location) -> Result<Self> {
        Self::open_at(location, schema::NEWEST).await
    }

    /// Opens a ledger of an earlier version of the schema, for tests of what becomes of it.
    #[doc(hidden)]
    pub async fn open_at(location: &Location, version: usize) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let ledger = match location {
            Location::Directory(directory) => {
                let url = schema::prepare_file(directory)?;
                // Writes wait for one another in this process at the pool, and for other processes at the file.
                let writer = pool(1, SQLITE_WRITER).connect(&url).await.deed("open")?;
                let reader = pool(READERS, SQLITE_READER).connect_lazy(&url).deed("open")?;
                Self { engine: Engine::Sqlite, writer, reader, replicated: Arc::default() }
            }
            Location::Postgres(url) => {
                let pool = pool(CONNECTIONS, POSTGRES).connect(url).await.deed("connect to")?;
                Self {
                    engine: Engine::Postgres,
                    writer: pool.clone(),
                    reader: pool,
                    replicated: Arc::default(),
                }
            }
        };
        schema::migrate(ledger.engine, &ledger.writer, version).await?;
        Ok(ledger)
    }

    /// Closes all connections, after what they are doing.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Starts a mutation.
    async fn write(&self) -> Result<Tx> {
        let begin = match self.engine {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN",
        };
        let inner = self.writer.begin_with(begin).await.deed("begin a change")?;
        Ok(Tx { inner, engine: self.engine, replicated: self.replicated.load(Ordering::Relaxed) })
    }
}

/// A mutation under way. Dropped without [`Tx::commit`], it never happened.
struct Tx {
    inner: Transaction<'static, Any>,
    engine: Engine,
    replicated: bool,
}

impl Tx {
    async fn commit(self) -> Result<()> {
        self.inner.commit().await.deed("commit a change")
    }

    /// `query` as it stands for SQLite, whose writer is alone anyway; with a row lock for PostgreSQL.
    fn locked(&self, plain: &'static str, locking: &'static str) -> &'static str {
        match self.engine {
            Engine::Sqlite => plain,
            Engine::Postgres => locking,
        }
    }
}

/// A query that locks what it reads, for [`Tx::locked`].
macro_rules! locked {
    ($tx:expr, $query:literal, $lock:literal) => {
        $tx.locked($query, concat!($query, " FOR ", $lock))
    };
}
use locked;

const SQLITE_WRITER: &[&str] = &[
    "PRAGMA busy_timeout = 15000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    // What is overwritten is overwritten in the file, not only unlinked.
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cache_size = -65536",
];
const SQLITE_READER: &[&str] = &[
    "PRAGMA busy_timeout = 15000",
    "PRAGMA query_only = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
];
const POSTGRES: &[&str] = &[
    // A server that answers before it has written would break "durable before visible".
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
    "SET default_transaction_isolation = 'read committed'",
    "SET lock_timeout = '30s'",
];

fn pool(connections: u32, settings: &'static [&'static str]) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_mins(1))
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for setting in settings {
                    sqlx::raw_sql(*setting).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
}

/// Names the deed that a database error interrupted.
trait Deed<T> {
    fn deed(self, deed: &'static str) -> Result<T>;
}

impl<T> Deed<T> for Result<T, sqlx::Error> {
    fn deed(self, deed: &'static str) -> Result<T> {
        self.map_err(|source| KeychainError::Database { deed, source })
    }
}
