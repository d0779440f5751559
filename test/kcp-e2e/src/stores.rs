//! The key stores that the tests and `make up` run, and what their owner does in them.

mod contract;
mod hsm;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use serde::{Deserialize, Serialize};

use self::{contract::Contract, hsm::Hsm};
use crate::{
    installation::write_private,
    paths,
    process::{Lifetime, Process, Recipe, free_ports},
    wait::within,
};

/// The access key of the test servers; LocalStack takes any.
pub const AWS_ACCESS_KEY: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "canary-secret-of-the-aws-access-key");
/// The secret that every application has at the contract server of Azure.
pub const AZURE_CLIENT_SECRET: &str = "test-client-secret";
/// The PIN of the HSM's token.
pub const HSM_PIN: &str = "canary-pin-of-the-hsm";

/// A directory of the test tenant, and the provider's application in it.
const AZURE_DIRECTORY: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const AZURE_APPLICATION: &str = "0e9a7c3e-5a44-4a52-9d0d-0a5d9d1a8b11";
const AZURE_VAULT: &str = "openkcm.vault.azure.net";
const GCP_KEYS: &str = "projects/openkcm/locations/europe-west3/keyRings/openkcm/cryptoKeys";

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

    /// The calls that make an Account Ready, and nothing else: describe, wrap and unwrap. What is wrapped becomes its key.
    pub async fn calls_of_a_new_account(&self, arn: &str) -> Result<()> {
        use aws_sdk_kms::primitives::Blob;

        self.0.describe_key().key_id(arn).send().await.context("describing a KMS key")?;
        let wrapped = self.0.encrypt().key_id(arn).plaintext(Blob::new([7; 32])).send().await;
        let wrapped = wrapped.context("encrypting")?.ciphertext_blob.context("no ciphertext")?;
        self.0.decrypt().key_id(arn).ciphertext_blob(wrapped).send().await.context("decrypting").map(drop)
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

/// A kind of key store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// AWS KMS.
    Aws,
    /// Azure Key Vault.
    Azure,
    /// Google Cloud KMS.
    Gcp,
    /// A token of an HSM.
    Hsm,
}

impl Store {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Aws, Self::Azure, Self::Gcp, Self::Hsm];

    /// A short name: of Accounts, keys and rows of a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Gcp => "gcp",
            Self::Hsm => "hsm",
        }
    }

    /// The `providerType` of its Accounts.
    pub const fn provider_type(self) -> &'static str {
        match self {
            Self::Aws => "AWSKMS",
            Self::Azure => "AzureKeyVault",
            Self::Gcp => "GCPKMS",
            Self::Hsm => "ThalesHSM",
        }
    }

    /// What an Account calls the key of a name; a key of AWS has the name that AWS gives it.
    pub fn reference(self, name: &str) -> String {
        match self {
            Self::Aws => {
                "arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000000".into()
            }
            Self::Azure => format!("https://{AZURE_VAULT}/keys/{name}"),
            Self::Gcp => format!("{GCP_KEYS}/{name}"),
            Self::Hsm => format!("pkcs11:token={};object={name}", hsm::TOKEN),
        }
    }
}

/// How a store misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It does not.
    None,
    /// It refuses every call: no permission.
    Denied,
    /// It asks for fewer calls.
    Throttled,
    /// It takes calls and never answers.
    Silent,
    /// It closes every connection.
    Down,
}

/// Ports of the contract servers, each with its control port.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ContractPorts {
    /// Azure Key Vault.
    pub azure: [u16; 2],
    /// Google Cloud KMS.
    pub gcp: [u16; 2],
}

impl ContractPorts {
    /// Free ones.
    pub fn free() -> Result<Self> {
        let [azure, azure_control, gcp, gcp_control] = free_ports()?;
        Ok(Self { azure: [azure, azure_control], gcp: [gcp, gcp_control] })
    }
}

/// The key stores that an installation may use, as its operator configures them and as their customer drives them.
#[derive(Debug)]
pub struct KeyStores {
    /// AWS KMS.
    pub aws: Aws,
    /// The stub that stands in for LocalStack, if it does.
    stub: Option<Contract>,
    azure: Contract,
    gcp: Contract,
    hsm: Hsm,
    authority: PathBuf,
    granted: Vec<String>,
    /// The operator's `limits`, as YAML.
    limits: String,
}

impl KeyStores {
    /// Starts those beside LocalStack. Workspaces that are `granted`, by path or pattern, may use every key with the provider's
    /// own credentials.
    pub async fn start(
        aws: Aws,
        ports: ContractPorts,
        granted: Vec<String>,
        folder: &Path,
        logs: &Path,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let authority = folder.join("azure-ca.pem");
        let azure = ["azure", &format!("--ca-file={}", authority.display())];
        let (azure, gcp, hsm) = tokio::try_join!(
            Contract::start(&azure, ports.azure, logs, lifetime),
            Contract::start(&["gcp"], ports.gcp, logs, lifetime),
            Hsm::start(folder.join("softhsm")),
        )?;
        Ok(Self { aws, stub: None, azure, gcp, hsm, authority, granted, limits: "{}".to_owned() })
    }

    /// Starts stores for one owner, who may disturb them. A stub is AWS KMS: LocalStack cannot be told to misbehave; and the
    /// HSM is behind a library that can.
    pub async fn start_own(granted: Vec<String>, folder: &Path, limits: &str) -> Result<Self> {
        let stub = Contract::start(&["aws"], free_ports()?, folder, Lifetime::Owned).await?;
        let aws = Aws::attach(format!("http://{}", stub.address()));
        let ports = ContractPorts::free()?;
        let mut stores = Self::start(aws, ports, granted, folder, folder, Lifetime::Owned).await?;
        stores.hsm.can_be_disturbed()?;
        Ok(Self { stub: Some(stub), limits: limits.to_owned(), ..stores })
    }

    /// Makes a store of one's own misbehave from now on, or no more.
    pub async fn disturb(&self, store: Store, trouble: Trouble) -> Result<()> {
        match store {
            Store::Aws => self.stub.as_ref().context("a stub of AWS KMS")?.disturb(trouble).await,
            Store::Azure => self.azure.disturb(trouble).await,
            Store::Gcp => self.gcp.disturb(trouble).await,
            Store::Hsm => self.hsm.disturb(trouble),
        }
    }

    /// Calls that reached a store of one's own: metadata reads, wraps, unwraps. Not of the HSM.
    pub async fn calls(&self, store: Store) -> Result<[u64; 3]> {
        match store {
            Store::Aws => self.stub.as_ref().context("a stub of AWS KMS")?.calls().await,
            Store::Azure => self.azure.calls().await,
            Store::Gcp => self.gcp.calls().await,
            Store::Hsm => bail!("an HSM does not count calls"),
        }
    }

    /// Makes a key that can wrap; returns what an Account calls it.
    pub async fn create_key(&self, store: Store, name: &str) -> Result<String> {
        let reference = store.reference(name);
        match store {
            Store::Aws => match &self.stub {
                Some(stub) => stub.create(&reference, "aes").await?,
                None => return self.aws.kms().create_key().await,
            },
            Store::Azure => self.azure.create(&reference, "rsa").await?,
            Store::Gcp => self.gcp.create(&reference, "aes").await?,
            Store::Hsm => self.hsm.create(name).await?,
        }
        Ok(reference)
    }

    /// Makes a key that signs and cannot wrap. Not in the HSM.
    pub async fn create_signing_key(&self, store: Store, name: &str) -> Result<String> {
        let reference = store.reference(name);
        match store {
            Store::Aws => return self.aws.kms().create_signing_key().await,
            Store::Azure => self.azure.create(&reference, "signing").await?,
            Store::Gcp => self.gcp.create(&reference, "signing").await?,
            Store::Hsm => bail!("no signing keys are made in the HSM"),
        }
        Ok(reference)
    }

    /// What an Account would call a key that nobody has made.
    pub fn missing_key(store: Store) -> String {
        store.reference("missing")
    }

    /// Enables or disables a key, as its owner does in the store.
    pub async fn set_enabled(&self, store: Store, reference: &str, enabled: bool) -> Result<()> {
        let state = if enabled { "enabled" } else { "disabled" };
        match store {
            Store::Aws if enabled => self.aws.kms().enable(reference).await,
            Store::Aws => self.aws.kms().disable(reference).await,
            Store::Azure => self.azure.set_state(reference, state).await,
            Store::Gcp => self.gcp.set_state(reference, state).await,
            Store::Hsm => {
                let (_, label) = reference.rsplit_once("object=").context("a PKCS#11 URI")?;
                self.hsm.set_enabled(label, enabled).await
            }
        }
    }

    /// Schedules a key's deletion. An HSM has no such thing.
    pub async fn schedule_deletion(&self, store: Store, reference: &str) -> Result<()> {
        match store {
            Store::Aws => self.aws.kms().schedule_deletion(reference).await,
            Store::Azure => self.azure.set_state(reference, "pending-deletion").await,
            Store::Gcp => self.gcp.set_state(reference, "pending-deletion").await,
            Store::Hsm => bail!("a key in an HSM is deleted at once"),
        }
    }

    /// Where each store is.
    pub fn places(&self) -> [(&'static str, String); 4] {
        [
            ("AWS KMS (LocalStack)", self.aws.endpoint().to_owned()),
            ("Azure Key Vault (ours)", format!("https://{}", self.azure.address())),
            ("Google KMS (ours)", format!("http://{}", self.gcp.address())),
            ("HSM (SoftHSM)", self.hsm.module().display().to_string()),
        ]
    }

    /// What the provider's environment must hold: the PKCS#11 library finds its token by it.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        let settings = [("SOFTHSM2_CONF".to_owned(), self.hsm.settings().into())];
        settings.into_iter().chain(self.hsm.environment()).collect()
    }

    /// The operator's configuration, in YAML; secrets go to files in `folder`.
    pub fn configuration(&self, folder: &Path) -> Result<String> {
        let (aws_secret, azure_secret) = (folder.join("aws-secret"), folder.join("azure-secret"));
        write_private(&aws_secret, AWS_ACCESS_KEY.1)?;
        write_private(&azure_secret, AZURE_CLIENT_SECRET)?;
        Ok(format!(
            "\
limits: {limits}
grants:
  - paths: {granted:?}
    references: ['arn:aws:kms:*', 'https://{AZURE_VAULT}/keys/*', '{GCP_KEYS}/*', 'pkcs11:token={token};object=*']
aws:
  endpoint: {aws}
  credentials: !accessKey {{id: {aws_id}, secretFile: '{aws_secret}'}}
azure:
  caFile: '{authority}'
  resolve: {{{AZURE_VAULT}: '{azure}', login.microsoftonline.com: '{azure}'}}
  credentials: !clientSecret {{tenantId: {AZURE_DIRECTORY}, clientId: {AZURE_APPLICATION}, secretFile: '{azure_secret}'}}
gcp:
  endpoint: http://{gcp}
  credentials: anonymous
pkcs11:
  - module: '{module}'
    tokens: [{{label: {token}, pinFile: '{pin_file}'}}]
",
            limits = self.limits,
            granted = self.granted,
            aws = self.aws.endpoint(),
            aws_id = AWS_ACCESS_KEY.0,
            aws_secret = aws_secret.display(),
            azure_secret = azure_secret.display(),
            authority = self.authority.display(),
            azure = self.azure.address(),
            gcp = self.gcp.address(),
            module = self.hsm.loaded_module().display(),
            pin_file = self.hsm.pin_file().display(),
            token = hsm::TOKEN,
        ))
    }
}
