//! The unix socket: one caller at a time, and batches. `cargo bench --workspace --bench socket`.
//!
//! The raw bound is a ping-pong of the same bytes over a unix socket between two threads with blocking calls, in the same
//! minute. Client and server share this machine's cores, as they do beside an application.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use common::TestEdge;
use hdrhistogram::Histogram;
use openkcm_edge_client::{BatchSession, EdgeClient, Inputs, Key};

const CALLS: usize = 5_000;
const ROUNDS: usize = 4;

fn row(what: &str, times: &Histogram<u64>, raw: &Histogram<u64>) {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| micros(times.value_at_quantile(q)));
    let ratio = p50 / micros(raw.value_at_quantile(0.5));
    println!("| {what} | {p50:.1} µs | {p99:.1} µs | {p999:.1} µs | {ratio:.1} × |");
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).unwrap()
}

/// The bound: two threads, blocking reads and writes, nothing else.
fn ping_pong(times: &mut Histogram<u64>) {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 1200];
        while far.read_exact(&mut buffer).is_ok() {
            far.write_all(&buffer).unwrap();
        }
    });
    let mut buffer = [0; 1200];
    for _ in 0..CALLS {
        let start = Instant::now();
        near.write_all(&buffer).unwrap();
        near.read_exact(&mut buffer).unwrap();
        times.record(start.elapsed().as_nanos() as u64).unwrap();
    }
    drop(near);
    echo.join().unwrap();
}

async fn unary(app: &EdgeClient, key: &Key, times: &mut Histogram<u64>) {
    let plaintext = [5; 1024];
    for _ in 0..CALLS {
        let start = Instant::now();
        app.encrypt(key, &plaintext, b"row 17").await.unwrap();
        times.record(start.elapsed().as_nanos() as u64).unwrap();
    }
}

async fn session(session: &mut BatchSession, key: &Key, times: &mut Histogram<u64>) {
    let plaintext = [[5; 1024]];
    for _ in 0..CALLS {
        let inputs = Inputs::try_from(plaintext.as_slice()).unwrap();
        let start = Instant::now();
        session.encrypt(key, inputs, Inputs::default()).await.unwrap();
        times.record(start.elapsed().as_nanos() as u64).unwrap();
    }
}

/// Batches in flight on one session, and how many operations a second come out.
async fn throughput(app: &EdgeClient, key: &Key, size: usize, per_batch: usize) -> f64 {
    const IN_FLIGHT: usize = 4;
    let mut session = app.batches().await.unwrap();
    let inputs: Inputs = vec![vec![5u8; size]; per_batch].as_slice().try_into().unwrap();
    for _ in 0..IN_FLIGHT {
        session.send_encrypt(key, inputs.clone(), Inputs::default()).await.unwrap();
    }
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        let (_, outputs) = session.receive().await.unwrap();
        done +=
            outputs.iter().filter(|output| output.as_ref().is_ok_and(|output| output.len() > size)).count();
        session.send_encrypt(key, inputs.clone(), Inputs::default()).await.unwrap();
    }
    done as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    let key = Key::new("tenant-root-acme", "payments/db");
    // The edge runs as it does in `run`; the application has a runtime of its own, on one thread.
    let server = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let edge = server.block_on(async { TestEdge::start().await });
    let application = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    application.block_on(async {
        let app = edge.app().await;
        let mut batches = app.batches().await.unwrap();
        unary(&app, &key, &mut histogram()).await;
        let (mut raw, mut calls, mut open) = (histogram(), histogram(), histogram());
        for _ in 0..ROUNDS {
            ping_pong(&mut raw);
            unary(&app, &key, &mut calls).await;
            session(&mut batches, &key, &mut open).await;
        }
        println!("| one caller, 1 KiB | p50 | p99 | p99.9 | p50 to raw |\n|---|---|---|---|---|");
        row("raw ping-pong, 1,200 B", &raw, &raw);
        row("unary Encrypt", &calls, &raw);
        row("one operation on an open Batch stream", &open, &raw);
        println!("\n| batched | operations/s |\n|---|---|");
        for (size, per_batch) in [(64, 1024), (256, 1024), (1024, 512)] {
            let mut best = vec![];
            for _ in 0..3 {
                best.push(throughput(&app, &key, size, per_batch).await);
            }
            best.sort_by(f64::total_cmp);
            println!(
                "| encrypt {size} B, {per_batch} a message | {:.0} (of 3: {:.0} to {:.0}) |",
                best[1], best[0], best[2]
            );
        }
    });
    println!("\nload {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
}
