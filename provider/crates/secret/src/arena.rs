//! Slots of key size in locked pages.
//!
//! `mlock` works on pages, so a key of its own page would cost 4 KiB and run into `RLIMIT_MEMLOCK` after a few
//! thousand keys. Chunks of 64 KiB hold 2,048 keys each and stay mapped; a free slot is all zero.
#![allow(unsafe_code)] // The one place that maps and locks memory for keys.

use std::{
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use zeroize::Zeroize;

use crate::{KEY_LEN, SecretError};

const CHUNK: usize = 64 * 1024;

struct Arena {
    free: Vec<NonNull<[u8; KEY_LEN]>>,
    all_locked: bool,
}

// SAFETY: the pointers in `free` are owned by the arena alone; whoever takes one out becomes its only owner.
unsafe impl Send for Arena {}

static ARENA: Mutex<Arena> = Mutex::new(Arena { free: Vec::new(), all_locked: true });

fn arena() -> MutexGuard<'static, Arena> {
    // A panic cannot happen between the two halves of any change to the list, so a poisoned lock is still sound.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn all_locked() -> bool {
    arena().all_locked
}

impl Arena {
    fn grow(&mut self) -> Result<(), SecretError> {
        // SAFETY: a fresh private anonymous mapping, aliased by nothing.
        let chunk = unsafe {
            mmap_anonymous(std::ptr::null_mut(), CHUNK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }
        .map_err(SecretError::Memory)?;
        // SAFETY: the range is the mapping just made. A failed lock or advice leaves the memory usable.
        unsafe {
            if mlock(chunk, CHUNK).is_err() {
                self.all_locked = false;
            }
            let _ = madvise(chunk, CHUNK, Advice::LinuxDontDump);
            // A child must not inherit keys: it sees zeroes.
            let _ = madvise(chunk, CHUNK, Advice::LinuxWipeOnFork);
        }
        let first = chunk.cast::<[u8; KEY_LEN]>();
        // SAFETY: `index` stays within the chunk, whose start is page-aligned and not null.
        self.free
            .extend((0..CHUNK / KEY_LEN).rev().filter_map(|index| NonNull::new(unsafe { first.add(index) })));
        Ok(())
    }
}

/// One key's memory: exclusively owned, zero when handed out and zero when given back.
pub(crate) struct Slot(NonNull<[u8; KEY_LEN]>);

// SAFETY: a slot is plain memory that its holder alone owns; shared access is read-only.
unsafe impl Send for Slot {}
// SAFETY: as above; `&Slot` gives `&[u8; KEY_LEN]` only.
unsafe impl Sync for Slot {}

impl Slot {
    pub(crate) fn new() -> Result<Self, SecretError> {
        let mut arena = arena();
        loop {
            if let Some(slot) = arena.free.pop() {
                return Ok(Self(slot));
            }
            arena.grow()?;
        }
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
        arena().free.push(self.0);
    }
}
