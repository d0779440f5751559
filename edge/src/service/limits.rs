//! How much may be under way at once: for all, for one tenant, for one caller.
//!
//! A call counts from the moment its caller is verified until its answer has been taken. It counts with [`COPIES`] times
//! the message that it is reading or working on, from the moment the message's length is known: so the memory of all calls
//! is bounded before any of it is filled, and nobody can use up what others need. Whoever is over a limit is refused at
//! once with `overloaded`; nothing is queued.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::MAX_GRPC;
use crate::{
    caller::Caller,
    error::{Code, OpError},
};

/// What a message costs while it is worked on: as it arrives, decoded, the answer, and the answer encoded.
const COPIES: usize = 4;
/// The least that a call counts for.
const LEAST: usize = 16 << 10;

const TOTAL: Load = Load { calls: 1024, bytes: 256 << 20 };
const TENANT: Load = Load { calls: 512, bytes: 128 << 20 };
const CALLER: Load = Load { calls: 128, bytes: 64 << 20 };

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    calls: u32,
    bytes: usize,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Limits(Mutex<Loads>);

#[derive(Default)]
struct Loads {
    total: Load,
    tenants: HashMap<u64, Load>,
    callers: HashMap<u64, Load>,
}

#[derive(Clone, Copy)]
struct Party {
    tenant: u64,
    caller: u64,
}

/// A call that is under way.
pub(super) struct Place {
    limits: Arc<Limits>,
    party: Party,
    bytes: AtomicUsize,
}

impl Limits {
    /// A place for one more call.
    pub(super) fn admit(self: &Arc<Self>, caller: &Caller) -> Result<Arc<Place>, OpError> {
        let party = Party { tenant: caller.tenant_fingerprint(), caller: caller.fingerprint() };
        self.loads().add(party, Load { calls: 1, bytes: LEAST })?;
        Ok(Arc::new(Place { limits: Arc::clone(self), party, bytes: AtomicUsize::new(LEAST) }))
    }

    fn loads(&self) -> MutexGuard<'_, Loads> {
        // Nothing in a critical section can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loads {
    fn of(&mut self, party: Party) -> [(&mut Load, Load, &'static str); 3] {
        [
            (self.callers.entry(party.caller).or_default(), CALLER, "the caller has too much under way"),
            (
                self.tenants.entry(party.tenant).or_default(),
                TENANT,
                "the caller's tenant has too much under way",
            ),
            (&mut self.total, TOTAL, "this edge has as much under way as it can"),
        ]
    }

    fn add(&mut self, party: Party, more: Load) -> Result<(), OpError> {
        let over = self.of(party).into_iter().find_map(|(load, most, who)| {
            let over = load.calls + more.calls > most.calls || load.bytes + more.bytes > most.bytes;
            over.then_some(who)
        });
        if let Some(who) = over {
            self.subtract(party, Load::default());
            return Err(OpError::new(Code::Overloaded, format!("{who}: retry a little later")));
        }
        for (load, ..) in self.of(party) {
            load.calls += more.calls;
            load.bytes += more.bytes;
        }
        Ok(())
    }

    fn subtract(&mut self, party: Party, less: Load) {
        for (load, ..) in self.of(party) {
            load.calls = load.calls.saturating_sub(less.calls);
            load.bytes = load.bytes.saturating_sub(less.bytes);
        }
        // Only those who have something under way take memory here.
        if self.callers.get(&party.caller) == Some(&Load::default()) {
            self.callers.remove(&party.caller);
        }
        if self.tenants.get(&party.tenant) == Some(&Load::default()) {
            self.tenants.remove(&party.tenant);
        }
    }
}

impl Place {
    /// Counts a message of this length in the place of the one before.
    fn message(&self, length: usize) -> Result<(), OpError> {
        // What is longer than any message is refused by the decoder, unread.
        let bytes = (length.min(MAX_GRPC) * COPIES).max(LEAST);
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes == before {
            return Ok(());
        }
        let mut loads = self.limits.loads();
        loads.subtract(self.party, Load { calls: 0, bytes: before });
        let added = loads.add(self.party, Load { calls: 0, bytes });
        if added.is_err() {
            self.bytes.store(0, Ordering::Relaxed);
        }
        added
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.limits.loads().subtract(self.party, Load { calls: 1, bytes });
    }
}

/// The body of a request: counts each gRPC message as soon as its length has come.
pub(super) struct Metered {
    body: Body,
    place: Arc<Place>,
    /// One byte that is not of interest here, then the length, big-endian.
    prefix: [u8; 5],
    have: usize,
    /// Bytes of the present message that have not come yet.
    remaining: usize,
}

impl Metered {
    pub(super) fn new(body: Body, place: Arc<Place>) -> Self {
        Self { body, place, prefix: [0; 5], have: 0, remaining: 0 }
    }

    fn count(&mut self, mut data: &[u8]) -> Result<(), OpError> {
        while !data.is_empty() {
            if self.remaining > 0 {
                let taken = self.remaining.min(data.len());
                self.remaining -= taken;
                data = &data[taken..];
                continue;
            }
            self.prefix[self.have] = data[0];
            self.have += 1;
            data = &data[1..];
            if self.have == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.have = 0;
                self.remaining = u32::from_be_bytes(length) as usize;
                self.place.message(self.remaining)?;
            }
        }
        Ok(())
    }
}

impl http_body::Body for Metered {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(error) = self.count(data)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer: the call is under way until it has been taken.
pub(super) struct Held {
    body: Body,
    _place: Arc<Place>,
}

impl Held {
    pub(super) fn new(body: Body, place: Arc<Place>) -> Self {
        Self { body, _place: place }
    }
}

impl http_body::Body for Held {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::caller::Home;

    fn caller(cluster: &str, name: u32) -> Caller {
        let home = Home { cluster: cluster.parse().unwrap(), namespace: "payments".into() };
        Caller::new("kcp", &format!("system:serviceaccount:payments:{name}"), Some(home))
    }

    fn code<T>(result: Result<T, OpError>) -> Option<Code> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn one_caller_and_one_tenant_leave_room_for_others() {
        let limits = Arc::new(Limits::default());
        let mut places = Vec::new();
        for name in 0..100 {
            while let Ok(place) = limits.admit(&caller("1acme", name)) {
                places.push(place);
            }
            let of_caller = limits.loads().callers.get(&caller("1acme", name).fingerprint()).copied();
            assert!(of_caller.unwrap_or_default().calls <= CALLER.calls);
        }
        assert_eq!(places.len(), TENANT.calls as usize);
        assert_eq!(code(limits.admit(&caller("1acme", 1000))), Some(Code::Overloaded));
        let other = limits.admit(&caller("2other", 0)).unwrap();
        drop(places);
        limits.admit(&caller("1acme", 0)).unwrap();
        drop(other);
        let loads = limits.loads();
        assert_eq!((loads.total, loads.callers.len(), loads.tenants.len()), (Load::default(), 0, 0));
    }

    #[test]
    fn bytes_are_counted_before_they_come_and_given_back() {
        let limits = Arc::new(Limits::default());
        let app = caller("1acme", 0);
        let places: Vec<_> = (0..100).map(|_| limits.admit(&app).unwrap()).collect();
        let (full, refused): (Vec<_>, Vec<_>) =
            places.iter().partition(|place| place.message(MAX_GRPC).is_ok());
        assert_eq!(full.len(), CALLER.bytes / (COPIES * MAX_GRPC));
        // A length that no message has counts as the longest.
        full[0].message(u32::MAX as usize).unwrap();
        assert_eq!(code(refused[0].message(MAX_GRPC)), Some(Code::Overloaded));
        // A small message frees what the large one before it held.
        full[0].message(10).unwrap();
        full[1].message(10).unwrap();
        refused[0].message(MAX_GRPC).unwrap();
        assert_eq!(code(refused[1].message(MAX_GRPC)), Some(Code::Overloaded));
        drop(places);
        assert_eq!(limits.loads().total, Load::default());
    }

    #[test]
    fn lengths_are_found_however_the_bytes_arrive() {
        let limits = Arc::new(Limits::default());
        let place = limits.admit(&caller("1acme", 0)).unwrap();
        let mut messages = Vec::new();
        for length in [0_usize, 1, 100_000, 5, 70_000] {
            messages.push(0);
            messages.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            messages.resize(messages.len() + length, 0xff);
        }
        for size in [1, 2, 3, 7, 4096, messages.len()] {
            let mut body = Metered::new(Body::empty(), Arc::clone(&place));
            let mut most = 0;
            for part in messages.chunks(size) {
                body.count(part).unwrap();
                most = most.max(place.bytes.load(Ordering::Relaxed));
            }
            assert_eq!((body.have, body.remaining), (0, 0));
            assert_eq!(place.bytes.load(Ordering::Relaxed), 70_000 * COPIES);
            if size < 4096 {
                assert_eq!(most, 100_000 * COPIES);
            }
        }
    }
}
