//! A SoftHSM token: reached through the same PKCS#11 calls as a Thales Luna partition.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, sync::Mutex};

use super::{HSM_PIN, Trouble, script};
use crate::paths;

/// The label of the token.
pub(super) const TOKEN: &str = "openkcm";

/// A token in a folder of its own. There is no process: the library works on files.
#[derive(Debug)]
pub(super) struct Hsm {
    folder: PathBuf,
    module: PathBuf,
    /// A library in front of it that misbehaves as a file says.
    in_trouble: Option<PathBuf>,
    /// One hand at a time: the tools are not made for several.
    hand: Mutex<()>,
}

impl Hsm {
    /// Makes the token if it is not there.
    pub async fn start(folder: PathBuf) -> Result<Self> {
        let printed = softhsm(&folder, "first").await?;
        let module = printed.lines().find_map(|line| line.strip_prefix("PKCS11_MODULE="));
        let module = module.context("the softhsm script names no library")?.into();
        Ok(Self { folder, module, in_trouble: None, hand: Mutex::new(()) })
    }

    /// From here on the provider loads a library that can be told to misbehave.
    pub fn can_be_disturbed(&mut self) -> Result<()> {
        self.in_trouble = Some(paths::built("libopenkcm_hsm_in_trouble.so")?);
        Ok(())
    }

    /// Misbehaves from now on, or no more.
    pub fn disturb(&self, trouble: Trouble) -> Result<()> {
        ensure!(self.in_trouble.is_some(), "this HSM cannot be told to misbehave");
        let trouble = match trouble {
            Trouble::None => "none",
            Trouble::Denied => "denied",
            Trouble::Throttled => "throttled",
            Trouble::Silent => "silent",
            Trouble::Down => "down",
        };
        // Whole or not at all: it is read with every call.
        let draft = self.folder.join("trouble.draft");
        fs::write(&draft, trouble).context("writing how the HSM is")?;
        fs::rename(&draft, self.folder.join("trouble")).context("telling how the HSM is")
    }

    /// The library that the provider loads.
    pub fn loaded_module(&self) -> &Path {
        self.in_trouble.as_ref().unwrap_or(&self.module)
    }

    /// Variables of the library that the provider loads.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        if self.in_trouble.is_none() {
            return Vec::new();
        }
        vec![
            ("OPENKCM_HSM_MODULE".to_owned(), self.module.clone().into()),
            ("OPENKCM_HSM_TROUBLE".to_owned(), self.folder.join("trouble").into()),
        ]
    }

    /// The PKCS#11 library.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The file with the user's PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    /// What `SOFTHSM2_CONF` must be wherever the library is loaded.
    pub fn settings(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// Makes an AES key with a label.
    pub async fn create(&self, label: &str) -> Result<()> {
        let _hand = self.hand.lock().await;
        softhsm(&self.folder, label).await.map(drop)
    }

    /// Allows or forbids every use of a key.
    pub async fn set_enabled(&self, label: &str, enabled: bool) -> Result<()> {
        let _hand = self.hand.lock().await;
        let mut command = Command::new(paths::built("openkcm-key-store-servers")?);
        command.arg("hsm").arg("--module").arg(&self.module).arg("--pin-file").arg(self.pin_file());
        command.args(["--token", TOKEN, "--key", label, "--enabled", &enabled.to_string()]);
        run(command.env("SOFTHSM2_CONF", self.settings())).await.map(drop)
    }
}

async fn softhsm(folder: &Path, label: &str) -> Result<String> {
    run(Command::new(script("softhsm")).arg(folder).args([TOKEN, label, HSM_PIN])).await
}

async fn run(command: &mut Command) -> Result<String> {
    let output = command.output().await.context("starting a tool of the HSM's administrator")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a tool of the HSM's administrator: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).context("what it printed")
}
