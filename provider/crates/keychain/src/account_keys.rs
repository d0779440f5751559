//! Unwrapped account keys, for a bounded time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use openkcm_secret::SecretKey;

use crate::rows::AccountId;

/// Unwrapped account keys in locked memory.
///
/// An entry lives for a fixed time from its insertion, however often it is used: after that the root key must be
/// asked again, so a root that was taken away cannot be outlived by more than that. Cheap to share.
pub struct AccountKeys {
    lifetime: Duration,
    entries: Mutex<HashMap<(AccountId, u32), Entry>>,
}

struct Entry {
    key: Arc<SecretKey>,
    until: Instant,
}

impl AccountKeys {
    /// An empty cache whose entries live for `lifetime`.
    pub fn new(lifetime: Duration) -> Self {
        Self { lifetime, entries: Mutex::default() }
    }

    /// The account key, if it is held and its time is not over.
    pub fn get(&self, account: AccountId, version: u32, now: Instant) -> Option<Arc<SecretKey>> {
        let mut entries = self.lock();
        let entry = entries.get(&(account, version))?;
        if entry.until <= now {
            entries.remove(&(account, version));
            return None;
        }
        Some(Arc::clone(&entry.key))
    }

    /// Holds an account key from now on, and gives it back for use.
    pub fn insert(&self, account: AccountId, version: u32, key: SecretKey, now: Instant) -> Arc<SecretKey> {
        let key = Arc::new(key);
        let entry = Entry { key: Arc::clone(&key), until: now + self.lifetime };
        self.lock().insert((account, version), entry);
        key
    }

    /// Drops every version of an account's key. Callers that still hold one finish with it.
    pub fn forget(&self, account: AccountId) {
        self.lock().retain(|(owner, _), _| *owner != account);
    }

    /// Drops what has outlived its time. Call it now and then, so that idle keys do not stay in memory.
    pub fn expire(&self, now: Instant) {
        self.lock().retain(|_, entry| entry.until > now);
    }

    /// How many account key versions are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(AccountId, u32), Entry>> {
        // Every critical section leaves the map whole, so a panic elsewhere does not matter.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_ends_with_its_lifetime_whatever_its_use() {
        let keys = AccountKeys::new(Duration::from_secs(10));
        let (account, start) = (AccountId(uuid::Uuid::now_v7()), Instant::now());
        keys.insert(account, 1, SecretKey::random().unwrap(), start);
        assert!(keys.get(account, 1, start + Duration::from_secs(9)).is_some());
        assert!(keys.get(account, 2, start).is_none());
        assert!(keys.get(account, 1, start + Duration::from_secs(10)).is_none());
        assert!(keys.is_empty());
    }

    #[test]
    fn forgetting_one_account_leaves_the_others() {
        let keys = AccountKeys::new(Duration::from_secs(10));
        let (one, two, now) =
            (AccountId(uuid::Uuid::now_v7()), AccountId(uuid::Uuid::now_v7()), Instant::now());
        for (account, version) in [(one, 1), (one, 2), (two, 1)] {
            keys.insert(account, version, SecretKey::random().unwrap(), now);
        }
        keys.forget(one);
        assert!(keys.get(one, 1, now).is_none() && keys.get(one, 2, now).is_none());
        assert!(keys.get(two, 1, now).is_some());
        keys.expire(now + Duration::from_secs(11));
        assert!(keys.is_empty());
    }
}
