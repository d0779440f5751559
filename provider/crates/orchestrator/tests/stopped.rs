//! A real edge process that is stopped with SIGSTOP or cut off, in one direction or both, while its key is taken back.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use common::{Edge, PATIENCE, Provider, any, config, key, link::Link, serve, serve_with};
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

fn evicted() -> Desired {
    Desired::Evicted { reason: EvictReason::Disabled }
}

/// Takes the key back, waits until the orchestrator says that no edge can use it, and gives the moment after which
/// nobody may have used it: that one, or the end of the lease, whichever was first.
async fn taken_back(provider: &Provider) -> u64 {
    let decided = BootClock.now().as_nanos();
    provider.orchestrator.set(key("db"), evicted());
    surely_gone(provider, decided).await
}

async fn surely_gone(provider: &Provider, decided: u64) -> u64 {
    common::eventually("the orchestrator says that no edge can use it", || {
        provider.orchestrator.distribution(&key("db")).is_evicted()
    })
    .await;
    BootClock.now().as_nanos().min(decided + (LEASE + MARGIN).as_nanos() as u64)
}

/// Serves the key again, and checks that until then it was not used after `bound`. The edge recovers by itself.
fn used_again_only_when_served(provider: &Provider, edge: &Process, bound: u64) {
    let served = BootClock.now().as_nanos();
    provider.orchestrator.set(key("db"), serve(1));
    loop {
        let began = edge.1.recv_timeout(PATIENCE).expect("the key is never used again");
        assert!(began <= bound || began >= served, "used {} ns after it was surely gone", began - bound);
        if began >= served {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_edge_refuses_at_the_end_of_its_lease_and_recovers() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = Link::listen().await.unwrap();
    let provider = Provider::start_behind(data.path(), LEASE, &link).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let edge = Process::start(&provider, home.path());
    // From the edge, to the edge, both ways; and a link that is slow but works.
    for (up, down) in [(true, false), (false, true), (true, true)] {
        edge.used_after(BootClock.now().as_nanos());
        link.up.stall(up);
        link.down.stall(down);
        let bound = taken_back(&provider).await;
        // Long enough that an edge which goes on would be seen.
        tokio::time::sleep(LEASE).await;
        link.stall(false);
        tokio::time::sleep(LEASE / 2).await;
        used_again_only_when_served(&provider, &edge, bound);
    }
    edge.used_after(BootClock.now().as_nanos());
    for direction in [&link.up, &link.down] {
        direction.delay(LEASE / 8);
    }
    edge.used_after(BootClock.now().as_nanos() + LEASE.as_nanos() as u64 * 2);
    let bound = taken_back(&provider).await;
    used_again_only_when_served(&provider, &edge, bound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_dies_over_an_eviction_leaves_nothing_behind() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    provider.orchestrator.set(key("db"), serve(1));
    let edge = Process::start(&provider, home.path());
    edge.used_after(0);
    // Stopped, so that the eviction certainly does not arrive; decided, and dead before anybody has acknowledged.
    edge.signal(Signal::STOP);
    let decided = BootClock.now().as_nanos();
    provider.orchestrator.set(key("db"), evicted());
    let address = provider.stop().await;
    edge.signal(Signal::CONT);
    let provider = Provider::start_at(data.path(), LEASE, &address).await;
    assert!(!provider.orchestrator.distribution(&key("db")).is_evicted(), "it cannot know yet");
    provider.orchestrator.set(key("db"), evicted());
    let bound = surely_gone(&provider, decided).await;
    provider.orchestrator.ready();
    tokio::time::sleep(LEASE).await;
    used_again_only_when_served(&provider, &edge, bound);
}

/// How often `bytes` are in the process's memory, and how often in the pages that keys live in.
fn in_memory(pid: u32, bytes: &[u8]) -> (usize, usize) {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let (mut everywhere, mut kept, mut range) = (0, 0, (0, 0));
    for line in maps.lines() {
        let bounds = line.split(' ').next().and_then(|word| word.split_once('-'));
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        if let Some((Some(from), Some(to))) = bounds.map(|(from, to)| (number(from), number(to))) {
            range = (from, to);
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            if !flags.contains(" rd") || !flags.contains(" wr") {
                continue;
            }
            let mut content = vec![0; (range.1 - range.0) as usize];
            let read = memory.read_at(&mut content, range.0).unwrap_or(0);
            let found = memchr::memmem::find_iter(&content[..read], bytes).count();
            everywhere += found;
            // Not dumped, and gone in a child.
            kept += if flags.contains(" dd") && flags.contains(" wf") { found } else { 0 };
        }
    }
    (everywhere, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_an_evicted_key_are_gone_from_the_edge_s_memory() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let provider = Provider::start(data.path(), LEASE).await;
    provider.orchestrator.ready();
    let edge = Process::start(&provider, home.path());
    for (version, how) in [(1, Some(evicted())), (2, None)] {
        let material: [u8; 32] = std::array::from_fn(|_| uuid::Uuid::new_v4().as_bytes()[0]);
        provider.orchestrator.set(key("db"), serve_with(version, material));
        common::eventually("acknowledged", || provider.orchestrator.distribution(&key("db")).current == 1)
            .await;
        let (everywhere, kept) = in_memory(edge.0.id(), &material);
        assert_eq!((everywhere, kept), (1, 1), "one copy, where keys are kept");
        provider.orchestrator.set(key("db"), how.unwrap_or(Desired::Gone));
        common::eventually("acknowledged", || provider.orchestrator.distribution(&key("db")).is_evicted())
            .await;
        // At the moment of the acknowledgement, not some time after.
        assert_eq!(in_memory(edge.0.id(), &material), (0, 0), "everywhere, and where keys are kept");
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
    provider.orchestrator.set(key("db"), evicted());
    assert!(
        !provider.orchestrator.distribution(&key("db")).is_evicted(),
        "the stopped edge may still have a lease"
    );
    let bound = surely_gone(&provider, decided).await;
    edge.signal(Signal::CONT);

    // It comes back by itself, and until it is served again, nothing was used.
    common::eventually("the edge is back", || {
        provider.orchestrator.edges().iter().any(|edge| edge.connected)
    })
    .await;
    tokio::time::sleep(LEASE).await;
    used_again_only_when_served(&provider, &edge, bound);
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
