//! The key stores that the tests and `make up` run, and what their owner does in them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};

use crate::{
    installation::write_private,
    paths,
    process::{Lifetime, Process, Recipe},
    wait::within,
};

/// The access key of the test servers; LocalStack takes any.
pub const AWS_ACCESS_KEY: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "canary-secret-of-the-aws-access-key");

fn script(name: &str) -> PathBuf {
    paths::work_tree().join("test/key-stores").join(name)
}

/// LocalStack: a state machine of AWS KMS on loopback.
#[derive(Debug)]
pub struct Aws {
    /// Ends with its owner; None when it is somebody else's.
    _process: Option<Process>,
    endpoint: String,
}

impl Aws {
    /// Starts it (and installs it the first time).
    pub async fn start(port: u16, logs: &Path, lifetime: Lifetime) -> Result<Self> {
        let data = logs.join("localstack");
        let recipe =
            Recipe::new("localstack", script("localstack"), [paths::cache()]).arg(port.to_string()).arg(data);
        let mut process = Process::start(&recipe, logs, lifetime)?;
        let aws = Self::attach(format!("http://127.0.0.1:{port}"));
        let health = format!("{}/_localstack/health", aws.endpoint);
        within(Duration::from_secs(300), "LocalStack answers", || {
            let state = process.check();
            let health = health.clone();
            async move {
                state?;
                let answer = reqwest::get(&health).await.context("its health page")?;
                ensure!(answer.status().is_success(), "its health page says {}", answer.status());
                Ok(())
            }
        })
        .await?;
        Ok(Self { _process: Some(process), ..aws })
    }

    /// One that somebody else started.
    pub fn attach(endpoint: String) -> Self {
        Self { _process: None, endpoint }
    }

    /// Takes a detached one over that is already running.
    pub fn find(port: u16, logs: &Path) -> Option<Self> {
        Some(Self {
            _process: Some(Process::find("localstack", logs)?),
            endpoint: format!("http://127.0.0.1:{port}"),
        })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The hand of the customer who owns the keys.
    pub fn kms(&self) -> Kms {
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(&self.endpoint)
            .credentials_provider(Credentials::new("customer", "customer", None, None, "kcp-e2e"))
            .build();
        Kms(aws_sdk_kms::Client::from_conf(config))
    }
}

/// AWS KMS as its customer drives it.
#[derive(Debug, Clone)]
pub struct Kms(aws_sdk_kms::Client);

impl Kms {
    /// Makes a symmetric key; returns its ARN.
    pub async fn create_key(&self) -> Result<String> {
        let made = self.0.create_key().send().await.context("creating a KMS key")?;
        made.key_metadata.and_then(|key| key.arn).context("a KMS key without an ARN")
    }

    /// Makes a key that signs: of no use as a root key.
    pub async fn create_signing_key(&self) -> Result<String> {
        let made = self
            .0
            .create_key()
            .key_usage(aws_sdk_kms::types::KeyUsageType::SignVerify)
            .key_spec(aws_sdk_kms::types::KeySpec::EccNistP256)
            .send()
            .await
            .context("creating a KMS signing key")?;
        made.key_metadata.and_then(|key| key.arn).context("a KMS key without an ARN")
    }

    /// Disables a key.
    pub async fn disable(&self, arn: &str) -> Result<()> {
        self.0.disable_key().key_id(arn).send().await.context("disabling a KMS key").map(drop)
    }

    /// Enables it again.
    pub async fn enable(&self, arn: &str) -> Result<()> {
        self.0.enable_key().key_id(arn).send().await.context("enabling a KMS key").map(drop)
    }

    /// Schedules a key's deletion.
    pub async fn schedule_deletion(&self, arn: &str) -> Result<()> {
        let deletion = self.0.schedule_key_deletion().key_id(arn).pending_window_in_days(7);
        deletion.send().await.context("scheduling a KMS key's deletion").map(drop)
    }

    /// Takes the deletion back and enables the key.
    pub async fn cancel_deletion(&self, arn: &str) -> Result<()> {
        self.0.cancel_key_deletion().key_id(arn).send().await.context("cancelling a deletion")?;
        self.enable(arn).await
    }

    /// Points an alias (`alias/NAME`) at a key; returns the alias's ARN.
    pub async fn alias(&self, name: &str, arn: &str) -> Result<String> {
        self.0.create_alias().alias_name(name).target_key_id(arn).send().await.context("making an alias")?;
        let (prefix, _) = arn.split_once(":key/").context("a KMS key's ARN")?;
        Ok(format!("{prefix}:{name}"))
    }
}

/// The key stores that an installation may use, as its operator configures them.
#[derive(Debug)]
pub struct KeyStores {
    /// AWS KMS.
    pub aws: Aws,
    /// Workspaces, by path or pattern, that may use every key there with the provider's own credentials.
    pub granted: Vec<String>,
}

impl KeyStores {
    /// The operator's configuration, in YAML; secrets go to files in `folder`.
    pub fn configuration(&self, folder: &Path) -> Result<String> {
        let secret = folder.join("aws-secret");
        write_private(&secret, AWS_ACCESS_KEY.1)?;
        Ok(format!(
            "grants:\n  - paths: {:?}\n    references: ['arn:aws:kms:*']\n\
             aws:\n  endpoint: {}\n  credentials: !accessKey\n    id: {}\n    secretFile: {}\n",
            self.granted,
            self.aws.endpoint(),
            AWS_ACCESS_KEY.0,
            secret.display(),
        ))
    }
}
