//! Verifies the caller before a request's body is read, and bounds how many are served at once.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use openkcm_edge_protocol::application::crypto_server::CryptoServer;
use tokio::sync::Semaphore;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use super::Service;
use crate::{
    auth::{Authenticator, Verified, caller_of_certificate},
    error::{Code, OpError},
    metrics::Metrics,
};

/// Most requests at once, streams included; each may hold some MiB.
const MAX_REQUESTS: usize = 1024;

/// The door of the service.
#[derive(Clone)]
pub struct Gate {
    inner: CryptoServer<Service>,
    auth: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    certificate_issuer: Arc<str>,
    places: Arc<Semaphore>,
}

impl Gate {
    pub(super) fn new(
        inner: CryptoServer<Service>,
        auth: Arc<Authenticator>,
        metrics: Arc<Metrics>,
        certificate_issuer: &str,
    ) -> Self {
        let places = Arc::new(Semaphore::new(MAX_REQUESTS));
        Self { inner, auth, metrics, certificate_issuer: certificate_issuer.into(), places }
    }

    /// The caller, if that can be said without waiting.
    fn at_once(&self, request: &Request<Body>) -> Option<Result<Verified, OpError>> {
        match bearer(request) {
            Some(Ok(token)) => self.auth.remembered(token).map(Ok),
            Some(Err(error)) => Some(Err(error)),
            None => Some(self.by_certificate(request)),
        }
    }

    fn by_certificate(&self, request: &Request<Body>) -> Result<Verified, OpError> {
        let certificates =
            request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
        let leaf = certificates.as_ref().and_then(|chain| chain.first()).ok_or_else(|| {
            OpError::new(
                Code::Unauthenticated,
                "the request has neither a bearer token nor a client certificate",
            )
        })?;
        let caller = caller_of_certificate(&self.certificate_issuer, leaf)?;
        // TLS checked the certificate's times when the connection was made.
        Ok(Verified { caller, until: u64::MAX })
    }
}

/// The token of a request, if it has one.
fn bearer(request: &Request<Body>) -> Option<Result<&str, OpError>> {
    let value = request.headers().get(AUTHORIZATION)?;
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    Some(token.ok_or_else(|| OpError::new(Code::Unauthenticated, "the authorization is not a bearer token")))
}

impl NamedService for Gate {
    const NAME: &'static str = <CryptoServer<Service> as NamedService>::NAME;
}

impl tower::Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut gate = self.clone();
        let at_once = self.at_once(&request);
        Box::pin(async move {
            let verified = if let Some(verified) = at_once {
                verified
            } else {
                let token = bearer(&request).and_then(Result::ok).unwrap_or_default().to_owned();
                gate.auth.verify(&token).await
            };
            let permit = Arc::clone(&gate.places).try_acquire_owned();
            let refusal = match (verified, permit) {
                (Ok(verified), Ok(permit)) => {
                    request.extensions_mut().insert(verified);
                    // The permit goes with the response's body, so that streams count until they end.
                    let response = gate.inner.call(request).await?;
                    return Ok(response.map(|body| Body::new(Held { body, _permit: permit })));
                }
                (Err(error), _) => error,
                (_, Err(_)) => OpError::new(Code::Overloaded, "this edge serves as many requests as it can"),
            };
            gate.metrics.count("authenticate", Some(&refusal), 1);
            Ok(Status::from(refusal).into_http())
        })
    }
}

/// A body that keeps a place taken until it ends.
struct Held {
    body: Body,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
