//! Who used a key lately: an exact set of caller fingerprints with a sliding window and a hard cap.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Bits of a slot that hold the time of last use; the rest is the caller's fingerprint.
const TICK_BITS: u32 = 24;
const TICK_MASK: u64 = (1 << TICK_BITS) - 1;
/// Length of a tick. 2²⁴ of them are four years, far beyond any window.
const TICK_NANOS: u64 = 1 << 33; // 8.6 s
/// Slots per level; a level comes into being when the ones before are full.
const LEVELS: [usize; 3] = [8, 64, 1024];

/// Largest number of distinct callers per key that is counted; more are reported as this many.
pub const MAX_CALLERS: u32 = 8 + 64 + 1024;

/// Distinct callers of one key.
///
/// One slot is one word, `fingerprint << 24 | tick`, so a caller that is known in this tick costs one load. Memory is
/// bounded by [`MAX_CALLERS`] words. Two racing first uses may take two slots; the count looks at distinct values.
#[derive(Default)]
pub(super) struct Usage {
    first: [AtomicU64; LEVELS[0]],
    more: [OnceLock<Box<[AtomicU64]>>; LEVELS.len() - 1],
}

fn tick(now_nanos: u64) -> u64 {
    (now_nanos / TICK_NANOS) & TICK_MASK
}

fn age(slot: u64, tick: u64) -> u64 {
    tick.wrapping_sub(slot) & TICK_MASK
}

impl Usage {
    /// Notes a use by the caller with this fingerprint. `window` in ticks says which slots may be taken over.
    pub(super) fn record(&self, fingerprint: u64, now_nanos: u64, window_nanos: u64) {
        let (tick, window) = (tick(now_nanos), window_nanos.div_ceil(TICK_NANOS));
        let value = (fingerprint << TICK_BITS) | tick;
        if try_level(&self.first, value, window) {
            return;
        }
        for (level, size) in self.more.iter().zip(&LEVELS[1..]) {
            let slots = level.get_or_init(|| (0..*size).map(|_| AtomicU64::new(0)).collect());
            if try_level(slots, value, window) {
                return;
            }
        }
    }

    /// Distinct callers whose last use is at most a window ago.
    pub(super) fn distinct(&self, now_nanos: u64, window_nanos: u64) -> u32 {
        let (tick, window) = (tick(now_nanos), window_nanos.div_ceil(TICK_NANOS));
        let levels = self.more.iter().filter_map(OnceLock::get).flat_map(|level| level.iter());
        let mut seen: Vec<u64> = self
            .first
            .iter()
            .chain(levels)
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|slot| *slot != 0 && age(*slot, tick) <= window)
            .map(|slot| slot >> TICK_BITS)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        u32::try_from(seen.len()).unwrap_or(MAX_CALLERS)
    }
}

/// Whether the caller found or took a slot of this level. Probes eight neighbours.
fn try_level(slots: &[AtomicU64], value: u64, window: u64) -> bool {
    let (fingerprint, tick) = (value >> TICK_BITS, value & TICK_MASK);
    let start = fingerprint as usize;
    let probes = || (0..8).map(|step| &slots[(start + step) % slots.len()]);
    for slot in probes() {
        let held = slot.load(Ordering::Relaxed);
        if held == value {
            return true;
        }
        if held >> TICK_BITS == fingerprint && held != 0 {
            // Someone else may refresh or, after a window, take over the slot meanwhile; either is right.
            let _ = slot.compare_exchange(held, value, Ordering::Relaxed, Ordering::Relaxed);
            return true;
        }
    }
    probes().any(|slot| {
        let held = slot.load(Ordering::Relaxed);
        let free = held == 0 || age(held, tick) > window;
        free && slot.compare_exchange(held, value, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    #[test]
    fn callers_are_counted_once_and_forgotten_after_the_window() {
        let usage = Usage::default();
        for _ in 0..10 {
            for caller in 1..=7 {
                usage.record(caller * 0x1234_5678_9abc, MINUTE, 5 * MINUTE);
            }
        }
        assert_eq!(usage.distinct(MINUTE, 5 * MINUTE), 7);
        usage.record(99, 5 * MINUTE, 5 * MINUTE);
        assert_eq!(usage.distinct(5 * MINUTE, 5 * MINUTE), 8);
        assert_eq!(usage.distinct(8 * MINUTE, 5 * MINUTE), 1);
    }

    #[test]
    fn a_flood_of_callers_stays_bounded() {
        let usage = Usage::default();
        for caller in 1..=100_000u64 {
            usage.record(caller.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> TICK_BITS, MINUTE, MINUTE);
        }
        let counted = usage.distinct(MINUTE, MINUTE);
        assert!((900..=MAX_CALLERS).contains(&counted), "{counted}");
    }
}
