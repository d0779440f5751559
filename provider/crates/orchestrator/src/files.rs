//! Small private files, written whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::OrchestratorError;

/// The orchestrator's part of the data directory.
pub(crate) struct Files(PathBuf);

fn error(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OrchestratorError {
    let path = path.to_owned();
    move |source| OrchestratorError::File { deed, path, source }
}

impl Files {
    /// Makes the directories that are missing, open to nobody else.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, OrchestratorError> {
        let root = data_dir.join("orchestrator");
        for directory in ["tokens", "spent", "edges", "revoked"] {
            let path = root.join(directory);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(error("make", &path))?;
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(error("protect", &root))?;
        Ok(Self(root))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// `None` when there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, OrchestratorError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(error("read", &path)(source)),
        }
    }

    /// Replaces the file; it is on disk when this returns.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OrchestratorError> {
        let temporary = self.temporary(name, bytes)?;
        let path = self.path(name);
        fs::rename(&temporary, &path).map_err(error("replace", &path))?;
        self.sync(&path)
    }

    /// Writes the file unless there is one already. False: there is one.
    pub(crate) fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, OrchestratorError> {
        let temporary = self.temporary(name, bytes)?;
        let path = self.path(name);
        let linked = fs::hard_link(&temporary, &path);
        fs::remove_file(&temporary).map_err(error("remove", &temporary))?;
        match linked {
            Ok(()) => self.sync(&path).map(|()| true),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(error("create", &path)(source)),
        }
    }

    /// Moves a file. False: it is not there (any more). Of several that try at once one succeeds.
    pub(crate) fn take(&self, from: &str, to: &str) -> Result<bool, OrchestratorError> {
        let (from, to) = (self.path(from), self.path(to));
        match fs::rename(&from, &to) {
            Ok(()) => self.sync(&to).map(|()| true),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(error("move", &from)(source)),
        }
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), OrchestratorError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error("remove", &path)(source)),
            _ => Ok(()),
        }
    }

    pub(crate) fn list(&self, directory: &str) -> Result<Vec<String>, OrchestratorError> {
        let path = self.path(directory);
        let entries = fs::read_dir(&path).map_err(error("list", &path))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(error("list", &path))?.file_name();
            names.extend(name.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn temporary(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, OrchestratorError> {
        let path = self.path(name);
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = path.with_file_name(format!(".{file}.{}", uuid::Uuid::new_v4().simple()));
        let mut handle = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(error("create", &temporary))?;
        handle.write_all(bytes).and_then(|()| handle.sync_all()).map_err(error("write", &temporary))?;
        Ok(temporary)
    }

    fn sync(&self, path: &Path) -> Result<(), OrchestratorError> {
        let directory = path.parent().unwrap_or(&self.0);
        File::open(directory).and_then(|handle| handle.sync_all()).map_err(error("sync", directory))
    }
}
