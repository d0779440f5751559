//! Both ends of the stream in a world of partitions, with time and chance as arguments.
//!
//! One seed is one history: some edges and keys, a provider that rotates, evicts, serves again, dies and comes back
//! knowing nothing until it is told, links that are slow, stall in one direction or both, or break, edges that stop and
//! go on, or restart. Then everything heals. What must hold is checked after every single step:
//!
//! 1. Once the orchestrator says that a key is evicted, no edge can use it.
//! 2. Nor can one that is cut off, later than a lease and 100 ms after the decision.
//! 3. Once it says that all edges are current, no edge uses an older version; no edge ever goes back.
//! 4. The first two hold as well, of an edge outside the regions that a key is moved to.
//! 5. A lease and a bit after healing, every edge does exactly what is desired.
//!
//! `OPENKCM_SIMULATIONS=100000 cargo test --release -p openkcm-orchestrator --lib -- simulation --nocapture` runs more of
//! them on all cores; `OPENKCM_SIMULATION_SEED=n` runs the one that failed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_wrap)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use openkcm_edge_protocol::{
    orchestrator::{self as wire, from_edge},
    session::{EdgeSession, Eviction, Keys, Refused},
};
use openkcm_secret::SecretKey;
use uuid::Uuid;

use super::{Core, Identity, MARGIN, Start};
use crate::{Desired, EvictReason, KeyId, KeyState, Tenants, Usable, Version, wire::key_ref};

pub(super) const STEP: Duration = Duration::from_millis(10);
pub(super) const LEASE: Duration = Duration::from_secs(1);
const TROUBLE: Duration = Duration::from_secs(12);
const HEALED: Duration = Duration::from_secs(4);

/// splitmix64.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize].clone()
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// About once in `period`, asked every step.
    pub(super) fn once_in(&mut self, period: Duration) -> bool {
        self.below((period.as_millis() / STEP.as_millis()) as u64) == 0
    }

    pub(super) fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

/// A key store that remembers what it must never do.
#[derive(Default)]
pub(super) struct Store {
    /// Several orchestrators, of which one may hear later than another of a new version.
    pub(super) several: bool,
    keys: RefCell<HashMap<wire::KeyRef, (u64, u32)>>,
    revisions: RefCell<HashMap<wire::KeyRef, u64>>,
    highest: RefCell<HashMap<wire::KeyRef, u32>>,
    lease: RefCell<u64>,
}

impl Keys for Store {
    fn put(&self, put: wire::Put) -> Result<(), Refused> {
        let key = put.key.clone().unwrap();
        let mut revisions = self.revisions.borrow_mut();
        let held = revisions.entry(key.clone()).or_default();
        if put.revision < *held {
            return Err(Refused);
        }
        // Nor does a key in use go back; the orchestrator tries again.
        if self.keys.borrow().get(&key).is_some_and(|(_, current)| put.current < *current) {
            assert!(self.several, "the only orchestrator went back to v{}", put.current);
            return Err(Refused);
        }
        *held = put.revision;
        let mut highest = self.highest.borrow_mut();
        let highest = highest.entry(key.clone()).or_default();
        assert!(
            self.several || put.current >= *highest,
            "an edge went back from v{highest} to v{}",
            put.current
        );
        *highest = put.current;
        assert_eq!(put.versions.len(), put.current as usize, "versions are missing");
        self.keys.borrow_mut().insert(key, (put.revision, put.current));
        Ok(())
    }

    fn evict(&self, key: &wire::KeyRef, reason: Eviction) {
        self.keys.borrow_mut().remove(key);
        if reason == Eviction::Ordered(wire::EvictReason::Unspecified) {
            self.revisions.borrow_mut().remove(key);
        }
    }

    fn lease(&self, until: u64) {
        let mut lease = self.lease.borrow_mut();
        assert!(until >= *lease, "a lease was shortened");
        *lease = until;
    }
}

/// One direction of a connection: in order, never lost while the connection lives, late at will.
struct Pipe<T> {
    queue: VecDeque<(Duration, T)>,
    last: Duration,
}

impl<T> Pipe<T> {
    fn new() -> Self {
        Self { queue: VecDeque::new(), last: Duration::ZERO }
    }

    fn send(&mut self, at: Duration, message: T) {
        self.last = self.last.max(at);
        self.queue.push_back((self.last, message));
    }

    fn receive(&mut self, now: Duration) -> Option<T> {
        if self.queue.front()?.0 > now {
            return None;
        }
        self.queue.pop_front().map(|(_, message)| message)
    }
}

struct Connection {
    incarnation: u64,
    number: u64,
    up: Pipe<from_edge::Message>,
    down: Pipe<Vec<wire::Order>>,
    /// The edge has given the connection up; the provider has not noticed.
    abandoned: bool,
}

pub(super) struct Node {
    pub(super) identity: Identity,
    session: EdgeSession,
    pub(super) store: Store,
    connections: Vec<Connection>,
    connect_at: Duration,
    failures: u32,
    stopped_until: Duration,
    /// Stalled directions: to the provider, to the edge.
    stalled: [Duration; 2],
    latency: u64,
    /// This edge's clock: offset and parts per million.
    offset: u64,
    ppm: i64,
}

impl Node {
    pub(super) fn new(n: u64, chance: &mut Chance) -> Self {
        Self {
            identity: Identity {
                id: Uuid::from_u128(u128::from(n) + 1),
                name: format!("edge-{n}"),
                region: None,
                tenants: Tenants::All,
            },
            session: EdgeSession::default(),
            store: Store::default(),
            connections: Vec::new(),
            connect_at: chance.millis(300),
            failures: 0,
            stopped_until: Duration::ZERO,
            stalled: [Duration::ZERO; 2],
            latency: 1 + chance.below(200),
            offset: 1 + chance.below(1 << 40),
            ppm: chance.below(1000) as i64 - 500,
        }
    }

    pub(super) fn heal(&mut self, now: Duration) {
        self.stopped_until = now;
        self.stalled = [now; 2];
        self.latency = self.latency.min(50);
    }

    pub(super) fn disturb(&mut self, now: Duration, chance: &mut Chance) {
        if chance.once_in(Duration::from_secs(3)) {
            let until = now + chance.millis(3000);
            match chance.below(3) {
                0 => self.stalled[0] = until,
                1 => self.stalled[1] = until,
                _ => self.stalled = [until; 2],
            }
        }
        if chance.once_in(Duration::from_secs(4)) {
            self.stopped_until = now + chance.millis(2500);
        }
        if chance.once_in(Duration::from_secs(5)) {
            self.leave();
        }
        if chance.once_in(Duration::from_secs(20)) {
            self.break_connections();
            self.session = EdgeSession::default();
            self.store = Store { several: self.store.several, ..Store::default() };
        }
        if chance.once_in(Duration::from_secs(5)) {
            self.latency = 1 + chance.below(600);
        }
    }

    pub(super) fn leave(&mut self) {
        self.break_connections();
        self.session.disconnected();
    }

    /// Without a word to the provider, which notices at some time.
    fn break_connections(&mut self) {
        self.connections.iter_mut().for_each(|connection| connection.abandoned = true);
    }

    fn clock(&self, now: Duration) -> u64 {
        let nanos = now.as_nanos() as i64;
        self.offset + (nanos + nanos / 1_000_000 * self.ppm) as u64
    }

    pub(super) fn uses(&self, now: Duration, key: &wire::KeyRef) -> Option<u32> {
        let fresh = self.clock(now) < *self.store.lease.borrow();
        self.store.keys.borrow().get(key).filter(|_| fresh).map(|(_, current)| *current)
    }

    pub(super) fn wants_stream(&self, now: Duration) -> bool {
        now >= self.stopped_until
            && now >= self.connect_at
            && self.connections.iter().all(|connection| connection.abandoned)
            && self.stalled.iter().all(|until| *until <= now)
    }

    pub(super) fn connect(&mut self, now: Duration, incarnation: u64, core: &mut Core) {
        let number = core.attach(now, self.identity.clone());
        let (mut up, down) = (Pipe::new(), Pipe::new());
        for message in self.session.connected(self.clock(now), wire::Subscription::default(), "") {
            up.send(now + Duration::from_millis(self.latency), message.message.unwrap());
        }
        self.connections.push(Connection { incarnation, number, up, down, abandoned: false });
    }

    /// What the edge does in this step.
    pub(super) fn step(&mut self, now: Duration, chance: &mut Chance, alive: impl Fn(u64) -> bool) {
        if now < self.stopped_until {
            return;
        }
        let clock = self.clock(now);
        let Some(connection) = self.connections.iter_mut().find(|connection| !connection.abandoned) else {
            return;
        };
        let mut broken = !alive(connection.incarnation) && chance.once_in(Duration::from_millis(200));
        if self.stalled[1] <= now {
            while let Some(orders) = connection.down.receive(now) {
                for order in orders {
                    self.session.receive(clock, order, &self.store).unwrap();
                    self.failures = 0;
                }
            }
        }
        for message in self.session.poll(clock, &self.store) {
            connection.up.send(now + Duration::from_millis(self.latency), message.message.unwrap());
        }
        let patience = (LEASE / 2 * 2_u32.pow(self.failures.min(5))).min(LEASE * 4);
        broken |= self.session.unanswered(clock) > patience;
        if broken {
            self.failures += 1;
            connection.abandoned = true;
            self.session.disconnected();
            self.connect_at = now + chance.millis(200);
        }
    }

    /// What a provider does with its streams to the edge in this step.
    pub(super) fn exchange(&mut self, now: Duration, incarnation: u64, core: &mut Core, chance: &mut Chance) {
        let (id, stalled) = (self.identity.id, self.stalled);
        for connection in
            self.connections.iter_mut().filter(|connection| connection.incarnation == incarnation)
        {
            let mut broken = false;
            while stalled[0] <= now
                && !broken
                && let Some(message) = connection.up.receive(now)
            {
                broken = core.receive(now, id, connection.number, message).is_err();
            }
            while !broken {
                match core.poll(now, id, connection.number) {
                    Ok(orders) if orders.is_empty() => break,
                    Ok(orders) => connection.down.send(now + Duration::from_millis(self.latency), orders),
                    Err(_) => broken = true,
                }
            }
            if broken {
                core.detach(now, id, connection.number);
                connection.incarnation = 0;
            }
        }
        // Given up by the edge, noticed here at some time.
        self.connections.retain(|connection| {
            let ours = connection.incarnation == incarnation || connection.incarnation == 0;
            let noticed = ours
                && connection.abandoned
                && stalled[0] <= now
                && chance.once_in(Duration::from_millis(500));
            if noticed && connection.incarnation == incarnation {
                core.detach(now, id, connection.number);
            }
            !noticed
        });
    }
}

/// What the ledger says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Truth {
    Serve,
    Evicted,
    Gone,
}

struct Fact {
    id: KeyId,
    truth: Truth,
    current: u32,
    /// When a provider has heard that the key is not to be used.
    decided: Option<Duration>,
    /// The orchestrator has said that no edge can use it.
    claimed: bool,
    /// This incarnation of the provider has been told.
    told: bool,
    /// Where it may be; empty: anywhere.
    regions: Vec<String>,
    /// Edges outside, and since when a provider has known.
    outside: BTreeMap<String, Duration>,
}

impl Fact {
    fn may_be_at(&self, identity: &Identity) -> bool {
        may_be_at(&self.regions, identity)
    }

    /// The provider has been told how things are now.
    fn heard(&mut self, now: Duration, nodes: &[Node]) {
        if self.truth != Truth::Serve {
            self.decided.get_or_insert(now);
            return;
        }
        for Node { identity, .. } in nodes {
            if self.may_be_at(identity) {
                self.outside.remove(&identity.name);
            } else {
                self.outside.entry(identity.name.clone()).or_insert(now);
            }
        }
    }

    fn desired(&self) -> Desired {
        desired(self.truth, self.current, &self.regions)
    }
}

pub(super) fn may_be_at(regions: &[String], identity: &Identity) -> bool {
    regions.is_empty() || identity.region.as_ref().is_some_and(|here| regions.contains(here))
}

pub(super) fn desired(truth: Truth, current: u32, regions: &[String]) -> Desired {
    match truth {
        Truth::Gone => Desired::Gone,
        Truth::Evicted => Desired::Evicted { reason: EvictReason::Disabled },
        Truth::Serve => Desired::Serve(KeyState {
            tenant_name: "tenant".into(),
            regions: regions.to_vec(),
            key_uuid: Uuid::nil(),
            current,
            versions: (1..=current).map(version).collect(),
            dead_versions: Vec::new(),
            clients: Vec::new(),
            fingerprint: u64::from(current),
        }),
    }
}

fn version(version: u32) -> Version {
    Version { version, material: SecretKey::from_bytes(&mut [7; 32]).unwrap(), usable: Usable::Encrypt }
}

struct World {
    chance: Chance,
    now: Duration,
    core: Option<Core>,
    incarnation: u64,
    ready: bool,
    start_at: Duration,
    nodes: Vec<Node>,
    facts: Vec<Fact>,
    calm: bool,
    tick: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let mut nodes: Vec<_> = (0..=chance.below(3)).map(|n| Node::new(n, &mut chance)).collect();
        for node in &mut nodes {
            node.identity.region = chance.pick(&[None, Some("a".to_owned()), Some("b".to_owned())]);
        }
        let regions = [vec![], vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]];
        let facts = (0..=chance.below(4))
            .map(|n| Fact {
                id: KeyId { cluster: "c".parse().unwrap(), namespace: "n".into(), name: format!("k{n}") },
                truth: Truth::Serve,
                current: 1,
                decided: None,
                claimed: false,
                told: false,
                regions: chance.pick(&regions),
                outside: BTreeMap::new(),
            })
            .collect();
        Self {
            chance,
            now: Duration::from_secs(100),
            core: None,
            incarnation: 0,
            ready: false,
            start_at: Duration::ZERO,
            nodes,
            facts,
            calm: false,
            tick: 0,
        }
    }

    fn run(mut self) {
        let end = self.now + TROUBLE;
        while self.now < end {
            self.disturb();
            self.step();
        }
        self.heal();
        let end = self.now + HEALED;
        while self.now < end {
            self.step();
        }
        for fact in &self.facts {
            for node in &self.nodes {
                let served = fact.truth == Truth::Serve && fact.may_be_at(&node.identity);
                let wanted = served.then_some(fact.current);
                let uses = node.uses(self.now, &key_ref(&fact.id));
                assert_eq!(
                    uses, wanted,
                    "{} after healing: {} of {:?}",
                    node.identity.name, fact.id, fact.truth
                );
            }
            let distribution = self.core.as_ref().unwrap().distribution(self.now, &fact.id);
            match fact.truth {
                Truth::Serve => assert!(distribution.is_current(), "{distribution:?}"),
                _ => assert!(distribution.is_evicted(), "{distribution:?}"),
            }
        }
    }

    fn heal(&mut self) {
        self.calm = true;
        self.nodes.iter_mut().for_each(|node| node.heal(self.now));
        self.start_at = self.now;
    }

    fn disturb(&mut self) {
        let Self { chance, now, nodes, .. } = self;
        for node in nodes {
            node.disturb(*now, chance);
        }
        if self.core.is_some() && self.chance.once_in(Duration::from_secs(5)) {
            self.core = None;
            self.start_at = self.now + self.chance.millis(2500);
        }
        for index in 0..self.facts.len() {
            if self.chance.once_in(Duration::from_secs(1)) {
                self.decide(index);
            }
        }
    }

    /// The ledger changes, and the provider hears of it at once if there is one that has loaded the key.
    fn decide(&mut self, index: usize) {
        let fact = &mut self.facts[index];
        let (was, current) = (fact.truth, fact.current);
        match self.chance.below(8) {
            6 => fact.regions = self.chance.pick(&[vec![], vec!["a".to_owned()]]),
            7 => {
                fact.regions =
                    self.chance.pick(&[vec!["b".to_owned()], vec!["a".to_owned(), "b".to_owned()]]);
            }
            0 | 1 => (fact.truth, fact.current) = (Truth::Serve, current + 1),
            2 => fact.truth = Truth::Serve,
            3 | 4 => fact.truth = Truth::Evicted,
            _ => fact.truth = Truth::Gone,
        }
        for Node { identity, .. } in &self.nodes {
            if fact.may_be_at(identity) {
                fact.outside.remove(&identity.name);
            }
        }
        if fact.truth == Truth::Serve && was != Truth::Serve {
            (fact.decided, fact.claimed) = (None, false);
        }
        if let Some(core) = self.core.as_mut().filter(|_| fact.told) {
            // Either way is taken: with everything in hand, or with nothing but the regions.
            if fact.truth == Truth::Serve && was == Truth::Serve && fact.current == current {
                core.place(self.now, &fact.id, fact.regions.clone());
            } else {
                core.set(self.now, fact.id.clone(), fact.desired());
            }
            fact.heard(self.now, &self.nodes);
        } else if fact.truth != Truth::Serve && was == Truth::Serve {
            (fact.decided, fact.claimed) = (None, false);
        }
        self.check();
    }

    fn step(&mut self) {
        self.now += STEP;
        self.tick += 1;
        self.provide();
        for index in 0..self.nodes.len() {
            self.edge(index);
        }
        self.check();
    }

    fn provide(&mut self) {
        let now = self.now;
        if self.core.is_none() && now >= self.start_at {
            self.incarnation += 1;
            self.ready = false;
            // A connection to a dead process breaks, sooner or later.
            self.core = Some(Core::new(Start {
                now,
                lease: LEASE,
                earlier_lease: LEASE,
                absent: self.nodes.iter().map(|node| node.identity.id).collect::<BTreeSet<_>>(),
                mandated: false,
                incarnation: self.incarnation.to_be_bytes().to_vec(),
                urls: Vec::new(),
            }));
            self.facts.iter_mut().for_each(|fact| fact.told = false);
        }
        let Some(core) = self.core.as_mut() else {
            self.facts.iter_mut().for_each(|fact| fact.told = false);
            return;
        };
        // The first plan takes its time, key by key.
        for fact in &mut self.facts {
            if !fact.told && (self.calm || self.chance.once_in(Duration::from_millis(400))) {
                fact.told = true;
                core.set(now, fact.id.clone(), fact.desired());
                fact.heard(now, &self.nodes);
            }
        }
        if !self.ready && self.facts.iter().all(|fact| fact.told) {
            self.ready = true;
            core.ready(now);
        }
        if self.tick.is_multiple_of(10) {
            core.tick(now);
        }
        for node in &mut self.nodes {
            node.exchange(now, self.incarnation, core, &mut self.chance);
        }
    }

    fn edge(&mut self, index: usize) {
        let (now, incarnation) = (self.now, self.incarnation);
        let node = &mut self.nodes[index];
        if node.wants_stream(now)
            && let Some(core) = self.core.as_mut()
        {
            node.connect(now, incarnation, core);
        } else {
            let alive = self.core.is_some();
            node.step(now, &mut self.chance, |of| of == incarnation && alive);
        }
    }

    fn check(&mut self) {
        let now = self.now;
        for fact in &mut self.facts {
            let key = key_ref(&fact.id);
            let distribution =
                self.core.as_ref().filter(|_| fact.told).map(|core| core.distribution(now, &fact.id));
            let users: BTreeMap<&str, u32> = self
                .nodes
                .iter()
                .filter_map(|node| node.uses(now, &key).map(|current| (node.identity.name.as_str(), current)))
                .collect();
            if fact.truth == Truth::Serve {
                if let Some(distribution) = distribution.filter(crate::Distribution::is_current) {
                    let current = users
                        .iter()
                        .all(|(node, current)| *current == fact.current && !fact.outside.contains_key(*node));
                    assert!(
                        current,
                        "{} is said to be v{} everywhere: {users:?} {distribution:?}",
                        fact.id, fact.current
                    );
                }
                for (node, since) in &fact.outside {
                    let late = now > *since + LEASE + MARGIN && users.contains_key(node.as_str());
                    assert!(!late, "{} is still used by {node}, which is outside its regions", fact.id);
                }
                continue;
            }
            fact.claimed |= distribution.as_ref().is_some_and(crate::Distribution::is_evicted);
            assert!(
                !fact.claimed || users.is_empty(),
                "{} is said to be evicted: {users:?} {distribution:?}",
                fact.id
            );
            let late = fact.decided.is_some_and(|decided| now > decided + LEASE + MARGIN);
            assert!(!late || users.is_empty(), "{} outlived its lease: {users:?} {distribution:?}", fact.id);
        }
    }
}

/// Runs the history of many seeds, of which each breaks no promise, or of the one that is asked for.
pub(super) fn many(history: impl Fn(u64) + Sync + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("OPENKCM_SIMULATION_SEED") {
        return history(seed);
    }
    let count = number("OPENKCM_SIMULATIONS").unwrap_or(100);
    let start = std::time::Instant::now();
    let failed = first_failure(0..count, &history);
    println!("{count} histories, {:.0} a second", count as f64 / start.elapsed().as_secs_f64());
    assert_eq!(failed, None, "the history of OPENKCM_SIMULATION_SEED={failed:?} broke a promise");
}

/// The first seed whose history breaks a promise, if there is one.
fn first_failure(
    seeds: Range<u64>,
    history: &(impl Fn(u64) + Sync + std::panic::RefUnwindSafe),
) -> Option<u64> {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                while failed.load(Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if std::panic::catch_unwind(|| history(seed)).is_err() {
                        failed.fetch_min(seed, Relaxed);
                    }
                }
            });
        }
    });
    Some(failed.into_inner()).filter(|seed| *seed != u64::MAX)
}

#[test]
fn simulation() {
    many(|seed| World::new(seed).run());
}
