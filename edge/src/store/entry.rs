//! One key as the table holds it: compact, immutable, shared.

use std::{
    hash::{BuildHasher, Hash},
    sync::{Arc, OnceLock},
};

use hashbrown::HashTable;
use kcp_client_rs::LogicalCluster;
use openkcm_secret::SecretKey;

use super::{
    types::{Client, EvictReason, Gone, KeyEntry, KeyNameRef, KeyVersion, Material, PutError, Usable},
    usage::Usage,
};
use crate::envelope::{COMMITMENT_LEN, commitment};

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
    pub(super) name: Box<str>,
    pub(super) key_id: [u8; 16],
    pub(super) revision: u64,
    /// A thin pointer, because nearly all keys have none.
    #[allow(clippy::box_collection)]
    pub(super) clients: Option<Box<Vec<Client>>>,
    pub(super) state: State,
    pub(super) usage: OnceLock<Arc<Usage>>,
}

pub(super) enum State {
    Live { current: u32, versions: Box<[Version]> },
    Evicted(EvictReason),
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
    },
    Gone(Gone),
}

impl Entry {
    pub(super) fn name_ref(&self) -> KeyNameRef<'_> {
        KeyNameRef { cluster: self.home.cluster.as_str(), namespace: &self.home.namespace, name: &self.name }
    }

    pub(super) fn version(&self, number: u32) -> Option<&Version> {
        let State::Live { versions, .. } = &self.state else { return None };
        let index = versions.binary_search_by_key(&number, |version| version.number).ok()?;
        versions.get(index)
    }
}

impl Version {
    pub(super) fn new(version: KeyVersion, key_id: [u8; 16]) -> Self {
        let number = version.version;
        let material = match version.material {
            Material::Present { key, usable } => {
                let commitment = commitment(&key, key_id, number);
                Stored::Key { key, usable, commitment }
            }
            Material::Absent(gone) => Stored::Gone(gone),
        };
        Self { number, material }
    }

    fn duplicate(&self) -> Result<Self, PutError> {
        let material = match &self.material {
            Stored::Key { key, usable, commitment } => Stored::Key {
                key: key.duplicate().map_err(|_| PutError::Memory)?,
                usable: *usable,
                commitment: *commitment,
            },
            Stored::Gone(gone) => Stored::Gone(gone.clone()),
        };
        Ok(Self { number: self.number, material })
    }
}

/// Sorted versions for a new state: those of `entry`, and those that `held` has besides.
pub(super) fn merge_versions(entry: &mut KeyEntry, held: Option<&Entry>) -> Result<Box<[Version]>, PutError> {
    let mut versions: Vec<Version> =
        entry.versions.drain(..).map(|version| Version::new(version, entry.key_id)).collect();
    versions.sort_unstable_by_key(|version| version.number);
    let twice = versions.windows(2).any(|pair| pair[0].number == pair[1].number);
    if twice || versions.first().is_some_and(|version| version.number == 0) {
        return Err(PutError::Inconsistent);
    }
    if let Some(Entry { state: State::Live { versions: old, .. }, .. }) = held {
        let new = versions.len();
        for version in old {
            let replaced = versions[..new].binary_search_by_key(&version.number, |v| v.number).is_ok();
            if !replaced {
                versions.push(version.duplicate()?);
            }
        }
        versions.sort_unstable_by_key(|version| version.number);
    }
    // The current version may be one that cannot encrypt (compromised, not yet replaced): decrypting goes on.
    let known = versions.binary_search_by_key(&entry.current, |version| version.number).is_ok();
    if known { Ok(versions.into_boxed_slice()) } else { Err(PutError::Inconsistent) }
}

/// A snapshot of one shard.
#[derive(Clone, Default)]
pub(super) struct Table(HashTable<Arc<Entry>>);

impl Table {
    pub(super) fn find(&self, hash: u64, name: KeyNameRef<'_>) -> Option<&Arc<Entry>> {
        self.0.find(hash, |entry| entry.name_ref() == name)
    }

    pub(super) fn insert<S: BuildHasher>(&mut self, hash: u64, entry: Arc<Entry>, hasher: &S) {
        if let Some(slot) = self.0.find_mut(hash, |old| old.name_ref() == entry.name_ref()) {
            *slot = entry;
        } else {
            self.0.insert_unique(hash, entry, |entry| hasher.hash_one(entry.name_ref()));
        }
    }

    pub(super) fn remove(&mut self, hash: u64, name: KeyNameRef<'_>) {
        if let Ok(found) = self.0.find_entry(hash, |entry| entry.name_ref() == name) {
            found.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.iter()
    }
}
