//! Random nonces from a buffer: one call to the system's generator costs as much as encrypting 1 KiB.
//!
//! A generator with fast key erasure: AES-256 in counter mode under a key from the kernel's generator fills the buffer and,
//! before anything else, replaces that key. Each thread has its own, and bytes are wiped as they are given out, so memory
//! that is read later says nothing about nonces of before. What must be ruled out is that bytes are used twice:
//! - **fork** would give the child key and buffer. The key is a [`SecretKey`], and the kernel wipes that memory in a child:
//!   a key of zeroes means fork, and the kernel is asked for a new one. No system call per nonce.
//! - **A cloned or restored VM** would go on with the same key and buffer twice. They live for [`LIFETIME`] at most, and
//!   the nanosecond of use is mixed into the half of the nonce from which the message key is derived. For a repetition two
//!   clones must use the same service key, both within [`LIFETIME`] of the snapshot on the boot clock, at the same
//!   nanosecond of it.

use std::{cell::RefCell, time::Duration};

use aes::{
    Aes256Enc, Block,
    cipher::{BlockEncrypt, KeyInit},
};
use openkcm_secret::SecretKey;
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use zeroize::Zeroize;

use super::{EnvelopeError, NONCE_LEN};
use crate::clock::BootInstant;

/// Nonces in a full buffer.
const BATCH: usize = 64;
/// How long a key from the kernel serves.
const LIFETIME: Duration = Duration::from_millis(50);
/// Blocks of a filling: two for the next key, the rest for nonces.
const BLOCKS: usize = 2 + BATCH * NONCE_LEN / 16;

struct Buffer {
    bytes: [u8; BATCH * NONCE_LEN],
    used: usize,
    /// For the next filling; `None` before the first.
    key: Option<SecretKey>,
    /// When the kernel was asked for a key.
    seeded: BootInstant,
}

thread_local! {
    static BUFFER: RefCell<Buffer> = const { RefCell::new(Buffer::new()) };
}

/// A random nonce that no other thread, process or clone of this machine gets. `now` is the time of use.
#[inline]
pub(super) fn fresh(now: BootInstant) -> Result<[u8; NONCE_LEN], EnvelopeError> {
    BUFFER.with_borrow_mut(|buffer| buffer.next(now))
}

/// Fills `bytes` from the kernel's generator.
pub fn random(bytes: &mut [u8]) -> Result<(), EnvelopeError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => return Err(EnvelopeError::Library),
        }
    }
    Ok(())
}

impl Buffer {
    const fn new() -> Self {
        let bytes = [0; BATCH * NONCE_LEN];
        Self { bytes, used: BATCH * NONCE_LEN, key: None, seeded: BootInstant::BOOT }
    }

    #[inline]
    fn next(&mut self, now: BootInstant) -> Result<[u8; NONCE_LEN], EnvelopeError> {
        let spent = self.used == self.bytes.len();
        if spent || self.is_stale(now) {
            self.fill(now)?;
        }
        let slot = &mut self.bytes[self.used..self.used + NONCE_LEN];
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(slot);
        slot.fill(0);
        self.used += NONCE_LEN;
        for (byte, time) in nonce.iter_mut().zip(now.as_nanos().to_be_bytes()) {
            *byte ^= time;
        }
        Ok(nonce)
    }

    #[cold]
    fn fill(&mut self, now: BootInstant) -> Result<(), EnvelopeError> {
        // A failure half-way must not leave old bytes to be given out again.
        self.used = self.bytes.len();
        self.bytes.zeroize();
        let key = match self.key.take() {
            Some(key) if !self.is_aged(now) && !is_wiped(&key) => key,
            _ => {
                self.seeded = now;
                SecretKey::random().map_err(|_| EnvelopeError::Library)?
            }
        };
        let cipher = key.expose(|bytes| Aes256Enc::new(bytes.into()));
        let mut blocks = [Block::default(); BLOCKS];
        for (counter, block) in blocks.iter_mut().enumerate() {
            block[8..].copy_from_slice(&counter.to_be_bytes());
        }
        cipher.encrypt_blocks(&mut blocks);
        let mut next = [0; 32];
        next[..16].copy_from_slice(&blocks[0]);
        next[16..].copy_from_slice(&blocks[1]);
        self.key = Some(SecretKey::from_bytes(&mut next).map_err(|_| EnvelopeError::Library)?);
        for (place, block) in self.bytes.chunks_exact_mut(16).zip(&blocks[2..]) {
            place.copy_from_slice(block);
        }
        blocks.iter_mut().for_each(|block| block[..].zeroize());
        self.used = 0;
        Ok(())
    }

    fn is_stale(&self, now: BootInstant) -> bool {
        self.is_aged(now) || self.key.as_ref().is_none_or(is_wiped)
    }

    fn is_aged(&self, now: BootInstant) -> bool {
        now < self.seeded || now.saturating_since(self.seeded) > LIFETIME
    }
}

/// Whether this key was inherited through fork: it is random, so it is zero only if it was wiped.
fn is_wiped(key: &SecretKey) -> bool {
    key.expose(|bytes| bytes[..8] == [0; 8])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nonces_never_repeat_within_or_across_threads() {
        let draw = || (0..20_000).map(|i| fresh(BootInstant::from_nanos(i)).unwrap()).collect::<Vec<_>>();
        let others: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let mut seen: HashSet<_> = draw().into_iter().collect();
        for other in others {
            seen.extend(other.join().unwrap());
        }
        assert_eq!(seen.len(), 100_000);
    }

    /// Each filling is under another key, and no block of one shows up in another.
    #[test]
    fn the_key_is_replaced_with_every_filling_and_never_given_out() {
        let now = BootInstant::from_nanos(0);
        let (mut buffer, mut seen) = (Buffer::new(), HashSet::new());
        for _ in 0..100 {
            buffer.fill(now).unwrap();
            let next = buffer.key.as_ref().unwrap().expose(|bytes| *bytes);
            for block in buffer.bytes.chunks_exact(16).chain(next.chunks_exact(16)) {
                assert!(seen.insert(block.to_vec()));
            }
        }
        assert_eq!(buffer.seeded, now, "the kernel was asked once");
    }

    /// A copy of the whole machine.
    fn clone(buffer: &Buffer) -> Buffer {
        let key = buffer.key.as_ref().map(|key| key.duplicate().unwrap());
        Buffer { bytes: buffer.bytes, used: buffer.used, key, seeded: buffer.seeded }
    }

    #[test]
    fn a_clone_of_the_machine_does_not_repeat_nonces_at_other_times_and_asks_the_kernel_soon() {
        let now = BootInstant::from_nanos(1_000_000_000);
        let mut one = Buffer::new();
        one.next(now).unwrap();
        let (mut two, mut three) = (clone(&one), clone(&one));
        // The construction is honest about its limit: the same nanosecond gives the same nonce …
        assert_eq!(two.next(now).unwrap(), three.next(now).unwrap());
        // … the next one does not, and after the lifetime nothing is shared, however many nonces were drawn.
        let later = now.saturating_add(Duration::from_nanos(1));
        assert_ne!(two.next(now).unwrap()[..12], three.next(later).unwrap()[..12]);
        for clone in [&mut two, &mut three] {
            for _ in 0..3 * BATCH {
                clone.next(later).unwrap();
            }
        }
        let much_later = now.saturating_add(LIFETIME + Duration::from_nanos(1));
        assert_ne!(two.next(much_later).unwrap()[12..], three.next(much_later).unwrap()[12..]);
        assert_eq!((two.seeded, three.seeded), (much_later, much_later));
    }

    #[test]
    fn a_wiped_key_means_fork_and_its_bytes_are_not_given_out() {
        let now = BootInstant::from_nanos(5);
        let mut parent = Buffer::new();
        parent.next(now).unwrap();
        assert!(!parent.is_stale(now));
        let mut child = clone(&parent);
        child.key = Some(SecretKey::from_bytes(&mut [0; 32]).unwrap());
        assert!(child.is_stale(now));
        assert_ne!(child.next(now).unwrap()[12..], parent.next(now).unwrap()[12..]);
        assert!(!child.is_stale(now));
    }
}
