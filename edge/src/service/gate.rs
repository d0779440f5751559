//! Verifies the caller before a request's body is read, and bounds what is under way.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use openkcm_edge_protocol::application::crypto_server::CryptoServer;
use tonic::{Status, body::Body, server::NamedService, transport::server::TlsConnectInfo};

use super::{
    Service,
    connections::Standing,
    limits::{Held, Limits, Metered},
};
use crate::{
    auth::{self, Authenticator, Verified, caller_of_certificate},
    error::{Code, OpError},
    metrics::Metrics,
};

/// The door of the service.
#[derive(Clone)]
pub struct Gate {
    inner: CryptoServer<Service>,
    auth: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    certificate_issuer: Arc<str>,
    limits: Arc<Limits>,
}

impl Gate {
    pub(super) fn new(
        inner: CryptoServer<Service>,
        auth: Arc<Authenticator>,
        metrics: Arc<Metrics>,
        certificate_issuer: &str,
    ) -> Self {
        let limits = Arc::default();
        Self { inner, auth, metrics, certificate_issuer: certificate_issuer.into(), limits }
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
            request.extensions().get::<TlsConnectInfo<Arc<Standing>>>().and_then(TlsConnectInfo::peer_certs);
        let leaf = certificates.as_ref().and_then(|chain| chain.first()).ok_or_else(|| {
            OpError::new(
                Code::Unauthenticated,
                "the request has neither a bearer token nor a client certificate",
            )
        })?;
        let verified = caller_of_certificate(&self.certificate_issuer, leaf)?;
        // TLS checked the certificate's times when the connection was made, which may be long ago.
        if auth::now() >= verified.until {
            return Err(OpError::new(Code::Unauthenticated, "the client certificate has expired"));
        }
        Ok(verified)
    }
}

/// What is known of the request's connection.
fn standing(request: &Request<Body>) -> Option<Arc<Standing>> {
    let extensions = request.extensions();
    let over_tls = || extensions.get::<TlsConnectInfo<Arc<Standing>>>().map(TlsConnectInfo::get_ref);
    extensions.get::<Arc<Standing>>().or_else(over_tls).cloned()
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
        let (at_once, standing) = (self.at_once(&request), standing(&request));
        Box::pin(async move {
            let verified = if let Some(verified) = at_once {
                verified
            } else {
                let token = bearer(&request).and_then(Result::ok).unwrap_or_default().to_owned();
                gate.auth.verify(&token).await
            };
            if let Some(standing) = standing {
                match &verified {
                    Ok(_) => standing.prove(),
                    Err(_) => standing.refuse(),
                }
            }
            let admitted = verified.and_then(|verified| Ok((gate.limits.admit(&verified.caller)?, verified)));
            let (place, verified) = match admitted {
                Ok(admitted) => admitted,
                Err(refusal) => {
                    gate.metrics.count("authenticate", Some(&refusal), 1);
                    return Ok(Status::from(refusal).into_http());
                }
            };
            request.extensions_mut().insert(verified);
            let request = request.map(|body| Body::new(Metered::new(body, Arc::clone(&place))));
            let response = gate.inner.call(request).await?;
            Ok(response.map(|body| Body::new(Held::new(body, place))))
        })
    }
}
