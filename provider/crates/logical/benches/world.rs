//! How large and how fast: a synthetic virtual workspace in a second process, real kinds, eight objects to a
//! workspace (binding, tenant, account, five keys with their status).
//!
//! `cargo bench --workspace --bench world [-- WORKSPACES…]`; default 1000 10000 100000. Each size runs in a
//! fresh process, because memory is not given back. Prints a table; asserts nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kcp_client_rs::{LogicalCluster, apis::ApiBinding};
use kube::ResourceExt;
use openkcm_apis::{Account, ServiceEncryptionKey, Tenant};
use openkcm_logical::{CancellationToken, Laned, Outcome, Queue, World, trim_metadata};

const EVENTS: u64 = 200_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => synthetic::serve(),
        Some("measure") => {
            runtime().block_on(measure(arguments[1].parse().unwrap(), arguments[2] == "packed"));
        }
        _ => table(&arguments),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn table(sizes: &[String]) {
    let sizes =
        if sizes.is_empty() { vec!["1000".into(), "10000".into(), "100000".into()] } else { sizes.to_vec() };
    println!(
        "{:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>11}",
        "stored",
        "workspaces",
        "objects",
        "cold s",
        "RSS MiB",
        "B/object",
        "relist s",
        "peak MiB",
        "events/s",
        "read-all/s"
    );
    for size in sizes {
        let me = std::env::current_exe().unwrap();
        for stored in ["typed", "packed"] {
            assert!(Command::new(&me).args(["measure", &size, stored]).status().unwrap().success());
        }
    }
    runtime().block_on(queue());
}

/// Ends the server with the process that needs it.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

async fn measure(workspaces: u64, packed: bool) {
    let me = std::env::current_exe().unwrap();
    let mut server = Server(Command::new(me).arg("serve").stdout(Stdio::piped()).spawn().unwrap());
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.0.stdout.take().unwrap()), &mut port)
        .unwrap();
    let port = port.trim();
    // The number of workspaces travels in the path, so that the server keeps no state.
    let config = kube::Config::new(format!("http://127.0.0.1:{port}/{workspaces}").parse().unwrap());
    let before = memory("VmRSS");

    let mut builder = World::builder(config, "openkcm.io");
    // Both read every key as its type.
    let read_all: Box<dyn Fn() -> usize> = if packed {
        // What OpenKCM's provider decides about bindings.
        builder.watch_as(|binding: ApiBinding| {
            let path: Option<Box<str>> =
                binding.annotations().get("kcp.io/path").map(|path| path.as_str().into());
            (binding.is_bound(), binding.metadata.deletion_timestamp.is_some(), path)
        });
        builder.watch_packed(trim_metadata, |_: &Tenant| ());
        builder.watch_packed(trim_metadata, |account: &Account| account.status.as_ref()?.phase);
        let keys = builder.watch_packed(trim_metadata, |key: &ServiceEncryptionKey| {
            let account: Box<str> = key.spec.account_ref.name.as_str().into();
            (account, key.status.as_ref().and_then(|status| status.state))
        });
        Box::new(move || {
            let clusters = keys.clusters();
            clusters.iter().flat_map(|cluster| keys.list(cluster)).filter(|key| key.open().is_some()).count()
        })
    } else {
        builder.watch::<ApiBinding>(trim_metadata);
        builder.watch::<Tenant>(trim_metadata);
        builder.watch::<Account>(trim_metadata);
        let keys = builder.watch::<ServiceEncryptionKey>(trim_metadata);
        Box::new(move || keys.clusters().iter().map(|cluster| keys.list(cluster).len()).sum())
    };
    let heard = Arc::new(AtomicU64::new(0));
    let count = heard.clone();
    builder.on_change(move |_| {
        count.fetch_add(1, Relaxed);
    });
    let (world, driver) = builder.build().unwrap();
    let shutdown = CancellationToken::new();
    let begun = Instant::now();
    let driver = tokio::spawn(driver.run(shutdown.clone()));
    world.wait_synced().await;
    let cold = begun.elapsed();
    let objects = world.metrics().objects;
    assert_eq!(objects, workspaces * 8);
    let rss = memory("VmRSS") - before;

    // Every key of a stretch of workspaces changes, over and over.
    let wait_for = async |wanted: u64| {
        while heard.load(Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let begun = Instant::now();
    let at_rest = heard.load(Relaxed);
    tell(port, &format!("burst/{EVENTS}")).await;
    wait_for(at_rest + EVENTS).await;
    let events = EVENTS as f64 / begun.elapsed().as_secs_f64();

    // All watches are refused with 410: everything is listed again over what is there.
    let (lists, begun) = (world.metrics().lists, Instant::now());
    tell(port, "expire").await;
    while world.metrics().lists < lists + 4 || world.metrics().open_watches < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let relist = begun.elapsed();
    let peak = memory("VmHWM");

    let begun = Instant::now();
    let reads = read_all() as f64 / begun.elapsed().as_secs_f64();

    println!(
        "{:>8} {workspaces:>10} {objects:>9} {:>9.2} {:>9.1} {:>9} {:>9.2} {:>10.1} {events:>10.0} {reads:>11.0}",
        if packed { "packed" } else { "typed" },
        cold.as_secs_f64(),
        mib(rss),
        rss / objects,
        relist.as_secs_f64(),
        mib(peak),
    );
    shutdown.cancel();
    driver.await.unwrap().unwrap();
}

async fn tell(port: &str, what: &str) {
    let config = kube::Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
    let request = http::Request::post(format!("/{what}")).body(vec![]).unwrap();
    kube::Client::try_from(config).unwrap().request_text(request).await.unwrap();
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(LogicalCluster, u32);

impl Laned for Key {
    type Lane = LogicalCluster;
    fn lane(&self) -> LogicalCluster {
        self.0.clone()
    }
}

async fn queue() {
    const LANES: u32 = 10_000;
    const KEYS: u32 = 50;
    let queue = Queue::<Key>::default();
    let clusters: Vec<LogicalCluster> = (0..LANES).map(|n| format!("c{n}").parse().unwrap()).collect();
    let begun = Instant::now();
    for key in 0..KEYS {
        clusters.iter().for_each(|cluster| queue.add(Key(cluster.clone(), key)));
    }
    let total = u64::from(LANES * KEYS);
    let adds = total as f64 / begun.elapsed().as_secs_f64();
    let (stop, done) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let (end, begun) = (stop.clone(), Instant::now());
    let work = move |_key: Key| {
        if done.fetch_add(1, Relaxed) + 1 == total {
            end.cancel();
        }
        async { Outcome::Done }
    };
    queue.run(2, stop, work).await.unwrap();
    let runs = total as f64 / begun.elapsed().as_secs_f64();
    println!("queue: {adds:.0} adds/s, {runs:.0} empty runs/s with 2 workers, {total} keys in {LANES} lanes");
}

/// A field of /proc/self/status, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
