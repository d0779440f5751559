//! Where things are: the work tree, the cache outside it, the binaries that cargo built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

/// The root of the repository.
pub fn work_tree() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().and_then(Path::parent).unwrap_or(crate_dir).to_owned()
}

/// The cache that outlives the work tree: the kcp build, virtual environments.
pub fn cache() -> PathBuf {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(|| env::temp_dir().join("cache"))
        .join("openkcm")
}

/// A binary of this workspace, built by the same cargo invocation as the running program.
pub fn built(name: &str) -> Result<PathBuf> {
    let me = env::current_exe().context("the path of the running program")?;
    // target/debug/openkcm-dev, or target/debug/deps/e2e-0123456789abcdef
    let path = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not built: run `cargo build --workspace --all-targets` first"))?;
    Ok(path)
}

/// `openkcm-provider` with its named crash points compiled in. Built now, by the cargo that built the running program: nothing
/// but the ledger's crate and the provider is compiled again, and the binary that is released stays free of them.
pub fn crashing_provider() -> Result<PathBuf> {
    const NAME: &str = "openkcm-provider-crashing";
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        // What cargo tells the program that it runs is not for the cargo that it runs.
        if name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|of| name.starts_with(of))
        }) {
            cargo.env_remove(name);
        }
    }
    // The test is built already; naming one makes cargo choose the same features of all dependencies as it did then.
    cargo
        .current_dir(work_tree())
        .args(["build", "--quiet", "--workspace", "--locked", "--features", "openkcm-provider/crash-points"])
        .args(["--bin", NAME, "--test", "readme"]);
    let output = cargo.output().context("running cargo")?;
    ensure!(output.status.success(), "building {NAME}:\n{}", String::from_utf8_lossy(&output.stderr));
    self::built(NAME)
}

/// The folder with `kcp`, `kcp-front-proxy`, `cache-server` and `kubectl`; built now if they are not there.
pub fn kcp_binaries() -> Result<PathBuf> {
    let toolchain = Path::new(env!("CARGO_MANIFEST_DIR")).join("toolchain");
    let built = Command::new(&toolchain).arg("kcp").status().context("running the toolchain script")?;
    ensure!(built.success(), "kcp could not be built: see above");
    let output = Command::new(&toolchain).arg("bin").output().context("running the toolchain script")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout).context("a path in UTF-8")?.trim()))
}

/// A fresh folder for the data and logs of one test run, below cargo's target folder; what earlier runs left is removed.
pub fn test_run() -> Result<PathBuf> {
    let me = env::current_exe().context("the path of the running program")?;
    let target = me
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .map_or_else(env::temp_dir, Path::to_owned);
    let runs = target.join("kcp-e2e");
    for old in fs::read_dir(&runs).into_iter().flatten().flatten() {
        // Named by the process that owns it.
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    let mine = runs.join(process::id().to_string());
    fs::create_dir_all(&mine).with_context(|| format!("making {}", mine.display()))?;
    Ok(mine)
}
