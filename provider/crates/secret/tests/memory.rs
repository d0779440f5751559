//! What the kernel says of the memory that holds keys.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;

use openkcm_secret::{Locked, SecretKey, memory_is_locked};

/// The flags of the mapping that holds this address.
fn flags(address: usize) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in maps.lines() {
        let bounds =
            line.split_once(' ').and_then(|(range, _)| range.split_once('-')).and_then(|(from, to)| {
                Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
            });
        if let Some((from, to)) = bounds {
            inside = (from..to).contains(&address);
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    panic!("no mapping holds the key");
}

/// `lo`: locked, `dd`: not in dumps, `wf`: wiped in a forked child.
#[test]
fn keys_and_round_keys_are_in_locked_memory_that_is_neither_dumped_nor_inherited() {
    let key = SecretKey::random().unwrap();
    let value = Locked::new([1u8; 500]).unwrap();
    for address in [key.expose(|bytes| bytes.as_ptr().addr()), value.as_ptr().addr()] {
        let flags = flags(address);
        let has = |flag: &str| flags.iter().any(|held| held == flag);
        assert!(has("dd") && has("wf"), "{flags:?}");
        assert_eq!(has("lo"), memory_is_locked(), "{flags:?}");
    }
}
