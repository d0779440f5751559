//! The ledger in numbers, each beside a raw bound of the same minute. `cargo bench --workspace --bench ledger`.
//!
//! `OPENKCM_BENCH_KEYS` (default 1,000,000) sets the size of the big ledger, `OPENKCM_BENCH_POSTGRES=1` adds
//! PostgreSQL (a real server with fsync on).
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_wrap)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::{Chain, World, at, chain, wrapped};
use openkcm_keychain::{Ledger, SecretKey, rows::KeyId, seal::Sealer};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use uuid::Uuid;

const WINDOW: Duration = Duration::from_secs(3);
const ROWS: usize = 500;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keys = std::env::var("OPENKCM_BENCH_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    runtime.block_on(async {
        println!("{:<58}{:>14}{:>14}{:>8}", "", "ours", "raw bound", "ratio");
        rotations("SQLite", World::sqlite().await).await;
        if std::env::var_os("OPENKCM_BENCH_POSTGRES").is_some() {
            rotations("PostgreSQL", World::postgres().await).await;
        }
        rewrap_in_memory();
        big_ledger(keys).await;
    });
}

fn row(what: &str, ours: f64, bound: Option<f64>) {
    let (bound, ratio) = bound.map_or((String::new(), String::new()), |bound| {
        (format!("{bound:.0}"), format!("{:.2}", ours / bound))
    });
    println!("{what:<58}{ours:>14.0}{bound:>14}{ratio:>8}");
}

/// One rotation after the other, and one smallest possible durable transaction after the other.
async fn rotations(engine: &str, world: World) {
    let chain = chain(&world.ledger, "c1").await;
    let key = chain.create(&world.ledger, "db").await.id;
    let mut raw = world.raw().await;
    if world.is_sqlite() {
        sqlx::raw_sql("PRAGMA synchronous = FULL").execute(&mut raw).await.unwrap();
    }
    sqlx::raw_sql("CREATE TABLE bound (n BIGINT)").execute(&mut raw).await.unwrap();
    let (mut commits, mut rotations) = (0u32, 0u32);
    let (mut commit_time, mut rotation_time) = (Duration::ZERO, Duration::ZERO);
    while commit_time + rotation_time < WINDOW * 2 {
        let start = Instant::now();
        for _ in 0..50 {
            sqlx::query("INSERT INTO bound (n) VALUES (1)").execute(&mut raw).await.unwrap();
        }
        (commits, commit_time) = (commits + 50, commit_time + start.elapsed());
        let start = Instant::now();
        for _ in 0..50 {
            rotations += 1;
            world.ledger.rotate(key, rotations, None, None, &chain.sealer, at(5)).await.unwrap();
        }
        rotation_time += start.elapsed();
    }
    let per_second = |count: u32, time: Duration| f64::from(count) / time.as_secs_f64();
    row(
        &format!("rotations/s, {engine}; bound: commits/s"),
        per_second(rotations, rotation_time),
        Some(per_second(commits, commit_time)),
    );
}

fn rewrap_in_memory() {
    let key = || SecretKey::random().unwrap();
    let place = openkcm_keychain::seal::Place {
        cluster: common::cluster("2x7k1pq9vd3mzs0a"),
        tenant: openkcm_keychain::rows::TenantId(Uuid::now_v7()),
        account: openkcm_keychain::rows::AccountId(Uuid::now_v7()),
    };
    let (from, to) = (Sealer::new(place.clone(), 1, &key()), Sealer::new(place, 2, &key()));
    let versions: Vec<_> = (0..100_000)
        .map(|_| {
            let id = KeyId(Uuid::now_v7());
            (id, from.seal(id, 1, &key()).unwrap())
        })
        .collect();
    let start = Instant::now();
    for (id, sealed) in &versions {
        std::hint::black_box(from.rewrap(&to, *id, 1, sealed).unwrap());
    }
    let one = versions.len() as f64 / start.elapsed().as_secs_f64();
    // The bound: AES-256-GCM alone, 32 bytes opened and sealed with a prepared key and no place to bind.
    let raw = raw_open_and_seal(versions.len());
    row("re-wraps/s in memory, one core; bound: AES-GCM alone", one, Some(raw));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for half in versions.chunks(versions.len().div_ceil(2)) {
            let (from, to) = (&from, &to);
            scope.spawn(move || {
                for (id, sealed) in half {
                    std::hint::black_box(from.rewrap(to, *id, 1, sealed).unwrap());
                }
            });
        }
    });
    row("re-wraps/s in memory, two threads", versions.len() as f64 / start.elapsed().as_secs_f64(), None);
}

fn raw_open_and_seal(count: usize) -> f64 {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let mut sealed = vec![9u8; 32];
    key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).unwrap();
    let start = Instant::now();
    for _ in 0..count {
        let mut opened = sealed.clone();
        key.open_in_place(nonce(), Aad::empty(), &mut opened).unwrap();
        opened.truncate(32);
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut opened).unwrap();
        std::hint::black_box(&opened);
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Many keys: how big, how fast to open, to find what is due, to re-wrap.
async fn big_ledger(keys: usize) {
    let mut world = World::sqlite().await;
    let chain = chain(&world.ledger, "c1").await;
    fill(&world, &chain, keys).await;
    world.ledger.close().await;
    let mut raw = world.raw().await;
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut raw).await.unwrap();
    let sizes: Vec<(String, i64)> = sqlx::query_as(
        "SELECT name, SUM(pgsize) FROM dbstat WHERE name IN \
         (SELECT name FROM sqlite_master WHERE tbl_name IN ('versions', 'service_keys')) GROUP BY name",
    )
    .fetch_all(&mut raw)
    .await
    .unwrap_or_default();
    let bytes = |prefix: &str| -> f64 {
        sizes
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) || *name == format!("sqlite_autoindex_{prefix}_1"))
            .map(|(_, size)| *size as f64)
            .sum::<f64>()
            / keys as f64
    };
    row("bytes per version with its indexes", bytes("versions"), None);
    row("bytes per service key with its indexes", bytes("service_keys"), None);
    drop(raw);

    let before = resident();
    let start = Instant::now();
    world.ledger = Ledger::open(&world.location).await.unwrap();
    row(&format!("open a ledger of {keys} keys, µs"), start.elapsed().as_secs_f64() * 1e6, None);
    for limit in [1, 1000] {
        let start = Instant::now();
        let due = world.ledger.next_due(limit).await.unwrap();
        assert_eq!(due.len(), limit as usize);
        row(&format!("find the {limit} keys due next, µs"), start.elapsed().as_secs_f64() * 1e6, None);
    }
    row("memory for that, KiB", resident() - before, None);

    world.ledger.install_account_key(chain.account.id, &wrapped(2, "next"), at(9)).await.unwrap();
    let next = SecretKey::random().unwrap();
    let to = Arc::new(Sealer::new(chain.sealer.place().clone(), 2, &next));
    let raw = raw_updates(&world, keys).await;
    // What applications do meanwhile: look a version up and open it.
    let decrypts =
        tokio::spawn(decrypt_all_the_while(world.ledger.clone(), Arc::clone(&chain.sealer), Arc::clone(&to)));
    let (start, mut done) = (Instant::now(), 0);
    let mut rewrap = world.ledger.rewrap((*chain.sealer).clone(), (*to).clone(), 10_000);
    while let Some(batch) = rewrap.next().await.unwrap() {
        assert_eq!(batch.failed, 0);
        done += batch.done;
    }
    let time = start.elapsed().as_secs_f64();
    decrypts.abort();
    assert!(decrypts.await.unwrap_err().is_cancelled(), "a decrypt failed");
    row("re-wraps/s durable in SQLite; bound: plain UPDATEs", done as f64 / time, Some(raw));
    row(&format!("seconds for all {done}"), time, None);
    row("decrypts/s beside it, none failed", DECRYPTED.load(Relaxed) as f64 / time, None);
}

static DECRYPTED: AtomicU64 = AtomicU64::new(0);

/// One decrypt after the other, through the ledger and under whatever account key seals the version at that moment.
async fn decrypt_all_the_while(ledger: Ledger, from: Arc<Sealer>, to: Arc<Sealer>) {
    for due in ledger.next_due(1_000).await.unwrap().iter().cycle() {
        let row = ledger.version(due.key, 1).await.unwrap();
        let sealer = if row.account_key_version == 1 { &from } else { &to };
        assert!(sealer.opens(due.key, 1, row.sealed.as_deref().unwrap()), "a decrypt failed");
        DECRYPTED.fetch_add(1, Relaxed);
    }
}

/// The bound: the same bytes over as many rows of a table without any constraint, in transactions of the same size.
async fn raw_updates(world: &World, rows: usize) -> f64 {
    let mut raw = world.raw().await;
    let rows = rows.min(200_000);
    sqlx::raw_sql(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; \
         CREATE TABLE plain (n INTEGER PRIMARY KEY, sealed BLOB NOT NULL, by INTEGER NOT NULL)",
    )
    .execute(&mut raw)
    .await
    .unwrap();
    let fill = format!(
        "INSERT INTO plain SELECT value, randomblob(61), 1 FROM \
         (WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s WHERE value < {rows}) SELECT value FROM s)"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut raw).await.unwrap();
    let start = Instant::now();
    for first in (0..rows).step_by(10_000) {
        let update = format!(
            "UPDATE plain SET sealed = randomblob(61), by = 2 WHERE n > {first} AND n <= {}",
            first + 10_000
        );
        sqlx::raw_sql(AssertSqlSafe(update)).execute(&mut raw).await.unwrap();
    }
    let time = start.elapsed().as_secs_f64();
    sqlx::raw_sql("DROP TABLE plain").execute(&mut raw).await.unwrap();
    rows as f64 / time
}

/// Resident memory of this process, KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writes keys past the API, many rows at a time, through the same constraints.
async fn fill(world: &World, chain: &Chain, keys: usize) {
    let mut raw: AnyConnection = world.raw().await;
    sqlx::raw_sql("PRAGMA synchronous = OFF").execute(&mut raw).await.unwrap();
    let secret = SecretKey::random().unwrap();
    let mut tx = raw.begin().await.unwrap();
    for first in (0..keys).step_by(ROWS) {
        let ids: Vec<_> = (first..keys.min(first + ROWS)).map(|n| (n, KeyId(Uuid::now_v7()))).collect();
        let places = |width: usize, fixed: &str| -> String {
            let group = |n: usize| {
                (0..width).map(|c| format!("${}", n * width + c + 1)).collect::<Vec<_>>().join(",")
            };
            (0..ids.len()).map(|n| format!("({}{fixed})", group(n))).collect::<Vec<_>>().join(",")
        };
        let sql = format!(
            "INSERT INTO service_keys (seq, id, name, next_rotation, tenant, account, namespace, spec, created_at, \
             current_version, last_rotation) VALUES {}",
            places(4, ",1,1,'payments','{\"rotationSchedule\":\"30 Days\"}',0,1,0")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (n, id) in &ids {
            let due = (*n as i64).wrapping_mul(2_654_435_761) % 2_592_000;
            query =
                query.bind(*n as i64 + 1).bind(id.0.as_bytes().to_vec()).bind(format!("key-{n}")).bind(due);
        }
        query.execute(&mut *tx).await.unwrap();
        let sql = format!(
            "INSERT INTO versions (service_key, sealed, version, account, account_key_version, state, created_at) \
             VALUES {}",
            places(2, ",1,1,1,'Active',1767225600000000")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (n, id) in &ids {
            query = query.bind(*n as i64 + 1).bind(chain.sealer.seal(*id, 1, &secret).unwrap());
        }
        query.execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}
