//! From the orchestrator's decision to the last edge: evict and rotate, with 100 and 1,000 edges in this process over
//! real mTLS on loopback, beside a raw fan-out of the same minute (64-byte push and 16-byte answer on bare TCP).
//!
//! `cargo bench --workspace --bench evict [-- EDGES ROUNDS]`
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use openkcm_edge::{
    agent::{Agent, AgentConfig},
    store::{KeyName, KeyStore},
};
use openkcm_orchestrator::{
    Config, Desired, EvictReason, KeyId, KeyState, Orchestrator, SystemClock, Tenants, TokenRequest, Usable,
    Version, create_join_token,
};
use openkcm_secret::SecretKey;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

fn key() -> KeyId {
    KeyId { cluster: "2x7k1pq9vd3mzs0a".parse().unwrap(), namespace: "payments".into(), name: "db".into() }
}

fn serve(current: u32) -> Desired {
    Desired::Serve(KeyState {
        tenant_name: "tenant-root-demo".into(),
        regions: Vec::new(),
        key_uuid: uuid::Uuid::from_u128(7),
        current,
        versions: vec![Version {
            version: current,
            material: SecretKey::from_bytes(&mut [7; 32]).unwrap(),
            usable: Usable::Encrypt,
        }],
        dead_versions: Vec::new(),
        clients: Vec::new(),
        fingerprint: u64::from(current),
    })
}

struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new(3).unwrap())
    }

    fn add(&mut self, time: Duration) {
        self.0.record(time.as_micros() as u64).unwrap();
    }

    fn show(&self) -> String {
        let ms = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        format!("{:8.2} {:8.2} {:8.2}", ms(0.5), ms(0.99), self.0.max() as f64 / 1000.0)
    }
}

/// The bound: one push to every connection, one answer from each, nothing else.
async fn raw(edges: usize, rounds: usize) -> Times {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let mut pushes = Vec::new();
    let (answered, mut answers) = mpsc::unbounded_channel();
    for _ in 0..edges {
        tasks.spawn(async move {
            let mut edge = TcpStream::connect(address).await.unwrap();
            edge.set_nodelay(true).unwrap();
            let mut push = [0; 64];
            while edge.read_exact(&mut push).await.is_ok() {
                edge.write_all(&push[..16]).await.unwrap();
            }
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (push, mut next) = mpsc::unbounded_channel::<()>();
        pushes.push(push);
        let answered = answered.clone();
        tasks.spawn(async move {
            let mut answer = [0; 16];
            while next.recv().await.is_some() {
                stream.write_all(&[7; 64]).await.unwrap();
                stream.read_exact(&mut answer).await.unwrap();
                answered.send(()).unwrap();
            }
        });
    }
    let mut times = Times::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for push in &pushes {
            push.send(()).unwrap();
        }
        for _ in 0..edges {
            answers.recv().await.unwrap();
        }
        times.add(start.elapsed());
    }
    drop(pushes);
    tasks.shutdown().await;
    times
}

struct Fleet {
    orchestrator: Orchestrator,
    stores: Vec<Arc<KeyStore>>,
    tasks: JoinSet<()>,
}

impl Fleet {
    async fn start(data: &Path, edges: usize) -> Self {
        let config = Config {
            address: "127.0.0.1:0".parse().unwrap(),
            urls: Vec::new(),
            data_dir: data.join("provider"),
            lease: Duration::from_secs(30),
            replicated: false,
        };
        let (orchestrator, driver) = Orchestrator::start(config, Arc::new(SystemClock)).await.unwrap();
        orchestrator.ready();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { driver.await.unwrap() });
        let mut stores = Vec::new();
        let mut connected = Vec::new();
        for index in 0..edges {
            let request = TokenRequest {
                name: None,
                region: None,
                tenants: Tenants::All,
                ttl: Duration::from_mins(10),
            };
            let token = create_join_token(&data.join("provider"), &request).unwrap();
            let store = Arc::new(KeyStore::new());
            let config = AgentConfig {
                name: format!("edge-{index}"),
                orchestrators: vec![format!("https://{}", orchestrator.address())],
                data_dir: data.join(format!("edge-{index}")),
                join_token: Some(token.parse().unwrap()),
                authority_file: None,
                tenants: Vec::new(),
                region: None,
            };
            let agent = Agent::new(config, Arc::clone(&store));
            let mut status = agent.status();
            connected.push(async move {
                status.wait_for(|status| status.connected_to.is_some()).await.unwrap();
            });
            tasks.spawn(async move {
                let Err(error) = agent.run().await;
                panic!("{error}");
            });
            stores.push(store);
            if connected.len() == 32 || index + 1 == edges {
                for edge in connected.drain(..) {
                    edge.await;
                }
            }
        }
        Self { orchestrator, stores, tasks }
    }

    /// Sets, and gives the times until the last store has it (as it is, not as it is reported) and until all of them
    /// have been heard to have it.
    async fn set(&self, desired: Desired, has: impl Fn(&KeyStore) -> bool) -> (Duration, Duration) {
        let mut changes = self.orchestrator.changes();
        let start = Instant::now();
        self.orchestrator.set(key(), desired);
        let mut waiting: Vec<&Arc<KeyStore>> = self.stores.iter().collect();
        while !waiting.is_empty() {
            waiting.retain(|store| !has(store));
            tokio::task::yield_now().await;
        }
        let done = start.elapsed();
        loop {
            let distribution = self.orchestrator.distribution(&key());
            if distribution.total > 0 && (distribution.is_evicted() || distribution.is_current()) {
                return (done, start.elapsed());
            }
            changes.next().await;
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let fleets = numbers.first().map_or(vec![100, 1000], |edges| vec![*edges]);
    let rounds = numbers.get(1).copied().unwrap_or(200);
    println!("{rounds} rounds; milliseconds              p50      p99      max");
    for edges in fleets {
        println!("{edges:5} edges: raw fan-out + answer {}", raw(edges, rounds).await.show());
        let data = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::start(data.path(), edges).await;
        let name = KeyName { cluster: key().cluster, namespace: key().namespace, name: key().name };
        let (mut refused, mut evicted, mut rotated, mut current) =
            (Times::new(), Times::new(), Times::new(), Times::new());
        fleet.set(serve(1), |store| store.stats().live == 1).await;
        for round in 1..=rounds as u32 {
            let before: Vec<u64> =
                fleet.stores.iter().map(|store| store.revision(&name).unwrap_or(0)).collect();
            let oldest = before.iter().copied().max().unwrap_or(0);
            let (last, heard) = fleet
                .set(serve(round + 1), |store| store.revision(&name).is_some_and(|now| now > oldest))
                .await;
            rotated.add(last);
            current.add(heard);
            let evict = Desired::Evicted { reason: EvictReason::Disabled };
            let (last, heard) = fleet.set(evict, |store| store.stats().live == 0).await;
            refused.add(last);
            evicted.add(heard);
        }
        println!("{edges:5} edges: evict, last refuses    {}", refused.show());
        println!("{edges:5} edges: evict, all heard       {}", evicted.show());
        println!("{edges:5} edges: rotate, last has it    {}", rotated.show());
        println!("{edges:5} edges: rotate, all heard      {}", current.show());
        fleet.tasks.shutdown().await;
    }
}
