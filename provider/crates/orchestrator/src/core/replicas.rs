//! The simulation's world with two providers over one ledger, as `openkcm-provider` plays its part there.
//!
//! Each may die, be cut off from the ledger, or hear late of what a user wants; each takes itself for the workspace's owner
//! half of the time. Edges go to either. What the ledger keeps, with the rules of its tables: whether a key is withheld, and
//! which replica may have handed it out. What must hold, after every step:
//!
//! 1. Once somebody says that a key is evicted, no edge of any replica can use it, until the ledger releases it.
//! 2. Once somebody says that all edges are current, no edge of any replica uses an older version.
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
    simulation::{Chance, LEASE, Node, STEP, Truth, desired, many},
};
use crate::{KeyId, wire::key_ref};

const TROUBLE: Duration = Duration::from_secs(12);
const HEALED: Duration = Duration::from_secs(6);
/// A replica that has just spoken to the ledger may give leases for so long.
const MANDATE: Duration = Duration::from_millis(800);

struct Fact {
    id: KeyId,
    truth: Truth,
    current: u32,
    withheld: bool,
    /// Somebody has said that no edge can use the key.
    claimed: bool,
}

/// A row of the ledger's `hand_outs`.
#[derive(Clone, Copy, Default, Debug)]
struct HandOut {
    usable: bool,
    fingerprint: u32,
    total: u32,
    current: u32,
}

struct Replica {
    core: Core,
    incarnation: u64,
    ready: bool,
    /// What its watch shows of each key, and what it has told its edges: 0 to take it back, or the version to serve.
    seen: Vec<Truth>,
    told: Vec<Option<u32>>,
    cut_off: Duration,
}

#[derive(Default)]
struct Ledger {
    beats: BTreeMap<u64, Duration>,
    rows: BTreeMap<(u64, usize), HandOut>,
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
        nodes.iter_mut().for_each(|node| node.store.several = true);
        let fact = |n| Fact {
            id: KeyId { cluster: "c".parse().unwrap(), namespace: "n".into(), name: format!("k{n}") },
            truth: Truth::Serve,
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
            let wanted = (fact.truth == Truth::Serve).then_some(fact.current);
            for node in &self.nodes {
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
                let distribution = replica.core.distribution(self.now, &fact.id);
                let others: Vec<_> = self.others(replica, index).collect();
                assert!(
                    said,
                    "{} is {:?} v{}, but replica {} says {distribution:?} of what was told {:?}; the others {others:?}",
                    fact.id, fact.truth, fact.current, replica.incarnation, replica.told[index]
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
                match self.chance.below(5) {
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
                replica.seen[fact] = self.facts[fact].truth;
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
            seen: self.facts.iter().map(|fact| fact.truth).collect(),
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
        let wanted = replica.seen[index];
        // The owner looks at the object itself before it releases.
        if wanted == Truth::Serve && fact.withheld && owner && fact.truth == Truth::Serve {
            (fact.withheld, fact.claimed) = (false, false);
        }
        if wanted == Truth::Serve && !fact.withheld {
            self.ledger.rows.entry((replica.incarnation, index)).or_default().usable = true;
            replica.core.set(self.now, fact.id.clone(), desired(Truth::Serve, fact.current, &[]));
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
        let distribution = replica.core.distribution(self.now, &self.facts[index].id);
        let row = self.ledger.rows.entry((replica.incarnation, index)).or_default();
        row.usable &= told != 0 || !distribution.is_evicted();
        (row.fingerprint, row.total, row.current) = (told, distribution.total, distribution.current);
    }

    fn others(&self, replica: &Replica, index: usize) -> impl Iterator<Item = &HandOut> {
        let own = replica.incarnation;
        self.ledger.rows.iter().filter(move |((id, of), _)| *id != own && *of == index).map(|(_, row)| row)
    }

    fn says_evicted(&self, replica: &Replica, index: usize) -> bool {
        let fact = &self.facts[index];
        fact.withheld
            && replica.told[index] == Some(0)
            && replica.core.distribution(self.now, &fact.id).is_evicted()
            && self.others(replica, index).all(|row| !row.usable)
    }

    fn says_current(&self, replica: &Replica, index: usize) -> bool {
        let fact = &self.facts[index];
        let distribution = replica.core.distribution(self.now, &fact.id);
        replica.told[index] == Some(fact.current)
            && distribution.is_current()
            && distribution.settling.is_none()
            && self
                .others(replica, index)
                .all(|row| !row.usable || (row.fingerprint, row.current) == (fact.current, row.total))
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
                assert!(
                    !current || uses.is_none_or(|version| version == fact.current),
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

/// An edge went from one replica, with its lease, to another that had been expelled without knowing, and got the key there.
#[test]
fn an_expelled_replica_hands_out_nothing() {
    World::new(373).run();
}
