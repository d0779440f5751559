//! Where the service listens: a unix socket, and TCP with mutual TLS.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig, server::Connected};

use super::Gate;

/// Most connections per listener; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Most calls at once on one connection.
const MAX_STREAMS: u32 = 128;
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
    /// The server failed.
    #[error("serve")]
    Serve(#[source] tonic::transport::Error),
}

/// Bound listeners.
#[derive(Default)]
pub struct Listeners {
    unix: Option<(PathBuf, UnixListener)>,
    tcp: Option<(TcpListener, TlsConfig)>,
}

impl Listeners {
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
        let listener = UnixListener::bind(path).map_err(io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io)?;
        self.unix = Some((path.into(), listener));
        Ok(self)
    }

    /// Also listens on TCP.
    pub async fn bind_tcp(mut self, address: SocketAddr, tls: TlsConfig) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| ListenError::Io(address.to_string(), error))?;
        self.tcp = Some((listener, tls));
        Ok(self)
    }

    /// The address of the TCP listener.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }
}

/// Serves until `stop`, then lets running calls end for a moment.
pub async fn serve(listeners: Listeners, gate: Gate, stop: CancellationToken) -> Result<(), ListenError> {
    let socket = listeners.unix.as_ref().map(|(path, _)| path.clone());
    let unix = async {
        let Some((_, listener)) = listeners.unix else { return Ok(()) };
        let incoming = bounded(UnixListenerStream::new(listener));
        let server = server().add_service(gate.clone());
        server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await.map_err(ListenError::Serve)
    };
    let tcp = async {
        let Some((listener, tls)) = listeners.tcp else { return Ok(()) };
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&tls.certificate, &tls.key))
            .client_ca_root(Certificate::from_pem(&tls.client_authorities));
        let incoming = bounded(TcpListenerStream::new(listener).map(|accepted| {
            accepted.inspect(|stream| {
                let _ = stream.set_nodelay(true);
            })
        }));
        let server = server().tls_config(config).map_err(ListenError::Tls)?.add_service(gate.clone());
        server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await.map_err(ListenError::Serve)
    };
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let result = tokio::select! {
        done = async { tokio::try_join!(unix, tcp) } => done.map(|_| ()),
        () = late => Ok(()),
    };
    if let Some(path) = socket {
        let _ = fs::remove_file(path);
    }
    result
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// Accepts at most [`MAX_CONNECTIONS`] at once.
fn bounded<C, S>(incoming: S) -> impl Stream<Item = io::Result<Connection<C>>>
where
    S: Stream<Item = io::Result<C>> + Unpin,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    futures::stream::unfold((incoming, places), |(mut incoming, places)| async move {
        let permit = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = incoming.next().await?;
        Some((accepted.map(|stream| Connection { stream, _permit: permit }), (incoming, places)))
    })
}

/// A connection that keeps its place until it is closed.
struct Connection<C> {
    stream: C,
    _permit: OwnedSemaphorePermit,
}

impl<C: Connected> Connected for Connection<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Connection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Connection<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
