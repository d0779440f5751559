//! Who calls: tokens of issuers that the operator trusts, and client certificates.
//!
//! A token's signature, issuer, audience and times are checked against the issuer's own keys and nothing else: no part
//! of a token chooses a key source or an algorithm outside the allow-list. Verified tokens are remembered by their hash
//! until they end, so the cost of a signature is paid once per token.

mod cache;
mod certificate;
mod issuers;
mod jwks;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use kcp_client_rs::LogicalCluster;
use serde::Deserialize;
use tokio::sync::Semaphore;

use self::cache::TokenCache;
pub use self::{
    certificate::caller_of_certificate,
    issuers::{IssuerConfig, IssuerKind, IssuersError, load_issuers},
};
use crate::{
    caller::{Caller, Home},
    error::{Code, OpError},
};

/// Most tokens that are being verified; further ones are refused at once. Tokens that are remembered are not held up.
const MAX_PENDING: usize = 256;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 << 10;
/// Clocks may differ by this much.
const LEEWAY_SECONDS: u64 = 30;
/// Signatures with public keys only, and of reasonable strength: no `none`, no HMAC.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Verifies tokens.
pub struct Authenticator {
    issuers: Vec<Arc<issuers::Issuer>>,
    cache: TokenCache,
    pending: Semaphore,
    /// One signature is checked at a time: strangers keep one core busy at most, whatever they send.
    signatures: Semaphore,
}

/// A verified caller and when its proof ends, in seconds since 1970.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Who.
    pub caller: Caller,
    /// Until when.
    pub until: u64,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaims>,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    #[serde(rename = "clusterName")]
    cluster_name: Option<String>,
    namespace: Option<String>,
    serviceaccount: Option<ServiceAccountClaims>,
}

#[derive(Deserialize)]
struct ServiceAccountClaims {
    name: String,
}

/// Only what chooses the issuer, read before anything is verified.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

impl Authenticator {
    /// Trusts these issuers, for tokens with this audience unless an issuer has one of its own.
    pub fn new(issuers: Vec<IssuerConfig>, audience: &str) -> Result<Self, IssuersError> {
        let issuers = issuers
            .into_iter()
            .map(|config| issuers::Issuer::new(config, audience).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let (pending, signatures) = (Semaphore::new(MAX_PENDING), Semaphore::new(1));
        Ok(Self { issuers, cache: TokenCache::default(), pending, signatures })
    }

    /// The caller of a token that was verified before and has not ended. Never waits.
    pub fn remembered(&self, token: &str) -> Option<Verified> {
        self.cache.get(token, now())
    }

    /// Verifies a token. May wait for the issuer's keys.
    pub async fn verify(&self, token: &str) -> Result<Verified, OpError> {
        if let Some(verified) = self.remembered(token) {
            return Ok(verified);
        }
        let verified = self.verify_afresh(token).await?;
        self.cache.put(token, verified.clone(), now());
        Ok(verified)
    }

    async fn verify_afresh(&self, token: &str) -> Result<Verified, OpError> {
        if token.len() > MAX_TOKEN {
            return Err(refused("the token is too long"));
        }
        let _pending = self.pending.try_acquire().map_err(|_| overloaded())?;
        let header =
            decode_header(token).map_err(|_| refused("the token is not a JWT with a known algorithm"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("the token's algorithm is not allowed"));
        }
        let unverified: Unverified = jsonwebtoken::dangerous::insecure_decode(token)
            .map(|data| data.claims)
            .map_err(|_| refused("the token has no issuer"))?;
        let mut issuer_known = false;
        for issuer in self.issuers.iter().filter(|issuer| issuer.name == unverified.iss) {
            issuer_known = true;
            if let Some(key) = issuer.keys.key(header.kid.as_deref(), header.alg).await? {
                let _turn = self.signatures.acquire().await.map_err(|_| overloaded())?;
                return check(issuer, header.alg, token, &key);
            }
        }
        Err(refused(if issuer_known {
            "the token's issuer has no such signing key"
        } else {
            "the token's issuer is not trusted by this edge"
        }))
    }
}

fn check(
    issuer: &issuers::Issuer,
    algorithm: Algorithm,
    token: &str,
    key: &jsonwebtoken::DecodingKey,
) -> Result<Verified, OpError> {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[&issuer.name]);
    validation.set_audience(&[&issuer.audience]);
    let claims =
        decode::<Claims>(token, key, &validation).map_err(|error| refused(reason(error.kind())))?.claims;
    let home = match issuer.kind {
        IssuerKind::Oidc => None,
        IssuerKind::Kcp => Some(home(&claims).ok_or_else(|| refused("the token names no workspace"))?),
    };
    let caller = Caller::new(&claims.iss, &claims.sub, home);
    Ok(Verified { caller, until: claims.exp.saturating_add(LEEWAY_SECONDS) })
}

/// Workspace and namespace of a kcp service account, if the claims agree with the subject.
fn home(claims: &Claims) -> Option<Home> {
    let kubernetes = claims.kubernetes.as_ref()?;
    let cluster: LogicalCluster = kubernetes.cluster_name.as_ref()?.parse().ok()?;
    let namespace = kubernetes.namespace.as_deref()?;
    let name = &kubernetes.serviceaccount.as_ref()?.name;
    let agrees = claims.sub == format!("system:serviceaccount:{namespace}:{name}");
    agrees.then(|| Home { cluster, namespace: namespace.into() })
}

fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks a required claim",
        _ => "the token does not verify",
    }
}

fn overloaded() -> OpError {
    OpError::new(Code::Overloaded, "too many new tokens at once: retry a little later")
}

fn refused(reason: &str) -> OpError {
    OpError::new(Code::Unauthenticated, reason)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
