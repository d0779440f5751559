//! A network between two processes that can be disturbed: each direction may be slow or stand still, alone or together with
//! the other, and connections can be cut.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// A listener that carries bytes to a target and back.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// From who dials to the target.
    pub up: Direction,
    /// From the target to who dialled.
    pub down: Direction,
    /// Counts cuts; each ends the connections that are there.
    cuts: watch::Sender<u32>,
    /// Ends with the link.
    _carriers: JoinSet<()>,
}

/// One direction of a link.
#[derive(Debug, Clone)]
pub struct Direction(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy)]
struct State {
    stalled: bool,
    delay: Duration,
}

impl Direction {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State { stalled: false, delay: Duration::ZERO })))
    }

    /// From now on nothing arrives, or what was held up and all that follows does.
    pub fn stall(&self, stalled: bool) {
        self.0.send_modify(|state| state.stalled = stalled);
    }

    /// From now on everything arrives so much later.
    pub fn delay(&self, delay: Duration) {
        self.0.send_modify(|state| state.delay = delay);
    }

    async fn carry(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut state = self.0.subscribe();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let size = from.read(&mut buffer).await?;
            let delay = state.borrow_and_update().delay;
            tokio::time::sleep(delay).await;
            // An error means that the link is gone.
            state.wait_for(|state| !state.stalled).await.map_err(io::Error::other)?;
            if size == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..size]).await?;
        }
    }
}

impl Link {
    /// Listens on a free port of 127.0.0.1. Needs a target before anybody dials.
    pub async fn listen() -> io::Result<Self> {
        Self::start(false).await
    }

    /// [`Self::listen`], for who takes it for an HTTP proxy: whatever address it asks for is the target, so that all of
    /// a server's addresses are cut off together.
    pub async fn listen_as_proxy() -> io::Result<Self> {
        Self::start(true).await
    }

    async fn start(proxy: bool) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (up, down) = (Direction::new(), Direction::new());
        let (target, cuts) = (Arc::new(Mutex::new(None)), watch::Sender::new(0));
        let mut carriers = JoinSet::new();
        let directions = (up.clone(), down.clone());
        carriers.spawn(serve(listener, proxy, Arc::clone(&target), directions, cuts.subscribe()));
        Ok(Self { address, target, up, down, cuts, _carriers: carriers })
    }

    /// Where connections go from now on.
    pub fn to(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    /// Ends every connection, and whoever dials from now on finds nobody: the port of a listener that is gone.
    pub fn to_nobody(&self) -> io::Result<()> {
        self.to(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
        self.cut();
        Ok(())
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where to dial, as an orchestrator's URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Both directions.
    pub fn stall(&self, stalled: bool) {
        self.up.stall(stalled);
        self.down.stall(stalled);
    }

    /// Ends every connection; new ones are welcome.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn serve(
    listener: TcpListener,
    proxy: bool,
    target: Arc<Mutex<Option<SocketAddr>>>,
    (up, down): (Direction, Direction),
    cuts: watch::Receiver<u32>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
        let (Ok((near, _)), Some(target)) = (accepted, target) else { continue };
        let (up, down, mut cuts) = (up.clone(), down.clone(), cuts.clone());
        cuts.mark_unchanged();
        connections.spawn(async move {
            let Ok((near, far)) = join(near, proxy, target).await else { return };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            // A connection that ends on one side ends on the other; how does not matter.
            tokio::select! {
                _ = up.carry(near_read, far_write) => {}
                _ = down.carry(far_read, near_write) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// Both ends of a connection, ready for the bytes that it is made for.
async fn join(mut near: TcpStream, proxy: bool, target: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    if proxy {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(near.read_u8().await?);
            if !b"CONNECT ".starts_with(&request) && !request.starts_with(b"CONNECT ") {
                return Err(io::Error::other("it does not take us for a proxy"));
            }
        }
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    }
    Ok((near, far))
}
