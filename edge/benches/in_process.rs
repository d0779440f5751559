//! In-process speed, each figure beside the raw bound of the same minute: aws-lc-rs AES-256-GCM with one reused key.
//!
//! `cargo bench --workspace --bench in_process`. Rounds of raw and ours take turns, so a busy neighbour hits both; the
//! table shows medians over rounds.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use openkcm_edge::{
    caller::{Caller, Home},
    engine::{Direction, Engine},
    envelope::XaesKey,
    store::{Address, EvictReason, KeyEntry, KeyName, KeyStore, KeyVersion, Material, Usable},
};
use openkcm_secret::SecretKey;

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(60);
const AAD: &[u8] = b"table=cards;row=17";

fn entry(number: usize, revision: u64) -> KeyEntry {
    let mut key_id = [0; 16];
    key_id[..8].copy_from_slice(&number.to_be_bytes());
    KeyEntry {
        cluster: "2x7k1pq9vd3mzs0a".parse().unwrap(),
        tenant_name: "tenant-root-acme".into(),
        namespace: "payments".into(),
        name: format!("key-{number}"),
        key_id,
        current: 1,
        versions: vec![KeyVersion {
            version: 1,
            material: Material::Present { key: SecretKey::random().unwrap(), usable: Usable::EncryptDecrypt },
        }],
        clients: Vec::new(),
        revision,
    }
}

fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Nanoseconds of one call, measured over a round.
fn round(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0u32;
    while start.elapsed() < ROUND {
        for _ in 0..64 {
            call();
        }
        calls += 64;
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    engine: Engine,
    names: Vec<String>,
    caller: Caller,
}

impl Bench {
    fn new(keys: usize) -> (Self, f64) {
        let store = Arc::new(KeyStore::new());
        store.renew_lease(store.now().saturating_add(Duration::from_hours(1)));
        let before = rss();
        for number in 0..keys {
            store.put(entry(number, 1)).unwrap();
        }
        let memory = (rss() - before) as f64 / keys as f64;
        let home = Home { cluster: "2x7k1pq9vd3mzs0a".parse().unwrap(), namespace: "payments".into() };
        let caller = Caller::new("https://kcp.default.svc", "system:serviceaccount:payments:app", Some(home));
        let names = (0..keys).map(|number| format!("key-{number}")).collect();
        (Self { engine: Engine::new(store), names, caller }, memory)
    }

    fn address(&self, number: usize) -> Address<'_> {
        Address { tenant: "tenant-root-acme", namespace: "payments", name: &self.names[number] }
    }
}

/// Visits all keys in an order that no prefetcher guesses.
struct Walk(usize, usize);

impl Walk {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % self.1
    }
}

fn table(size: usize, keys: usize, evicting: bool) {
    let (bench, _) = Bench::new(keys);
    let raw_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let plaintext = vec![5; size];
    let mut buffer = plaintext.clone();
    let envelopes: Vec<Vec<u8>> = (0..keys.min(4096))
        .map(|number| {
            let mut out = Vec::new();
            bench.engine.encrypt(bench.address(number), &bench.caller, &plaintext, AAD, &mut out).unwrap();
            out
        })
        .collect();
    let stop = AtomicBool::new(false);
    let (mut raw_seal, mut raw_open, mut seal, mut open) = (vec![], vec![], vec![], vec![]);
    std::thread::scope(|scope| {
        if evicting {
            // Keys beside the measured ones come and go all the time.
            scope.spawn(|| {
                let mut revision = 2;
                while !stop.load(Ordering::Relaxed) {
                    for number in keys..keys + 100 {
                        bench.engine.store().put(entry(number, revision)).unwrap();
                    }
                    for number in keys..keys + 100 {
                        let name = KeyName {
                            cluster: "2x7k1pq9vd3mzs0a".parse().unwrap(),
                            namespace: "payments".into(),
                            name: format!("key-{number}"),
                        };
                        bench.engine.store().evict(&name, EvictReason::Disabled);
                    }
                    revision += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let mut walk = Walk(1, keys);
        let mut some = Walk(2, envelopes.len());
        let mut out = Vec::with_capacity(size + 256);
        for _ in 0..ROUNDS {
            raw_seal.push(round(|| {
                let tag = raw_key.seal_in_place_separate_tag(nonce(), Aad::from(AAD), &mut buffer).unwrap();
                let _ = black_box(tag);
            }));
            seal.push(round(|| {
                out.clear();
                let address = bench.address(walk.next());
                bench.engine.encrypt(address, &bench.caller, &plaintext, AAD, &mut out).unwrap();
                black_box(&out);
            }));
            let mut sealed = plaintext.clone();
            raw_key.seal_in_place_append_tag(nonce(), Aad::from(AAD), &mut sealed).unwrap();
            raw_open.push(round(|| {
                // Decryption is in place, here and below: both copy the ciphertext first.
                out.clear();
                out.extend_from_slice(&sealed);
                black_box(raw_key.open_in_place(nonce(), Aad::from(AAD), &mut out).unwrap());
            }));
            open.push(round(|| {
                let number = some.next();
                out.clear();
                out.extend_from_slice(&envelopes[number]);
                let address = bench.address(number);
                black_box(bench.engine.decrypt(address, &bench.caller, &mut out, AAD).unwrap());
            }));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let during = if evicting { ", during evictions" } else { "" };
    for (what, raw, ours) in [("encrypt", &raw_seal, &seal), ("decrypt", &raw_open, &open)] {
        let ratio = median(raw.iter().zip(ours).map(|(raw, ours)| raw / ours).collect());
        let (raw, ours) = (median(raw.clone()), median(ours.clone()));
        println!(
            "| {what} {size} B, {keys} keys{during} | {raw:.0} ns | {ours:.0} ns | {:.2} M/s | {:.0} % |",
            1e3 / ours,
            ratio * 100.0
        );
    }
}

fn batch(size: usize) {
    let (bench, _) = Bench::new(1);
    let raw_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let plaintext = vec![5; size];
    let mut buffer = plaintext.clone();
    let inputs = vec![plaintext.as_slice(); 256];
    let (mut raws, mut ours) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        raws.push(round(|| {
            let nonce = Nonce::assume_unique_for_key([1; 12]);
            let _ =
                black_box(raw_key.seal_in_place_separate_tag(nonce, Aad::from(AAD), &mut buffer).unwrap());
        }));
        let one = round(|| {
            black_box(bench.engine.batch(
                Direction::Encrypt,
                bench.address(0),
                &bench.caller,
                &inputs,
                |_| AAD,
            ));
        });
        ours.push(one / 256.0);
    }
    let ratio = median(raws.iter().zip(&ours).map(|(raw, ours)| raw / ours).collect());
    let (raw, ours) = (median(raws), median(ours));
    println!(
        "| encrypt {size} B in batches of 256 | {raw:.0} ns | {ours:.0} ns | {:.2} M/s | {:.0} % |",
        1e3 / ours,
        ratio * 100.0
    );
}

/// What the derived key of each message costs by itself: nothing of ours is in these rows.
fn parts() {
    let secret = SecretKey::random().unwrap();
    let key = [7; 32];
    let mut buffer = vec![5; 1024];
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let rows: [(&str, &mut dyn FnMut()); 3] = [
        ("aws-lc-rs: new AES-256-GCM key", &mut || {
            black_box(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, black_box(&key)).unwrap()));
        }),
        ("aws-lc-rs: new AES-256-GCM key, seal 1024 B", &mut || {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, black_box(&key)).unwrap());
            let _ = black_box(key.seal_in_place_separate_tag(nonce(), Aad::from(AAD), &mut buffer).unwrap());
        }),
        ("aes: expand the version's key", &mut || {
            black_box(XaesKey::expand(&secret));
        }),
    ];
    for (name, call) in rows {
        let time = median((0..ROUNDS).map(|_| round(&mut *call)).collect());
        println!("| {name} | | {time:.0} ns | | |");
    }
}

fn main() {
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    let (_held, memory) = Bench::new(100_000);
    println!("memory per key, 100,000 keys of one version: {memory:.0} B\n");
    println!("| what | raw | ours | rate, one core | ratio |\n|---|---|---|---|---|");
    for keys in [1, 1_000, 100_000] {
        table(1024, keys, false);
    }
    table(1024, 1_000, true);
    table(16 * 1024, 1, false);
    table(16 * 1024, 1_000, false);
    for size in [64, 1024] {
        batch(size);
    }
    parts();
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
}
