//! Verified tokens by hash. Bounded: when full, what has ended goes first, then everything.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use aws_lc_rs::digest::{SHA256, digest};

use super::Verified;

const CAPACITY: usize = 16_384;
/// Seconds after which a token is verified again: so long may a signing key that its issuer withdrew still serve.
const RECHECK: u64 = 600;

type Hash = [u8; 32];

#[derive(Default)]
pub(super) struct TokenCache {
    /// With the second at which the entry is no longer used.
    tokens: RwLock<HashMap<Hash, (u64, Verified)>>,
}

/// The whole token is hashed, so nothing but the very token that was verified is found again.
fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

impl TokenCache {
    pub(super) fn get(&self, token: &str, now: u64) -> Option<Verified> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let (until, verified) = tokens.get(&hash(token))?;
        (now < *until).then(|| verified.clone())
    }

    pub(super) fn put(&self, token: &str, verified: Verified, now: u64) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= CAPACITY {
            tokens.retain(|_, (until, _)| now < *until);
            if tokens.len() >= CAPACITY {
                tokens.clear();
            }
        }
        tokens.insert(hash(token), (verified.until.min(now + RECHECK), verified));
    }
}
