//! Azure Key Vault and Managed HSM through the official SDK, over a transport of our own: no redirects, names resolved to allowed
//! addresses only, no retries beside our own.

use std::{
    collections::HashMap,
    error::Error as StdError,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_core::{
    cloud::CloudConfiguration,
    credentials::{Secret, TokenCredential},
    error::ErrorKind,
    http::{ClientOptions, RetryOptions, Transport},
    time::OffsetDateTime,
};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use azure_security_keyvault_keys::{
    KeyClient, KeyClientOptions,
    models::{
        EncryptionAlgorithm, Key, KeyClientGetKeyOptions, KeyClientWrapKeyOptions, KeyOperationParameters,
        KeyType,
    },
};
use futures::{FutureExt as _, future::BoxFuture};
use openkcm_secret::SecretKey;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Binding, Description, Error, Operation, Reason, Result, RootKey, StoreKind, Wrapped,
    config::{AzureConfig, AzureCredentials, secret_file},
    messages,
    net::{Forbidden, PublicOnly},
    reference::{AzureKey, Cloud, VaultKind},
    wrapped::{self, Algorithm, Parts},
};

const KIND: StoreKind = StoreKind::AzureKeyVault;
/// Clients kept, one for each vault and identity. Beyond it all are made anew.
const CLIENTS: usize = 1024;
/// RSA keys below 2048 bits are refused.
const SMALLEST_MODULUS: usize = 256;

/// Whose permissions to use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// The provider's own.
    Own,
    /// An application that trusts the token in this file.
    Federated { tenant_id: String, client_id: String, token_file: PathBuf },
}

/// Makes and keeps clients.
pub(crate) struct AzureStore {
    credentials: Option<AzureCredentials>,
    secret: Option<Zeroizing<String>>,
    http: reqwest::Client,
    clients: Mutex<HashMap<(String, Identity), Arc<KeyClient>>>,
}

impl AzureStore {
    pub(crate) fn new(config: &AzureConfig) -> Result<Self> {
        let secret = match &config.credentials {
            Some(AzureCredentials::ClientSecret { secret_file: path, .. }) => Some(secret_file(path)?),
            _ => None,
        };
        let broken = |error: reqwest::Error| {
            Error::misconfigured("azure: the HTTP client cannot be made").with_source(&error)
        };
        let mut http = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .dns_resolver(PublicOnly::new(config.private_hosts.iter().cloned()));
        for (host, address) in &config.resolve {
            http = http.resolve(host, *address);
        }
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|source| {
                Error::misconfigured(format!("cannot read azure.caFile {}", path.display()))
                    .with_source(&source)
            })?;
            http = http.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem).map_err(broken)?);
        }
        Ok(Self {
            credentials: config.credentials.clone(),
            secret,
            http: http.build().map_err(broken)?,
            clients: Mutex::default(),
        })
    }

    /// Whether the operator configured an identity of the provider.
    pub(crate) fn has_own_identity(&self) -> bool {
        self.credentials.is_some()
    }

    pub(crate) fn open(&self, key: AzureKey, identity: Identity) -> Result<AzureRoot> {
        let client = self.client(&key, identity)?;
        Ok(AzureRoot { key, client, known: Mutex::default() })
    }

    fn client(&self, key: &AzureKey, identity: Identity) -> Result<Arc<KeyClient>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        let place = (key.host(), identity);
        if let Some(client) = clients.get(&place) {
            return Ok(Arc::clone(client));
        }
        let broken = |error: azure_core::Error| {
            failure(Reason::Misconfigured, Operation::Describe).with_source(&error)
        };
        let credential = self.credential(key.cloud, &place.1).map_err(broken)?;
        let options =
            KeyClientOptions { client_options: self.options(key.cloud), ..KeyClientOptions::default() };
        let client = Arc::new(KeyClient::new(&key.vault_url(), credential, Some(options)).map_err(broken)?);
        clients.insert(place, Arc::clone(&client));
        Ok(client)
    }

    fn options(&self, cloud: Cloud) -> ClientOptions {
        let cloud = match cloud {
            Cloud::Public => CloudConfiguration::AzurePublic,
            Cloud::China => CloudConfiguration::AzureChina,
            Cloud::UsGov => CloudConfiguration::AzureGovernment,
        };
        ClientOptions {
            transport: Some(Transport::new(Arc::new(self.http.clone()))),
            retry: RetryOptions::none(),
            cloud: Some(Arc::new(cloud)),
            ..ClientOptions::default()
        }
    }

    fn credential(&self, cloud: Cloud, identity: &Identity) -> azure_core::Result<Arc<dyn TokenCredential>> {
        let federated = |tenant_id: &str, client_id: &str, token_file: &PathBuf| {
            let options = WorkloadIdentityCredentialOptions {
                tenant_id: Some(tenant_id.to_owned()),
                client_id: Some(client_id.to_owned()),
                token_file_path: Some(token_file.clone()),
                credential_options: ClientAssertionCredentialOptions { client_options: self.options(cloud) },
            };
            WorkloadIdentityCredential::new(Some(options)).map(|made| made as Arc<dyn TokenCredential>)
        };
        match (identity, &self.credentials) {
            (Identity::Federated { tenant_id, client_id, token_file }, _)
            | (Identity::Own, Some(AzureCredentials::Assertion { tenant_id, client_id, token_file })) => {
                federated(tenant_id, client_id, token_file)
            }
            (Identity::Own, Some(AzureCredentials::ClientSecret { tenant_id, client_id, .. })) => {
                let secret = self.secret.as_ref().map_or("", |secret| secret.as_str());
                let options = ClientSecretCredentialOptions { client_options: self.options(cloud) };
                Ok(ClientSecretCredential::new(
                    tenant_id,
                    client_id.clone(),
                    Secret::new(secret.to_owned()),
                    Some(options),
                )?)
            }
            // The SDK's own transport: the endpoint is the platform's and no tenant names it.
            (Identity::Own, Some(AzureCredentials::ManagedIdentity)) => {
                Ok(ManagedIdentityCredential::new(None)?)
            }
            (Identity::Own, None) => {
                Err(azure_core::Error::with_message(ErrorKind::Credential, "no credentials are configured"))
            }
        }
    }
}

/// One key in a vault.
pub(crate) struct AzureRoot {
    key: AzureKey,
    client: Arc<KeyClient>,
    known: Mutex<Option<(Algorithm, Description)>>,
}

impl AzureRoot {
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
        let options = KeyClientGetKeyOptions {
            key_version: self.key.version.clone(),
            ..KeyClientGetKeyOptions::default()
        };
        let answer = match self.client.get_key(&self.key.name, Some(options)).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = explain(&error, operation);
                // A deleted key is not found where it was, and shows among the deleted ones while it can be recovered.
                let deleted = error.reason == Reason::NotFound
                    && self.client.get_deleted_key(&self.key.name, None).await.is_ok();
                return Err(if deleted { failure(Reason::PendingDeletion, operation) } else { error });
            }
        };
        let key = answer.into_model().map_err(|error| explain(&error, operation))?;
        check_validity(&key)?;
        let algorithm = self.algorithm(&key)?;
        let kid = self.resolved(key.key.and_then(|key| key.kid).as_deref())?;
        let description = Description {
            reference: AzureKey { version: None, ..kid.clone() }.to_string(),
            version: kid.version.unwrap_or_default(),
            algorithm: if algorithm == Algorithm::AesKw { "A256KW" } else { "RSA-OAEP-256" }.to_owned(),
        };
        let known = (algorithm, description);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known)
    }

    fn algorithm(&self, key: &Key) -> Result<Algorithm> {
        let wrong = || failure(Reason::WrongKeyType, Operation::Describe);
        let jwk = key.key.as_ref().ok_or_else(|| failure(Reason::Unreachable, Operation::Describe))?;
        let may = |wanted: &str| jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == wanted));
        if !may("wrapKey") || !may("unwrapKey") {
            return Err(wrong());
        }
        match &jwk.kty {
            Some(KeyType::Rsa | KeyType::RsaHsm)
                if jwk.n.as_ref().is_some_and(|n| n.len() >= SMALLEST_MODULUS) =>
            {
                Ok(Algorithm::RsaOaep256)
            }
            Some(KeyType::OctHsm) if self.key.kind == VaultKind::ManagedHsm => Ok(Algorithm::AesKw),
            _ => Err(wrong()),
        }
    }

    /// The key and version that an answer names, if it can be the one that was asked for.
    fn resolved(&self, kid: Option<&str>) -> Result<AzureKey> {
        kid.and_then(|kid| kid.parse().ok())
            .filter(|kid: &AzureKey| kid.same_key(&self.key) && kid.version.is_some())
            .ok_or_else(|| failure(Reason::Unreachable, Operation::Wrap))
    }

    async fn wrap_payload(&self, key: &SecretKey, binding: &Binding) -> Result<Wrapped> {
        let operation = Operation::Wrap;
        let (algorithm, _) = self.known().await?;
        let parameters = KeyOperationParameters {
            algorithm: Some(sdk_algorithm(algorithm)?),
            value: Some(wrapped::payload(key, binding).to_vec()),
            ..KeyOperationParameters::default()
        };
        let options = KeyClientWrapKeyOptions {
            key_version: self.key.version.clone(),
            ..KeyClientWrapKeyOptions::default()
        };
        let body = parameters.try_into().map_err(|error| explain(&error, operation))?;
        let answer = self
            .client
            .wrap_key(&self.key.name, body, Some(options))
            .await
            .and_then(azure_core::http::Response::into_model)
            .map_err(|error| explain(&error, operation))?;
        let kid = self.resolved(answer.kid.as_deref())?;
        let version = kid.version.clone().unwrap_or_default();
        let reference = AzureKey { version: None, ..kid }.to_string();
        let ciphertext = answer.result.unwrap_or_default();
        Parts { kind: KIND, algorithm, reference: &reference, version: &version, ciphertext: &ciphertext }
            .to_wrapped()
    }

    async fn unwrap_payload(&self, blob: &[u8], binding: &Binding) -> Result<SecretKey> {
        let operation = Operation::Unwrap;
        let parts = Parts::parse(blob, KIND)?;
        let foreign = || failure(Reason::BadCiphertext, operation);
        let key: AzureKey = parts.reference.parse().map_err(|_| foreign())?;
        // The version becomes part of a path: only its own form passes.
        let key: AzureKey = key.at_version(parts.version).to_string().parse().map_err(|_| foreign())?;
        let version = key.version.as_deref().filter(|_| key.same_key(&self.key)).ok_or_else(foreign)?;
        let parameters = KeyOperationParameters {
            algorithm: Some(sdk_algorithm(parts.algorithm)?),
            value: Some(parts.ciphertext.to_vec()),
            ..KeyOperationParameters::default()
        };
        let body = parameters.try_into().map_err(|error| explain(&error, operation))?;
        let answer = self
            .client
            .unwrap_key(&key.name, version, body, None)
            .await
            .and_then(azure_core::http::Response::into_model)
            .map_err(|error| explain(&error, operation))?;
        let mut payload = answer.result.ok_or_else(|| failure(Reason::Unreachable, operation))?;
        let key = wrapped::open_payload(&mut payload, binding);
        payload.zeroize();
        key
    }
}

fn sdk_algorithm(algorithm: Algorithm) -> Result<EncryptionAlgorithm> {
    match algorithm {
        Algorithm::RsaOaep256 => Ok(EncryptionAlgorithm::RsaOaep256),
        Algorithm::AesKw => Ok(EncryptionAlgorithm::A256Kw),
        _ => Err(failure(Reason::BadCiphertext, Operation::Unwrap)),
    }
}

/// The service wraps with a disabled key all the same, so this is the only place where it shows.
fn check_validity(key: &Key) -> Result<()> {
    let Some(attributes) = &key.attributes else {
        return Err(failure(Reason::Unreachable, Operation::Describe));
    };
    let now = OffsetDateTime::now_utc();
    let usable = attributes.enabled != Some(false)
        && attributes.not_before.is_none_or(|from| from <= now)
        && attributes.expires.is_none_or(|until| now < until);
    if usable { Ok(()) } else { Err(failure(Reason::Disabled, Operation::Describe)) }
}

fn failure(reason: Reason, operation: Operation) -> Error {
    Error::new(reason, messages::explain(KIND, reason, operation))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

fn explain(error: &azure_core::Error, operation: Operation) -> Error {
    let (reason, retry_after) = reason_of(error, operation);
    let explained = failure(reason, operation).with_source(error);
    match retry_after {
        Some(after) => explained.with_retry_after(after),
        None => explained,
    }
}

fn reason_of(error: &azure_core::Error, operation: Operation) -> (Reason, Option<Duration>) {
    match error.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => {
            // The SDK's own reading of the code gives up on a message with an escape in it, and refusals have one.
            let body = raw_response
                .as_ref()
                .and_then(|raw| serde_json::from_slice::<serde_json::Value>(raw.body().as_ref()).ok());
            let code = |path: &str| body.as_ref().and_then(|body| body.pointer(path)?.as_str());
            let after = raw_response
                .as_ref()
                .and_then(|raw| raw.headers().get_optional_str(&"retry-after".into())?.parse().ok())
                .map(Duration::from_secs);
            (
                of_status(u16::from(*status), code("/error/code"), code("/error/innererror/code"), operation),
                after,
            )
        }
        ErrorKind::Credential => {
            let unreachable = chain(error)
                .filter_map(|cause| cause.downcast_ref::<azure_core::Error>())
                .any(|cause| matches!(cause.kind(), ErrorKind::Connection | ErrorKind::Io));
            (if unreachable { Reason::Unreachable } else { Reason::Misconfigured }, None)
        }
        ErrorKind::Connection | ErrorKind::Io => {
            // A vault's name that leads to a private address is nothing that a retry mends.
            let forbidden = chain(error).any(<dyn StdError>::is::<Forbidden>);
            (if forbidden { Reason::NotFound } else { Reason::Unreachable }, None)
        }
        _ => (Reason::Unreachable, None),
    }
}

fn of_status(status: u16, code: Option<&str>, inner: Option<&str>, operation: Operation) -> Reason {
    match (status, code, inner) {
        (403, _, Some("KeyDisabled" | "KeyExpired" | "KeyNotYetValid")) => Reason::Disabled,
        (403, ..) => Reason::AccessDenied,
        (404, ..) => Reason::NotFound,
        (409, _, Some("ObjectIsBeingDeleted" | "ObjectIsDeletedButRecoverable")) => Reason::PendingDeletion,
        (429, ..) => Reason::Throttled,
        (400, ..) if operation == Operation::Unwrap => Reason::BadCiphertext,
        (400, ..) if operation == Operation::Wrap => Reason::WrongKeyType,
        (400..500, ..) => Reason::Misconfigured,
        _ => Reason::Unreachable,
    }
}

impl RootKey for AzureRoot {
    fn kind(&self) -> StoreKind {
        KIND
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description>> {
        async { Ok(self.read().await?.1) }.boxed()
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey, binding: &'a Binding) -> BoxFuture<'a, Result<Wrapped>> {
        self.wrap_payload(key, binding).boxed()
    }

    fn unwrap<'a>(&'a self, wrapped: &'a [u8], binding: &'a Binding) -> BoxFuture<'a, Result<SecretKey>> {
        self.unwrap_payload(wrapped, binding).boxed()
    }
}
