//! An issuer's signing keys: cached, read again when they age and when a token names an unknown one.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::StreamExt;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use tokio::sync::{Mutex, Semaphore};
use url::Url;

use super::overloaded;
use crate::error::OpError;

/// Keys older than this are read again before use; if that fails, the old ones serve on.
const MAX_AGE: Duration = Duration::from_mins(5);
/// No two reads closer than this, however many tokens name unknown keys.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// Most tokens that wait for the source's answer; further ones are refused at once.
const MAX_WAITING: usize = 64;
/// Largest key set.
const MAX_BYTES: usize = 1 << 20;

pub(super) enum Source {
    File(PathBuf),
    Url(Url, reqwest::Client),
}

impl Source {
    pub(super) fn url(url: Url, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(5));
        if let Some(path) = ca_file {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let authorities =
                reqwest::Certificate::from_pem_bundle(&pem).context("parse certificate authorities")?;
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self::Url(url, builder.build().context("build the HTTP client")?))
    }

    async fn read(&self) -> anyhow::Result<JwkSet> {
        let bytes = match self {
            Self::File(path) => {
                tokio::fs::read(path).await.with_context(|| format!("read {}", path.display()))?
            }
            Self::Url(url, client) => {
                let response = client.get(url.clone()).send().await?.error_for_status()?;
                let mut body = response.bytes_stream();
                let mut bytes = Vec::new();
                while let Some(part) = body.next().await {
                    bytes.extend_from_slice(&part?);
                    ensure!(bytes.len() <= MAX_BYTES, "the key set is too large");
                }
                bytes
            }
        };
        serde_json::from_slice(&bytes).context("parse the key set")
    }
}

pub(super) struct Jwks {
    source: Source,
    keys: RwLock<Arc<Keys>>,
    /// When the source was last asked, and at most one asks at a time.
    asked: Mutex<Option<Instant>>,
    waiting: Semaphore,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<String, (Jwk, DecodingKey)>,
    /// A key without an id, or the only one: for tokens that name none.
    only: Option<(Jwk, DecodingKey)>,
    read: Option<Instant>,
}

impl Jwks {
    pub(super) fn new(source: Source) -> Self {
        let waiting = Semaphore::new(MAX_WAITING);
        Self { source, keys: RwLock::default(), asked: Mutex::new(None), waiting }
    }

    /// The key that signed a token with this key id and algorithm, if the issuer has it.
    pub(super) async fn key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<DecodingKey>, OpError> {
        let keys = self.keys();
        let (known, aged) = (keys.find(id, algorithm), keys.read.is_none_or(|read| read.elapsed() > MAX_AGE));
        // Where somebody asks already, a key that is known serves on instead of waiting for the answer.
        if known.is_some() && (!aged || self.asked.try_lock().is_err()) {
            return Ok(known);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| overloaded())?;
        self.refresh(&keys).await;
        Ok(self.keys().find(id, algorithm))
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the source, unless someone else just has.
    async fn refresh(&self, seen: &Arc<Keys>) {
        let mut asked = self.asked.lock().await;
        let someone_did = !Arc::ptr_eq(seen, &self.keys());
        if someone_did || asked.is_some_and(|asked| asked.elapsed() < MIN_INTERVAL) {
            return;
        }
        *asked = Some(Instant::now());
        match self.source.read().await {
            Ok(set) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Keys::new(set));
            }
            Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot read an issuer's keys"),
        }
    }
}

impl Keys {
    fn new(set: JwkSet) -> Self {
        let usable = |jwk: &Jwk| !matches!(&jwk.common.public_key_use, Some(usage) if *usage != PublicKeyUse::Signature);
        let mut keys: Vec<_> = set
            .keys
            .into_iter()
            .filter(usable)
            .filter_map(|jwk| DecodingKey::from_jwk(&jwk).ok().map(|key| (jwk, key)))
            .collect();
        let only = (keys.len() == 1).then(|| keys[0].clone());
        let by_id =
            keys.drain(..).filter_map(|(jwk, key)| Some((jwk.common.key_id.clone()?, (jwk, key)))).collect();
        Self { by_id, only, read: Some(Instant::now()) }
    }

    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let (jwk, key) = match id {
            Some(id) => self.by_id.get(id)?,
            None => self.only.as_ref()?,
        };
        fits(jwk, algorithm).then(|| key.clone())
    }
}

/// Whether the key is of the algorithm's family, and of the very algorithm if the key names one.
fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm as A;
    let family = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            matches!(algorithm, A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512)
        }
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => algorithm == A::ES256,
            EllipticCurve::P384 => algorithm == A::ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(key) => {
            algorithm == A::EdDSA && key.curve == EllipticCurve::Ed25519
        }
        AlgorithmParameters::OctetKey(_) => false,
    };
    let named = jwk.common.key_algorithm.is_none_or(|named| {
        named.to_string() == format!("{algorithm:?}")
            || (named == KeyAlgorithm::EdDSA && algorithm == A::EdDSA)
    });
    family && named
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jsonwebtoken::EncodingKey;

    use super::*;

    fn jwk(id: &str) -> Jwk {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(id.into());
        jwk
    }

    fn write(path: &Path, ids: &[&str]) {
        let keys = ids.iter().map(|id| jwk(id)).collect();
        std::fs::write(path, serde_json::to_vec(&JwkSet { keys }).unwrap()).unwrap();
    }

    async fn has(jwks: &Jwks, id: &str) -> bool {
        jwks.key(Some(id), Algorithm::ES256).await.unwrap().is_some()
    }

    async fn time_passes(jwks: &Jwks) {
        *jwks.asked.lock().await = None;
    }

    #[tokio::test]
    async fn an_unknown_key_id_is_looked_up_but_not_too_often() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwks.json");
        write(&path, &["one"]);
        let jwks = Jwks::new(Source::File(path.clone()));
        assert!(has(&jwks, "one").await);
        write(&path, &["one", "two"]);
        assert!(!has(&jwks, "two").await, "the source was asked a moment ago");
        time_passes(&jwks).await;
        assert!(has(&jwks, "two").await);
        // A source that is away or broken takes nothing from what is known.
        std::fs::write(&path, "{").unwrap();
        time_passes(&jwks).await;
        assert!(!has(&jwks, "three").await);
        assert!(has(&jwks, "one").await);
        // A key that its issuer withdrew goes.
        write(&path, &["three"]);
        time_passes(&jwks).await;
        assert!(has(&jwks, "three").await);
        assert!(!has(&jwks, "one").await);
    }

    #[tokio::test]
    async fn a_key_serves_its_own_algorithm_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwks.json");
        write(&path, &["one"]);
        let jwks = Jwks::new(Source::File(path));
        for other in [Algorithm::RS256, Algorithm::HS256, Algorithm::ES384, Algorithm::EdDSA] {
            assert!(jwks.key(Some("one"), other).await.unwrap().is_none(), "{other:?}");
        }
        assert!(jwks.key(None, Algorithm::ES256).await.unwrap().is_some(), "the only key needs no name");
    }
}
