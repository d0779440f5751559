//! Where the service listens: a unix socket, and TCP with mutual TLS.
//!
//! A few threads serve, each with a scheduler of its own that it shares with nobody: a connection stays on the thread that
//! accepted it, so a call wakes no other thread on its way, which would cost more than the call. It also keeps applications
//! and the stream to the orchestrator apart: a flood of calls delays neither leases nor evictions.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    num::NonZeroUsize,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use futures::StreamExt;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::{Gate, connections::Doors};

/// Most calls at once on one connection.
const MAX_STREAMS: u32 = 128;
/// How much a connection may send before it is read, all its calls together. This is the memory that a connection can
/// fill without a verified caller.
const WINDOW: u32 = 1 << 20;
/// Longest frame that is read: larger ones than HTTP/2's smallest save work on large messages.
const FRAME: u32 = 64 << 10;
/// How long calls may go on after the edge was told to end.
const GRACE: Duration = Duration::from_secs(5);

/// PEM files for TCP.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The edge's certificate chain.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The authorities of client certificates. Every client needs one, also one that shows a token.
    pub client_authorities: Vec<u8>,
}

/// The edge cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The socket's directory is writable for others, who could put a socket of their own there.
    #[error("{0} must not be writable by group or others, unless it has the sticky bit")]
    Directory(PathBuf),
    /// Something that is no socket is in its place.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// Another process answers on the socket.
    #[error("another process listens on {0}")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("listen on {0}")]
    Io(String, #[source] io::Error),
    /// The certificate, key or authorities are not usable.
    #[error("set up TLS")]
    Tls(#[source] tonic::transport::Error),
    /// The operating system gave no thread to serve on, or no events for it.
    #[error("start a thread that serves applications")]
    Thread(#[source] io::Error),
    /// A thread ended with a panic.
    #[error("a thread that serves applications ended by a fault of its own")]
    Panicked,
    /// The server failed.
    #[error("serve")]
    Serve(#[source] tonic::transport::Error),
}

/// Bound listeners.
#[derive(Default)]
pub struct Listeners {
    unix: Option<(PathBuf, StdUnixListener)>,
    tcp: Option<(StdTcpListener, TlsConfig)>,
    threads: Option<NonZeroUsize>,
}

impl Listeners {
    /// Serves on so many threads instead of one for each core.
    #[must_use]
    pub fn on_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Also listens on a unix socket, with these permissions.
    pub fn bind_unix(mut self, path: &Path, mode: u32) -> Result<Self, ListenError> {
        let io = |error| ListenError::Io(path.display().to_string(), error);
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(io)?;
        let parent = fs::metadata(directory).map_err(io)?;
        let (open, sticky) = (parent.mode() & 0o022 != 0, parent.mode() & 0o1000 != 0);
        if open && !sticky {
            return Err(ListenError::Directory(directory.into()));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.into())),
            Ok(_) if StdUnixStream::connect(path).is_ok() => return Err(ListenError::InUse(path.into())),
            Ok(_) => fs::remove_file(path).map_err(io)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let listener = StdUnixListener::bind(path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io)?;
        self.unix = Some((path.into(), listener));
        Ok(self)
    }

    /// Also listens on TCP.
    pub fn bind_tcp(mut self, address: SocketAddr, tls: TlsConfig) -> Result<Self, ListenError> {
        let io = |error| ListenError::Io(address.to_string(), error);
        let listener = StdTcpListener::bind(address).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        self.tcp = Some((listener, tls));
        Ok(self)
    }

    /// The address of the TCP listener.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The same listeners for one more thread.
    fn share(&self) -> io::Result<Self> {
        let mut shared = Self::default();
        if let Some((path, listener)) = &self.unix {
            shared.unix = Some((path.clone(), listener.try_clone()?));
        }
        if let Some((listener, tls)) = &self.tcp {
            shared.tcp = Some((listener.try_clone()?, tls.clone()));
        }
        Ok(shared)
    }
}

/// Serves until `stop`, then lets running calls end for a moment. When one thread fails all end.
pub async fn serve(listeners: Listeners, gate: Gate, stop: CancellationToken) -> Result<(), ListenError> {
    // Cancelled too when this future is dropped.
    let stop = stop.child_token();
    let _dropped = stop.clone().drop_guard();
    let (doors, socket) = (Doors::new(), listeners.unix.as_ref().map(|(path, _)| path.clone()));
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for number in 0..listeners.threads.unwrap_or_else(cores).get() {
        let part = listeners.share().map_err(ListenError::Thread)?;
        let (gate, doors, stop, report) = (gate.clone(), Arc::clone(&doors), stop.clone(), report.clone());
        let serve = move || {
            let _ended = stop.clone().drop_guard(); // Also by a panic.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(serve_here(part, gate, doors, stop)),
                Err(error) => Err(ListenError::Thread(error)),
            };
            let _ = report.send(result);
        };
        let thread = thread::Builder::new().name(format!("calls-{number}")).spawn(serve);
        threads.push(thread.map_err(ListenError::Thread)?);
    }
    drop((report, listeners));
    let mut result = Ok(());
    while let Some(ended) = reports.recv().await {
        result = result.and(ended);
    }
    for thread in threads {
        if thread.join().is_err() {
            result = result.and(Err(ListenError::Panicked));
        }
    }
    if let Some(path) = socket {
        let _ = fs::remove_file(path);
    }
    result
}

/// One thread's part.
async fn serve_here(
    listeners: Listeners,
    gate: Gate,
    doors: Arc<Doors>,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    let unix = async {
        let Some((_, listener)) = listeners.unix else { return Ok(()) };
        let listener = UnixListener::from_std(listener).map_err(ListenError::Thread)?;
        let incoming = Arc::clone(&doors).admit(UnixListenerStream::new(listener));
        let server = server().add_service(gate.clone());
        server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await.map_err(ListenError::Serve)
    };
    let tcp = async {
        let Some((listener, tls)) = listeners.tcp else { return Ok(()) };
        let listener = TcpListener::from_std(listener).map_err(ListenError::Thread)?;
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&tls.certificate, &tls.key))
            .client_ca_root(Certificate::from_pem(&tls.client_authorities));
        let incoming = TcpListenerStream::new(listener).map(|accepted| {
            accepted.inspect(|stream| {
                let _ = stream.set_nodelay(true);
            })
        });
        let server = server().tls_config(config).map_err(ListenError::Tls)?.add_service(gate.clone());
        let incoming = Arc::clone(&doors).admit(incoming);
        server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await.map_err(ListenError::Serve)
    };
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = async { tokio::try_join!(unix, tcp) } => done.map(|_| ()),
        () = late => Ok(()),
    }
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}
