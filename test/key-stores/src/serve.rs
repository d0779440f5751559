//! Accepting connections by hand, so that a test can make a server vanish for connections that are already open, too.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// A running server; dropping it ends it and every connection.
pub(crate) struct Running {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves until dropped. While `down` is true, connections are closed as soon as they open.
pub(crate) async fn serve(
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    down: watch::Receiver<bool>,
    app: Router,
) -> anyhow::Result<Running> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, tls.clone(), down.clone(), app.clone()));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(Running { address, task })
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    mut down: watch::Receiver<bool>,
    app: Router,
) {
    let _ = stream.set_nodelay(true);
    let talk = async {
        match tls {
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    http(stream, app).await;
                }
            }
            None => http(stream, app).await,
        }
    };
    tokio::select! {
        Ok(_) = down.wait_for(|down| *down) => {}
        () = talk => {}
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: Router) {
    // How a client ends a connection is its own business.
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .await;
}
