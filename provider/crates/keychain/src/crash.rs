//! Named places where a test can end the process, as a power cut would.
//!
//! Without the feature `crash-points` a crash point is nothing. With it, `OPENKCM_CRASH_AT=rotate.before-commit`
//! aborts the process at that place, `rotate.before-commit:3` at the third time it comes by. `OPENKCM_CRASH_FILE` names a
//! file in which such an order may be given to a process that runs; it is removed when it is carried out.
//! `OPENKCM_CRASH_TRACE` names a file that gets a line for every place that is passed: a test learns from an undisturbed
//! run where to disturb the next.

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
    "refresh.before-commit",
    "refresh.after-commit",
    "rewrap.before-update",
    "rewrap.before-commit",
    "rewrap.after-commit",
    "erase.before-commit",
    "erase.after-commit",
];

/// Marks a crash point: `crash_point!("rotate.before-commit")`. Usable from other crates, with names of their own, which
/// may be put together as by [`format!`]: `crash_point!("key.before-{}", effect.name())`.
#[cfg(feature = "crash-points")]
#[macro_export]
macro_rules! crash_point {
    ($($name:tt)+) => {
        $crate::crash::hit(&::std::format!($($name)+))
    };
}

/// Marks a crash point: nothing is left of it without the feature `crash-points`, not even its name.
#[cfg(not(feature = "crash-points"))]
#[macro_export]
macro_rules! crash_point {
    ($($name:tt)+) => {
        // Checked, and never compiled to anything: nobody calls it.
        let _ = || {
            let _ = ::core::format_args!($($name)+);
        };
    };
}

/// What [`crash_point!`] calls.
#[cfg(feature = "crash-points")]
pub fn hit(name: &str) {
    armed::hit(name);
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::{
        collections::HashMap,
        fs::{self, File},
        io::Write as _,
        path::PathBuf,
        sync::{LazyLock, Mutex, PoisonError},
    };

    struct Settings {
        at: Option<String>,
        file: Option<PathBuf>,
        trace: Option<PathBuf>,
        hits: Mutex<HashMap<String, u64>>,
    }

    static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
        at: std::env::var("OPENKCM_CRASH_AT").ok(),
        file: std::env::var_os("OPENKCM_CRASH_FILE").map(PathBuf::from),
        trace: std::env::var_os("OPENKCM_CRASH_TRACE").map(PathBuf::from),
        hits: Mutex::default(),
    });

    pub(super) fn hit(name: &str) {
        let settings = &*SETTINGS;
        // One place after the other: the trace is the order in which they were passed.
        let mut hits = settings.hits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = &settings.trace
            && let Ok(mut trace) = File::options().create(true).append(true).open(trace)
        {
            let _ = writeln!(trace, "{name}");
        }
        let ordered = settings.file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let Some(wanted) = ordered.as_deref().map(str::trim).or(settings.at.as_deref()) else { return };
        let count = hits.entry(wanted.to_owned()).or_default();
        let (place, times) = match wanted.rsplit_once(':') {
            Some((place, times)) => (place, times.parse().unwrap_or(1)),
            None => (wanted, 1),
        };
        if place != name {
            return;
        }
        *count += 1;
        if *count == times {
            // An order holds once: whoever starts next is not to die of it.
            if let (Some(file), Some(_)) = (&settings.file, &ordered) {
                let _ = fs::remove_file(file);
            }
            std::process::abort();
        }
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
