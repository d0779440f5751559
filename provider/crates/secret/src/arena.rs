//! Slots for secrets in locked pages.
//!
//! `mlock` works on pages, so a key of its own page would cost 4 KiB and run into `RLIMIT_MEMLOCK` after a few
//! thousand keys. Chunks of 64 KiB hold 2,048 keys each and stay mapped; a free slot is all zero.
#![allow(unsafe_code)] // The one place that maps and locks memory for keys.

use std::{
    ops::Deref,
    ptr::NonNull,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use zeroize::Zeroize;

use crate::{KEY_LEN, SecretError};

const CHUNK: usize = 64 * 1024;
/// Bytes of a slot for [`Locked`].
const WIDE: usize = 1024;

static ALL_LOCKED: AtomicBool = AtomicBool::new(true);
static KEYS: Arena<KEY_LEN> = Arena::new();
static VALUES: Arena<WIDE> = Arena::new();

pub(crate) fn all_locked() -> bool {
    ALL_LOCKED.load(Ordering::Relaxed)
}

/// Slots of `N` bytes, aligned to `N`.
struct Arena<const N: usize>(Mutex<Free<N>>);

struct Free<const N: usize> {
    /// Slots that were given back.
    returned: Vec<NonNull<[u8; N]>>,
    /// Slots of the newest chunk that nobody has had: the next one and how many.
    untouched: Option<(NonNull<[u8; N]>, usize)>,
}

// SAFETY: the pointers are owned by the arena alone; whoever takes one out becomes its only owner.
unsafe impl<const N: usize> Send for Free<N> {}

impl<const N: usize> Arena<N> {
    const fn new() -> Self {
        Self(Mutex::new(Free { returned: Vec::new(), untouched: None }))
    }

    fn free(&self) -> MutexGuard<'_, Free<N>> {
        // A panic cannot happen between the two halves of any change to the list, so a poisoned lock is still sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<NonNull<[u8; N]>, SecretError> {
        let mut free = self.free();
        if let Some(slot) = free.returned.pop() {
            return Ok(slot);
        }
        let (slot, left) = match free.untouched {
            Some(untouched) => untouched,
            None => (map()?, CHUNK / N),
        };
        // SAFETY: `left` slots from `slot` on lie within one chunk, so the next one does while there is more than one.
        free.untouched = (left > 1).then(|| (unsafe { slot.add(1) }, left - 1));
        Ok(slot)
    }

    fn give_back(&self, slot: NonNull<[u8; N]>) {
        self.free().returned.push(slot);
    }
}

/// A new chunk, as a pointer to its first slot.
fn map<const N: usize>() -> Result<NonNull<[u8; N]>, SecretError> {
    // SAFETY: a fresh private anonymous mapping, aliased by nothing.
    let chunk = unsafe {
        mmap_anonymous(std::ptr::null_mut(), CHUNK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }
    .map_err(SecretError::Memory)?;
    // SAFETY: the range is the mapping just made. A failed lock or advice leaves the memory usable.
    unsafe {
        if mlock(chunk, CHUNK).is_err() {
            ALL_LOCKED.store(false, Ordering::Relaxed);
        }
        let _ = madvise(chunk, CHUNK, Advice::LinuxDontDump);
        // A child must not inherit keys: it sees zeroes.
        let _ = madvise(chunk, CHUNK, Advice::LinuxWipeOnFork);
    }
    NonNull::new(chunk.cast()).ok_or(SecretError::Memory(rustix::io::Errno::NOMEM))
}

/// One key's memory: exclusively owned, zero when handed out and zero when given back.
pub(crate) struct Slot(NonNull<[u8; KEY_LEN]>);

// SAFETY: a slot is plain memory that its holder alone owns; shared access is read-only.
unsafe impl Send for Slot {}
// SAFETY: as above; `&Slot` gives `&[u8; KEY_LEN]` only.
unsafe impl Sync for Slot {}

impl Slot {
    pub(crate) fn new() -> Result<Self, SecretError> {
        KEYS.take().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        // SAFETY: the slot lies in a chunk that is never unmapped, and is ours until drop.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; KEY_LEN] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        KEYS.give_back(self.0);
    }
}

/// A value that holds secrets, such as an expanded key, in the same kind of memory as a [`SecretKey`](crate::SecretKey).
///
/// The value is moved here, so the place where it was made may keep a copy until it is overwritten. What the value owns
/// elsewhere, behind pointers, is not locked.
pub struct Locked<T>(NonNull<T>);

// SAFETY: the slot is owned like a box.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    const FITS: () = assert!(size_of::<T>() <= WIDE && align_of::<T>() <= WIDE, "too large for a slot");

    /// Moves a value into locked memory.
    pub fn new(value: T) -> Result<Self, SecretError> {
        const { Self::FITS };
        let slot = VALUES.take()?.cast::<T>();
        // SAFETY: the slot is ours alone, large enough, and aligned to its size as chunks are to pages.
        unsafe { slot.write(value) };
        Ok(Self(slot))
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot holds the value from `new` until drop.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        let mut slot = self.0.cast::<[u8; WIDE]>();
        // SAFETY: the value is not used again; its memory then is plain bytes that we still own alone.
        unsafe {
            self.0.drop_in_place();
            slot.as_mut().zeroize();
        }
        VALUES.give_back(slot);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_is_dropped_once_and_its_memory_is_wiped_and_used_again() {
        struct Counted<'a>(&'a AtomicBool, [u8; 900]);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                assert!(!self.0.swap(true, Ordering::Relaxed));
            }
        }
        let dropped = AtomicBool::new(false);
        let held = Locked::new(Counted(&dropped, [7; 900])).unwrap();
        assert_eq!(held.1, [7; 900]);
        let slot = held.0.cast::<[u8; WIDE]>();
        drop(held);
        assert!(dropped.into_inner());
        // SAFETY: chunks stay mapped; another test may own the slot by now, but it then holds that test's value only.
        assert!(!unsafe { slot.as_ref() }.contains(&7));
    }

    #[test]
    fn a_forked_child_reads_zeroes() {
        let mut slot = Slot::new().unwrap();
        *slot.bytes_mut() = [7; KEY_LEN];
        // SAFETY: the child only reads the slot and ends, which a fork of a process with threads may do.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the slot is mapped in the child too. Volatile: nothing that the compiler sees has changed it.
            let wiped = unsafe { slot.0.read_volatile() } == [0; KEY_LEN];
            // SAFETY: ends the child without running anything of its parent's.
            unsafe { libc::_exit(i32::from(!wiped)) };
        }
        let mut status = -1;
        // SAFETY: the child is ours, and `status` is a place for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child could read its parent's key");
        assert_eq!(slot.bytes(), &[7; KEY_LEN]);
    }

    #[test]
    fn slots_never_overlap() {
        let mut all: Vec<_> = (0..5_000).map(|_| Slot::new().unwrap()).collect();
        for (index, slot) in all.iter_mut().enumerate() {
            assert_eq!(slot.bytes(), &[0; KEY_LEN]);
            slot.bytes_mut()[..8].copy_from_slice(&index.to_le_bytes());
        }
        for (index, slot) in all.iter().enumerate() {
            assert_eq!(slot.bytes()[..8], index.to_le_bytes());
        }
    }
}
