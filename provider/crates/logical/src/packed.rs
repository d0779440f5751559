//! Objects kept small: as compressed JSON, decoded whenever they are read.
//!
//! A typed Kubernetes object takes three kilobytes, most of it the same text in each object of its kind. So each is
//! compressed (LZ4) with others of its kind as the dictionary, and what is left is what is peculiar to it. Reading one
//! costs some microseconds: less than anything that a controller then does with it.

use std::{
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use kcp_client_rs::LogicalCluster;
use lz4_flex::block::{
    compress_prepend_size_with_dict as compress, decompress_size_prepended_with_dict as decompress,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Cache, Lookup};

/// A dictionary grows until it has this size. Larger ones help little, and are indexed anew for every object.
const DICTIONARY: usize = 6 << 10;

/// An object that is kept compressed, and beside it what is needed so often that it should not be decoded for it.
pub struct Packed<K, S> {
    /// What was noted about the object when it was stored.
    pub summary: S,
    dictionary: Arc<Dictionary>,
    bytes: Box<[u8]>,
    kind: PhantomData<fn() -> K>,
}

/// Never changes once it is in use: a longer one is another one.
type Dictionary = Vec<u8>;

/// Packs the objects of one kind.
pub(crate) struct Packer<K, S> {
    dictionary: Mutex<Arc<Dictionary>>,
    kind: PhantomData<fn(K) -> S>,
}

impl<K, S> Default for Packer<K, S> {
    fn default() -> Self {
        Self { dictionary: Mutex::default(), kind: PhantomData }
    }
}

impl<K: Serialize, S> Packer<K, S> {
    pub fn pack(&self, object: &K, summary: S) -> Packed<K, S> {
        let plain = serde_json::to_vec(object).unwrap_or_default();
        let current = || self.dictionary.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dictionary = Arc::clone(&current());
        let mut bytes = compress(&plain, &dictionary);
        // An object that the dictionary does not help with becomes part of it.
        if bytes.len() * 3 > plain.len() && dictionary.len() + plain.len() <= DICTIONARY {
            let longer = Arc::new([dictionary.as_slice(), &plain].concat());
            let mut current = current();
            if Arc::ptr_eq(&current, &dictionary) {
                *current = longer;
            }
            dictionary = Arc::clone(&current);
            drop(current);
            bytes = compress(&plain, &dictionary);
        }
        Packed { summary, dictionary, bytes: bytes.into(), kind: PhantomData }
    }
}

impl<K: DeserializeOwned, S> Packed<K, S> {
    /// The object. `None` if its type cannot read what it has written, which is a defect of the type.
    pub fn open(&self) -> Option<K> {
        let plain = decompress(&self.bytes, &self.dictionary).ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static, S: Send + Sync + 'static> Cache<Packed<K, S>> {
    /// [`Cache::look`], decoded.
    pub fn open(&self, cluster: &LogicalCluster, namespace: Option<&str>, name: &str) -> Lookup<K> {
        match self.look(cluster, namespace, name) {
            Lookup::Found(packed) => match packed.open() {
                Some(object) => Lookup::Found(Arc::new(object)),
                None => Lookup::Undecodable("the object cannot be read back from memory".into()),
            },
            Lookup::Undecodable(why) => Lookup::Undecodable(why),
            Lookup::Absent => Lookup::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use openkcm_apis::{ServiceEncryptionKey, ServiceEncryptionKeySpec};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn key(name: &str, request: &str, reason: &str) -> ServiceEncryptionKey {
        let spec: ServiceEncryptionKeySpec = serde_json::from_value(json!({
            "accountRef": {"name": "aws-production"}, "algorithm": "AES-GCM-256", "rotationSchedule": "30 Days",
            "rotationRequest": request, "state": "Enabled",
        }))
        .unwrap();
        let mut key = ServiceEncryptionKey::new(name, spec);
        key.metadata.namespace = Some("payments".to_owned());
        key.status = serde_json::from_value(json!({
            "state": "Active", "currentVersion": "v3", "lastRotation": "2026-11-21T10:00:00Z", "activeClients": 3,
            "edges": {"total": 3, "current": 3, "evicted": 0},
            "conditions": [{"type": "Ready", "status": "True", "reason": reason, "message": "The key encrypts with v3.",
                "lastTransitionTime": "2026-11-21T10:00:00Z", "observedGeneration": 2}],
        }))
        .unwrap();
        key
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_comes_out_is_what_went_in(
            keys in proptest::collection::vec(("[a-z]{1,60}", "\\PC{0,300}", "[A-Za-z]{1,20}"), 1..20)
        ) {
            let packer = Packer::<ServiceEncryptionKey, usize>::default();
            let keys: Vec<_> = keys.iter().map(|(name, request, reason)| key(name, request, reason)).collect();
            let packed: Vec<_> = keys.iter().enumerate().map(|(n, key)| packer.pack(key, n)).collect();
            for (n, (key, packed)) in keys.iter().zip(&packed).enumerate() {
                prop_assert_eq!(packed.summary, n);
                prop_assert_eq!(serde_json::to_value(packed.open().unwrap()).unwrap(), serde_json::to_value(key).unwrap());
            }
        }
    }

    #[test]
    fn objects_of_a_kind_are_small_beside_the_first_ones() {
        let packer = Packer::<ServiceEncryptionKey, ()>::default();
        let sizes: Vec<usize> =
            (0..100).map(|n| packer.pack(&key(&format!("key-{n}"), "", "Active"), ()).bytes.len()).collect();
        let plain = serde_json::to_vec(&key("key-100", "", "Active")).unwrap().len();
        assert!(sizes[99] * 4 < plain, "{} of {plain} bytes", sizes[99]);
        assert!(packer.dictionary.lock().unwrap().len() <= DICTIONARY);
    }
}
