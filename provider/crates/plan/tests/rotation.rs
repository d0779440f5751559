//! A fleet of keys over time.
#![allow(clippy::unwrap_used, clippy::panic)]

use jiff::{SignedDuration, Timestamp};
use openkcm_plan::rotation::{act_at, next_rotation};
use proptest::prelude::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn id(n: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    id
}

/// Keys made in one second drift apart and stay apart: the jitter is drawn anew for every version.
#[test]
fn a_day_of_a_fleet_of_hourly_keys_never_piles_up() {
    let born = Timestamp::from_second(1_800_000_000).unwrap();
    let mut per_second = std::collections::HashMap::new();
    for n in 0..5_000 {
        let mut last = born;
        for version in 1..=24 {
            last = next_rotation(last, HOUR, &id(n), version).unwrap();
            *per_second.entry(last.as_second()).or_insert(0) += 1;
        }
    }
    // 360 s of jitter and 5,000 keys: 14 a second if perfectly even.
    assert!(per_second.values().max().unwrap() < &50, "{:?}", per_second.values().max());
}

/// Two replicas and a restart agree, and downtime of any length is one rotation.
#[test]
fn after_any_downtime_there_is_one_catch_up_and_then_the_schedule() {
    let born = Timestamp::from_second(1_800_000_000).unwrap();
    for (n, hours) in (0..2_000).zip([1, 2, 30, 24 * 365 * 20].into_iter().cycle()) {
        let due = next_rotation(born, HOUR, &id(n), 1).unwrap();
        let started = born + HOUR * hours;
        let act = act_at(due, started, HOUR, &id(n), 1);
        assert_eq!(act, act_at(due, started, HOUR, &id(n), 1));
        assert!(act >= started && act <= started + SignedDuration::from_mins(3), "a twentieth of an hour");
        let next = next_rotation(act, HOUR, &id(n), 2).unwrap();
        assert!(next > act + SignedDuration::from_mins(53));
        assert_eq!(act_at(next, started, HOUR, &id(n), 2), next);
    }
}

proptest! {
    /// Nothing is ever acted on before the provider looks, or later than five minutes after both.
    #[test]
    fn a_catch_up_is_bounded(due in 0i64..4_000_000_000, started in 0i64..4_000_000_000, hours in 1i64..240_000, n: u32) {
        let due = Timestamp::from_second(due).unwrap();
        let started = Timestamp::from_second(started).unwrap();
        let act = act_at(due, started, HOUR * i32::try_from(hours).unwrap(), &id(n), 1);
        prop_assert!(act >= due.max(started));
        prop_assert!(act <= due.max(started) + SignedDuration::from_mins(5));
    }
}
