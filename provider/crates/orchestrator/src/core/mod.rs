//! The orchestrator's end of every stream, as one state machine without input, output or time of its own.
//!
//! What is desired of a key is a *slot*; what an edge may be able to do with a key is a *holding*. Two facts carry the
//! safety of an eviction:
//!
//! * Orders of one stream take effect in sequence, and [`Core::poll`] never sends a lease while an evict waits. So an
//!   edge that has not seen the evict cannot have seen any lease that was sent after it: the lease that was out when
//!   the eviction was decided is the last one for this key (`Usable::Until`).
//! * A lease counts, at the edge, from before its request was sent; here it counts from when the answer left.

#[cfg(test)]
mod replicas;
#[cfg(test)]
mod simulation;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Desired, Distribution, EdgeInfo, EvictReason, KeyId, KeyState, PendingEdge, Tenants, Told};

/// Added to every lease before it counts as over: clocks of two machines do not run at quite the same rate.
pub(crate) const MARGIN: Duration = Duration::from_millis(100);
/// A lost edge is shown for so long.
pub(crate) const FORGET: Duration = Duration::from_mins(10);

/// Why a stream must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("another stream of the same edge has taken over")]
    Replaced,
    #[error("the edge speaks another version of the protocol")]
    Protocol,
    #[error("the edge does not keep to the protocol")]
    Violation,
    #[error(
        "the edge says it is in another region than its certificate: correct its --region, or let it join again with \
         'openkcm-provider edges token --region'"
    )]
    Region,
}

/// What an edge's certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) region: Option<String>,
    pub(crate) tenants: Tenants,
}

struct Slot {
    id: KeyId,
    /// `None`: an edge holds it, and nobody has said anything about it yet.
    desired: Option<Desired>,
    revision: u64,
    /// From the last state served: who may hear of the key when it is evicted.
    tenant_name: String,
    regions: Vec<String>,
    /// Connected edges that have not acknowledged `revision`; 0 makes a change known at once.
    outstanding: usize,
    /// When `desired` became what it is.
    decided: Duration,
    /// How long it took until every connected edge had acknowledged that the key is taken back.
    took: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Usable {
    No,
    /// While the edge has a lease.
    Yes,
    /// An eviction is decided: at most until then.
    Until(Duration),
}

struct Holding {
    usable: Usable,
    /// Revision that the edge acknowledged.
    acked: u64,
    /// Index in `Held` and fingerprint there, until settled.
    held: Option<(u32, u64)>,
    /// Which queue has it; entries in other queues are left over.
    queued: Option<Sent>,
    /// Revision for which it is counted in the slot's `outstanding`.
    awaited: u64,
    /// Sequence number of the last put or confirm in this stream.
    given_at: u64,
}

impl Holding {
    fn new(usable: Usable, acked: u64, held: Option<(u32, u64)>) -> Self {
        Self { usable, acked, held, queued: None, awaited: 0, given_at: 0 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Put,
    Evict,
    Confirm,
}

/// An order that waits for its acknowledgement.
#[derive(Clone, Copy)]
struct InFlight {
    sequence: u64,
    slot_id: u32,
    sent: Sent,
    revision: u64,
}

/// A key with so many versions that it goes in parts, between which other orders find their way.
struct Partial {
    slot_id: u32,
    revision: u64,
    /// Versions, dead ones after living ones, that have been sent.
    done: usize,
}

#[allow(clippy::struct_excessive_bools)] // The steps of a beginning, each taken once.
struct Stream {
    number: u64,
    greeted: bool,
    /// The edge has taken revisions up to here, from whatever orchestrator.
    floor: u64,
    /// All of `Held` is here.
    listed: bool,
    held: Vec<u32>,
    welcomed: bool,
    synced: bool,
    /// With an orchestrator that is not ready: do not keep the edge waiting longer.
    sync_by: Duration,
    sequence: u64,
    acked: u64,
    in_flight: VecDeque<InFlight>,
    /// Sequence number and size of each put that is not acknowledged, and the sum.
    put_sizes: VecDeque<(u64, usize)>,
    put_bytes: usize,
    partial: Option<Partial>,
    evicts: VecDeque<u32>,
    confirms: VecDeque<u32>,
    puts: VecDeque<u32>,
    renewal: Option<u64>,
    /// Keys whose state the edge refused: it has a newer one. To be tried again.
    refused: Vec<u32>,
    certificate: Option<Vec<u8>>,
}

struct Edge {
    identity: Identity,
    /// The tenants it asked for, among those that it may have.
    subscription: Tenants,
    stream: Option<Stream>,
    /// The last lease that was sent is surely over then.
    lease_end: Duration,
    seen: Duration,
    holdings: HashMap<u32, Holding>,
    callers: HashMap<u32, u32>,
}

/// Everything about keys and edges.
pub(crate) struct Core {
    lease: Duration,
    incarnation: Vec<u8>,
    urls: Vec<String>,
    ready: bool,
    /// Edges of before the start that have not come back, and when their leases are over.
    absent: BTreeSet<Uuid>,
    settled_at: Duration,
    slots: HashMap<u32, Slot>,
    index: HashMap<KeyId, u32>,
    next_slot: u32,
    revision: u64,
    edges: BTreeMap<Uuid, Edge>,
    streams: u64,
    /// Evictions that the lease of an edge, seen since the start, still holds up.
    evicting: HashSet<u32>,
    changed: BTreeSet<u32>,
    /// Changed, but more will follow in a moment.
    changing: BTreeSet<u32>,
    /// Edges that have something to send since this was last taken.
    wake: Vec<Uuid>,
    /// Leases and keys may be given until then; `None`: without end.
    mandate: Option<Duration>,
    /// Edges that are connected to another replica.
    elsewhere: HashSet<Uuid>,
}

/// How a core begins.
pub(crate) struct Start {
    pub(crate) now: Duration,
    pub(crate) lease: Duration,
    /// The longest lease that an earlier incarnation may have given.
    pub(crate) earlier_lease: Duration,
    /// Edges that may have one.
    pub(crate) absent: BTreeSet<Uuid>,
    /// Leases and keys are given only while somebody says so, see [`Core::may_lease_until`].
    pub(crate) mandated: bool,
    pub(crate) incarnation: Vec<u8>,
    pub(crate) urls: Vec<String>,
}

impl Core {
    pub(crate) fn new(start: Start) -> Self {
        let settled_at = start.now + start.earlier_lease + MARGIN;
        Self {
            lease: start.lease,
            incarnation: start.incarnation,
            urls: start.urls,
            ready: false,
            absent: start.absent,
            settled_at,
            slots: HashMap::new(),
            index: HashMap::new(),
            next_slot: 0,
            revision: 0,
            edges: BTreeMap::new(),
            streams: 0,
            evicting: HashSet::new(),
            changed: BTreeSet::new(),
            changing: BTreeSet::new(),
            wake: Vec::new(),
            mandate: start.mandated.then_some(Duration::ZERO),
            elsewhere: HashSet::new(),
        }
    }

    // ---- beside other replicas ----

    /// Leases and keys may be given until then, if this orchestrator was started with a mandate.
    pub(crate) fn may_lease_until(&mut self, until: Duration) {
        if let Some(mandate) = &mut self.mandate {
            *mandate = (*mandate).max(until);
            let waits = |edge: &Edge| edge.stream.as_ref().is_some_and(Stream::waits);
            self.wake.extend(self.edges.iter().filter(|(_, edge)| waits(edge)).map(|(id, _)| *id));
        }
    }

    /// Edges that are connected to other replicas now: of those that were lost here, nobody need be reminded.
    pub(crate) fn elsewhere(&mut self, edges: HashSet<Uuid>) {
        self.elsewhere = edges;
    }

    // ---- what is desired ----

    pub(crate) fn told(&self, key: &KeyId) -> Option<Told> {
        match &self.slots.get(self.index.get(key)?)?.desired {
            Some(Desired::Serve(state)) => Some(Told::Serve(state.fingerprint)),
            Some(Desired::Evicted { reason }) => Some(Told::Evicted(*reason)),
            Some(Desired::Gone) | None => None,
        }
    }

    /// The state that is served, if it is of that key.
    pub(crate) fn served(&self, key: &KeyId, uuid: Uuid) -> Option<&KeyState> {
        match &self.slots.get(self.index.get(key)?)?.desired {
            Some(Desired::Serve(state)) if state.key_uuid == uuid => Some(state),
            _ => None,
        }
    }

    pub(crate) fn set(&mut self, now: Duration, key: KeyId, desired: Desired) {
        let slot_id = match (self.index.get(&key), &desired) {
            (Some(id), _) => *id,
            (None, Desired::Gone) => return,
            (None, _) => self.new_slot(key),
        };
        let Some(slot) = self.slots.get_mut(&slot_id) else { return };
        let same = match (&slot.desired, &desired) {
            (Some(Desired::Serve(old)), Desired::Serve(new)) => {
                old.fingerprint == new.fingerprint && slot.regions == new.regions
            }
            (Some(Desired::Evicted { reason: old }), Desired::Evicted { reason: new }) => old == new,
            (Some(Desired::Gone), Desired::Gone) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Desired::Serve(state) = &desired {
            self.evicting.remove(&slot_id);
            slot.tenant_name.clone_from(&state.tenant_name);
            slot.regions.clone_from(&state.regions);
        }
        slot.desired = Some(desired);
        self.announce(now, slot_id);
    }

    pub(crate) fn regions(&self, key: &KeyId) -> Vec<String> {
        let slot = self.index.get(key).and_then(|slot_id| self.slots.get(slot_id));
        slot.map_or_else(Vec::new, |slot| slot.regions.clone())
    }

    /// Other regions for what is served: edges outside lose it, edges inside get it.
    pub(crate) fn place(&mut self, now: Duration, key: &KeyId, regions: Vec<String>) {
        let Some(slot_id) = self.index.get(key).copied() else { return };
        let Some(slot) = self.slots.get_mut(&slot_id).filter(|slot| slot.regions != regions) else { return };
        if matches!(slot.desired, Some(Desired::Serve(_))) {
            slot.regions = regions;
            self.announce(now, slot_id);
        }
    }

    /// What is desired has changed: on its way to every edge that it concerns.
    fn announce(&mut self, now: Duration, slot_id: u32) {
        let Some(slot) = self.slots.get_mut(&slot_id) else { return };
        self.revision += 1;
        slot.revision = self.revision;
        slot.outstanding = 0;
        slot.decided = now;
        slot.took = None;
        let edges: Vec<Uuid> = self.edges.keys().copied().collect();
        for edge in edges {
            self.enqueue(now, edge, slot_id);
        }
        self.note(slot_id);
        self.drop_if_gone(slot_id);
    }

    /// A key's distribution changed. More is to come at once while edges have not acknowledged.
    fn note(&mut self, slot_id: u32) {
        if self.slots.get(&slot_id).is_some_and(|slot| slot.outstanding == 0) {
            self.changed.insert(slot_id);
        } else {
            self.changing.insert(slot_id);
        }
    }

    pub(crate) fn ready(&mut self, now: Duration) {
        if std::mem::replace(&mut self.ready, true) {
            return;
        }
        let unset: Vec<u32> =
            self.slots.iter().filter(|(_, slot)| slot.desired.is_none()).map(|(id, _)| *id).collect();
        for slot_id in unset {
            let Some(key) = self.slots.get(&slot_id).map(|slot| slot.id.clone()) else { continue };
            self.set(now, key, Desired::Gone);
        }
        self.wake.extend(self.edges.keys().copied());
    }

    fn new_slot(&mut self, key: KeyId) -> u32 {
        let id = self.next_slot;
        self.next_slot += 1;
        self.index.insert(key.clone(), id);
        let (tenant_name, regions) = (String::new(), Vec::new());
        let (outstanding, decided, took) = (0, Duration::ZERO, None);
        self.slots.insert(
            id,
            Slot { id: key, desired: None, revision: 0, tenant_name, regions, outstanding, decided, took },
        );
        id
    }

    /// A slot that nobody wants and no edge holds is of no more use.
    fn drop_if_gone(&mut self, slot_id: u32) {
        let Some(slot) = self.slots.get(&slot_id) else { return };
        let gone = matches!(slot.desired, Some(Desired::Gone));
        if gone && !self.edges.values().any(|edge| edge.holdings.contains_key(&slot_id)) {
            self.index.remove(&slot.id);
            self.slots.remove(&slot_id);
            self.evicting.remove(&slot_id);
            self.changed.remove(&slot_id);
            self.changing.remove(&slot_id);
            for edge in self.edges.values_mut() {
                edge.callers.remove(&slot_id);
            }
        }
    }

    /// Puts whatever the edge must hear about the key into its queue, in the place of what waits there.
    fn enqueue(&mut self, now: Duration, edge_id: Uuid, slot_id: u32) {
        let (Some(edge), Some(slot)) = (self.edges.get_mut(&edge_id), self.slots.get_mut(&slot_id)) else {
            return;
        };
        let serve = match &slot.desired {
            Some(Desired::Serve(_)) => edge.may_have(slot),
            // Not our word to say, until we know all that there is.
            None => return,
            Some(_) => false,
        };
        let lease_end = edge.lease_end;
        if !serve && !edge.holdings.contains_key(&slot_id) {
            return;
        }
        let holding = edge.holdings.entry(slot_id).or_insert(Holding::new(Usable::No, 0, None));
        if serve {
            if holding.acked == slot.revision {
                return;
            }
        } else if holding.usable != Usable::No {
            if holding.usable == Usable::Yes {
                holding.usable = Usable::Until(lease_end.max(now));
            }
            self.evicting.insert(slot_id);
        }
        let Some(stream) = edge.stream.as_mut().filter(|stream| stream.listed) else { return };
        if std::mem::replace(&mut holding.awaited, slot.revision) != slot.revision {
            slot.outstanding += 1;
        }
        let fingerprint = match &slot.desired {
            Some(Desired::Serve(state)) if serve => Some(state.fingerprint),
            _ => None,
        };
        let (kind, queue) = match (fingerprint, holding.held) {
            (None, _) => (Sent::Evict, &mut stream.evicts),
            (Some(wanted), Some((_, held))) if wanted == held => (Sent::Confirm, &mut stream.confirms),
            (Some(_), _) => (Sent::Put, &mut stream.puts),
        };
        if holding.queued.replace(kind) != Some(kind) {
            queue.push_back(slot_id);
        }
        self.wake.push(edge_id);
    }

    // ---- what people and callers hear ----

    pub(crate) fn distribution(&self, now: Duration, key: &KeyId) -> Distribution {
        let settling =
            (!self.absent.is_empty() && now < self.settled_at).then(|| self.settled_at.saturating_sub(now));
        let mut distribution = Distribution { settling, ..Distribution::default() };
        let slot_id = self.index.get(key).copied();
        let slot = slot_id.and_then(|slot_id| self.slots.get(&slot_id));
        let (Some(slot), Some(slot_id)) = (slot, slot_id) else { return distribution };
        let serve = match &slot.desired {
            Some(Desired::Serve(state)) => {
                distribution.serves = served(state, &slot.regions);
                true
            }
            _ => false,
        };
        for edge in self.edges.values() {
            let holding = edge.holdings.get(&slot_id);
            let until = holding.map_or(Duration::ZERO, |holding| edge.usable_until(holding));
            let allowed = edge.may_have(slot);
            if !allowed && until <= now {
                continue;
            }
            distribution.total += 1;
            distribution.active_clients += u64::from(edge.callers.get(&slot_id).copied().unwrap_or(0));
            if serve && allowed {
                let current = holding.is_some_and(|holding| holding.acked == slot.revision);
                distribution.current += u32::from(current && edge.lease_end > now);
            } else if until > now {
                let lease_ends_in = until.saturating_sub(now);
                distribution.pending.push(PendingEdge { edge: edge.identity.name.clone(), lease_ends_in });
            }
            distribution.evicted += u32::from(until <= now);
        }
        distribution.took = slot.took.filter(|_| distribution.is_evicted());
        distribution
    }

    pub(crate) fn edges(&self, now: Duration) -> Vec<EdgeInfo> {
        let info = |edge: &Edge| EdgeInfo {
            id: edge.identity.id,
            name: edge.identity.name.clone(),
            region: edge.identity.region.clone(),
            tenants: edge.identity.tenants.clone(),
            connected: edge.stream.is_some(),
            lease_ends_in: (edge.lease_end > now).then(|| edge.lease_end.saturating_sub(now)),
            keys: edge.holdings.values().filter(|holding| edge.usable_until(holding) > now).count() as u64,
        };
        let mut edges: Vec<EdgeInfo> = self.edges.values().map(info).collect();
        edges.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        edges
    }

    /// No lease of before the start is left, which every key's distribution waited for.
    fn settled(&mut self) {
        self.changing.extend(self.slots.keys());
    }

    /// The passing of time: leases end, lost edges are forgotten. To be called several times a second.
    pub(crate) fn tick(&mut self, now: Duration) {
        if now >= self.settled_at && !self.absent.is_empty() {
            let away = self.absent.len();
            tracing::info!(away, "leases of before the start are over; edges that are away hold no key");
            self.absent.clear();
            self.settled();
        }
        let evicting: Vec<u32> = self.evicting.iter().copied().collect();
        for slot_id in evicting {
            let Some(slot) = self.slots.get(&slot_id) else {
                self.evicting.remove(&slot_id);
                continue;
            };
            let serve = matches!(slot.desired, Some(Desired::Serve(_)));
            let pending = self.edges.values().any(|edge| {
                let ends = edge.holdings.get(&slot_id).map_or(Duration::ZERO, |held| edge.usable_until(held));
                ends > now && !(serve && edge.may_have(slot))
            });
            if !pending {
                self.evicting.remove(&slot_id);
                self.changed.insert(slot_id);
            }
        }
        let lost = |id: &Uuid, edge: &Edge| {
            let forgotten = edge.seen + FORGET <= now || self.elsewhere.contains(id);
            edge.stream.is_none() && edge.lease_end <= now && forgotten
        };
        let lost: Vec<Uuid> =
            self.edges.iter().filter(|(id, edge)| lost(id, edge)).map(|(id, _)| *id).collect();
        for id in lost {
            let Some(edge) = self.edges.remove(&id) else { continue };
            for slot_id in edge.holdings.into_keys() {
                self.changing.insert(slot_id);
                self.drop_if_gone(slot_id);
            }
        }
        for (id, edge) in &self.edges {
            if edge
                .stream
                .as_ref()
                .is_some_and(|stream| stream.listed && !stream.synced && now >= stream.sync_by)
            {
                self.wake.push(*id);
            }
        }
        self.changed.append(&mut self.changing);
    }

    pub(crate) fn take_changed(&mut self) -> Option<KeyId> {
        while let Some(slot_id) = self.changed.pop_first() {
            if let Some(slot) = self.slots.get(&slot_id) {
                return Some(slot.id.clone());
            }
        }
        None
    }

    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(crate) fn take_wake(&mut self) -> Vec<Uuid> {
        let mut wake = std::mem::take(&mut self.wake);
        wake.sort_unstable();
        wake.dedup();
        wake
    }
}

impl Edge {
    fn may_have(&self, slot: &Slot) -> bool {
        may_have(slot, &self.identity, &self.subscription)
    }

    fn usable_until(&self, holding: &Holding) -> Duration {
        match holding.usable {
            Usable::No => Duration::ZERO,
            Usable::Yes => self.lease_end,
            Usable::Until(end) => end.min(self.lease_end),
        }
    }
}

/// By what replicas tell apart what they serve: regions change without the state, and so without its fingerprint.
fn served(state: &KeyState, regions: &[String]) -> u64 {
    let mut hash = Sha256::new_with_prefix(state.fingerprint.to_be_bytes());
    for region in regions {
        hash.update((region.len() as u64).to_be_bytes());
        hash.update(region);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)).max(1)
}

/// What the certificate grants, narrowed by what the edge asked for.
fn may_have(slot: &Slot, identity: &Identity, subscription: &Tenants) -> bool {
    let tenant = |tenants: &Tenants| tenants.contains(&slot.tenant_name, &slot.id.cluster);
    // An edge that is nowhere in particular gets what may be anywhere.
    let region =
        slot.regions.is_empty() || identity.region.as_ref().is_some_and(|here| slot.regions.contains(here));
    tenant(&identity.tenants) && tenant(subscription) && region
}

/// What the edge is told of an evicted key; `None`: nothing, it forgets the name.
fn evict_reason(slot: &Slot, identity: &Identity, subscription: &Tenants) -> Option<EvictReason> {
    match &slot.desired {
        Some(Desired::Evicted { reason }) if may_have(slot, identity, subscription) => Some(*reason),
        _ => None,
    }
}
