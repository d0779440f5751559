//! Google Cloud KMS through the official SDK. CRC32C in both directions is ours to set and to check.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{FutureExt as _, future::BoxFuture};
use google_cloud_auth::credentials::{
    Builder as AmbientBuilder, Credentials, anonymous, external_account, impersonated, service_account,
};
use google_cloud_gax::{
    error::rpc::{Code, StatusDetails},
    options::RequestOptionsBuilder as _,
    retry_policy::{Aip194Strict, RetryPolicyExt as _},
};
use google_cloud_kms_v1::{
    client::KeyManagementService,
    model::{
        CryptoKeyVersion,
        crypto_key::CryptoKeyPurpose,
        crypto_key_version::{CryptoKeyVersionAlgorithm as VersionAlgorithm, CryptoKeyVersionState},
    },
};
use openkcm_secret::SecretKey;
use tokio::sync::OnceCell;
use zeroize::Zeroize as _;

use crate::{
    Binding, Description, Error, Operation, Reason, Result, RootKey, StoreKind, Wrapped,
    config::{GcpConfig, GcpCredentials},
    messages,
    reference::{GcpKey, ServiceAccount},
    wrapped::{self, Algorithm, Parts},
};

const KIND: StoreKind = StoreKind::GcpKms;
/// Clients kept, one for each identity. Beyond it all are made anew.
const CLIENTS: usize = 1024;

type Client = Arc<OnceCell<KeyManagementService>>;

/// Makes and keeps clients.
pub(crate) struct GcpStore {
    credentials: GcpCredentials,
    endpoint: Option<String>,
    clients: Mutex<HashMap<Option<ServiceAccount>, Client>>,
}

impl GcpStore {
    /// `None` if the operator configured no credentials.
    pub(crate) fn new(config: &GcpConfig) -> Result<Option<Self>> {
        let Some(credentials) = config.credentials.clone() else { return Ok(None) };
        if matches!(credentials, GcpCredentials::Anonymous) && config.endpoint.is_none() {
            return Err(Error::misconfigured(
                "gcp: anonymous credentials are for tests and need gcp.endpoint",
            ));
        }
        Ok(Some(Self { credentials, endpoint: config.endpoint.clone(), clients: Mutex::default() }))
    }

    /// A root key, used with the provider's own identity or as a service account that it may impersonate.
    pub(crate) fn open(self: &Arc<Self>, key: GcpKey, account: Option<ServiceAccount>) -> GcpRoot {
        let client = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            if clients.len() >= CLIENTS {
                clients.clear();
            }
            Arc::clone(clients.entry(account.clone()).or_default())
        };
        GcpRoot { store: Arc::clone(self), key, account, client, known: Mutex::default() }
    }

    async fn connect(&self, account: Option<&ServiceAccount>) -> Result<KeyManagementService> {
        let mut credentials = self.own_credentials().await?;
        if let Some(account) = account {
            credentials = impersonated::Builder::from_source_credentials(credentials)
                .with_target_principal(account.as_str())
                .build()
                .map_err(misconfigured)?;
        }
        let mut builder = KeyManagementService::builder()
            .with_credentials(credentials)
            // The guard and the re-probe do the patient part. Encryption may be repeated: a second ciphertext does no harm.
            .with_retry_policy(Aip194Strict.with_attempt_limit(2).with_time_limit(Duration::from_secs(3)));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder.build().await.map_err(misconfigured)
    }

    async fn own_credentials(&self) -> Result<Credentials> {
        match &self.credentials {
            GcpCredentials::Anonymous => Ok(anonymous::Builder::new().build()),
            GcpCredentials::Ambient => AmbientBuilder::default().build().map_err(misconfigured),
            GcpCredentials::File { path } => {
                let text = tokio::fs::read(path).await.map_err(misconfigured)?;
                let json: serde_json::Value = serde_json::from_slice(&text).map_err(misconfigured)?;
                if json["type"] == "external_account" {
                    external_account::Builder::new(json).build().map_err(misconfigured)
                } else {
                    service_account::Builder::new(json).build().map_err(misconfigured)
                }
            }
        }
    }
}

fn misconfigured(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    failure(Reason::Misconfigured, Operation::Describe).with_source(&error)
}

/// One key in Google Cloud KMS.
pub(crate) struct GcpRoot {
    store: Arc<GcpStore>,
    key: GcpKey,
    account: Option<ServiceAccount>,
    client: Client,
    known: Mutex<Option<Algorithm>>,
}

impl GcpRoot {
    async fn client(&self) -> Result<&KeyManagementService> {
        self.client.get_or_try_init(|| self.store.connect(self.account.as_ref())).await
    }

    /// What the last describe found, or a new one.
    async fn known(&self) -> Result<Algorithm> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(algorithm) => Ok(algorithm),
            None => Ok(self.read().await?.0),
        }
    }

    async fn read(&self) -> Result<(Algorithm, Description)> {
        let operation = Operation::Describe;
        let client = self.client().await?;
        let key = client
            .get_crypto_key()
            .set_name(self.key.key_name())
            .send()
            .await
            .map_err(|error| self.explain(&error, operation))?;
        let algorithm = match key.purpose {
            CryptoKeyPurpose::EncryptDecrypt => Algorithm::Symmetric,
            CryptoKeyPurpose::AsymmetricDecrypt => Algorithm::RsaOaep256,
            _ => return Err(failure(Reason::WrongKeyType, operation)),
        };
        let version = match self.key.version {
            Some(_) => client
                .get_crypto_key_version()
                .set_name(self.key.to_string())
                .send()
                .await
                .map_err(|error| self.explain(&error, operation))?,
            // Asymmetric keys have no primary version.
            None if algorithm == Algorithm::RsaOaep256 => {
                return Err(failure(Reason::WrongKeyType, operation));
            }
            None => key.primary.ok_or_else(|| failure(Reason::Disabled, operation))?,
        };
        check_version(&version, algorithm)?;
        let number = self.version_of(&version.name)?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(algorithm);
        let description = Description {
            reference: self.key.key_name(),
            version: number,
            algorithm: match algorithm {
                Algorithm::Symmetric => "GOOGLE_SYMMETRIC_ENCRYPTION".to_owned(),
                _ => "RSA-OAEP-256".to_owned(),
            },
        };
        Ok((algorithm, description))
    }

    /// The number of the version that an answer names, if it is one of this key.
    fn version_of(&self, name: &str) -> Result<String> {
        name.parse()
            .ok()
            .filter(|found: &GcpKey| found.same_key(&self.key))
            .and_then(|found| found.version)
            .map(|version| version.to_string())
            .ok_or_else(|| failure(Reason::Unreachable, Operation::Wrap))
    }

    async fn encrypt(&self, key: &SecretKey, binding: &Binding) -> Result<Wrapped> {
        let algorithm = self.known().await?;
        let (version, ciphertext) = match algorithm {
            Algorithm::Symmetric => self.encrypt_symmetric(key, binding).await?,
            _ => self.encrypt_to_public_key(key, binding).await?,
        };
        let reference = self.key.key_name();
        Parts { kind: KIND, algorithm, reference: &reference, version: &version, ciphertext: &ciphertext }
            .to_wrapped()
    }

    async fn encrypt_symmetric(&self, key: &SecretKey, binding: &Binding) -> Result<(String, Vec<u8>)> {
        let operation = Operation::Wrap;
        let (plaintext, aad) = (key.expose(|bytes| bytes.to_vec()), wrapped::aad(binding));
        let answer = self
            .client()
            .await?
            .encrypt()
            .set_name(self.key.to_string())
            .set_plaintext_crc32c(sum(&plaintext))
            .set_plaintext(plaintext)
            .set_additional_authenticated_data_crc32c(sum(&aad))
            .set_additional_authenticated_data(aad)
            .with_idempotency(true)
            .send()
            .await
            .map_err(|error| self.explain(&error, operation))?;
        let arrived =
            answer.verified_plaintext_crc32c && answer.verified_additional_authenticated_data_crc32c;
        if !arrived || answer.ciphertext_crc32c != Some(sum(&answer.ciphertext)) {
            return Err(failure(Reason::Unreachable, operation));
        }
        Ok((self.version_of(&answer.name)?, answer.ciphertext.to_vec()))
    }

    /// Google has no call that encrypts to an asymmetric key: the public key is fetched and used here.
    async fn encrypt_to_public_key(&self, key: &SecretKey, binding: &Binding) -> Result<(String, Vec<u8>)> {
        let operation = Operation::Wrap;
        let damaged = || failure(Reason::Unreachable, operation);
        let answer = self
            .client()
            .await?
            .get_public_key()
            .set_name(self.key.to_string())
            .send()
            .await
            .map_err(|error| self.explain(&error, operation))?;
        if answer.pem_crc32c != Some(sum(answer.pem.as_bytes())) {
            return Err(damaged());
        }
        let body: String = answer.pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body).map_err(|_| damaged())?;
        let public = PublicEncryptingKey::from_der(&der).map_err(|_| damaged())?;
        let public = OaepPublicEncryptingKey::new(public).map_err(|_| damaged())?;
        let mut ciphertext = vec![0; public.ciphertext_size()];
        let payload = wrapped::payload(key, binding);
        let length = public
            .encrypt(&OAEP_SHA256_MGF1SHA256, &payload, &mut ciphertext, None)
            .map_err(|_| failure(Reason::WrongKeyType, operation))?
            .len();
        ciphertext.truncate(length);
        Ok((self.version_of(&answer.name)?, ciphertext))
    }

    async fn decrypt(&self, blob: &[u8], binding: &Binding) -> Result<SecretKey> {
        let operation = Operation::Unwrap;
        let parts = Parts::parse(blob, KIND)?;
        let foreign = || failure(Reason::BadCiphertext, operation);
        let key: GcpKey = parts.reference.parse().map_err(|_| foreign())?;
        if key != (GcpKey { version: None, ..self.key.clone() }) {
            return Err(foreign());
        }
        let client = self.client().await?;
        let (mut plain, plain_sum) = match parts.algorithm {
            Algorithm::Symmetric => {
                let aad = wrapped::aad(binding);
                let answer = client
                    .decrypt()
                    .set_name(key.to_string())
                    .set_ciphertext(parts.ciphertext.to_vec())
                    .set_ciphertext_crc32c(sum(parts.ciphertext))
                    .set_additional_authenticated_data_crc32c(sum(&aad))
                    .set_additional_authenticated_data(aad)
                    .with_idempotency(true)
                    .send()
                    .await
                    .map_err(|error| self.explain(&error, operation))?;
                (answer.plaintext.to_vec(), answer.plaintext_crc32c)
            }
            Algorithm::RsaOaep256 => {
                let version = parts.version.parse().map_err(|_| foreign())?;
                let answer = client
                    .asymmetric_decrypt()
                    .set_name(GcpKey { version: Some(version), ..key }.to_string())
                    .set_ciphertext(parts.ciphertext.to_vec())
                    .set_ciphertext_crc32c(sum(parts.ciphertext))
                    .with_idempotency(true)
                    .send()
                    .await
                    .map_err(|error| self.explain(&error, operation))?;
                if !answer.verified_ciphertext_crc32c {
                    return Err(failure(Reason::Unreachable, operation));
                }
                (answer.plaintext.to_vec(), answer.plaintext_crc32c)
            }
            _ => return Err(foreign()),
        };
        if plain_sum != Some(sum(&plain)) {
            plain.zeroize();
            return Err(failure(Reason::Unreachable, operation));
        }
        let key = match parts.algorithm {
            Algorithm::Symmetric => wrapped::secret(&mut plain),
            _ => wrapped::open_payload(&mut plain, binding),
        };
        plain.zeroize();
        key
    }

    fn explain(&self, error: &google_cloud_kms_v1::Error, operation: Operation) -> Error {
        let explained = match &self.account {
            Some(_) if error.is_authentication() => Error::new(
                Reason::AccessDenied,
                "the service account in access.gcp cannot be used: grant roles/iam.serviceAccountTokenCreator on it to the provider's identity",
            ),
            _ => failure(reason_of(error, operation), operation),
        };
        explained.with_source(error)
    }
}

fn check_version(version: &CryptoKeyVersion, algorithm: Algorithm) -> Result<()> {
    let reason = match version.state {
        CryptoKeyVersionState::Enabled => None,
        CryptoKeyVersionState::Destroyed | CryptoKeyVersionState::DestroyScheduled => {
            Some(Reason::PendingDeletion)
        }
        _ => Some(Reason::Disabled),
    };
    let fits = match version.algorithm {
        VersionAlgorithm::RsaDecryptOaep2048Sha256
        | VersionAlgorithm::RsaDecryptOaep3072Sha256
        | VersionAlgorithm::RsaDecryptOaep4096Sha256 => algorithm == Algorithm::RsaOaep256,
        _ => algorithm == Algorithm::Symmetric,
    };
    match reason.or((!fits).then_some(Reason::WrongKeyType)) {
        None => Ok(()),
        Some(reason) => Err(failure(reason, Operation::Describe)),
    }
}

/// CRC32C as the service wants it.
fn sum(bytes: &[u8]) -> i64 {
    i64::from(crc32c::crc32c(bytes))
}

fn failure(reason: Reason, operation: Operation) -> Error {
    Error::new(reason, messages::explain(KIND, reason, operation))
}

fn reason_of(error: &google_cloud_kms_v1::Error, operation: Operation) -> Reason {
    if let Some(status) = error.status() {
        return of_status(status.code, &status.message, &status.details, operation);
    }
    match error.http_status_code() {
        Some(401) => Reason::Misconfigured,
        Some(403) => Reason::AccessDenied,
        Some(404) => Reason::NotFound,
        Some(429) => Reason::Throttled,
        _ if error.is_timeout() => Reason::Timeout,
        _ if error.is_authentication() || error.is_binding() => Reason::Misconfigured,
        _ => Reason::Unreachable,
    }
}

fn of_status(code: Code, message: &str, details: &[StatusDetails], operation: Operation) -> Reason {
    let off = details.iter().any(|detail| {
        matches!(detail, StatusDetails::ErrorInfo(info) if matches!(info.reason.as_str(), "SERVICE_DISABLED" | "BILLING_DISABLED"))
    });
    match code {
        Code::PermissionDenied | Code::FailedPrecondition if off => Reason::Misconfigured,
        Code::NotFound => Reason::NotFound,
        Code::PermissionDenied => Reason::AccessDenied,
        // Several states share the code. Type and text are Google's own and are only searched for the state's name.
        Code::FailedPrecondition => {
            let destroyed = details.iter().any(|detail| {
                matches!(detail, StatusDetails::PreconditionFailure(failure)
                    if failure.violations.iter().any(|violation| violation.r#type.contains("DESTROY")))
            });
            if destroyed || message.contains("DESTROY") { Reason::PendingDeletion } else { Reason::Disabled }
        }
        Code::InvalidArgument if operation == Operation::Unwrap => Reason::BadCiphertext,
        Code::InvalidArgument if operation == Operation::Wrap => Reason::WrongKeyType,
        Code::ResourceExhausted => Reason::Throttled,
        Code::DeadlineExceeded => Reason::Timeout,
        Code::InvalidArgument | Code::Unauthenticated | Code::Unimplemented | Code::OutOfRange => {
            Reason::Misconfigured
        }
        _ => Reason::Unreachable,
    }
}

impl RootKey for GcpRoot {
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
