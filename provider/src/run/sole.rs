//! One provider over one SQLite ledger: two of them would each count their own edges only, and each say `Evicted` alone.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, bail};

const FILE: &str = "provider.lock";

/// Takes the data directory for this process, until the file is dropped or the process ends, however it ends.
pub fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join(FILE);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("create {}", data_dir.display()))?;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another openkcm-provider runs over {}: stop it first; several need one database, see --database-url",
            data_dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn a_second_provider_over_one_data_directory_does_not_start() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().join("new");
        let first = super::lock(&data).unwrap();
        let refused = super::lock(&data).unwrap_err().to_string();
        assert!(refused.contains("another openkcm-provider runs over"), "{refused}");
        drop(first);
        super::lock(&data).unwrap();
    }
}
