//! Random nonces from a buffer: one call to the system's generator costs as much as encrypting 1 KiB.
//!
//! The buffer holds output of the kernel's generator, so there is no generator state of ours that could be predicted
//! or restored. What must be ruled out is that buffered bytes are used twice:
//! - **Threads** have a buffer each, and bytes are wiped as they are given out.
//! - **fork** would give the child the rest of the buffer. A sentinel in memory that the kernel wipes in a child
//!   ([`SecretKey`] lives in such memory) turns to zero there, and the buffer is filled anew; no system call per nonce.
//! - **A cloned or restored VM** would go on with the same rest of the buffer twice. The buffer is small ([`BATCH`]
//!   nonces) and lives [`LIFETIME`] at most, and the nanosecond of use is mixed into the half of the nonce from which
//!   the message key is derived. For a repetition two clones must use the same key, both within [`LIFETIME`] of the
//!   snapshot on the boot clock, at the same nanosecond of it.

use std::{cell::RefCell, time::Duration};

use openkcm_secret::SecretKey;
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use zeroize::Zeroize;

use super::{EnvelopeError, NONCE_LEN};
use crate::clock::BootInstant;

const BATCH: usize = 64;
const LIFETIME: Duration = Duration::from_millis(50);

struct Buffer {
    bytes: [u8; BATCH * NONCE_LEN],
    used: usize,
    filled: BootInstant,
    sentinel: Option<SecretKey>,
}

thread_local! {
    static BUFFER: RefCell<Buffer> = const {
        RefCell::new(Buffer {
            bytes: [0; BATCH * NONCE_LEN],
            used: BATCH * NONCE_LEN,
            filled: BootInstant::BOOT,
            sentinel: None,
        })
    };
}

/// A random nonce that no other thread, process or clone of this machine gets. `now` is the time of use.
pub(super) fn fresh(now: BootInstant) -> Result<[u8; NONCE_LEN], EnvelopeError> {
    BUFFER.with_borrow_mut(|buffer| buffer.next(now))
}

/// Fills `bytes` from the kernel's generator.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), EnvelopeError> {
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
    fn next(&mut self, now: BootInstant) -> Result<[u8; NONCE_LEN], EnvelopeError> {
        let spent = self.used == self.bytes.len();
        if spent || now.saturating_since(self.filled) > LIFETIME || now < self.filled || self.is_forked() {
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

    fn fill(&mut self, now: BootInstant) -> Result<(), EnvelopeError> {
        // A failure half-way must not leave old bytes to be given out again.
        self.used = self.bytes.len();
        self.bytes.zeroize();
        random(&mut self.bytes)?;
        if self.is_forked() {
            self.sentinel = Some(SecretKey::random().map_err(|_| EnvelopeError::Library)?);
        }
        self.filled = now;
        self.used = 0;
        Ok(())
    }

    /// Whether this memory was inherited through fork: the sentinel is random, so it is zero only if it was wiped.
    fn is_forked(&self) -> bool {
        self.sentinel.as_ref().is_none_or(|sentinel| sentinel.expose(|bytes| bytes[..8] == [0; 8]))
    }
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

    #[test]
    fn a_clone_of_the_machine_does_not_repeat_nonces_at_other_times_and_refills_soon() {
        let now = BootInstant::from_nanos(1_000_000_000);
        let mut one =
            Buffer { bytes: [0; BATCH * NONCE_LEN], used: BATCH * NONCE_LEN, filled: now, sentinel: None };
        one.next(now).unwrap();
        let clone = |buffer: &Buffer| Buffer {
            bytes: buffer.bytes,
            used: buffer.used,
            filled: buffer.filled,
            sentinel: Some(buffer.sentinel.as_ref().unwrap().duplicate().unwrap()),
        };
        let mut two = clone(&one);
        // The construction is honest about its limit: the same nanosecond gives the same nonce …
        let mut three = clone(&one);
        assert_eq!(two.next(now).unwrap(), three.next(now).unwrap());
        // … the next one does not, and after the lifetime nothing is shared.
        let later = now.saturating_add(Duration::from_nanos(1));
        assert_ne!(one.next(now).unwrap()[..12], clone(&two).next(later).unwrap()[..12]);
        let much_later = now.saturating_add(LIFETIME + Duration::from_nanos(1));
        assert_ne!(two.next(much_later).unwrap()[12..], three.next(much_later).unwrap()[12..]);
    }

    #[test]
    fn a_wiped_sentinel_means_fork() {
        let now = BootInstant::from_nanos(5);
        let mut buffer =
            Buffer { bytes: [0; BATCH * NONCE_LEN], used: BATCH * NONCE_LEN, filled: now, sentinel: None };
        assert!(buffer.is_forked());
        buffer.next(now).unwrap();
        assert!(!buffer.is_forked());
        buffer.sentinel = Some(SecretKey::from_bytes(&mut [0; 32]).unwrap());
        assert!(buffer.is_forked());
    }
}
