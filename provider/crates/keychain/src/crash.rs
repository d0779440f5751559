//! Named places where a test can end the process, as a power cut would.
//!
//! Without the feature `crash-points` a crash point is nothing. With it, `OPENKCM_CRASH_AT=rotate.before-commit`
//! aborts the process at that place, `rotate.before-commit:3` at the third time it comes by.

/// Every crash point of this crate, in the order in which a key meets them.
pub const CRASH_POINTS: &[&str] = &[
    "create.before-insert",
    "create.before-version",
    "create.before-commit",
    "create.after-commit",
    "rotate.before-insert",
    "rotate.before-pointer",
    "rotate.before-commit",
    "rotate.after-commit",
    "disable.before-commit",
    "disable.after-commit",
    "delete.before-commit",
    "delete.after-commit",
    "recover.before-commit",
    "recover.after-commit",
    "destroy.before-overwrite",
    "destroy.before-commit",
    "destroy.after-commit",
    "install.before-insert",
    "install.before-pointer",
    "install.before-commit",
    "install.after-commit",
    "rewrap.before-update",
    "rewrap.before-commit",
    "rewrap.after-commit",
    "erase.before-commit",
    "erase.after-commit",
];

/// Marks a crash point: `crash_point!("rotate.before-commit")`. Usable from other crates, with names of their own.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash::hit($name)
    };
}

/// What [`crash_point!`] calls.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
#[allow(clippy::inline_always)] // nothing must be left of it
pub fn hit(_name: &'static str) {}

/// What [`crash_point!`] calls.
#[cfg(feature = "crash-points")]
pub fn hit(name: &'static str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("OPENKCM_CRASH_AT").ok()?;
        match text.rsplit_once(':').and_then(|(name, n)| Some((name, n.parse().ok()?))) {
            Some((name, n)) => Some((name.to_owned(), n)),
            None => Some((text, 1)),
        }
    });
    if let Some((wanted, n)) = wanted
        && wanted == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *n
    {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_list_names_every_point_in_the_code() {
        let code = concat!(
            include_str!("ledger/accounts.rs"),
            include_str!("ledger/keys.rs"),
            include_str!("ledger/rewrap.rs"),
            include_str!("ledger/tenants.rs"),
            include_str!("ledger/versions.rs"),
        );
        let in_code: BTreeSet<&str> =
            code.split("crash_point!(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(in_code, super::CRASH_POINTS.iter().copied().collect());
    }
}
