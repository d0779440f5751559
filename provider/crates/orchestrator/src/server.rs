//! TLS and gRPC around [`Core`](crate::core::Core).

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt, stream};
use openkcm_edge_protocol::{
    mask::{Chain, Offer},
    orchestrator::{
        FromEdge, JoinRequest, JoinResponse, Order, ToEdge,
        enrollment_server::{Enrollment, EnrollmentServer},
        from_edge::Message,
        orchestrator_server::{Orchestrator, OrchestratorServer},
        order,
    },
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};

use crate::{
    OrchestratorError,
    authority::{self, Authority, unix},
    core::{Identity, StreamEnd},
    door::{self, Admitted, Guesses},
    enrolment,
    orchestrator::Shared,
};

/// Joins at the same time: each writes files.
const JOINS: usize = 8;

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
    let (sender, receiver) = mpsc::channel(64);
    let incoming = ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>);
    let lease = shared.lease;
    let service =
        Service { shared, guesses: Arc::new(Guesses::new()), joins: Arc::new(Semaphore::new(JOINS)) };
    let serving = Server::builder()
        // To be rid of what is dead; who lives asks for a lease more often than that.
        .http2_keepalive_interval(Some(lease))
        .http2_keepalive_timeout(Some(lease))
        .max_concurrent_streams(8)
        .add_service(OrchestratorServer::new(service.clone()))
        .add_service(EnrollmentServer::new(service))
        .serve_with_incoming(incoming);
    tokio::select! {
        served = serving => served.map_err(|source| OrchestratorError::Tls(Box::new(source))),
        () = door::admit(listener, acceptor, sender) => Ok(()),
    }
}

#[derive(Clone)]
struct Service {
    shared: Arc<Shared>,
    guesses: Arc<Guesses>,
    joins: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Enrollment for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let shared = Arc::clone(&self.shared);
        let from = peer(&request);
        let _turn = self.joins.acquire().await;
        if !self.guesses.allowed(shared.clock.monotonic(), from) {
            return Err(Status::resource_exhausted(
                "too many wrong join tokens came from there: wait a minute",
            ));
        }
        let request = request.into_inner();
        // Files and their syncs are not for the threads that carry streams.
        let joined = tokio::task::spawn_blocking(move || join(&shared, &request)).await;
        let joined = joined.map_err(|_| Status::internal("enrolment failed"))?;
        if joined.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
            self.guesses.wrong(self.shared.clock.monotonic(), from);
        }
        joined.map(Response::new)
    }
}

/// Where a call comes from.
fn peer<T>(request: &Request<T>) -> IpAddr {
    let info = request.extensions().get::<<Admitted as Connected>::ConnectInfo>();
    let address = info.and_then(|info| info.get_ref().remote_addr());
    address.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip())
}

fn join(shared: &Shared, request: &JoinRequest) -> Result<JoinResponse, Status> {
    let failed = |error: OrchestratorError| {
        tracing::error!(error = &error as &dyn std::error::Error, "enrolment failed");
        Status::internal("enrolment failed")
    };
    let now = shared.clock.wall();
    let refused = || {
        tracing::warn!("a join token was refused");
        Status::unauthenticated("the join token is not valid (any more) for this name")
    };
    // Who has no token is not worth a signature.
    if !enrolment::known(&shared.files, now, request).map_err(failed)? {
        return Err(refused());
    }
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
    let identity = enrolment::spend(&shared.files, now, request).map_err(failed)?.ok_or_else(refused)?;
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
    /// Our half of the agreement until the welcome has told it, and what masks key bytes.
    mask: Option<(Vec<u8>, Chain)>,
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
        if enrolment::revoked(&self.shared.files, identity.id) {
            return Err(Status::permission_denied("this edge's certificate is revoked"));
        }
        let (number, notify) = self.shared.attach(&identity);
        tracing::info!(edge = %identity.name, id = %identity.id, "an edge has come");
        let attached = Attached {
            shared: Arc::clone(&self.shared),
            identity,
            certificate_ends,
            number,
            notify,
            inbound: request.into_inner(),
            mask: None,
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
            let mut orders = self.shared.with(|core, now| core.poll(now, id, number)).map_err(ended)?;
            if !orders.is_empty() {
                orders.iter_mut().try_for_each(|order| self.mask(order))?;
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

    /// No key bytes in the buffers that the order goes through from here on.
    fn mask(&mut self, order: &mut Order) -> Result<(), Status> {
        let Some((exchange, chain)) = &mut self.mask else { return Ok(()) };
        match &mut order.order {
            Some(order::Order::Welcome(welcome)) => welcome.exchange = std::mem::take(exchange),
            Some(order::Order::Put(put)) => {
                let applied =
                    put.versions.iter_mut().try_for_each(|version| chain.apply(&mut version.material));
                applied.map_err(|error| Status::internal(error.to_string()))?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn receive(&mut self, message: Message) -> Result<(), Status> {
        let (id, number) = (self.identity.id, self.number);
        if let (Message::Hello(hello), None) = (&message, &self.mask) {
            let offer = Offer::new().map_err(|error| Status::internal(error.to_string()))?;
            let ours = offer.public().to_vec();
            let chain =
                offer.agree(&hello.exchange).map_err(|error| Status::invalid_argument(error.to_string()))?;
            self.mask = Some((ours, chain));
        }
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
        StreamEnd::Region => Status::failed_precondition(end.to_string()),
    }
}
