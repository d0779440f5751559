//! Names that several parts of the system must build in the same way.

use std::fmt::Write as _;

use kube::core::Rule;
use sha2::{Digest, Sha256};

/// The finalizer that keeps an object until the ledger knows that it goes.
pub const LEDGER_FINALIZER: &str = "openkcm.io/ledger";

/// Longest name of a Tenant: it is also used as a label value.
const MAX_NAME: usize = 63;
/// Hexadecimal digits of the hash that replaces the end of a long name.
const HASH_DIGITS: usize = 10;

/// The Tenant's name for a workspace path: `root:acme:team` becomes `tenant-root-acme-team`.
///
/// Names over 63 characters are cut and end in a hash of the whole path. Different paths can still have the same
/// name (`a-b:c` and `a:b-c`): a name is unique within its own workspace only, and never identity.
pub fn tenant_name(path: &str) -> String {
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let mut name = "tenant-".to_owned();
    name.extend(path.chars().map(|c| allowed(c.to_ascii_lowercase())));
    if name.len() > MAX_NAME {
        let hash = hex_digits(path.as_bytes(), HASH_DIGITS);
        name.truncate(MAX_NAME - HASH_DIGITS - 1);
        return format!("{}-{hash}", name.trim_end_matches('-'));
    }
    name.trim_end_matches('-').to_owned()
}

/// How a version is shown: 54 as `v54`.
pub fn format_version(version: u32) -> String {
    format!("v{version}")
}

/// Reads a version as [`format_version`] shows it; `None` for anything else, also for `v0` and `v01`.
pub fn parse_version(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('v')?;
    let canonical = !digits.starts_with('0') && digits.bytes().all(|c| c.is_ascii_digit());
    if canonical { digits.parse().ok() } else { None }
}

/// The form of a region's name, as the API server applies it.
const REGION: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// Whether a text can be the name of a region: at most 63 lower-case letters, digits, inner `-` and `.`.
pub fn is_region(text: &str) -> bool {
    let outer = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(|c| outer(*c))
        && bytes.last().is_some_and(|c| outer(*c))
        && bytes.iter().all(|c| outer(*c) || matches!(c, b'-' | b'.'))
}

pub(crate) fn region_rule() -> Rule {
    Rule::new(format!("self.all(region, region.matches(r\"{REGION}\"))")).message(
        "edgeRegions holds names of regions, for example eu-central-1: lower-case letters, digits, inner '-' and '.'",
    )
}

/// The first `digits` hexadecimal digits of the SHA-256 of `bytes`; at most 64.
pub(crate) fn hex_digits(bytes: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_read_like_paths() {
        assert_eq!(tenant_name("root:acme"), "tenant-root-acme");
        assert_eq!(tenant_name("root:acme:team-a"), "tenant-root-acme-team-a");
        // Lossy on purpose: the logical cluster is the identity.
        assert_eq!(tenant_name("root:a-b"), tenant_name("root:a:b"));
    }

    #[test]
    fn long_paths_that_differ_at_the_end_only_have_different_names() {
        let paths: Vec<String> = (0..1000).map(|i| format!("root:{}:{i}", "very-long:".repeat(20))).collect();
        let names: HashMap<String, &String> = paths.iter().map(|path| (tenant_name(path), path)).collect();
        assert_eq!(names.len(), paths.len());
    }

    #[test]
    fn the_limit_is_exact() {
        let fits = "a".repeat(MAX_NAME - "tenant-".len());
        assert_eq!(tenant_name(&fits), format!("tenant-{fits}"));
        assert_eq!(tenant_name(&format!("{fits}a")).len(), MAX_NAME);
    }

    proptest! {
        #[test]
        fn every_name_is_a_dns_label(path in "\\PC{0,300}|([a-z0-9-]{1,20}:){0,12}[a-z0-9-]{1,63}") {
            let name = tenant_name(&path);
            let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            prop_assert!(name.len() <= MAX_NAME && name.starts_with("tenant") && !name.ends_with('-'));
            prop_assert!(name.bytes().all(valid), "{}", name);
        }

        #[test]
        fn versions_survive_a_round_trip(version in 1_u32..) {
            prop_assert_eq!(parse_version(&format_version(version)), Some(version));
        }
    }

    proptest! {
        #[test]
        fn a_region_is_what_the_api_server_takes_for_one(text in "[-a-zA-Z0-9._]{0,5}|[a-z0-9]{60,66}|\\PC{0,3}") {
            let pattern = regex::Regex::new(REGION).expect("a pattern");
            prop_assert_eq!(is_region(&text), pattern.is_match(&text) && text.len() <= 63, "{}", text);
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "v", "v0", "v01", "V1", "1", "v1 ", "v-1", "v+1", "v4294967296", "v٣"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }
}
