//! TLS and gRPC around [`Core`](crate::core::Core).

use std::{pin::Pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt, stream};
use openkcm_edge_protocol::orchestrator::{
    FromEdge, JoinRequest, JoinResponse, ToEdge,
    enrollment_server::{Enrollment, EnrollmentServer},
    from_edge::Message,
    orchestrator_server::{Orchestrator, OrchestratorServer},
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    OrchestratorError,
    authority::{self, Authority, unix},
    core::{Identity, StreamEnd},
    enrolment,
    orchestrator::Shared,
};

const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 1024;

/// The orchestrator's certificate, which is replaced while it runs.
#[derive(Debug)]
pub(crate) struct ServerCertificate(pub(crate) ArcSwap<CertifiedKey>);

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS 1.3 only; a client certificate is checked if there is one, and whether there must be one is for each call.
pub(crate) fn tls(
    authority: &Authority,
    certificate: Arc<ServerCertificate>,
) -> Result<TlsAcceptor, OrchestratorError> {
    fn failed<E: std::error::Error + Send + Sync + 'static>(source: E) -> OrchestratorError {
        OrchestratorError::Tls(Box::new(source))
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).map_err(failed)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(failed)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry a certificate that nobody has looked at again.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until it fails.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
) -> Result<(), OrchestratorError> {
    let handshake = move |connection: std::io::Result<TcpStream>| {
        let acceptor = acceptor.clone();
        async move {
            let connection = connection.ok()?;
            connection.set_nodelay(true).ok()?;
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(connection));
            match handshake.await {
                Ok(Ok(tls)) => Some(Ok::<TlsStream<TcpStream>, std::io::Error>(tls)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    None
                }
                Err(_) => None,
            }
        }
    };
    let incoming = TcpListenerStream::new(listener)
        .map(handshake)
        .buffer_unordered(HANDSHAKES)
        .filter_map(std::future::ready);
    let lease = shared.lease;
    let service = Service(shared);
    Server::builder()
        .http2_keepalive_interval(Some(lease / 4))
        .http2_keepalive_timeout(Some(lease / 2))
        .max_concurrent_streams(8)
        .add_service(OrchestratorServer::new(service.clone()))
        .add_service(EnrollmentServer::new(service))
        .serve_with_incoming(incoming)
        .await
        .map_err(|source| OrchestratorError::Tls(Box::new(source)))
}

#[derive(Clone)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl Enrollment for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let shared = Arc::clone(&self.0);
        // Files and their syncs are not for the threads that carry streams.
        let joined = tokio::task::spawn_blocking(move || join(&shared, &request)).await;
        let joined = joined.map_err(|_| Status::internal("enrolment failed"))?;
        joined.map(Response::new)
    }
}

fn join(shared: &Shared, request: &JoinRequest) -> Result<JoinResponse, Status> {
    let failed = |error: OrchestratorError| {
        tracing::error!(error = &error as &dyn std::error::Error, "enrolment failed");
        Status::internal("enrolment failed")
    };
    let now = shared.clock.wall();
    // A request that cannot be signed must not cost the token.
    let probe = Identity {
        id: uuid::Uuid::nil(),
        name: "-".into(),
        region: None,
        tenants: crate::Tenants::Only(vec![]),
    };
    if shared.authority.sign_edge(now, &request.certificate_request, &probe).map_err(failed)?.is_none() {
        return Err(Status::invalid_argument("the certificate request is not a valid one"));
    }
    let identity =
        enrolment::spend(&shared.files, now, &request.token_id, &request.token_secret, &request.name)
            .map_err(failed)?
            .ok_or_else(|| {
                tracing::warn!("a join token was refused");
                Status::unauthenticated("the join token is not valid (any more) for this name")
            })?;
    let signed = shared.authority.sign_edge(now, &request.certificate_request, &identity).map_err(failed)?;
    let (certificate, ends) = signed.ok_or_else(|| Status::internal("enrolment failed"))?;
    enrolment::record(&shared.files, now, &identity, ends).map_err(failed)?;
    tracing::info!(edge = %identity.name, id = %identity.id, "an edge has joined");
    let authority = shared.authority.der().to_vec();
    Ok(JoinResponse { certificate, authority, edge_id: identity.id.to_string() })
}

/// One edge's stream; dropping it detaches the edge.
struct Attached {
    shared: Arc<Shared>,
    identity: Identity,
    certificate_ends: i64,
    number: u64,
    notify: Arc<Notify>,
    inbound: Streaming<FromEdge>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let (id, number) = (self.identity.id, self.number);
        self.shared.with(|core, now| core.detach(now, id, number));
        self.shared.forget_stream(id, number);
        tracing::info!(edge = %self.identity.name, "an edge has left");
    }
}

#[tonic::async_trait]
impl Orchestrator for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ToEdge, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromEdge>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let certificates = request.peer_certs();
        let leaf = certificates.as_ref().and_then(|chain| chain.first());
        let (identity, certificate_ends) = leaf
            .and_then(|leaf| authority::identity(leaf))
            .ok_or_else(|| Status::unauthenticated("a client certificate of an edge is needed"))?;
        if enrolment::revoked(&self.0.files, identity.id) {
            return Err(Status::permission_denied("this edge's certificate is revoked"));
        }
        let (number, notify) = self.0.attach(&identity);
        tracing::info!(edge = %identity.name, id = %identity.id, "an edge has come");
        let attached = Attached {
            shared: Arc::clone(&self.0),
            identity,
            certificate_ends,
            number,
            notify,
            inbound: request.into_inner(),
        };
        let orders = stream::unfold(Some(attached), |attached| async move {
            let mut attached = attached?;
            match attached.next().await {
                Ok(Some(orders)) => Some((Ok(orders), Some(attached))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(orders)))
    }
}

impl Attached {
    /// The next message for the edge. Reading from the edge happens here too: an edge that does not take what it is
    /// sent is not listened to.
    async fn next(&mut self) -> Result<Option<ToEdge>, Status> {
        let (id, number) = (self.identity.id, self.number);
        loop {
            let orders = self.shared.with(|core, now| core.poll(now, id, number)).map_err(ended)?;
            if !orders.is_empty() {
                return Ok(Some(ToEdge { orders }));
            }
            let notify = Arc::clone(&self.notify);
            let message = tokio::select! {
                () = notify.notified() => continue,
                () = self.shared.stopped.cancelled() => return Err(Status::unavailable("the orchestrator stops")),
                message = self.inbound.message() => message,
            };
            match message {
                Ok(Some(FromEdge { message: Some(message) })) => self.receive(message).await?,
                Ok(Some(FromEdge { message: None })) => return Err(ended(StreamEnd::Violation)),
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }

    async fn receive(&mut self, message: Message) -> Result<(), Status> {
        let (id, number) = (self.identity.id, self.number);
        match message {
            Message::CertificateRequest(request) => self.renew_certificate(request.certificate_request).await,
            Message::Renew(_) if unix(self.shared.clock.wall()) >= self.certificate_ends => {
                Err(Status::unauthenticated("the certificate has ended"))
            }
            Message::Renew(_) if enrolment::revoked(&self.shared.files, id) => {
                Err(Status::permission_denied("this edge's certificate is revoked"))
            }
            message => self.shared.with(|core, now| core.receive(now, id, number, message)).map_err(ended),
        }
    }

    async fn renew_certificate(&mut self, request: Vec<u8>) -> Result<(), Status> {
        let (shared, identity) = (Arc::clone(&self.shared), self.identity.clone());
        let signed = tokio::task::spawn_blocking(move || {
            let now = shared.clock.wall();
            if enrolment::revoked(&shared.files, identity.id) {
                return Ok(None);
            }
            let signed = shared.authority.sign_edge(now, &request, &identity)?;
            if let Some((_, ends)) = &signed {
                enrolment::record(&shared.files, now, &identity, *ends)?;
            }
            Ok::<_, OrchestratorError>(signed)
        });
        let signed = signed.await.map_err(|_| Status::internal("the certificate could not be renewed"))?;
        let signed = signed.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a certificate could not be renewed");
            Status::internal("the certificate could not be renewed")
        })?;
        let (der, ends) =
            signed.ok_or_else(|| Status::invalid_argument("the certificate request is not a valid one"))?;
        self.certificate_ends = ends;
        let (id, number) = (self.identity.id, self.number);
        self.shared.with(|core, _| core.certificate(id, number, der));
        Ok(())
    }
}

fn ended(end: StreamEnd) -> Status {
    match end {
        StreamEnd::Replaced => Status::aborted(end.to_string()),
        StreamEnd::Protocol => Status::unimplemented(end.to_string()),
        StreamEnd::Violation => Status::invalid_argument(end.to_string()),
    }
}
