//! One key as the table holds it: compact, immutable, shared.

use std::{
    hash::{BuildHasher, Hash},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::HashTable;
use kcp_client_rs::LogicalCluster;
use openkcm_secret::{Locked, SecretKey};

use super::{
    types::{Client, EvictReason, Gone, KeyEntry, KeyNameRef, KeyVersion, Material, PutError, Usable},
    usage::Usage,
};
use crate::envelope::{COMMITMENT_LEN, XaesKey, commitment};

/// Most versions whose expanded key is kept, 1 KiB each; the others' are expanded for each operation. Whoever comes first
/// keeps a place until its key is evicted or rotates.
pub(super) const EXPANDED: usize = 4096;

/// What all keys of a namespace have in common.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Home {
    pub(super) cluster: LogicalCluster,
    pub(super) tenant_name: Box<str>,
    pub(super) namespace: Box<str>,
}

/// A live key or the tombstone of an evicted one.
pub(super) struct Entry {
    pub(super) home: Arc<Home>,
    pub(super) name: Name,
    pub(super) key_id: [u8; 16],
    pub(super) revision: u64,
    /// A thin pointer, because nearly all keys have none.
    #[allow(clippy::box_collection)]
    pub(super) clients: Option<Box<Vec<Client>>>,
    pub(super) state: State,
    pub(super) usage: OnceLock<Arc<Usage>>,
}

#[allow(clippy::large_enum_variant)] // Nearly all entries are live with one version, which is next to its name then.
pub(super) enum State {
    Live { current: u32, versions: Versions },
    Evicted(EvictReason),
}

/// Versions by number. Never empty.
#[allow(clippy::large_enum_variant)] // As above.
pub(super) enum Versions {
    One(Version),
    Many(Box<[Version]>),
}

/// A key's name. Short ones, which nearly all are, need no memory of their own.
#[derive(Clone)]
pub(super) enum Name {
    Short { length: u8, bytes: [u8; 22] },
    Long(Box<str>),
}

pub(super) struct Version {
    pub(super) number: u32,
    pub(super) material: Stored,
}

pub(super) enum Stored {
    /// The commitment is public: every ciphertext carries it. It is kept so that no message pays for it.
    Key {
        key: SecretKey,
        usable: Usable,
        commitment: [u8; COMMITMENT_LEN],
        expanded: OnceLock<Locked<Expanded>>,
    },
    Gone(Gone),
}

/// An expanded key and the place it takes among [`EXPANDED`]: together in the one slot of locked memory.
pub(super) struct Expanded {
    cipher: XaesKey,
    _place: Place,
}

/// Counts the expanded keys of a store.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<AtomicUsize>);

struct Place(Arc<AtomicUsize>);

impl Places {
    fn take(&self) -> Option<Place> {
        let taken = self.0.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.0)); // Gives the count back if there was no place.
        (taken < EXPANDED).then_some(place)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        let mut bytes = [0; 22];
        match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(name.as_bytes());
                Self::Short { length, bytes }
            }
            _ => Self::Long(name.into()),
        }
    }
}

impl Name {
    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(name) => name.as_bytes(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default() // Was a `String`.
    }
}

impl Entry {
    pub(super) fn name_ref(&self) -> KeyNameRef<'_> {
        KeyNameRef {
            cluster: self.home.cluster.as_str(),
            namespace: &self.home.namespace,
            name: self.name.as_str(),
        }
    }

    #[inline]
    fn is_named(&self, name: KeyNameRef<'_>) -> bool {
        self.name.as_bytes() == name.name.as_bytes()
            && *self.home.namespace == *name.namespace
            && self.home.cluster.as_str() == name.cluster
    }

    #[inline]
    pub(super) fn version(&self, number: u32) -> Option<&Version> {
        let State::Live { versions, .. } = &self.state else { return None };
        match versions {
            Versions::One(version) => (version.number == number).then_some(version),
            Versions::Many(versions) => {
                let index = versions.binary_search_by_key(&number, |version| version.number).ok()?;
                versions.get(index)
            }
        }
    }
}

impl Versions {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Version> {
        match self {
            Self::One(version) => std::slice::from_ref(version),
            Self::Many(versions) => versions,
        }
        .iter()
    }
}

impl Stored {
    fn key(key: SecretKey, usable: Usable, commitment: [u8; COMMITMENT_LEN]) -> Self {
        Self::Key { key, usable, commitment, expanded: OnceLock::new() }
    }
}

/// The expanded form of `key` that `kept` keeps, or may keep from now on; `None` if there is no place for it.
#[inline]
pub(super) fn expanded<'a>(
    kept: &'a OnceLock<Locked<Expanded>>,
    key: &SecretKey,
    places: &Places,
) -> Option<&'a XaesKey> {
    if kept.get().is_none() {
        let place = places.take()?;
        // Without locked memory it works as well, only slower.
        let new = Locked::new(Expanded { cipher: XaesKey::expand(key), _place: place }).ok()?;
        let _ = kept.set(new); // Another thread may have been faster.
    }
    kept.get().map(|expanded| &expanded.cipher)
}

impl Version {
    pub(super) fn new(version: KeyVersion, key_id: [u8; 16]) -> Self {
        let number = version.version;
        let material = match version.material {
            Material::Present { key, usable } => {
                let commitment = commitment(&key, key_id, number);
                Stored::key(key, usable, commitment)
            }
            Material::Absent(gone) => Stored::Gone(gone),
        };
        Self { number, material }
    }

    fn duplicate(&self) -> Result<Self, PutError> {
        let material = match &self.material {
            Stored::Key { key, usable, commitment, .. } => {
                Stored::key(key.duplicate().map_err(|_| PutError::Memory)?, *usable, *commitment)
            }
            Stored::Gone(gone) => Stored::Gone(gone.clone()),
        };
        Ok(Self { number: self.number, material })
    }
}

/// Sorted versions for a new state: those of `entry`, and those that `held` has besides.
pub(super) fn merge_versions(entry: &mut KeyEntry, held: Option<&Entry>) -> Result<Versions, PutError> {
    let mut versions: Vec<Version> =
        entry.versions.drain(..).map(|version| Version::new(version, entry.key_id)).collect();
    versions.sort_unstable_by_key(|version| version.number);
    let twice = versions.windows(2).any(|pair| pair[0].number == pair[1].number);
    if twice || versions.first().is_some_and(|version| version.number == 0) {
        return Err(PutError::Inconsistent);
    }
    if let Some(Entry { state: State::Live { versions: old, .. }, .. }) = held {
        let new = versions.len();
        for version in old.iter() {
            let replaced = versions[..new].binary_search_by_key(&version.number, |v| v.number).is_ok();
            if !replaced {
                versions.push(version.duplicate()?);
            }
        }
        versions.sort_unstable_by_key(|version| version.number);
    }
    // The current version may be one that cannot encrypt (compromised, not yet replaced): decrypting goes on.
    if versions.binary_search_by_key(&entry.current, |version| version.number).is_err() {
        return Err(PutError::Inconsistent);
    }
    let several = versions.len() > 1;
    match versions.pop() {
        Some(only) if !several => Ok(Versions::One(only)),
        Some(last) => {
            versions.push(last);
            Ok(Versions::Many(versions.into_boxed_slice()))
        }
        None => Err(PutError::Inconsistent),
    }
}

/// A snapshot of one shard.
#[derive(Clone, Default)]
pub(super) struct Table(HashTable<Arc<Entry>>);

impl Table {
    #[inline]
    pub(super) fn find(&self, hash: u64, name: KeyNameRef<'_>) -> Option<&Arc<Entry>> {
        self.0.find(hash, |entry| entry.is_named(name))
    }

    pub(super) fn insert<S: BuildHasher>(&mut self, hash: u64, entry: Arc<Entry>, hasher: &S) {
        if let Some(slot) = self.0.find_mut(hash, |old| old.is_named(entry.name_ref())) {
            *slot = entry;
        } else {
            self.0.insert_unique(hash, entry, |entry| hasher.hash_one(entry.name_ref()));
        }
    }

    pub(super) fn remove(&mut self, hash: u64, name: KeyNameRef<'_>) {
        if let Ok(found) = self.0.find_entry(hash, |entry| entry.is_named(name)) {
            found.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.iter()
    }
}
