//! Key bytes in locked, non-dumpable memory that is wiped on drop.
//!
//! [`SecretKey`] is the only type that carries key material through the provider and the Crypto Edge. It has no
//! `Debug`, `Clone`, `Serialize` or `PartialEq`; the one door to its bytes is [`SecretKey::expose`], so that every
//! reader stands out in a search.
//!
//! [`Locked`] puts what is computed from a key, such as its round keys, into the same memory.
//!
//! What is **not** wiped: copies that a cipher keeps in its own key schedule while an operation runs, registers,
//! and the network buffers of the mTLS stream that carries a key to an edge.
#![warn(missing_docs)]

mod arena;
mod process;

pub use arena::Locked;
pub use process::{HardenError, harden_process};

use zeroize::Zeroize;

/// Bytes of a key: every key of the hierarchy is an AES-256 key.
pub const KEY_LEN: usize = 32;

/// A 256-bit key that never leaves locked memory except through [`SecretKey::expose`].
pub struct SecretKey(arena::Slot);

/// The operating system gave no memory or no random bytes for a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// No memory could be mapped for keys.
    #[error("map memory for keys")]
    Memory(#[source] rustix::io::Errno),
    /// The system's random source failed.
    #[error("read the system's random source")]
    Random(#[source] rustix::io::Errno),
}

impl SecretKey {
    /// A new key from the system's random source.
    pub fn random() -> Result<Self, SecretError> {
        let mut slot = arena::Slot::new()?;
        let bytes = slot.bytes_mut();
        let mut filled = 0;
        while filled < KEY_LEN {
            match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(SecretError::Random(errno)),
            }
        }
        Ok(Self(slot))
    }

    /// Moves key bytes into locked memory and wipes `source`, also on failure.
    pub fn from_bytes(source: &mut [u8; KEY_LEN]) -> Result<Self, SecretError> {
        let slot = arena::Slot::new();
        let result = slot.map(|mut slot| {
            slot.bytes_mut().copy_from_slice(source);
            Self(slot)
        });
        source.zeroize();
        result
    }

    /// Moves key bytes of the right length into locked memory and wipes `source`; `None` if the length is wrong.
    pub fn from_slice(source: &mut [u8]) -> Option<Result<Self, SecretError>> {
        let Ok(bytes) = <&mut [u8; KEY_LEN]>::try_from(&mut *source) else {
            source.zeroize();
            return None;
        };
        Some(Self::from_bytes(bytes))
    }

    /// Lends the bytes to `use_them`, which must not keep a copy.
    pub fn expose<R>(&self, use_them: impl FnOnce(&[u8; KEY_LEN]) -> R) -> R {
        use_them(self.0.bytes())
    }

    /// A second holder of the same key. Named, because a copy of a key deserves to be seen in review.
    pub fn duplicate(&self) -> Result<Self, SecretError> {
        let mut slot = arena::Slot::new()?;
        slot.bytes_mut().copy_from_slice(self.0.bytes());
        Ok(Self(slot))
    }
}

/// Whether all key memory so far could be locked (`RLIMIT_MEMLOCK` may forbid it). Unlocked memory still is
/// excluded from core dumps and wiped; it may reach swap.
pub fn memory_is_locked() -> bool {
    arena::all_locked()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn from_bytes_wipes_its_source_and_duplicate_copies() {
        let mut source = [7u8; KEY_LEN];
        let key = SecretKey::from_bytes(&mut source).unwrap();
        assert_eq!(source, [0; KEY_LEN]);
        let copy = key.duplicate().unwrap();
        drop(key);
        copy.expose(|bytes| assert_eq!(bytes, &[7; KEY_LEN]));
    }

    #[test]
    fn a_wrong_length_is_refused_and_wiped() {
        let mut short = [9u8; 31];
        assert!(SecretKey::from_slice(&mut short).is_none());
        assert_eq!(short, [0; 31]);
    }

    #[test]
    fn random_keys_differ() {
        let (one, two) = (SecretKey::random().unwrap(), SecretKey::random().unwrap());
        one.expose(|a| two.expose(|b| assert_ne!(a, b)));
    }
}
