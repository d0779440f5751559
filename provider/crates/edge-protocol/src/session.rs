//! The edge's end of the orchestrator's stream, as a state machine without input, output or time of its own.
//!
//! Times are nanoseconds on a clock that counts suspend. What keeps a key from being used too long:
//!
//! * A lease counts from the moment at which its request was *sent*, so a slow answer is a short lease.
//! * There is one lease for all keys, so it is extended only when every key is confirmed by the stream that extends
//!   it. Until then new leases wait. What is still unconfirmed shortly before the old lease ends is dropped, and only
//!   then does the new lease begin. If the old lease is over already, the orchestrator says when to stop waiting.
//! * Orders take effect in sequence. The orchestrator never sends a lease ahead of an evict.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use crate::orchestrator::{
    Ack, EvictReason, FromEdge, Held, HeldKey, Hello, KeyRef, Order, Put, Renew, Subscription, from_edge,
    order,
};

/// The protocol spoken here.
pub const PROTOCOL: u32 = 1;
/// No orchestrator can give a longer lease.
pub const MAX_LEASE: Duration = Duration::from_mins(1);
const HELD_PER_MESSAGE: usize = 1024;
const OPEN_RENEWALS: usize = 32;
/// No key has more versions than this.
const MAX_VERSIONS: usize = 1 << 20;

/// Where keys are kept at the edge. Every call has taken full effect when it returns.
pub trait Keys {
    /// Takes a key or a newer state of it.
    fn put(&self, put: Put) -> Result<(), Refused>;
    /// Makes the key unusable and wipes its bytes. With a reason the name is remembered, without it is forgotten.
    fn evict(&self, key: &KeyRef, reason: Eviction);
    /// Keys can be used until `until` and not after. Never called with an earlier time than before.
    fn lease(&self, until: u64);
}

/// Why a key is taken from the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eviction {
    /// The orchestrator said so. Unspecified: forget the key.
    Ordered(EvictReason),
    /// The orchestrator said that its material was destroyed.
    Destroyed {
        /// Unix seconds.
        since: i64,
    },
    /// The lease ended before the orchestrator now in charge had confirmed the key.
    Unconfirmed,
}

/// A put was not applied: it would have taken the key back, or contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The orchestrator does not keep to the protocol; the stream must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// An order is missing or came twice.
    #[error("order {got} came where {expected} was due")]
    Sequence {
        /// Sequence number that was due.
        expected: u64,
        /// Sequence number that came.
        got: u64,
    },
    /// An order has no content that this edge knows, or none at all.
    #[error("the orchestrator sent an order that this edge does not know")]
    Unknown,
    /// A message came outside a stream.
    #[error("the stream is not open")]
    Closed,
}

/// What the stream brought that is not about keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// The orchestrator accepted the edge: its other addresses.
    Welcome {
        /// Where else an orchestrator can be found.
        urls: Vec<String>,
    },
    /// A new certificate, DER.
    Certificate(Vec<u8>),
}

/// Everything the edge remembers about its orchestrator. Lives as long as the edge's process.
#[derive(Default)]
pub struct EdgeSession {
    /// Fingerprint of what is held; 0: only the memory of an eviction.
    held: HashMap<KeyRef, u64>,
    /// End of the lease in effect.
    lease: u64,
    /// The highest revision of a key that was taken.
    revision: u64,
    stream: Option<Stream>,
}

struct Stream {
    next_sequence: u64,
    acked: u64,
    refused: Vec<u64>,
    missing: Vec<u32>,
    /// What [`Held`] listed, by index; emptied as entries are settled.
    listed: Vec<Option<KeyRef>>,
    /// Keys held that this stream has neither confirmed nor put nor evicted.
    unconfirmed: HashSet<KeyRef>,
    /// The orchestrator has nothing more to say about `unconfirmed` for now.
    synced: bool,
    /// A key of which further versions are to come.
    partial: Option<Put>,
    /// Lease that waits for `unconfirmed` to become empty.
    waiting: u64,
    lease_length: Duration,
    renewals: VecDeque<(u64, u64)>,
    renewal: u64,
    renew_at: u64,
    /// When the orchestrator last answered; the start of the stream before that.
    answered: u64,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Stream {
    /// One more part of a key's state, after those before it.
    fn gather(&mut self, mut part: Put) -> Result<Put, SessionError> {
        let same = |before: &Put| before.key == part.key && before.revision == part.revision;
        let Some(mut whole) = self.partial.take().filter(same) else { return Ok(part) };
        whole.versions.append(&mut part.versions);
        whole.dead_versions.append(&mut part.dead_versions);
        if whole.versions.len() + whole.dead_versions.len() > MAX_VERSIONS {
            return Err(SessionError::Unknown);
        }
        Ok(whole)
    }
}

impl EdgeSession {
    /// End of the lease in effect, 0 if there never was one.
    pub fn lease(&self) -> u64 {
        self.lease
    }

    /// Keys held, evicted ones that are remembered not counted.
    pub fn keys(&self) -> usize {
        self.held.values().filter(|fingerprint| **fingerprint != 0).count()
    }

    /// Length of a lease as the orchestrator said, once it has.
    pub fn lease_length(&self) -> Option<Duration> {
        self.stream.as_ref().map(|stream| stream.lease_length).filter(|length| !length.is_zero())
    }

    /// How long the oldest request for a lease has been without an answer.
    pub fn unanswered(&self, now: u64) -> Duration {
        let oldest =
            self.stream.as_ref().and_then(|stream| Some((stream.renewals.front()?.1, stream.answered)));
        oldest.map_or(Duration::ZERO, |(sent, answered)| {
            Duration::from_nanos(now.saturating_sub(sent.max(answered)))
        })
    }

    /// A stream is open: what to say first. Whatever another stream had under way is void.
    pub fn connected(&mut self, now: u64, subscription: Subscription, software: &str) -> Vec<FromEdge> {
        let mut listed: Vec<KeyRef> = self.held.keys().cloned().collect();
        listed.sort_by(|a, b| (&a.cluster, &a.namespace, &a.name).cmp(&(&b.cluster, &b.namespace, &b.name)));
        let hello = Hello {
            protocol: PROTOCOL,
            subscription: Some(subscription),
            software: software.to_owned(),
            revision: self.revision,
            ..Hello::default()
        };
        let mut messages = vec![from_edge::Message::Hello(hello)];
        let entry = |key: &KeyRef| HeldKey { key: Some(key.clone()), fingerprint: self.held[key] };
        let mut chunks = listed.chunks(HELD_PER_MESSAGE).peekable();
        if chunks.peek().is_none() {
            messages.push(from_edge::Message::Held(Held { keys: Vec::new(), last: true }));
        }
        while let Some(chunk) = chunks.next() {
            let keys = chunk.iter().map(entry).collect();
            messages.push(from_edge::Message::Held(Held { keys, last: chunks.peek().is_none() }));
        }
        let unconfirmed = self.held.iter().filter(|(_, fingerprint)| **fingerprint != 0);
        self.stream = Some(Stream {
            next_sequence: 1,
            acked: 0,
            refused: Vec::new(),
            missing: Vec::new(),
            unconfirmed: unconfirmed.map(|(key, _)| key.clone()).collect(),
            listed: listed.into_iter().map(Some).collect(),
            synced: false,
            partial: None,
            waiting: 0,
            lease_length: Duration::ZERO,
            renewals: VecDeque::new(),
            renewal: 0,
            renew_at: now,
            answered: now,
        });
        messages.into_iter().map(|message| FromEdge { message: Some(message) }).collect()
    }

    /// The stream is gone. Keys stay usable until the lease ends.
    pub fn disconnected(&mut self) {
        self.stream = None;
    }

    /// Takes one order.
    pub fn receive(
        &mut self,
        now: u64,
        order: Order,
        keys: &impl Keys,
    ) -> Result<Option<News>, SessionError> {
        let stream = self.stream.as_mut().ok_or(SessionError::Closed)?;
        if order.sequence != stream.next_sequence {
            return Err(SessionError::Sequence { expected: stream.next_sequence, got: order.sequence });
        }
        stream.next_sequence += 1;
        let mut news = None;
        match order.order.ok_or(SessionError::Unknown)? {
            order::Order::Welcome(welcome) => {
                stream.lease_length = Duration::from_millis(welcome.lease_ms.into()).min(MAX_LEASE);
                news = Some(News::Welcome { urls: welcome.urls });
            }
            order::Order::Put(put) if put.more => stream.partial = Some(stream.gather(put)?),
            order::Order::Put(put) => {
                let put = stream.gather(put)?;
                let key = put.key.clone().ok_or(SessionError::Unknown)?;
                let (fingerprint, revision) = (put.fingerprint, put.revision);
                match keys.put(put) {
                    Ok(()) => {
                        stream.unconfirmed.remove(&key);
                        self.held.insert(key, fingerprint);
                        self.revision = self.revision.max(revision);
                    }
                    Err(Refused) => stream.refused.push(order.sequence),
                }
            }
            order::Order::Evict(evict) => {
                let key = evict.key.as_ref().ok_or(SessionError::Unknown)?;
                stream.partial.take_if(|partial| partial.key.as_ref() == Some(key));
                let reason = match evict.reason() {
                    EvictReason::Destroyed => Eviction::Destroyed { since: evict.since },
                    reason => Eviction::Ordered(reason),
                };
                keys.evict(key, reason);
                stream.unconfirmed.remove(key);
                if evict.reason() == EvictReason::Unspecified {
                    self.held.remove(key);
                } else {
                    self.held.insert(key.clone(), 0);
                }
            }
            order::Order::Confirm(confirm) => {
                for index in confirm.held {
                    let key = stream.listed.get_mut(index as usize).and_then(Option::take);
                    // Removed from `unconfirmed` by a put or evict of this stream: settled by something newer.
                    match key {
                        Some(key) if self.held.get(&key).is_some_and(|fingerprint| *fingerprint != 0) => {
                            stream.unconfirmed.remove(&key);
                        }
                        _ => stream.missing.push(index),
                    }
                }
            }
            order::Order::Synced(_) => stream.synced = true,
            order::Order::Lease(lease) => {
                stream.answered = now;
                while let Some((number, sent)) = stream.renewals.front().copied() {
                    if number > lease.number {
                        break;
                    }
                    stream.renewals.pop_front();
                    if number == lease.number {
                        let length = Duration::from_millis(lease.lease_ms.into()).min(MAX_LEASE);
                        stream.lease_length = length;
                        stream.waiting = stream.waiting.max(sent.saturating_add(nanos(length)));
                    }
                }
            }
            order::Order::Certificate(certificate) => news = Some(News::Certificate(certificate.certificate)),
        }
        self.settle(now, keys);
        Ok(news)
    }

    /// What to say now: acknowledgements, and a request for a lease when one is due.
    pub fn poll(&mut self, now: u64, keys: &impl Keys) -> Vec<FromEdge> {
        self.settle(now, keys);
        let Some(stream) = self.stream.as_mut() else { return Vec::new() };
        let mut messages = Vec::new();
        let through = stream.next_sequence - 1;
        if through > stream.acked {
            stream.acked = through;
            let (refused, missing) =
                (std::mem::take(&mut stream.refused), std::mem::take(&mut stream.missing));
            messages.push(from_edge::Message::Ack(Ack { through, refused, missing }));
        }
        if now >= stream.renew_at {
            stream.renewal += 1;
            stream.renewals.push_back((stream.renewal, now));
            if stream.renewals.len() > OPEN_RENEWALS {
                stream.renewals.pop_front();
            }
            // Until the orchestrator has said how long leases are, as for the shortest.
            let length = stream.lease_length.max(Duration::from_secs(1));
            stream.renew_at = now.saturating_add(nanos(length / 3));
            messages.push(from_edge::Message::Renew(Renew { number: stream.renewal }));
        }
        messages.into_iter().map(|message| FromEdge { message: Some(message) }).collect()
    }

    /// When [`poll`](Self::poll) has something to do next, if nothing is received before.
    pub fn wake_at(&self) -> Option<u64> {
        let stream = self.stream.as_ref()?;
        let held_up = stream.waiting > self.lease && !stream.unconfirmed.is_empty();
        Some(if held_up { self.cutoff(stream).min(stream.renew_at) } else { stream.renew_at })
    }

    /// Unconfirmed keys are dropped a little before the old lease ends, so that the confirmed ones have no gap.
    fn cutoff(&self, stream: &Stream) -> u64 {
        self.lease.saturating_sub(nanos(stream.lease_length / 10))
    }

    fn settle(&mut self, now: u64, keys: &impl Keys) {
        let cutoff = self.stream.as_ref().map_or(0, |stream| self.cutoff(stream));
        let Some(stream) = self.stream.as_mut() else { return };
        if stream.waiting <= self.lease {
            return;
        }
        if now >= cutoff && (stream.synced || now < self.lease) {
            for key in stream.unconfirmed.drain() {
                keys.evict(&key, Eviction::Unconfirmed);
                self.held.insert(key, 0);
            }
        }
        if stream.unconfirmed.is_empty() {
            self.lease = stream.waiting;
            keys.lease(self.lease);
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
