//! A real process that creates, rotates, deletes and re-wraps is ended without warning, again and again; another
//! process (this one) keeps the journal of what it was told. 0 versions lost, 0 numbers used twice.
//!
//! `OPENKCM_KILLS=1000` for the full set. With the feature `crash-points` it also dies at every named point.
#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names)]

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use common::{LONG, at, wrapped};
use openkcm_keychain::{
    AccountKeys, Created, Ledger, Location, Rotated, SecretKey,
    rows::{AccountKeyState, KeyId, TenantRow},
    seal::Sealer,
};
use uuid::Uuid;

const KEYS: u32 = 4;
/// After so many kills a new ledger is begun: each worker re-wraps all that the ones before it left.
const LIFE: u32 = 100;

/// The worker's "root key": an account key that follows from its version, so that a new process has it again.
fn account_key(version: u32) -> SecretKey {
    let mut bytes = [u8::try_from(version % 251).unwrap(); 32];
    bytes[..4].copy_from_slice(&version.to_be_bytes());
    SecretKey::from_bytes(&mut bytes).unwrap()
}

fn main() {
    if let Ok(place) = std::env::var("OPENKCM_TEST_WORKER") {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(work(&location(&place)));
        return;
    }
    let kills: u32 = std::env::var("OPENKCM_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let directory = tempfile::tempdir().unwrap();
    kill_again_and_again("SQLite", kills, |life| {
        directory.path().join(life.to_string()).to_str().unwrap().to_owned()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    kill_again_and_again("PostgreSQL", kills, |_| runtime.block_on(common::postgres::new_database()));
}

fn location(place: &str) -> Location {
    if place.starts_with("postgres:") {
        Location::Postgres(place.to_owned())
    } else {
        Location::Directory(place.into())
    }
}

fn kill_again_and_again(engine: &str, kills: u32, new_place: impl Fn(u32) -> String) {
    let (mut deaths, mut told) = (0, 0);
    for first in (0..kills).step_by(LIFE as usize) {
        let place = new_place(first / LIFE);
        let mut journal = Journal::default();
        let life = first..kills.min(first + LIFE);
        for n in life.clone() {
            // Some acknowledgements into the run, and then anywhere in what follows.
            let kill = Kill { lines: n * 7 % 20, then: Duration::from_micros(u64::from(n * 7919 % 20_000)) };
            journal.follow(&place, None, Some(kill));
            // Everything now and then and at the end: what is lost stays lost.
            journal.check(&place, n % 50 == 0 || n + 1 == life.end);
        }
        deaths += life.len();
        #[cfg(feature = "crash-points")]
        if life.end == kills {
            for point in openkcm_keychain::crash::CRASH_POINTS {
                journal.follow(&place, Some(point), None);
                journal.check(&place, true);
                deaths += 1;
            }
        }
        assert!(life.len() < 5 || journal.told.len() > 5, "the worker never came to work");
        told += journal.told.len();
        if life.end < kills {
            println!("{engine}: {deaths} deaths so far, {told} versions");
        }
    }
    println!(
        "{engine}: {deaths} deaths, {told} versions acknowledged: 0 lost, 0 used twice, 0 used before durable"
    );
}

/// When to end a worker.
struct Kill {
    lines: u32,
    then: Duration,
}

/// What the worker acknowledged. A line is written after the ledger said that it is durable.
#[derive(Default)]
struct Journal {
    told: BTreeMap<(KeyId, u32), String>,
    /// What was told since the last check.
    fresh: Vec<(KeyId, u32)>,
    destroyed: Vec<KeyId>,
}

impl Journal {
    /// Lets the worker run until it is killed, or dies at `point`, and takes down all that it said.
    fn follow(&mut self, place: &str, point: Option<&str>, kill: Option<Kill>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("OPENKCM_TEST_WORKER", place).stdout(Stdio::piped()).stderr(Stdio::inherit());
        if let Some(point) = point {
            command.env("OPENKCM_CRASH_AT", point);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        if let Some(kill) = kill {
            for _ in 0..kill.lines {
                if let Some(line) = lines.next() {
                    self.take_down(&line.unwrap());
                }
            }
            std::thread::sleep(kill.then);
            child.kill().unwrap(); // SIGKILL
        }
        // What it said before it died counts, also when nobody had read it yet.
        for line in lines {
            self.take_down(&line.unwrap());
        }
        assert!(!child.wait().unwrap().success(), "the worker ended by itself, {point:?} was never reached");
    }

    fn take_down(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["version", key, version, material, "."] => {
                let id = (KeyId(key.parse().unwrap()), version.parse().unwrap());
                let before = self.told.insert(id, material.to_owned());
                assert!(before.is_none(), "{id:?} was used twice");
                self.fresh.push(id);
            }
            ["destroyed", key, "."] => self.destroyed.push(KeyId(key.parse().unwrap())),
            _ => {} // the last line may be cut off
        }
    }

    /// Every acknowledged version, or every one since the last check, is there and opens to what it was.
    fn check(&mut self, place: &str, everything: bool) {
        let fresh = std::mem::take(&mut self.fresh);
        let ids = if everything { self.told.keys().copied().collect() } else { fresh };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ledger = Ledger::open(&location(place)).await.unwrap();
            for (key, version) in &ids {
                let material = &self.told[&(*key, *version)];
                let row = ledger.version(*key, *version).await.unwrap();
                let Some(sealed) = &row.sealed else {
                    let destroyed = ledger.key_by_id(*key).await.unwrap().unwrap().destroyed_at;
                    assert!(destroyed.is_some(), "{key} v{version} is lost");
                    continue;
                };
                assert!(!self.destroyed.contains(key), "{key} v{version} came back from destruction");
                let account = ledger.key_by_id(*key).await.unwrap().unwrap().account;
                let place = ledger.place(account).await.unwrap();
                let sealer =
                    Sealer::new(place, row.account_key_version, &account_key(row.account_key_version));
                let opened = sealer.open(*key, *version, sealed).unwrap();
                assert_eq!(&opened.expose(|bytes| hex::encode(bytes)), material, "{key} v{version}");
            }
            if everything {
                let report = ledger.verify(&AccountKeys::new(LONG)).await.unwrap();
                assert_eq!(report.broken, None);
            }
            ledger.close().await;
        });
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // One write: the reader gets a whole line or knows that it does not.
    if out.write_all(format!("{line} .\n").as_bytes()).is_err() {
        std::process::exit(0);
    }
    let _ = out.flush();
}

async fn tell(ledger: &Ledger, sealer: &Sealer, key: KeyId, version: u32) {
    let row = ledger.version(key, version).await.unwrap();
    let opened = sealer.open(key, version, &row.sealed.unwrap()).unwrap();
    say(&format!("version {key} {version} {}", opened.expose(|bytes| hex::encode(bytes))));
}

/// Goes through every mutation, round after round. Whatever the last worker left half done is finished first.
async fn work(location: &Location) {
    let ledger = Ledger::open(location).await.unwrap();
    let tenant = ledger.bind_tenant(&common::cluster("c1"), "root:acme", at(0)).await.unwrap();
    for round in 0..50 {
        let sealer = active_account_key(&ledger, &tenant).await;
        let now = at(1000 + round);
        for n in 0..KEYS {
            let mut new = common::Chain::key_of(&tenant, sealer.place().account, &format!("k{n}"));
            new.spec = serde_json::json!({"round": round});
            let (key, made) = match ledger.create_key(&new, &sealer, now).await.unwrap() {
                Created::New(row) => (row, true),
                Created::Existing(row) | Created::Recovered(row) => (row, false),
            };
            if made {
                tell(&ledger, &sealer, key.id, key.current_version).await;
            }
            let request = Uuid::now_v7().to_string();
            let rotated =
                ledger.rotate(key.id, key.current_version, Some(&request), None, &sealer, now).await.unwrap();
            if let Rotated::New(row) = rotated {
                tell(&ledger, &sealer, key.id, row.current_version).await;
            }
            ledger.record_spec(key.id, &serde_json::json!({"disabled": round}), None, at(9)).await.unwrap();
        }
        let victim = ledger.key(tenant.id, "payments", "k0").await.unwrap().unwrap();
        ledger.schedule_deletion(victim.id, at(1000), now).await.unwrap();
        if round % 3 == 0 {
            for row in ledger.destroy_due(10, now).await.unwrap() {
                say(&format!("destroyed {}", row.id));
            }
        } else {
            ledger.undelete(victim.id, now).await.unwrap();
        }
        rekey(&ledger, &tenant, &sealer).await;
    }
}

async fn active_account_key(ledger: &Ledger, tenant: &TenantRow) -> Arc<Sealer> {
    let account = ledger.upsert_account(tenant.id, "aws", &serde_json::json!({}), at(0)).await.unwrap();
    let account = match account.current_key_version {
        Some(_) => account,
        None => ledger.install_account_key(account.id, &wrapped(1, "aws"), at(0)).await.unwrap(),
    };
    let version = account.current_key_version.unwrap();
    let sealer =
        Arc::new(Sealer::new(ledger.place(account.id).await.unwrap(), version, &account_key(version)));
    for key in account.keys.iter().filter(|key| key.state == AccountKeyState::Retiring) {
        let from = Sealer::new(sealer.place().clone(), key.version, &account_key(key.version));
        rewrap(ledger, &Arc::new(from), &sealer).await;
    }
    sealer
}

async fn rekey(ledger: &Ledger, tenant: &TenantRow, from: &Arc<Sealer>) {
    let account = from.place().account;
    let row = ledger.account_by_id(account).await.unwrap().unwrap();
    let old = row.current_key().unwrap().wrapped.clone().unwrap();
    let renewed = wrapped(from.account_key_version(), "aws, renewed");
    ledger.replace_wrapping(account, &renewed, &old, at(4)).await.unwrap();
    let version = from.account_key_version() + 1;
    ledger.install_account_key(from.place().account, &wrapped(version, "aws"), at(5)).await.unwrap();
    let to = active_account_key(ledger, tenant).await;
    assert_eq!(to.account_key_version(), version);
}

async fn rewrap(ledger: &Ledger, from: &Arc<Sealer>, to: &Arc<Sealer>) {
    let mut cursor = None;
    loop {
        let batch = ledger.rewrap_after(from, to, cursor, 7).await.unwrap();
        assert_eq!(batch.failed, 0);
        cursor = batch.next;
        if cursor.is_none() {
            break;
        }
    }
    ledger.erase_account_key(from.place().account, from.account_key_version(), at(6)).await.unwrap();
}
