//! A real edge process that is stopped with SIGSTOP while its key is taken back.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use common::{Edge, PATIENCE, Provider, any, config, key, serve};
use openkcm_edge::{
    agent::AgentConfig,
    clock::{BootClock, Clock},
};
use openkcm_orchestrator::{Desired, EvictReason};
use rustix::process::{Pid, Signal, kill_process};

const LEASE: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_millis(100);

/// Not a test of its own: the edge process of the tests below, which start this binary again with `EDGE_HOME` set. It
/// writes a line for every attempt to use the key that succeeds: the moment, on the boot clock, at which it began.
#[tokio::test]
async fn edge_process() {
    let Ok(home) = std::env::var("EDGE_HOME") else { return };
    let edge = Edge::with(AgentConfig {
        name: "edge-1".into(),
        orchestrators: vec![std::env::var("EDGE_ORCHESTRATOR").unwrap()],
        data_dir: PathBuf::from(home),
        join_token: std::env::var("EDGE_TOKEN").ok().map(|token| token.parse().unwrap()),
        authority_file: None,
        tenants: Vec::new(),
        region: None,
    });
    loop {
        let began = BootClock.now().as_nanos();
        if edge.holds(&key("db")).is_some() {
            println!("used {began}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Process(Child, Receiver<u64>);

impl Process {
    fn start(provider: &Provider, home: &std::path::Path) -> Self {
        let of = config(provider, home, "edge-1", None);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "edge_process", "--nocapture", "--test-threads=1"])
            .env("EDGE_HOME", &of.data_dir)
            .env("EDGE_ORCHESTRATOR", &of.orchestrators[0])
            .env("EDGE_TOKEN", provider.token(&any()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The first line shares its line with what the test harness prints.
                if let Some((_, began)) = line.split_once("used ")
                    && sender.send(began.parse().unwrap()).is_err()
                {
                    return;
                }
            }
        });
        Self(child, receiver)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for a use that began after `moment`.
    fn used_after(&self, moment: u64) {
        while self.1.recv_timeout(PATIENCE).expect("the key is never used again") <= moment {}
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_edge_wakes_up_refusing() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let edge = Process::start(&provider, home.path());
    edge.used_after(0);

    edge.signal(Signal::STOP);
    let decided = BootClock.now().as_nanos();
    provider.orchestrator.set(key("db"), Desired::Evicted { reason: EvictReason::Disabled });
    assert!(
        !provider.orchestrator.distribution(&key("db")).is_evicted(),
        "the stopped edge may still have a lease"
    );
    common::eventually("the orchestrator knows that the lease is over", || {
        provider.orchestrator.distribution(&key("db")).is_evicted()
    })
    .await;
    let claimed = BootClock.now().as_nanos();
    edge.signal(Signal::CONT);

    // It comes back by itself, and until it is served again, nothing was used.
    common::eventually("the edge is back", || {
        provider.orchestrator.edges().iter().any(|edge| edge.connected)
    })
    .await;
    tokio::time::sleep(LEASE).await;
    let served = BootClock.now().as_nanos();
    provider.orchestrator.set(key("db"), serve(1));
    let bound = claimed.min(decided + (LEASE + MARGIN).as_nanos() as u64);
    loop {
        let began = edge.1.recv_timeout(PATIENCE).expect("the key is never used again");
        assert!(began <= bound || began >= served, "used {} ns after it was surely evicted", began - bound);
        if began >= served {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_edge_whose_key_was_not_taken_recovers_by_itself() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let edge = Process::start(&provider, home.path());
    edge.used_after(0);
    edge.signal(Signal::STOP);
    tokio::time::sleep(LEASE * 2).await;
    edge.signal(Signal::CONT);
    edge.used_after(BootClock.now().as_nanos());
}
