//! Connections: how many there may be, and for how long without a verified caller.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::server::Connected;

/// Most connections; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Most connections from one user of this machine or from one address; further ones are closed at once.
const MAX_FROM_ONE: usize = 256;
/// How long a connection may be open before its first request of a verified caller.
const PROVE_WITHIN: Duration = Duration::from_secs(10);
/// A connection with so many refused callers is closed.
const MAX_REFUSED: u32 = 64;
/// How long accepting pauses when the system has no more descriptors or memory for connections.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections of all listeners and threads.
pub(super) struct Doors {
    places: Arc<Semaphore>,
    prove_within: Duration,
    from: Mutex<HashMap<Origin, usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    User(u32),
    Address(IpAddr),
    Unknown,
}

/// A stream that says where it comes from.
pub(super) trait Peer {
    fn origin(&self) -> Origin;
}

impl Peer for UnixStream {
    fn origin(&self) -> Origin {
        self.peer_cred().map_or(Origin::Unknown, |peer| Origin::User(peer.uid()))
    }
}

impl Peer for TcpStream {
    fn origin(&self) -> Origin {
        self.peer_addr().map_or(Origin::Unknown, |peer| Origin::Address(peer.ip().to_canonical()))
    }
}

/// What callers on a connection have shown so far.
#[derive(Debug, Default)]
pub(super) struct Standing {
    proven: AtomicBool,
    refused: AtomicU32,
}

impl Standing {
    /// A caller was verified.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// A caller was not verified.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// One of [`MAX_FROM_ONE`].
struct Guest(Arc<Doors>, Origin);

impl Doors {
    pub(super) fn new() -> Arc<Self> {
        Self::proving_within(PROVE_WITHIN)
    }

    fn proving_within(prove_within: Duration) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Arc::new(Self { places, prove_within, from: Mutex::default() })
    }

    fn from(&self) -> MutexGuard<'_, HashMap<Origin, usize>> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, origin: Origin) -> Option<Guest> {
        let mut from = self.from();
        let count = from.entry(origin).or_default();
        (*count < MAX_FROM_ONE).then(|| {
            *count += 1;
            Guest(Arc::clone(self), origin)
        })
    }

    /// The connections of `incoming` that may stay.
    pub(super) fn admit<C, S>(self: Arc<Self>, incoming: S) -> impl Stream<Item = io::Result<Connection<C>>>
    where
        C: Peer,
        S: Stream<Item = io::Result<C>> + Unpin,
    {
        futures::stream::unfold((incoming, self), |(mut incoming, doors)| async move {
            loop {
                let permit = Arc::clone(&doors.places).acquire_owned().await.ok()?;
                match incoming.next().await? {
                    Ok(stream) => {
                        if let Some(guest) = doors.enter(stream.origin()) {
                            return Some((Ok(Connection::new(stream, guest, permit)), (incoming, doors)));
                        }
                    }
                    Err(error) => {
                        tokio::time::sleep(PAUSE).await;
                        return Some((Err(error), (incoming, doors)));
                    }
                }
            }
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut from = self.0.from();
        if let Some(count) = from.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                from.remove(&self.1);
            }
        }
    }
}

/// A connection that keeps its place until it is closed.
pub(super) struct Connection<C> {
    stream: C,
    standing: Arc<Standing>,
    /// When it ends unless a caller has been verified; TLS included.
    deadline: Option<Pin<Box<Sleep>>>,
    _guest: Guest,
    _permit: OwnedSemaphorePermit,
}

impl<C> Connection<C> {
    fn new(stream: C, guest: Guest, permit: OwnedSemaphorePermit) -> Self {
        let deadline = Some(Box::pin(tokio::time::sleep(guest.0.prove_within)));
        Self { stream, standing: Arc::default(), deadline, _guest: guest, _permit: permit }
    }

    /// Whether the connection may go on.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.standing.refused.load(Ordering::Relaxed) >= MAX_REFUSED {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let Some(deadline) = &mut self.deadline else { return Ok(()) };
        if self.standing.proven.load(Ordering::Relaxed) {
            self.deadline = None;
        } else if deadline.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl<C> Connected for Connection<C> {
    type ConnectInfo = Arc<Standing>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.standing)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Connection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Err(error) = self.check(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Connection<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    impl Peer for DuplexStream {
        fn origin(&self) -> Origin {
            Origin::User(7)
        }
    }

    /// A connection and its other end.
    async fn connected(doors: &Arc<Doors>) -> Option<(Connection<DuplexStream>, DuplexStream)> {
        let (near, far) = duplex(64);
        let mut admitted = Box::pin(Arc::clone(doors).admit(futures::stream::iter([Ok(near)])));
        Some((admitted.next().await?.unwrap(), far))
    }

    #[tokio::test]
    async fn a_connection_without_a_verified_caller_ends_and_one_with_stays() {
        let within = Duration::from_millis(50);
        let doors = Doors::proving_within(within);
        let (mut silent, _far) = connected(&doors).await.unwrap();
        assert_eq!(silent.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut proven, _far) = connected(&doors).await.unwrap();
        proven.standing.prove();
        let waited = tokio::time::timeout(5 * within, proven.read_u8()).await;
        assert!(waited.is_err(), "a verified caller may be silent for as long as it likes");

        let (mut refused, _far) = connected(&doors).await.unwrap();
        (0..MAX_REFUSED).for_each(|_| refused.standing.refuse());
        assert_eq!(refused.read_u8().await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn one_user_does_not_take_all_places_and_gets_them_back() {
        let doors = Doors::new();
        let mut open = Vec::new();
        while let Some(connection) = connected(&doors).await {
            open.push(connection);
        }
        assert_eq!(open.len(), MAX_FROM_ONE);
        assert!(doors.enter(Origin::User(8)).is_some(), "another user still finds a place");
        open.pop();
        assert!(connected(&doors).await.is_some());
        drop(open);
        assert!(doors.from().is_empty());
        assert_eq!(doors.places.available_permits(), MAX_CONNECTIONS);
    }
}
