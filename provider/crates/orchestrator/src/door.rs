//! Who gets a connection, and for how long.
//!
//! Anybody can reach the port, so what a stranger can take is bounded: places of a bounded number, and when all are
//! taken, whoever has had one longest makes room. An edge is through the door in milliseconds; an attacker who
//! opens connections and says nothing only pushes out his own.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::authority;

/// For a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 2048;
/// For a connection without an edge's certificate: it can only join, and joining takes one call.
const STRANGER: Duration = Duration::from_secs(10);
const STRANGERS: usize = 64;
/// Connections of one edge: the one in use, and those that it has given up and we have not noticed.
const PER_EDGE: usize = 4;
const EDGES: usize = 8192;
/// When the system has no more sockets for us.
const PAUSE: Duration = Duration::from_millis(50);

/// Places of a bounded number.
struct Room {
    places: usize,
    guests: Mutex<VecDeque<(u128, Weak<CancellationToken>)>>,
}

/// A place in a room, until it is dropped.
struct Guest(Arc<CancellationToken>);

impl Room {
    fn new(places: usize) -> Self {
        Self { places, guests: Mutex::default() }
    }

    /// Takes a place, from the oldest guest if need be; or from the oldest of the same name if that has `own` already.
    fn enter(&self, name: u128, own: usize) -> Guest {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.retain(|(_, guest)| guest.strong_count() > 0);
        let mine = |guest: &&(u128, Weak<CancellationToken>)| guest.0 == name;
        let oldest = if guests.iter().filter(mine).count() >= own {
            guests.iter().position(|guest| guest.0 == name)
        } else {
            (guests.len() >= self.places).then_some(0)
        };
        if let Some((_, guest)) = oldest.and_then(|index| guests.remove(index))
            && let Some(leave) = guest.upgrade()
        {
            leave.cancel();
        }
        let token = Arc::new(CancellationToken::new());
        guests.push_back((name, Arc::downgrade(&token)));
        Guest(token)
    }
}

impl Guest {
    /// Until somebody else needs the place.
    async fn asked_to_leave(&self) {
        self.0.cancelled().await;
    }
}

/// A connection with its place.
pub(crate) struct Admitted {
    tls: TlsStream<TcpStream>,
    /// Ends when it has to go; `None` after that.
    limit: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Admitted {
    fn new(tls: TlsStream<TcpStream>, guest: Guest, time: Option<Duration>) -> Self {
        let limit = async move {
            match time {
                Some(time) => drop(tokio::time::timeout(time, guest.asked_to_leave()).await),
                None => guest.asked_to_leave().await,
            }
        };
        Self { tls, limit: Some(Box::pin(limit)) }
    }
}

impl Connected for Admitted {
    type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.tls.connect_info()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.limit.as_mut().is_none_or(|limit| limit.as_mut().poll(context).is_ready()) {
            self.limit = None;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

/// Lets connections in, until it is dropped or nobody takes them any more.
pub(crate) async fn admit(listener: TcpListener, acceptor: TlsAcceptor, admitted: mpsc::Sender<Admitted>) {
    let handshakes = Room::new(HANDSHAKES);
    let strangers = Arc::new(Room::new(STRANGERS));
    let edges = Arc::new(Room::new(EDGES));
    let mut tasks = JoinSet::new();
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            Some(_) = tasks.join_next() => continue,
            () = admitted.closed() => return,
        };
        let connection = match connection {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted just now");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let guest = handshakes.enter(0, usize::MAX);
        let (acceptor, admitted) = (acceptor.clone(), admitted.clone());
        let (strangers, edges) = (Arc::clone(&strangers), Arc::clone(&edges));
        tasks.spawn(async move {
            let handshake = async {
                connection.set_nodelay(true)?;
                acceptor.accept(connection).await
            };
            let tls = tokio::select! {
                tls = tokio::time::timeout(HANDSHAKE, handshake) => tls,
                () = guest.asked_to_leave() => return,
            };
            let tls = match tls {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return,
            };
            let connection = match edge(&tls) {
                Some(edge) => Admitted::new(tls, edges.enter(edge, PER_EDGE), None),
                None => Admitted::new(tls, strangers.enter(0, usize::MAX), Some(STRANGER)),
            };
            // Nobody is there to take it: the orchestrator ends.
            let _ = admitted.send(connection).await;
        });
    }
}

/// Whose certificate, verified by TLS, it is.
fn edge(tls: &TlsStream<TcpStream>) -> Option<u128> {
    let leaf = tls.get_ref().1.peer_certificates()?.first()?;
    authority::identity(leaf).map(|(identity, _)| identity.id.as_u128())
}

/// Join tokens that were refused, by where they came from.
///
/// A token cannot be guessed (256 bits); this keeps a guesser, or an edge with a wrong token in a tight loop, from
/// costing more than a look into a map.
pub(crate) struct Guesses(Mutex<VecDeque<(IpAddr, u32, Duration)>>);

/// So many wrong tokens are looked at, and one more for every such time.
const FREE_GUESSES: u32 = 10;
const PER_GUESS: Duration = Duration::from_secs(6);
/// So many places are remembered.
const GUESSERS: usize = 1024;

impl Guesses {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Whether a token from there is looked at now.
    pub(crate) fn allowed(&self, now: Duration, from: IpAddr) -> bool {
        let guessers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place(from);
        guessers
            .iter()
            .find(|guesser| guesser.0 == place)
            .is_none_or(|guesser| left(guesser, now) < FREE_GUESSES)
    }

    /// A token from there was wrong.
    pub(crate) fn wrong(&self, now: Duration, from: IpAddr) {
        let mut guessers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place(from);
        let known = guessers.iter().position(|guesser| guesser.0 == place).and_then(|at| guessers.remove(at));
        let count = known.map_or(0, |guesser| left(&guesser, now)) + 1;
        if guessers.len() >= GUESSERS {
            guessers.pop_front();
        }
        guessers.push_back((place, count, now));
    }
}

/// What still counts of the wrong tokens of a guesser.
fn left((_, count, since): &(IpAddr, u32, Duration), now: Duration) -> u32 {
    let forgiven = now.saturating_sub(*since).as_secs() / PER_GUESS.as_secs();
    count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
}

/// Whoever has one address of IPv6 has its /64.
fn place(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_oldest_guest_makes_room_and_nobody_else() {
        let room = Room::new(3);
        let guests: Vec<_> = (0..3).map(|name| room.enter(name, 2)).collect();
        assert!(guests.iter().all(|guest| !guest.0.is_cancelled()));
        let fourth = room.enter(3, 2);
        let left: Vec<_> = guests.iter().map(|guest| guest.0.is_cancelled()).collect();
        assert_eq!(left, [true, false, false]);
        // A place that is free again is taken before anybody has to leave.
        drop(fourth);
        let _fifth = room.enter(4, 2);
        assert!(!guests[1].0.is_cancelled());
    }

    #[test]
    fn who_has_many_places_gives_one_of_its_own() {
        let room = Room::new(10);
        let other = room.enter(1, 2);
        let mine: Vec<_> = (0..3).map(|_| room.enter(7, 2)).collect();
        assert_eq!(mine.iter().map(|guest| guest.0.is_cancelled()).collect::<Vec<_>>(), [true, false, false]);
        assert!(!other.0.is_cancelled());
    }

    #[test]
    fn a_guesser_waits_and_others_do_not() {
        let guesses = Guesses::new();
        let at = Duration::from_secs;
        let (stranger, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..FREE_GUESSES {
            assert!(guesses.allowed(at(0), stranger));
            guesses.wrong(at(0), stranger);
        }
        assert!(!guesses.allowed(at(5), stranger));
        assert!(guesses.allowed(at(5), other));
        assert!(guesses.allowed(at(6), stranger));
        // Neighbours of one address of IPv6 are the same, an IPv4 address in IPv6 is itself.
        assert_eq!(place("2001:db8::1".parse().unwrap()), place("2001:db8::2".parse().unwrap()));
        assert_eq!(place("::ffff:10.0.0.1".parse().unwrap()), stranger);
    }

    #[test]
    fn memory_for_guessers_is_bounded() {
        let guesses = Guesses::new();
        for n in 0..3 * GUESSERS as u32 {
            guesses.wrong(Duration::ZERO, IpAddr::V4(n.into()));
        }
        assert_eq!(guesses.0.lock().unwrap().len(), GUESSERS);
    }
}
