//! What one stream brings and what goes out on it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use openkcm_edge_protocol::{orchestrator as wire, session::PROTOCOL};
use uuid::Uuid;

use super::{
    Core, Edge, Holding, Identity, InFlight, MARGIN, Partial, Sent, Slot, Stream, StreamEnd, Usable,
    evict_reason, may_have,
};
use crate::{
    Desired, KeyState, Tenants,
    wire::{evict_order, key_id, key_ref, put_order},
};

/// Orders that may be unacknowledged before puts, and before anything, waits.
const PUT_WINDOW: usize = 64;
const WINDOW: usize = 4096;
/// Bytes of puts that may be unacknowledged before others wait, so that a lease never has to wait long behind keys on a
/// slow link; and of one message.
const PUT_BYTES: usize = 256 << 10;
const PART_BYTES: usize = 64 << 10;
/// Versions of a key in one message: what [`PART_BYTES`] hold. Few in tests, so that they meet keys in parts.
pub(super) const PART_VERSIONS: usize = if cfg!(test) { 2 } else { 1024 };
/// Orders per message, and entries of `Held` per confirmation.
const BATCH: usize = 32;
const CONFIRM_BATCH: usize = 8192;
/// More held keys than this are no edge of ours.
const MAX_HELD: usize = 1_000_000;

impl Core {
    /// A stream of an edge has begun; any other of the same edge ends. Gives the stream's number.
    pub(crate) fn attach(&mut self, now: Duration, identity: Identity) -> u64 {
        if let Some(old) = self.edges.get(&identity.id).and_then(|edge| edge.stream.as_ref()) {
            let old = old.number;
            self.detach(now, identity.id, old);
        }
        self.streams += 1;
        let number = self.streams;
        let stream = Stream {
            number,
            greeted: false,
            floor: 0,
            listed: false,
            held: Vec::new(),
            welcomed: false,
            synced: false,
            sync_by: now + self.lease / 2,
            sequence: 0,
            acked: 0,
            in_flight: VecDeque::new(),
            put_sizes: VecDeque::new(),
            put_bytes: 0,
            partial: None,
            evicts: VecDeque::new(),
            confirms: VecDeque::new(),
            puts: VecDeque::new(),
            renewal: None,
            refused: Vec::new(),
            certificate: None,
        };
        // At an edge that comes to us a lease may be running that another replica has given just now, or an earlier
        // incarnation.
        let id = identity.id;
        let earlier = if self.absent.contains(&id) { self.settled_at } else { Duration::ZERO };
        let lease_end = earlier.max(now + self.lease + MARGIN);
        let edge = self.edges.entry(id).or_insert_with(|| Edge {
            identity: identity.clone(),
            subscription: Tenants::All,
            stream: None,
            lease_end,
            seen: now,
            holdings: HashMap::new(),
            callers: HashMap::new(),
        });
        edge.identity = identity;
        edge.lease_end = edge.lease_end.max(lease_end);
        edge.stream = Some(stream);
        self.wake.push(id);
        number
    }

    /// The stream is over, for whatever reason.
    pub(crate) fn detach(&mut self, now: Duration, id: Uuid, number: u64) {
        let Some(edge) = self.edges.get_mut(&id) else { return };
        if edge.stream.as_ref().is_some_and(|stream| stream.number == number) {
            edge.stream = None;
            edge.seen = now;
            for (slot_id, holding) in &mut edge.holdings {
                holding.queued = None;
                holding.given_at = 0;
                let awaited = std::mem::take(&mut holding.awaited);
                if let Some(slot) =
                    self.slots.get_mut(slot_id).filter(|slot| awaited == slot.revision && awaited != 0)
                {
                    slot.outstanding = slot.outstanding.saturating_sub(1);
                    self.changing.insert(*slot_id);
                }
            }
        }
    }

    /// Takes one message of an edge. A certificate request is not for here.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        id: Uuid,
        number: u64,
        message: wire::from_edge::Message,
    ) -> Result<(), StreamEnd> {
        let edge = self.edges.get_mut(&id).ok_or(StreamEnd::Replaced)?;
        edge.seen = now;
        let stream =
            edge.stream.as_mut().filter(|stream| stream.number == number).ok_or(StreamEnd::Replaced)?;
        match message {
            wire::from_edge::Message::Hello(hello) => {
                if stream.greeted || hello.protocol != PROTOCOL {
                    return Err(if stream.greeted { StreamEnd::Violation } else { StreamEnd::Protocol });
                }
                stream.floor = hello.revision;
                let asked = hello.subscription.unwrap_or_default();
                if !asked.region.is_empty() && edge.identity.region.as_ref() != Some(&asked.region) {
                    return Err(StreamEnd::Region);
                }
                stream.greeted = true;
                edge.subscription =
                    if asked.tenants.is_empty() { Tenants::All } else { Tenants::Only(asked.tenants) };
                Ok(())
            }
            _ if !stream.greeted => Err(StreamEnd::Violation),
            wire::from_edge::Message::Held(held) if !stream.listed => self.list(now, id, held),
            _ if !stream.listed => Err(StreamEnd::Violation),
            wire::from_edge::Message::Ack(ack) => self.acknowledge(now, id, &ack),
            wire::from_edge::Message::Renew(renew) => {
                stream.renewal = stream.renewal.max(Some(renew.number));
                for slot_id in std::mem::take(&mut stream.refused) {
                    self.enqueue(now, id, slot_id);
                }
                self.wake.push(id);
                Ok(())
            }
            wire::from_edge::Message::Usage(usage) => {
                self.usage(id, usage);
                Ok(())
            }
            wire::from_edge::Message::Held(_) | wire::from_edge::Message::CertificateRequest(_) => {
                Err(StreamEnd::Violation)
            }
        }
    }

    fn list(&mut self, now: Duration, id: Uuid, held: wire::Held) -> Result<(), StreamEnd> {
        let mut known = Vec::with_capacity(held.keys.len());
        for entry in held.keys {
            let reference = entry.key.ok_or(StreamEnd::Violation)?;
            let key = key_id(&reference).ok_or(StreamEnd::Violation)?;
            let slot_id = match self.index.get(&key) {
                Some(slot_id) => *slot_id,
                None => self.new_slot(key),
            };
            if self.ready
                && let Some(slot) = self.slots.get_mut(&slot_id).filter(|slot| slot.desired.is_none())
            {
                self.revision += 1;
                slot.revision = self.revision;
                slot.desired = Some(Desired::Gone);
            }
            known.push((slot_id, entry.fingerprint));
        }
        let edge = self.edges.get_mut(&id).ok_or(StreamEnd::Replaced)?;
        let stream = edge.stream.as_mut().ok_or(StreamEnd::Replaced)?;
        if stream.held.len() + known.len() > MAX_HELD {
            return Err(StreamEnd::Violation);
        }
        for (slot_id, fingerprint) in known {
            let index = stream.held.len() as u32;
            stream.held.push(slot_id);
            let acked = edge.holdings.get(&slot_id).map_or(0, |holding| holding.acked);
            let same = matches!(self.slots.get(&slot_id).and_then(|slot| slot.desired.as_ref()),
                Some(Desired::Serve(state)) if state.fingerprint == fingerprint);
            let usable = if fingerprint == 0 { Usable::No } else { Usable::Yes };
            edge.holdings.insert(
                slot_id,
                Holding::new(usable, if same { acked } else { 0 }, Some((index, fingerprint))),
            );
        }
        if !held.last {
            return Ok(());
        }
        stream.listed = true;
        // What the edge does not list it does not have.
        let listed: HashSet<u32> = stream.held.iter().copied().collect();
        let lost: Vec<u32> =
            edge.holdings.keys().filter(|slot_id| !listed.contains(slot_id)).copied().collect();
        edge.holdings.retain(|slot_id, _| listed.contains(slot_id));
        for slot_id in lost {
            self.changing.insert(slot_id);
            self.drop_if_gone(slot_id);
        }
        if self.absent.remove(&id) && self.absent.is_empty() {
            tracing::info!("every edge of before the start is back");
            self.settled();
        }
        let slots: Vec<u32> = self.slots.keys().copied().collect();
        for slot_id in slots {
            // Confirmed anew in every stream, whatever was acknowledged in another.
            let acked = self.holding(id, slot_id).map(|holding| std::mem::take(&mut holding.acked));
            self.enqueue(now, id, slot_id);
            if let (Some(acked), Some(holding)) = (acked, self.holding(id, slot_id)) {
                holding.acked = acked;
            }
        }
        self.wake.push(id);
        Ok(())
    }

    fn holding(&mut self, edge: Uuid, slot_id: u32) -> Option<&mut Holding> {
        self.edges.get_mut(&edge)?.holdings.get_mut(&slot_id)
    }

    fn acknowledge(&mut self, now: Duration, id: Uuid, ack: &wire::Ack) -> Result<(), StreamEnd> {
        let edge = self.edges.get_mut(&id).ok_or(StreamEnd::Replaced)?;
        let stream = edge.stream.as_mut().ok_or(StreamEnd::Replaced)?;
        if ack.through > stream.sequence || ack.through < stream.acked {
            return Err(StreamEnd::Violation);
        }
        stream.acked = ack.through;
        let missing: HashSet<u32> =
            ack.missing.iter().filter_map(|index| stream.held.get(*index as usize).copied()).collect();
        let mut again = Vec::new();
        let mut gone = Vec::new();
        while let Some((_, size)) = stream.put_sizes.pop_front_if(|(sequence, _)| *sequence <= ack.through) {
            stream.put_bytes -= size;
        }
        while let Some(InFlight { sequence, slot_id, sent, revision }) = stream.in_flight.front().copied() {
            if sequence > ack.through {
                break;
            }
            stream.in_flight.pop_front();
            let Some(holding) = edge.holdings.get_mut(&slot_id) else { continue };
            if sent == Sent::Confirm && missing.contains(&slot_id) {
                if holding.given_at > sequence {
                    continue; // Put since: what the edge says is of before, and it has the key again.
                }
                holding.acked = 0;
                again.push(slot_id);
                continue;
            }
            if ack.refused.contains(&sequence) {
                // The edge keeps what it had, which is newer than ours. Either we hear of it too, or it will be dropped there.
                stream.refused.push(slot_id);
                tracing::warn!(edge = %edge.identity.name, revision, "an edge refused a key's state");
                continue;
            }
            holding.acked = revision;
            let later = holding.given_at > sequence;
            if sent == Sent::Evict && !later {
                holding.usable = Usable::No;
            }
            let Some(slot) = self.slots.get_mut(&slot_id) else { continue };
            if slot.revision == revision && holding.awaited == revision {
                holding.awaited = 0;
                slot.outstanding = slot.outstanding.saturating_sub(1);
                if sent == Sent::Evict
                    && !later
                    && evict_reason(slot, &edge.identity, &edge.subscription).is_none()
                {
                    edge.holdings.remove(&slot_id);
                    gone.push(slot_id);
                }
                if slot.outstanding == 0 {
                    if sent == Sent::Evict {
                        slot.took.get_or_insert(now.saturating_sub(slot.decided));
                    }
                    self.changing.remove(&slot_id);
                    self.changed.insert(slot_id);
                } else {
                    self.changing.insert(slot_id);
                }
            }
        }
        for slot_id in again {
            if let Some(holding) = self.holding(id, slot_id) {
                holding.held = None;
                holding.usable = Usable::No;
            }
            self.enqueue(now, id, slot_id);
        }
        for slot_id in gone {
            self.drop_if_gone(slot_id);
        }
        self.wake.push(id);
        Ok(())
    }

    fn usage(&mut self, id: Uuid, usage: wire::Usage) {
        let Some(edge) = self.edges.get_mut(&id) else { return };
        for entry in usage.keys {
            let slot_id = entry.key.as_ref().and_then(key_id).and_then(|key| self.index.get(&key).copied());
            // An edge may count callers of keys that it holds, of nothing else.
            let Some(slot_id) = slot_id.filter(|slot_id| edge.holdings.contains_key(slot_id)) else {
                continue;
            };
            let before = if entry.callers == 0 {
                edge.callers.remove(&slot_id)
            } else {
                edge.callers.insert(slot_id, entry.callers)
            };
            if before.unwrap_or(0) != entry.callers {
                self.changing.insert(slot_id);
            }
        }
    }

    pub(crate) fn certificate(&mut self, id: Uuid, number: u64, der: Vec<u8>) {
        let stream = self.edges.get_mut(&id).and_then(|edge| edge.stream.as_mut());
        if let Some(stream) = stream.filter(|stream| stream.number == number) {
            stream.certificate = Some(der);
            self.wake.push(id);
        }
    }

    /// Orders to send now on the stream; empty when there are none, an error when the stream is not the edge's own
    /// any more. To be called again until it is empty.
    pub(crate) fn poll(
        &mut self,
        now: Duration,
        id: Uuid,
        number: u64,
    ) -> Result<Vec<wire::Order>, StreamEnd> {
        let edge = self.edges.get_mut(&id).ok_or(StreamEnd::Replaced)?;
        let Some(stream) = edge.stream.as_mut().filter(|stream| stream.number == number) else {
            return Err(StreamEnd::Replaced);
        };
        let mut orders = Vec::new();
        if !stream.greeted || stream.unacknowledged() >= WINDOW {
            return Ok(orders);
        }
        if !std::mem::replace(&mut stream.welcomed, true) {
            let welcome = wire::Welcome {
                edge_id: id.to_string(),
                incarnation: self.incarnation.clone(),
                lease_ms: self.lease.as_millis() as u32,
                urls: self.urls.clone(),
                exchange: Vec::new(),
            };
            stream.order(&mut orders, wire::order::Order::Welcome(welcome));
        }
        if !stream.listed {
            return Ok(orders);
        }
        while stream.unacknowledged() < WINDOW && orders.len() < BATCH {
            let Some(slot_id) = stream.evicts.pop_front() else { break };
            let (Some(slot), Some(holding)) = (self.slots.get(&slot_id), edge.holdings.get_mut(&slot_id))
            else {
                continue;
            };
            let serve = matches!(slot.desired, Some(Desired::Serve(_)))
                && may_have(slot, &edge.identity, &edge.subscription);
            if serve || holding.queued != Some(Sent::Evict) {
                continue; // Taken back while it waited; the put has its own place in the queue.
            }
            holding.queued = None;
            holding.held = None;
            let reason = evict_reason(slot, &edge.identity, &edge.subscription);
            let sequence = stream.order(&mut orders, evict_order(key_ref(&slot.id), reason));
            let revision = slot.revision;
            stream.in_flight.push_back(InFlight { sequence, slot_id, sent: Sent::Evict, revision });
        }
        if !stream.evicts.is_empty() {
            return Ok(orders);
        }
        // Without a mandate nothing leaves that lets an edge use a key: other replicas need not reckon with this one any
        // more, and the edge may have come with a lease of one of them. It gets no answer and looks for another replica.
        if self.mandate.is_some_and(|until| now >= until) {
            return Ok(orders);
        }
        if let Some(number) = stream.renewal.take() {
            edge.lease_end = edge.lease_end.max(now + self.lease + MARGIN);
            let lease_ms = self.lease.as_millis() as u32;
            stream.order(&mut orders, wire::order::Order::Lease(wire::Lease { number, lease_ms }));
        }
        if let Some(certificate) = stream.certificate.take() {
            let certificate = wire::Certificate { certificate };
            stream.order(&mut orders, wire::order::Order::Certificate(certificate));
        }
        if !stream.confirms.is_empty() && stream.unacknowledged() < WINDOW {
            let mut confirmed = Vec::new();
            let mut indices = Vec::new();
            while indices.len() < CONFIRM_BATCH {
                let Some(slot_id) = stream.confirms.pop_front() else { break };
                let (Some(slot), Some(holding)) = (self.slots.get(&slot_id), edge.holdings.get_mut(&slot_id))
                else {
                    continue;
                };
                let Some(Desired::Serve(state)) = &slot.desired else { continue };
                let queued = holding.queued == Some(Sent::Confirm);
                let Some((index, fingerprint)) = holding.held.filter(|_| queued) else { continue };
                if fingerprint != state.fingerprint {
                    continue; // Changed while it waited; the put has its own place in the queue.
                }
                holding.queued = None;
                holding.given_at = stream.sequence + 1;
                holding.held = None;
                holding.usable = Usable::Yes;
                indices.push(index);
                confirmed.push((slot_id, slot.revision));
            }
            if !indices.is_empty() {
                let order = wire::order::Order::Confirm(wire::Confirm { held: indices });
                let sequence = stream.order(&mut orders, order);
                let sent = Sent::Confirm;
                stream.in_flight.extend(confirmed.into_iter().map(|(slot_id, revision)| InFlight {
                    sequence,
                    slot_id,
                    sent,
                    revision,
                }));
            }
        }
        if !stream.synced && stream.confirms.is_empty() && (self.ready || now >= stream.sync_by) {
            stream.synced = true;
            stream.order(&mut orders, wire::order::Order::Synced(wire::Synced {}));
        }
        let mut size = 0;
        while stream.unacknowledged() < PUT_WINDOW
            && stream.put_bytes < PUT_BYTES
            && orders.len() < BATCH
            && size < PART_BYTES
        {
            let going_on = stream.partial.take().filter(|partial| {
                self.slots.get(&partial.slot_id).is_some_and(|slot| slot.revision == partial.revision)
            });
            let (slot_id, done) = match going_on {
                Some(partial) => (partial.slot_id, partial.done),
                None => match stream.puts.pop_front() {
                    Some(slot_id) => (slot_id, 0),
                    None => break,
                },
            };
            let (Some(slot), Some(holding)) = (self.slots.get(&slot_id), edge.holdings.get_mut(&slot_id))
            else {
                continue;
            };
            let Some(Desired::Serve(state)) = &slot.desired else { continue };
            if done == 0 && holding.queued != Some(Sent::Put)
                || !may_have(slot, &edge.identity, &edge.subscription)
            {
                continue;
            }
            holding.queued = None;
            holding.given_at = stream.sequence + 1;
            holding.held = None;
            holding.usable = Usable::Yes;
            // Revisions go on from what the edge has taken elsewhere, so it takes this one.
            let (put, next) = put_part(slot, state, done, stream.floor.saturating_add(slot.revision));
            let put = wire::order::Order::Put(put);
            let (bytes, revision) = (put.encoded_len(), slot.revision);
            let sequence = stream.order(&mut orders, put);
            size += bytes;
            stream.put_bytes += bytes;
            stream.put_sizes.push_back((sequence, bytes));
            match next {
                Some(done) => stream.partial = Some(Partial { slot_id, revision, done }),
                None => stream.in_flight.push_back(InFlight { sequence, slot_id, sent: Sent::Put, revision }),
            }
        }
        Ok(orders)
    }
}

/// What fits into one message of a key's state, from a version on, and where the next part begins.
fn put_part(slot: &Slot, state: &KeyState, done: usize, revision: u64) -> (wire::Put, Option<usize>) {
    let living = state.versions.len();
    let total = living + state.dead_versions.len();
    let next = total.min(done + PART_VERSIONS);
    let versions = &state.versions[done.min(living)..next.min(living)];
    let dead = &state.dead_versions[done.max(living) - living..next.max(living) - living];
    let put = put_order(&slot.id, state, revision, versions, dead);
    let more = next < total;
    (wire::Put { more, ..put }, more.then_some(next))
}

impl Stream {
    fn unacknowledged(&self) -> usize {
        (self.sequence - self.acked) as usize
    }

    /// Something is to be sent that needs a mandate.
    pub(super) fn waits(&self) -> bool {
        let keys = !self.puts.is_empty() || !self.confirms.is_empty() || self.partial.is_some();
        keys || self.renewal.is_some() || self.certificate.is_some() || self.listed && !self.synced
    }

    fn order(&mut self, orders: &mut Vec<wire::Order>, order: wire::order::Order) -> u64 {
        self.sequence += 1;
        orders.push(wire::Order { sequence: self.sequence, order: Some(order) });
        self.sequence
    }
}
