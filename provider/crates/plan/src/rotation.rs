//! When a service key is due.
//!
//! Everything is arithmetic on instants since the epoch. Leap seconds and daylight saving do not matter: a period is
//! a number of seconds ("Daily" is 86,400 s), never a wall-clock time, so there is no hour that can happen twice or
//! not at all.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

/// A rotation comes up to this part of the period early, never late: 50,000 keys that were created in the same
/// second spread over a tenth of their period.
const JITTER_PART: i64 = 10;

/// After downtime, what is overdue is caught up within this time at the most, or a twentieth of its period if that
/// is shorter.
const CATCH_UP: SignedDuration = SignedDuration::from_mins(5);

/// Two rotations of one key are at least this far apart, however many are asked for: a second, and one more for every
/// 64 versions, so that nobody can make an edge carry more versions than it can hold.
pub fn min_interval(versions: usize) -> SignedDuration {
    SignedDuration::from_secs(1 + i64::try_from(versions / 64).unwrap_or(i64::MAX / 2))
}

/// A number in `0..1_000_000` that depends on the key, its version and the purpose only.
fn share(key_id: &[u8; 16], version: u32, purpose: &[u8]) -> i64 {
    let digest = Sha256::new().chain_update(key_id).chain_update(version.to_be_bytes()).chain_update(purpose);
    let digest = digest.finalize();
    let number = u64::from_be_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ]);
    i64::try_from(number % 1_000_000).unwrap_or_default()
}

fn part_of(duration: SignedDuration, millionths: i64) -> SignedDuration {
    SignedDuration::from_millis((duration.as_millis() * i128::from(millionths) / 1_000_000) as i64)
}

/// When the version after `version` is due: one period after the last rotation, less a jitter that is the same on
/// every replica and after every restart. `None`: the period reaches past the end of time, which is "Never".
pub fn next_rotation(
    last: Timestamp,
    period: SignedDuration,
    key_id: &[u8; 16],
    version: u32,
) -> Option<Timestamp> {
    let early = part_of(period / JITTER_PART as i32, share(key_id, version, b"jitter"));
    last.checked_add(period - early).ok()
}

/// When to act on a rotation that is due at `due`, for an engine that has been running since `started`.
///
/// What came due while nobody was looking happens once, spread over [`CATCH_UP`]: never a storm, never twice
/// (the next one is counted from the rotation that is done then).
pub fn act_at(
    due: Timestamp,
    started: Timestamp,
    period: SignedDuration,
    key_id: &[u8; 16],
    version: u32,
) -> Timestamp {
    if due >= started {
        return due;
    }
    let window = CATCH_UP.min(period / 20);
    started.checked_add(part_of(window, share(key_id, version, b"catch-up"))).unwrap_or(started)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn id(n: u32) -> [u8; 16] {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn fifty_thousand_hourly_keys_of_one_second_do_not_rotate_in_one_second() {
        let born = Timestamp::from_second(1_800_000_000).unwrap();
        let mut per_second = std::collections::HashMap::new();
        for n in 0..50_000 {
            let next = next_rotation(born, HOUR, &id(n), 1).unwrap();
            *per_second.entry(next.as_second()).or_insert(0) += 1;
        }
        // 360 s of jitter: 139 a second if perfectly even.
        assert!(per_second.values().max().unwrap() < &250, "{:?}", per_second.values().max());
    }

    #[test]
    fn an_overdue_fleet_is_caught_up_spread_over_minutes() {
        let started = Timestamp::from_second(1_800_000_000).unwrap();
        let due = started - SignedDuration::from_hours(48);
        let acts: Vec<_> = (0..10_000).map(|n| act_at(due, started, HOUR * 24, &id(n), 3)).collect();
        assert!(acts.iter().all(|at| *at >= started && *at <= started + CATCH_UP));
        let first_second = acts.iter().filter(|at| **at < started + SignedDuration::from_secs(1)).count();
        assert!(first_second < 100, "{first_second} at once");
    }

    #[test]
    fn an_endless_period_never_comes() {
        assert_eq!(next_rotation(Timestamp::MAX, HOUR, &id(1), 1), None);
    }

    proptest! {
        /// Leap seconds and daylight saving do not matter: the distance is the period, whatever the date.
        #[test]
        fn never_late_and_at_most_a_tenth_early(last in 0i64..4_000_000_000, hours in 1i64..87_600, n: u32, version: u32) {
            let last = Timestamp::from_second(last).unwrap();
            let period = SignedDuration::from_hours(hours);
            let next = next_rotation(last, period, &id(n), version).unwrap();
            prop_assert!(next <= last + period);
            prop_assert!(next >= last + period - period / 10);
            prop_assert_eq!(Some(next), next_rotation(last, period, &id(n), version));
        }

        #[test]
        fn what_is_not_overdue_is_not_moved(due in 0i64..4_000_000_000, before in 0i64..1_000_000, n: u32) {
            let due = Timestamp::from_second(due).unwrap();
            let started = due - SignedDuration::from_secs(before);
            prop_assert_eq!(act_at(due, started, HOUR, &id(n), 1), due);
        }
    }
}
