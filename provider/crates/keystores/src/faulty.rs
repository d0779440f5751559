//! A root key in memory whose store can be made to fail: for tests of everything above this crate.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use futures::{FutureExt as _, future::BoxFuture};
use openkcm_secret::SecretKey;

use crate::{
    Binding, Description, Error, Operation, Reason, Result, RootKey, StoreKind, Wrapped,
    wrapped::{self, Algorithm, Parts},
};

/// A store in memory. Clones share it.
#[derive(Clone)]
pub struct FaultyRoot {
    kind: StoreKind,
    reference: Arc<str>,
    state: Arc<Mutex<State>>,
    calls: Arc<[AtomicU64; 3]>,
}

struct State {
    versions: BTreeMap<u32, [u8; 32]>,
    fault: Option<Reason>,
    fault_on: BTreeMap<Operation, Reason>,
    delay: Duration,
}

impl FaultyRoot {
    /// A healthy root key with one version.
    pub fn new(kind: StoreKind, reference: &str) -> Self {
        let root = Self {
            kind,
            reference: reference.into(),
            state: Arc::new(Mutex::new(State {
                versions: BTreeMap::new(),
                fault: None,
                fault_on: BTreeMap::new(),
                delay: Duration::ZERO,
            })),
            calls: Arc::default(),
        };
        root.rotate();
        root
    }

    /// Every call fails with `reason`, or works again with `None`.
    pub fn fail(&self, reason: Option<Reason>) {
        self.state().fault = reason;
    }

    /// Calls of one operation fail with `reason`, or work again with `None`.
    pub fn fail_on(&self, operation: Operation, reason: Option<Reason>) {
        let mut state = self.state();
        match reason {
            Some(reason) => state.fault_on.insert(operation, reason),
            None => state.fault_on.remove(&operation),
        };
    }

    /// Every call takes this long (of tokio's clock).
    pub fn slow(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// A new version of the key; the old ones still unwrap.
    pub fn rotate(&self) {
        let mut state = self.state();
        let next = state.versions.keys().last().map_or(1, |last| last + 1);
        let mut bytes = [0; 32];
        if aws_lc_rs::rand::fill(&mut bytes).is_ok() {
            state.versions.insert(next, bytes);
        }
    }

    /// How many calls of this operation there were, failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.calls[operation as usize].load(Ordering::Relaxed)
    }

    /// How many calls there were.
    pub fn total_calls(&self) -> u64 {
        self.calls.iter().map(|calls| calls.load(Ordering::Relaxed)).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, operation: Operation) -> Result<()> {
        self.calls[operation as usize].fetch_add(1, Ordering::Relaxed);
        let (delay, fault) = {
            let state = self.state();
            (state.delay, state.fault.or_else(|| state.fault_on.get(&operation).copied()))
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        fault.map_or(Ok(()), |reason| Err(Error::new(reason, format!("the test's key store says {reason}"))))
    }

    fn key(&self, version: u32) -> Option<LessSafeKey> {
        let state = self.state();
        let bytes = state.versions.get(&version)?;
        UnboundKey::new(&AES_256_GCM, bytes).ok().map(LessSafeKey::new)
    }

    fn current(&self) -> u32 {
        self.state().versions.keys().last().copied().unwrap_or_default()
    }
}

fn bad_ciphertext() -> Error {
    Error::new(Reason::BadCiphertext, "the wrapped key does not open under this root key and binding")
}

impl RootKey for FaultyRoot {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description>> {
        async {
            self.enter(Operation::Describe).await?;
            Ok(Description {
                reference: self.reference.to_string(),
                version: self.current().to_string(),
                algorithm: "AES-GCM-256".to_owned(),
            })
        }
        .boxed()
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey, binding: &'a Binding) -> BoxFuture<'a, Result<Wrapped>> {
        async {
            self.enter(Operation::Wrap).await?;
            let version = self.current();
            let root = self.key(version).ok_or_else(bad_ciphertext)?;
            let mut nonce = [0; 12];
            aws_lc_rs::rand::fill(&mut nonce).map_err(|_| bad_ciphertext())?;
            let mut sealed = key.expose(|bytes| bytes.to_vec());
            root.seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(wrapped::aad(binding)),
                &mut sealed,
            )
            .map_err(|_| bad_ciphertext())?;
            let version = version.to_string();
            let ciphertext = [nonce.as_slice(), &sealed].concat();
            let parts = Parts {
                kind: self.kind,
                algorithm: Algorithm::AesGcm,
                reference: &self.reference,
                version: &version,
                ciphertext: &ciphertext,
            };
            parts.to_wrapped()
        }
        .boxed()
    }

    fn unwrap<'a>(&'a self, wrapped: &'a [u8], binding: &'a Binding) -> BoxFuture<'a, Result<SecretKey>> {
        async {
            self.enter(Operation::Unwrap).await?;
            let parts = Parts::parse(wrapped, self.kind)?;
            if parts.reference != &*self.reference {
                return Err(bad_ciphertext());
            }
            let version = parts.version.parse().map_err(|_| bad_ciphertext())?;
            let root = self.key(version).ok_or_else(bad_ciphertext)?;
            let (nonce, sealed) = parts.ciphertext.split_at_checked(12).ok_or_else(bad_ciphertext)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad_ciphertext())?;
            let mut sealed = sealed.to_vec();
            let plain = root
                .open_in_place(nonce, Aad::from(wrapped::aad(binding)), &mut sealed)
                .map_err(|_| bad_ciphertext())?;
            wrapped::secret(plain)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::verify;

    #[tokio::test]
    async fn it_behaves_like_a_store_and_fails_on_request() {
        let root = FaultyRoot::new(StoreKind::AwsKms, "test");
        let binding = Binding { logical_cluster: "a".parse().unwrap(), account: "1".to_owned() };
        let first = verify(&root, &binding).await.unwrap();
        assert_eq!((first.version.as_str(), root.total_calls()), ("1", 3));
        let key = SecretKey::random().unwrap();
        let wrapped = root.wrap(&key, &binding).await.unwrap();
        root.rotate();
        assert_eq!(verify(&root, &binding).await.unwrap().version, "2");
        let back = root.unwrap(&wrapped.bytes, &binding).await.unwrap();
        assert!(key.expose(|one| back.expose(|two| one == two)), "the old version still opens");
        let other = Binding { account: "2".to_owned(), ..binding.clone() };
        assert!(root.unwrap(&wrapped.bytes, &other).await.is_err());

        root.fail(Some(Reason::Disabled));
        assert_eq!(verify(&root, &binding).await.unwrap_err().reason, Reason::Disabled);
        root.fail(None);
        root.fail_on(Operation::Unwrap, Some(Reason::AccessDenied));
        assert_eq!(verify(&root, &binding).await.unwrap_err().reason, Reason::AccessDenied);
        assert_eq!(root.calls(Operation::Describe), 4);
    }
}
