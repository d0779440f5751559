//! From what a tenant wrote to a root key that it may use.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use kcp_client_rs::LogicalCluster;
use openkcm_apis::AccountSpec;
use openkcm_secret::SecretKey;

use crate::{
    Binding, CloudCalls, Config, Description, Error, Operation, OwnerCalls, Reason, Result, RootKey,
    StoreKind, Wrapped,
    aws::AwsStore,
    azure::{AzureStore, Identity},
    config::{Grant, matches},
    gcp::GcpStore,
    guard::Guard,
    pkcs11::Pkcs11Store,
    reference::{AwsKey, AwsRole, AzureKey, GcpKey, Pkcs11Key, Reference, ServiceAccount, is_uuid},
};

/// Stands for the logical cluster in `azure.assertionFile`.
const WORKSPACE: &str = "{logicalCluster}";

/// All key stores, under the operator's configuration. Made once; cheap to share in an `Arc`.
pub struct KeyStores {
    calls: Arc<CloudCalls>,
    guard: Arc<Guard>,
    grants: Vec<Grant>,
    own_aws_accounts: Vec<String>,
    aws: Option<Arc<AwsStore>>,
    azure: AzureStore,
    azure_assertion_file: Option<String>,
    gcp: Option<Arc<GcpStore>>,
    pkcs11: Pkcs11Store,
}

/// The workspace that asks.
struct Asker<'a> {
    cluster: &'a LogicalCluster,
    path: &'a str,
    grants: &'a [Grant],
}

impl Asker<'_> {
    /// Whether the operator lets this workspace use one of these spellings of a reference with the provider's own credentials.
    fn may_use(&self, spellings: &[String]) -> bool {
        self.granted(|grant| &grant.references, spellings)
    }

    /// Whether the operator lets this workspace name this identity.
    fn may_be(&self, identity: &str) -> bool {
        self.granted(|grant| &grant.identities, &[identity.to_owned()])
    }

    fn granted(&self, patterns: impl Fn(&Grant) -> &Vec<String>, texts: &[String]) -> bool {
        self.grants.iter().filter(|grant| grant.covers(self.cluster, self.path)).any(|grant| {
            patterns(grant).iter().any(|pattern| texts.iter().any(|text| matches(pattern, text)))
        })
    }
}

fn not_granted(fix: &str) -> Error {
    Error::new(
        Reason::AccessDenied,
        format!("the platform operator has not granted this key to this workspace: ask for a grant{fix}"),
    )
}

fn not_configured(kind: StoreKind) -> Error {
    Error::misconfigured(format!("the platform operator has not configured access to {kind}"))
}

impl KeyStores {
    /// Checks the configuration and reads the files it names. Makes no network call.
    pub fn from_config(config: Config) -> Result<Self> {
        let calls = Arc::<CloudCalls>::default();
        Ok(Self {
            guard: Arc::new(Guard::new(config.limits, Arc::clone(&calls))),
            calls,
            aws: AwsStore::new(&config.aws)?.map(Arc::new),
            azure: AzureStore::new(&config.azure)?,
            azure_assertion_file: config.azure.assertion_file,
            gcp: GcpStore::new(&config.gcp)?.map(Arc::new),
            pkcs11: Pkcs11Store::new(&config.pkcs11)?,
            own_aws_accounts: config.aws.own_accounts,
            grants: config.grants,
        })
    }

    /// Opens the root key that an Account of this workspace names. Makes no network call: what is wrong with the text or not allowed is
    /// said at once, everything else by the calls on the result.
    ///
    /// `path` is the workspace's path at this moment, for grants by path; empty if unknown. The result remembers what a describe found: one
    /// that is kept saves the describe before a first wrap.
    pub fn open(&self, cluster: &LogicalCluster, path: &str, spec: &AccountSpec) -> Result<Arc<dyn RootKey>> {
        self.open_for(cluster, path, spec, Arc::default())
    }

    /// [`Self::open`], counting every call that is made.
    pub fn open_for(
        &self,
        cluster: &LogicalCluster,
        path: &str,
        spec: &AccountSpec,
        owner: Arc<OwnerCalls>,
    ) -> Result<Arc<dyn RootKey>> {
        let kind = StoreKind::from(spec.provider_type);
        let reference = Reference::parse(kind, &spec.key_reference)
            .map_err(|error| Error::misconfigured(format!("keyReference: {error}")))?;
        let asker = Asker { cluster, path, grants: &self.grants };
        let (place, root): (String, Arc<dyn RootKey>) = match reference {
            Reference::Aws(key) => self.open_aws(&asker, key, spec)?,
            Reference::Azure(key) => self.open_azure(&asker, key, spec)?,
            Reference::Gcp(key) => self.open_gcp(&asker, key, spec)?,
            Reference::Pkcs11(key) => self.open_pkcs11(&asker, key)?,
        };
        Ok(Arc::new(GuardedRoot {
            root,
            place: place.into(),
            workspace: cluster.clone(),
            guard: Arc::clone(&self.guard),
            owner,
        }))
    }

    fn open_aws(
        &self,
        asker: &Asker<'_>,
        key: AwsKey,
        spec: &AccountSpec,
    ) -> Result<(String, Arc<dyn RootKey>)> {
        let store = self.aws.as_ref().ok_or_else(|| not_configured(StoreKind::AwsKms))?;
        let role = spec.access.as_ref().and_then(|access| access.aws.as_ref());
        let place = format!("aws/{}/{}", key.region, key.account);
        let Some(access) = role else {
            return if asker.may_use(&[key.to_string()]) {
                Ok((place, Arc::new(store.open(key, None))))
            } else {
                Err(not_granted(", or give a role in access.aws"))
            };
        };
        let role: AwsRole = access
            .role_arn
            .parse()
            .map_err(|error| Error::misconfigured(format!("access.aws.roleArn: {error}")))?;
        if role.partition != key.partition {
            return Err(Error::misconfigured(
                "the role in access.aws is in another AWS partition than the key",
            ));
        }
        if self.own_aws_accounts.contains(&role.account) && !asker.may_be(&access.role_arn) {
            return Err(not_granted(", or use a role in an account of your own"));
        }
        let place = format!("{place}/{role}/{}", asker.cluster);
        Ok((place, Arc::new(store.open(key, Some((role, asker.cluster.clone()))))))
    }

    fn open_azure(
        &self,
        asker: &Asker<'_>,
        key: AzureKey,
        spec: &AccountSpec,
    ) -> Result<(String, Arc<dyn RootKey>)> {
        let place = format!("azure/{}", key.host());
        let Some(access) = spec.access.as_ref().and_then(|access| access.azure.as_ref()) else {
            if !self.azure.has_own_identity() {
                return Err(not_configured(StoreKind::AzureKeyVault));
            }
            let spellings = [key.to_string(), AzureKey { version: None, ..key.clone() }.to_string()];
            return if asker.may_use(&spellings) {
                Ok((place, Arc::new(self.azure.open(key, Identity::Own)?)))
            } else {
                Err(not_granted(", or give an application in access.azure"))
            };
        };
        let template =
            self.azure_assertion_file.as_ref().ok_or_else(|| not_configured(StoreKind::AzureKeyVault))?;
        for (id, field) in [(&access.tenant_id, "tenantId"), (&access.client_id, "clientId")] {
            if !is_uuid(id) {
                return Err(Error::misconfigured(format!("access.azure.{field} is not a UUID")));
            }
        }
        let identity = format!("{}/{}", access.tenant_id, access.client_id);
        // With one token for all workspaces, a tenant could name the application of another, which trusts that token.
        let token_file = template.replace(WORKSPACE, asker.cluster.as_str());
        if token_file == *template && !asker.may_be(&identity) {
            return Err(not_granted(" that names this application"));
        }
        let identity_of = Identity::Federated {
            tenant_id: access.tenant_id.clone(),
            client_id: access.client_id.clone(),
            token_file: token_file.into(),
        };
        Ok((format!("{place}/{identity}"), Arc::new(self.azure.open(key, identity_of)?)))
    }

    fn open_gcp(
        &self,
        asker: &Asker<'_>,
        key: GcpKey,
        spec: &AccountSpec,
    ) -> Result<(String, Arc<dyn RootKey>)> {
        let store = self.gcp.as_ref().ok_or_else(|| not_configured(StoreKind::GcpKms))?;
        let place = format!("gcp/{}/{}", key.project, key.location);
        let Some(access) = spec.access.as_ref().and_then(|access| access.gcp.as_ref()) else {
            return if asker.may_use(&[key.to_string(), key.key_name()]) {
                Ok((place, Arc::new(store.open(key, None))))
            } else {
                Err(not_granted(", or for a service account in access.gcp"))
            };
        };
        let account: ServiceAccount = access
            .service_account
            .parse()
            .map_err(|error| Error::misconfigured(format!("access.gcp.serviceAccount: {error}")))?;
        // Every service account trusts the same provider: only the operator can tell whose it is.
        if !asker.may_be(account.as_str()) {
            return Err(not_granted(" that names this service account"));
        }
        Ok((format!("{place}/{}", account.as_str()), Arc::new(store.open(key, Some(account)))))
    }

    fn open_pkcs11(&self, asker: &Asker<'_>, key: Pkcs11Key) -> Result<(String, Arc<dyn RootKey>)> {
        if self.pkcs11.is_empty() {
            return Err(not_configured(StoreKind::ThalesHsm));
        }
        // Before the token is looked up: who has no grant learns nothing of which tokens there are.
        if !asker.may_use(&[key.to_string()]) {
            return Err(not_granted(""));
        }
        Ok((format!("pkcs11/{}", key.token), Arc::new(self.pkcs11.open(key)?)))
    }

    /// Calls made so far.
    pub fn calls(&self) -> &CloudCalls {
        &self.calls
    }
}

/// A root key behind its place's guard.
struct GuardedRoot {
    root: Arc<dyn RootKey>,
    place: Arc<str>,
    workspace: LogicalCluster,
    guard: Arc<Guard>,
    owner: Arc<OwnerCalls>,
}

impl GuardedRoot {
    fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        // Not before the guard lets it through: a call that is refused here is none.
        let counted = async move {
            self.owner.count(operation);
            call.await
        };
        self.guard.call(self.root.kind(), operation, &self.place, &self.workspace, counted).boxed()
    }
}

impl RootKey for GuardedRoot {
    fn kind(&self) -> StoreKind {
        self.root.kind()
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description>> {
        self.call(Operation::Describe, self.root.describe())
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey, binding: &'a Binding) -> BoxFuture<'a, Result<Wrapped>> {
        self.call(Operation::Wrap, self.root.wrap(key, binding))
    }

    fn unwrap<'a>(&'a self, wrapped: &'a [u8], binding: &'a Binding) -> BoxFuture<'a, Result<SecretKey>> {
        self.call(Operation::Unwrap, self.root.unwrap(wrapped, binding))
    }
}
