//! The simulation's world with two providers over one ledger, as `openkcm-provider` plays its part there.
//!
//! Each may die, be cut off from the ledger, or hear late of what a user wants; each takes itself for the workspace's owner
//! half of the time. Edges go to either. What the ledger keeps, with the rules of its tables: whether a key is withheld, and
//! which replica may have handed it out. What must hold, after every step:
//!
//! 1. Once somebody says that a key is evicted, no edge of any replica can use it, until the ledger releases it.
//! 2. Once somebody says that all edges are current, no edge of any replica uses an older version, nor one that is
//!    outside the regions that the key may be in.
//! 3. Some time after healing, every edge does exactly what is desired, and everybody says so.
//!
//! `OPENKCM_SIMULATIONS` and `OPENKCM_SIMULATION_SEED` are those of the other simulation.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{
    Core, MARGIN, Start,
    simulation::{Chance, LEASE, Node, STEP, Truth, desired, many, may_be_at},
};
use crate::{Distribution, KeyId, PeerEdges, wire::key_ref};

const TROUBLE: Duration = Duration::from_secs(12);
const HEALED: Duration = Duration::from_secs(6);
/// A replica that has just spoken to the ledger may give leases for so long.
const MANDATE: Duration = Duration::from_millis(800);

struct Fact {
    id: KeyId,
    truth: Truth,
    /// Where it may be; empty: anywhere.
    regions: Vec<String>,
    current: u32,
    withheld: bool,
    /// Somebody has said that no edge can use the key.
    claimed: bool,
}

struct Replica {
    core: Core,
    incarnation: u64,
    ready: bool,
    /// What its watch shows of each key, and what it has told its edges: 0 to take it back, or the version to serve.
    seen: Vec<(Truth, Vec<String>)>,
    told: Vec<Option<u32>>,
    cut_off: Duration,
}

#[derive(Default)]
struct Ledger {
    beats: BTreeMap<u64, Duration>,
    /// The table `hand_outs`.
    rows: BTreeMap<(u64, usize), PeerEdges>,
}

struct World {
    chance: Chance,
    now: Duration,
    replicas: [Option<Replica>; 2],
    start_at: [Duration; 2],
    incarnations: u64,
    nodes: Vec<Node>,
    facts: Vec<Fact>,
    ledger: Ledger,
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let mut nodes: Vec<_> = (0..=chance.below(3)).map(|n| Node::new(n, &mut chance)).collect();
        for node in &mut nodes {
            node.store.several = true;
            node.identity.region = chance.pick(&[None, Some("a".to_owned()), Some("b".to_owned())]);
        }
        let fact = |n| Fact {
            id: KeyId { cluster: "c".parse().unwrap(), namespace: "n".into(), name: format!("k{n}") },
            truth: Truth::Serve,
            regions: Vec::new(),
            current: 1,
            withheld: false,
            claimed: false,
        };
        let facts = (0..=chance.below(3)).map(fact).collect();
        Self {
            chance,
            now: Duration::from_secs(100),
            replicas: [None, None],
            start_at: [Duration::ZERO; 2],
            incarnations: 0,
            nodes,
            facts,
            ledger: Ledger::default(),
            calm: false,
        }
    }

    fn run(mut self) {
        let end = self.now + TROUBLE;
        while self.now < end {
            self.disturb();
            self.step();
        }
        self.calm = true;
        self.nodes.iter_mut().for_each(|node| node.heal(self.now));
        self.start_at = [self.now; 2];
        self.replicas.iter_mut().flatten().for_each(|replica| replica.cut_off = self.now);
        let end = self.now + HEALED;
        while self.now < end {
            self.step();
        }
        for index in 0..self.facts.len() {
            let fact = &self.facts[index];
            for node in &self.nodes {
                let served = fact.truth == Truth::Serve && may_be_at(&fact.regions, &node.identity);
                let wanted = served.then_some(fact.current);
                let uses = node.uses(self.now, &key_ref(&fact.id));
                assert_eq!(
                    uses, wanted,
                    "{} after healing: {} {:?}",
                    node.identity.name, fact.id, fact.truth
                );
            }
            for replica in self.replicas.iter().flatten() {
                let said = match fact.truth {
                    Truth::Serve => self.says_current(replica, index),
                    _ => self.says_evicted(replica, index),
                };
                assert!(
                    said,
                    "{} is {:?} v{}, but replica {} says {:?} of what was told {:?}; the ledger {:?}",
                    fact.id,
                    fact.truth,
                    fact.current,
                    replica.incarnation,
                    self.all_edges(replica, index),
                    replica.told[index],
                    self.ledger.rows
                );
            }
        }
    }

    fn disturb(&mut self) {
        let now = self.now;
        for node in &mut self.nodes {
            node.disturb(now, &mut self.chance);
        }
        for index in 0..2 {
            if self.chance.once_in(Duration::from_secs(4)) {
                self.replicas[index] = None;
                self.start_at[index] = now + self.chance.millis(2500);
            }
            if self.chance.once_in(Duration::from_secs(4))
                && let Some(replica) = &mut self.replicas[index]
            {
                replica.cut_off = now + self.chance.millis(4000);
            }
        }
        for fact in &mut self.facts {
            if self.chance.once_in(Duration::from_secs(1)) {
                match self.chance.below(7) {
                    5 => fact.regions = Vec::new(),
                    6 => fact.regions = self.chance.pick(&[vec!["a".to_owned()], vec!["b".to_owned()]]),
                    0 | 1 if fact.truth == Truth::Serve => fact.current += 1,
                    0..=2 => fact.truth = Truth::Serve,
                    _ => fact.truth = Truth::Evicted,
                }
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        for index in 0..2 {
            self.provide(index);
        }
        let now = self.now;
        for node in &mut self.nodes {
            let replica = if node.wants_stream(now) {
                self.replicas[usize::try_from(self.chance.below(2)).unwrap()].as_mut()
            } else {
                None
            };
            if let Some(replica) = replica {
                node.connect(now, replica.incarnation, &mut replica.core);
            } else {
                let alive: Vec<u64> =
                    self.replicas.iter().flatten().map(|replica| replica.incarnation).collect();
                node.step(now, &mut self.chance, |of| alive.contains(&of));
            }
        }
        self.check();
    }

    fn provide(&mut self, index: usize) {
        let now = self.now;
        if self.replicas[index].is_none() && now >= self.start_at[index] {
            self.begin(index);
        }
        let elsewhere: HashSet<_> = self.replicas[1 - index]
            .iter()
            .flat_map(|other| other.core.edges(now))
            .filter(|edge| edge.connected)
            .map(|edge| edge.id)
            .collect();
        let Some(mut replica) = self.replicas[index].take() else { return };
        for node in &mut self.nodes {
            node.exchange(now, replica.incarnation, &mut replica.core, &mut self.chance);
        }
        replica.core.tick(now);
        if replica.cut_off > now {
            self.replicas[index] = Some(replica);
            return;
        }
        if !self.ledger.beats.contains_key(&replica.incarnation) {
            // Expelled: the process ends, and another one begins.
            self.start_at[index] = now + self.chance.millis(500);
            return;
        }
        if self.calm || self.chance.once_in(Duration::from_millis(100)) {
            self.ledger.beats.insert(replica.incarnation, now);
            // Asked a little earlier.
            replica.core.may_lease_until((now + MANDATE).saturating_sub(self.chance.millis(100)));
            replica.core.elsewhere(elsewhere);
            self.expel(replica.incarnation);
        }
        for fact in 0..self.facts.len() {
            if self.calm || self.chance.once_in(Duration::from_millis(300)) {
                replica.seen[fact] = (self.facts[fact].truth, self.facts[fact].regions.clone());
            }
            if self.calm || self.chance.once_in(Duration::from_millis(150)) {
                self.plan(&mut replica, fact);
            }
            self.report(&replica, fact);
        }
        if !replica.ready && replica.told.iter().all(Option::is_some) {
            replica.ready = true;
            replica.core.ready(now);
        }
        self.replicas[index] = Some(replica);
    }

    fn begin(&mut self, index: usize) {
        self.incarnations += 1;
        let core = Core::new(Start {
            now: self.now,
            lease: LEASE,
            earlier_lease: LEASE,
            absent: self.nodes.iter().map(|node| node.identity.id).collect(),
            mandated: true,
            incarnation: self.incarnations.to_be_bytes().to_vec(),
            urls: Vec::new(),
        });
        self.ledger.beats.insert(self.incarnations, self.now);
        self.replicas[index] = Some(Replica {
            core,
            incarnation: self.incarnations,
            ready: false,
            seen: self.facts.iter().map(|fact| (fact.truth, fact.regions.clone())).collect(),
            told: vec![None; self.facts.len()],
            cut_off: Duration::ZERO,
        });
    }

    /// Removes replicas whose last lease is surely over.
    fn expel(&mut self, own: u64) {
        let over = |at: Duration| self.now > at + MANDATE + LEASE + MARGIN;
        let dead: Vec<u64> =
            self.ledger.beats.iter().filter(|(_, at)| over(**at)).map(|(id, _)| *id).collect();
        for id in dead.into_iter().filter(|id| *id != own) {
            self.ledger.beats.remove(&id);
            self.ledger.rows.retain(|(replica, _), _| *replica != id);
        }
    }

    /// A round of one key: what `run/key.rs` and `run/replicas.rs` do.
    fn plan(&mut self, replica: &mut Replica, index: usize) {
        let owner = self.calm || self.chance.below(2) == 0;
        let fact = &mut self.facts[index];
        let (wanted, regions) = replica.seen[index].clone();
        // The owner looks at the object itself before it releases.
        if wanted == Truth::Serve && fact.withheld && owner && fact.truth == Truth::Serve {
            (fact.withheld, fact.claimed) = (false, false);
        }
        if wanted == Truth::Serve && !fact.withheld {
            self.ledger.rows.entry((replica.incarnation, index)).or_default().usable = true;
            replica.core.set(self.now, fact.id.clone(), desired(Truth::Serve, fact.current, &regions));
            replica.told[index] = Some(fact.current);
            return;
        }
        replica.core.set(self.now, fact.id.clone(), desired(Truth::Evicted, 0, &[]));
        replica.told[index] = Some(0);
        if wanted != Truth::Serve && owner {
            fact.withheld = true;
        }
    }

    fn report(&mut self, replica: &Replica, index: usize) {
        let Some(told) = replica.told[index] else { return };
        let own = replica.core.distribution(self.now, &self.facts[index].id);
        let row = self.ledger.rows.entry((replica.incarnation, index)).or_default();
        *row = PeerEdges {
            usable: row.usable && (told != 0 || !own.is_evicted()),
            serves: own.serves,
            total: own.total,
            current: own.current,
            evicted: own.evicted,
            active_clients: own.active_clients,
        };
    }

    /// How far the edges of all replicas are, as one of them sees it.
    fn all_edges(&self, replica: &Replica, index: usize) -> Distribution {
        let mut all = replica.core.distribution(self.now, &self.facts[index].id);
        let rows = self.ledger.rows.iter();
        rows.filter(|((id, of), _)| *id != replica.incarnation && *of == index)
            .for_each(|(_, peer)| all.join(peer));
        all
    }

    fn says_evicted(&self, replica: &Replica, index: usize) -> bool {
        self.facts[index].withheld
            && replica.told[index] == Some(0)
            && self.all_edges(replica, index).is_evicted()
    }

    fn says_current(&self, replica: &Replica, index: usize) -> bool {
        let fact = &self.facts[index];
        replica.told[index] == Some(fact.current)
            && replica.core.regions(&fact.id) == fact.regions
            && self.all_edges(replica, index).is_current()
    }

    fn check(&mut self) {
        for index in 0..self.facts.len() {
            let speaks = |replica: &&Replica| replica.cut_off <= self.now;
            let evicted = self
                .replicas
                .iter()
                .flatten()
                .filter(speaks)
                .any(|replica| self.says_evicted(replica, index));
            let current = self
                .replicas
                .iter()
                .flatten()
                .filter(speaks)
                .any(|replica| self.says_current(replica, index));
            let fact = &mut self.facts[index];
            fact.claimed |= evicted;
            let key = key_ref(&fact.id);
            for node in &self.nodes {
                let uses = node.uses(self.now, &key);
                assert!(
                    !fact.claimed || uses.is_none(),
                    "{} is said to be evicted, {} uses it",
                    fact.id,
                    node.identity.name
                );
                let may = may_be_at(&fact.regions, &node.identity);
                assert!(
                    !current || uses.is_none_or(|version| may && version == fact.current),
                    "{} is said to be v{} everywhere, {} uses {uses:?}",
                    fact.id,
                    fact.current,
                    node.identity.name
                );
            }
        }
    }
}

#[test]
fn simulation_of_two_replicas() {
    many(|seed| World::new(seed).run());
}

impl World {
    /// Two replicas that serve one key; no edge yet, and no disturbance.
    fn story() -> Self {
        let mut world = World::new(0);
        world.nodes.clear();
        world.facts.truncate(1);
        world.facts[0].regions.clear();
        world.calm = true;
        world.pass(100);
        world
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end {
            self.step();
        }
    }

    /// The edge connects to a replica, or goes to it.
    fn edge_at(&mut self, index: usize, region: Option<&str>) {
        let mut node = self.nodes.pop().unwrap_or_else(|| Node::new(1, &mut self.chance));
        node.identity.region = region.map(str::to_owned);
        node.leave();
        let replica = self.replicas[index].as_mut().unwrap();
        node.connect(self.now, replica.incarnation, &mut replica.core);
        self.nodes.push(node);
    }

    /// The replica hears nothing and reaches nobody but its edges.
    fn cut_off(&mut self, index: usize, millis: u64) {
        self.replicas[index].as_mut().unwrap().cut_off = self.now + Duration::from_millis(millis);
    }

    fn edge_uses(&self) -> Option<u32> {
        self.nodes[0].uses(self.now, &key_ref(&self.facts[0].id))
    }

    /// What the first replica says: all current, evicted.
    fn first_says(&self) -> (bool, bool) {
        let first = self.replicas[0].as_ref().unwrap();
        (self.says_current(first, 0), self.says_evicted(first, 0))
    }
}

/// An edge goes from one replica, with its lease, to another that has been expelled without knowing.
#[test]
fn an_expelled_replica_hands_out_nothing() {
    let mut world = World::story();
    world.edge_at(0, None);
    world.pass(500);
    assert_eq!((world.edge_uses(), world.first_says()), (Some(1), (true, false)));
    world.cut_off(1, 3_600_000);
    world.pass(2_500);
    assert_eq!(world.ledger.beats.len(), 1, "expelled");
    world.facts[0].truth = Truth::Evicted;
    world.pass(500);
    assert_eq!(world.first_says(), (false, true));
    world.edge_at(1, None);
    world.pass(450);
    assert_eq!(world.edge_uses(), None);
}

/// A replica that has heard of a new version does not say that all edges have it while another has not: an edge may come
/// there, though none was there when it last spoke.
#[test]
fn a_replica_without_edges_may_still_hand_out_the_version_before() {
    let mut world = World::story();
    assert_eq!(world.first_says(), (true, false));
    world.cut_off(1, 650);
    world.facts[0].current = 2;
    world.pass(100);
    assert_eq!(world.first_says(), (false, false));
    world.edge_at(1, None);
    world.pass(500);
    assert_eq!((world.edge_uses(), world.first_says()), (Some(1), (false, false)));
    world.pass(1_000);
    assert_eq!((world.edge_uses(), world.first_says()), (Some(2), (true, false)));
}

/// Where a key may be is part of what replicas serve, though nothing else changes with it.
#[test]
fn an_edge_of_another_replica_leaves_a_region() {
    let mut world = World::story();
    world.edge_at(1, Some("b"));
    world.pass(1_000);
    assert_eq!((world.edge_uses(), world.first_says()), (Some(1), (true, false)));
    world.cut_off(1, 500);
    world.facts[0].regions = vec!["a".to_owned()];
    world.pass(400);
    assert_eq!((world.edge_uses(), world.first_says()), (Some(1), (false, false)));
    world.pass(1_500);
    assert_eq!((world.edge_uses(), world.first_says()), (None, (true, false)));
}
