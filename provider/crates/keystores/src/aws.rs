//! AWS KMS through the official SDK.

use std::{
    collections::HashMap,
    error::Error as StdError,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, retry::RetryConfig, sts::AssumeRoleProvider, timeout::TimeoutConfig,
};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::{
    Client,
    config::Credentials,
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::{EncryptionAlgorithmSpec, KeySpec, KeyState, KeyUsageType},
};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use futures::{FutureExt as _, future::BoxFuture};
use kcp_client_rs::LogicalCluster;
use openkcm_secret::SecretKey;
use tokio::sync::OnceCell;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Binding, Description, Error, Operation, Reason, Result, RootKey, StoreKind, Wrapped,
    config::{AwsConfig, AwsCredentials},
    messages,
    reference::{AwsKey, AwsKeyName, AwsRole},
    wrapped::{self, Algorithm, Parts},
};

const KIND: StoreKind = StoreKind::AwsKms;
/// Clients kept, one for each region and identity. Beyond it all are made anew.
const CLIENTS: usize = 1024;
/// Keys of the encryption context: policies of the customer may refer to them.
const CONTEXT_CLUSTER: &str = "openkcm.io/logical-cluster";
const CONTEXT_ACCOUNT: &str = "openkcm.io/account";
/// KMS calls its only symmetric algorithm so.
const SYMMETRIC_DEFAULT: &str = "SYMMETRIC_DEFAULT";
/// Material ids are shown only for symmetric keys that can be rotated.
const NO_VERSION: &str = "-";

/// Makes and keeps clients.
pub(crate) struct AwsStore {
    credentials: AwsCredentials,
    endpoint: Option<String>,
    sts_endpoint: Option<String>,
    secret: Option<Zeroizing<String>>,
    clients: Mutex<HashMap<ClientKey, Arc<OnceCell<Client>>>>,
}

/// Whose permissions, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    region: String,
    role: Option<(AwsRole, LogicalCluster)>,
}

impl AwsStore {
    /// `None` if the operator configured no credentials.
    pub(crate) fn new(config: &AwsConfig) -> Result<Option<Self>> {
        let Some(credentials) = config.credentials.clone() else { return Ok(None) };
        let secret = match &credentials {
            AwsCredentials::Ambient => None,
            AwsCredentials::AccessKey { secret_file, .. } => Some(crate::config::secret_file(secret_file)?),
        };
        Ok(Some(Self {
            credentials,
            endpoint: config.endpoint.clone(),
            sts_endpoint: config.sts_endpoint.clone().or_else(|| config.endpoint.clone()),
            secret,
            clients: Mutex::default(),
        }))
    }

    /// A root key, used with the provider's own credentials or with a role that trusts this workspace.
    pub(crate) fn open(self: &Arc<Self>, key: AwsKey, role: Option<(AwsRole, LogicalCluster)>) -> AwsRoot {
        let client = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            if clients.len() >= CLIENTS {
                clients.clear();
            }
            Arc::clone(
                clients.entry(ClientKey { region: key.region.clone(), role: role.clone() }).or_default(),
            )
        };
        AwsRoot { store: Arc::clone(self), key, role, client, known: Mutex::default() }
    }

    async fn connect(&self, key: &AwsKey, role: Option<&(AwsRole, LogicalCluster)>) -> Result<Client> {
        let base = self.sdk_config(&key.region).await;
        let mut config = aws_sdk_kms::config::Builder::from(&base);
        if let Some((role, cluster)) = role {
            let mut sts = base.to_builder();
            sts.set_endpoint_url(self.sts_endpoint.clone());
            let sts = sts.build();
            refuses_others(&sts, role, cluster).await?;
            let provider = AssumeRoleProvider::builder(role.to_string())
                .external_id(cluster.as_str())
                .session_name(format!("openkcm-{cluster}").chars().take(64).collect::<String>())
                .region(Region::new(key.region.clone()))
                .configure(&sts)
                .build()
                .await;
            config.set_credentials_provider(Some(aws_sdk_kms::config::SharedCredentialsProvider::new(
                provider,
            )));
        }
        config.set_endpoint_url(self.endpoint.clone());
        Ok(Client::from_conf(config.build()))
    }

    async fn sdk_config(&self, region: &str) -> SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            // The guard and the re-probe do the patient part; one quick retry hides a lost packet.
            .retry_config(
                RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(100)),
            )
            .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(2)).build());
        if let (AwsCredentials::AccessKey { id, .. }, Some(secret)) = (&self.credentials, &self.secret) {
            loader =
                loader.credentials_provider(Credentials::new(id, secret.as_str(), None, None, "key-stores"));
        }
        loader.load().await
    }
}

/// Makes sure that a role is for one workspace: that it does not let us in under another's external id. A role that does
/// would be for every tenant that names it, and none of them gets it until its owner has mended the trust policy.
async fn refuses_others(config: &SdkConfig, role: &AwsRole, cluster: &LogicalCluster) -> Result<()> {
    let operation = Operation::Describe;
    let mut nobody = [0; 8];
    aws_lc_rs::rand::fill(&mut nobody).map_err(|_| failure(Reason::Unreachable, operation))?;
    let nobody = u64::from_be_bytes(nobody);
    let asked = aws_sdk_sts::Client::new(config)
        .assume_role()
        .role_arn(role.to_string())
        .role_session_name("openkcm-trust-check")
        .external_id(format!("not-{cluster}-{nobody:x}"))
        .send()
        .await;
    let Err(error) = asked else {
        return Err(Error::misconfigured(format!(
            "the role in access.aws can be assumed with any external id, so that every workspace which names it would get what it may do: add the condition sts:ExternalId = {cluster} to its trust policy"
        )));
    };
    let reason = match &error {
        SdkError::ServiceError(service) => {
            let status = Some(service.raw().status().as_u16());
            match reason_of(service.err().meta().code(), None, status) {
                // As it should be.
                Reason::AccessDenied => return Ok(()),
                reason => reason,
            }
        }
        SdkError::TimeoutError(_) => Reason::Timeout,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Reason::Timeout,
        error if has_no_credentials(error) => Reason::Misconfigured,
        _ => Reason::Unreachable,
    };
    Err(failure(reason, operation).with_source(&error))
}

/// One key in AWS KMS.
pub(crate) struct AwsRoot {
    store: Arc<AwsStore>,
    key: AwsKey,
    role: Option<(AwsRole, LogicalCluster)>,
    client: Arc<OnceCell<Client>>,
    known: Mutex<Option<(Algorithm, Description)>>,
}

impl AwsRoot {
    async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| self.store.connect(&self.key, self.role.as_ref())).await
    }

    /// What the last describe said, or a new one.
    async fn known(&self) -> Result<(Algorithm, Description)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(known) => Ok(known),
            None => self.read().await,
        }
    }

    async fn read(&self) -> Result<(Algorithm, Description)> {
        let operation = Operation::Describe;
        let answer = self
            .client()
            .await?
            .describe_key()
            .key_id(self.key.to_string())
            .send()
            .await
            .map_err(|error| self.explain(error, operation))?;
        let metadata = answer.key_metadata.ok_or_else(|| failure(Reason::Unreachable, operation))?;
        match metadata.key_state {
            Some(KeyState::Enabled | KeyState::Updating) => {}
            Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
                return Err(failure(Reason::PendingDeletion, operation));
            }
            Some(KeyState::Unavailable | KeyState::Creating) | None => {
                return Err(failure(Reason::Unreachable, operation));
            }
            Some(_) => return Err(failure(Reason::Disabled, operation)),
        }
        let algorithm = match (metadata.key_usage, metadata.key_spec) {
            (Some(KeyUsageType::EncryptDecrypt), Some(KeySpec::SymmetricDefault)) => Algorithm::Symmetric,
            (
                Some(KeyUsageType::EncryptDecrypt),
                Some(KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096),
            ) => Algorithm::RsaOaep256,
            _ => return Err(failure(Reason::WrongKeyType, operation)),
        };
        let description = Description {
            reference: self.resolved(metadata.arn.as_deref())?.to_string(),
            version: metadata.current_key_material_id.unwrap_or_else(|| NO_VERSION.to_owned()),
            algorithm: match algorithm {
                Algorithm::Symmetric => SYMMETRIC_DEFAULT.to_owned(),
                _ => "RSA-OAEP-256".to_owned(),
            },
        };
        let known = (algorithm, description);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known)
    }

    /// The key that an answer or a blob names, if it can be the one that this reference means.
    fn resolved(&self, arn: Option<&str>) -> Result<AwsKey> {
        let key: AwsKey = arn
            .and_then(|arn| arn.parse().ok())
            .ok_or_else(|| failure(Reason::BadCiphertext, Operation::Unwrap))?;
        let fits = match (&self.key.name, &key.name) {
            (AwsKeyName::Key(wanted), AwsKeyName::Key(found)) => wanted == found,
            // An alias points to a key of the same region and account, now this one and later another.
            (AwsKeyName::Alias(_), AwsKeyName::Key(_)) => true,
            _ => false,
        };
        if fits && key.same_place(&self.key) {
            Ok(key)
        } else {
            Err(failure(Reason::BadCiphertext, Operation::Unwrap))
        }
    }

    async fn encrypt(&self, key: &SecretKey, binding: &Binding) -> Result<Wrapped> {
        let operation = Operation::Wrap;
        let (algorithm, description) = self.known().await?;
        let request = self.client().await?.encrypt().key_id(self.key.to_string());
        let request = match algorithm {
            Algorithm::Symmetric => request
                .plaintext(Blob::new(key.expose(|bytes| bytes.to_vec())))
                .encryption_context(CONTEXT_CLUSTER, binding.logical_cluster.as_str())
                .encryption_context(CONTEXT_ACCOUNT, &binding.account),
            _ => request
                .plaintext(Blob::new(wrapped::payload(key, binding).to_vec()))
                .encryption_algorithm(EncryptionAlgorithmSpec::RsaesOaepSha256),
        };
        let answer = request.send().await.map_err(|error| self.explain(error, operation))?;
        let ciphertext = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        if ciphertext.is_empty() {
            // Some faults are answered 200 with nothing in it.
            return Err(failure(Reason::Unreachable, operation));
        }
        let reference = self.resolved(answer.key_id.as_deref())?.to_string();
        // An alias that was just moved: the version that was read belongs to the key before.
        let version =
            if reference == description.reference { description.version } else { NO_VERSION.to_owned() };
        Parts { kind: KIND, algorithm, reference: &reference, version: &version, ciphertext: &ciphertext }
            .to_wrapped()
    }

    async fn decrypt(&self, blob: &[u8], binding: &Binding) -> Result<SecretKey> {
        let operation = Operation::Unwrap;
        let parts = Parts::parse(blob, KIND)?;
        // Always named: without it KMS would use whatever key made the blob.
        let key = self.resolved(Some(parts.reference))?;
        let request = self
            .client()
            .await?
            .decrypt()
            .key_id(key.to_string())
            .ciphertext_blob(Blob::new(parts.ciphertext));
        let request = match parts.algorithm {
            Algorithm::Symmetric => request
                .encryption_context(CONTEXT_CLUSTER, binding.logical_cluster.as_str())
                .encryption_context(CONTEXT_ACCOUNT, &binding.account),
            Algorithm::RsaOaep256 => request.encryption_algorithm(EncryptionAlgorithmSpec::RsaesOaepSha256),
            _ => return Err(failure(Reason::BadCiphertext, operation)),
        };
        let answer = request.send().await.map_err(|error| self.explain(error, operation))?;
        let mut plain =
            answer.plaintext.map(Blob::into_inner).ok_or_else(|| failure(Reason::Unreachable, operation))?;
        let key = match parts.algorithm {
            Algorithm::Symmetric => wrapped::secret(&mut plain),
            _ => wrapped::open_payload(&mut plain, binding),
        };
        plain.zeroize();
        key
    }

    /// What an error of the SDK means. By code, not by the modelled enum: AccessDenied and its like are not modelled.
    fn explain<E, R>(&self, error: SdkError<E, R>, operation: Operation) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: HttpStatus,
    {
        let reason = match &error {
            SdkError::ServiceError(service) => {
                let metadata = service.err().meta();
                reason_of(metadata.code(), metadata.message(), error.http_status())
            }
            SdkError::TimeoutError(_) => Reason::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Reason::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_io() => Reason::Unreachable,
            SdkError::DispatchFailure(_) => return self.explain_credentials(error, operation),
            SdkError::ConstructionFailure(_) => Reason::Misconfigured,
            _ => Reason::Unreachable,
        };
        failure(reason, operation).with_source(&error)
    }

    /// No request went out: mostly because there were no credentials to sign it with.
    fn explain_credentials<E>(&self, error: E, operation: Operation) -> Error
    where
        E: StdError + Send + Sync + 'static,
    {
        let refused = chain(&error).find_map(|cause| cause.downcast_ref::<SdkError<AssumeRoleError>>());
        let explained = match (refused, &self.role) {
            (Some(SdkError::ServiceError(service)), Some((_, cluster))) => {
                let code = service.err().meta().code();
                match reason_of(code, None, Some(service.raw().status().as_u16())) {
                    Reason::AccessDenied => Error::new(
                        Reason::AccessDenied,
                        format!(
                            "the role in access.aws cannot be assumed: its trust policy must allow sts:AssumeRole to the provider's identity, with the condition sts:ExternalId = {cluster}"
                        ),
                    ),
                    reason @ (Reason::Throttled | Reason::Unreachable) => failure(reason, operation),
                    _ => failure(Reason::Misconfigured, operation),
                }
            }
            (Some(SdkError::TimeoutError(_)), _) => failure(Reason::Timeout, operation),
            (None, _) if has_no_credentials(&error) => failure(Reason::Misconfigured, operation),
            // A connection that was closed in the middle of an answer has no kind of its own.
            _ => failure(Reason::Unreachable, operation),
        };
        explained.with_source(&error)
    }
}

/// Whether no request went out because there is nothing to sign it with. What the network does to the provider of
/// credentials is not that.
fn has_no_credentials(error: &(dyn StdError + 'static)) -> bool {
    let network = chain(error).any(<dyn StdError>::is::<std::io::Error>);
    !network && chain(error).any(<dyn StdError>::is::<CredentialsError>)
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

fn failure(reason: Reason, operation: Operation) -> Error {
    Error::new(reason, messages::explain(KIND, reason, operation))
}

/// The status of the answer, if there was one.
trait HttpStatus {
    fn http_status(&self) -> Option<u16>;
}

impl<E> HttpStatus for SdkError<E, aws_sdk_kms::config::http::HttpResponse> {
    fn http_status(&self) -> Option<u16> {
        self.raw_response().map(|response| response.status().as_u16())
    }
}

/// Codes of KMS and STS, and the status for answers that carry none (proxies, IAM in front of the service).
fn reason_of(code: Option<&str>, message: Option<&str>, status: Option<u16>) -> Reason {
    match code {
        Some("NotFoundException") => Reason::NotFound,
        Some("AccessDeniedException" | "AccessDenied" | "OptInRequired") => Reason::AccessDenied,
        Some("DisabledException") => Reason::Disabled,
        // One code for several states. The text is AWS's own and is only searched for the state's name.
        Some("KMSInvalidStateException") => {
            let says =
                |state: &str| message.is_some_and(|message| message.to_ascii_lowercase().contains(state));
            if says("pending deletion") || says("pendingdeletion") {
                Reason::PendingDeletion
            } else {
                Reason::Disabled
            }
        }
        Some("InvalidKeyUsageException" | "UnsupportedOperationException") => Reason::WrongKeyType,
        Some("InvalidCiphertextException" | "IncorrectKeyException") => Reason::BadCiphertext,
        Some(
            "ThrottlingException"
            | "Throttling"
            | "LimitExceededException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException",
        ) => Reason::Throttled,
        Some(
            "KeyUnavailableException"
            | "KMSInternalException"
            | "DependencyTimeoutException"
            | "InternalFailure"
            | "InternalError"
            | "ServiceUnavailable",
        ) => Reason::Unreachable,
        Some(_) if status.is_some_and(|status| status < 500) => Reason::Misconfigured,
        _ => match status {
            Some(401 | 403) => Reason::AccessDenied,
            Some(429) => Reason::Throttled,
            _ => Reason::Unreachable,
        },
    }
}

impl RootKey for AwsRoot {
    fn kind(&self) -> StoreKind {
        KIND
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description>> {
        async { Ok(self.read().await?.1) }.boxed()
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey, binding: &'a Binding) -> BoxFuture<'a, Result<Wrapped>> {
        self.encrypt(key, binding).boxed()
    }

    fn unwrap<'a>(&'a self, wrapped: &'a [u8], binding: &'a Binding) -> BoxFuture<'a, Result<SecretKey>> {
        self.decrypt(wrapped, binding).boxed()
    }
}
