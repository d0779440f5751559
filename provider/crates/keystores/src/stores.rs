//! From what a tenant wrote to a root key that it may use.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use kcp_client_rs::LogicalCluster;
use openkcm_apis::AccountSpec;
use openkcm_secret::SecretKey;

use crate::{
    Binding, CloudCalls, Config, Description, Error, Operation, Reason, Result, RootKey, StoreKind, Wrapped,
    aws::AwsStore,
    config::{Grant, matches},
    guard::Guard,
    reference::{AwsKey, AwsRole, Reference},
};

/// All key stores, under the operator's configuration. Made once; cheap to share in an `Arc`.
pub struct KeyStores {
    calls: Arc<CloudCalls>,
    guard: Arc<Guard>,
    grants: Vec<Grant>,
    own_aws_accounts: Vec<String>,
    aws: Option<Arc<AwsStore>>,
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
            own_aws_accounts: config.aws.own_accounts,
            grants: config.grants,
        })
    }

    /// Opens the root key that an Account of this workspace names. Makes no network call: what is wrong with the text or not allowed is
    /// said at once, everything else by the calls on the result.
    ///
    /// `path` is the workspace's path at this moment, for grants by path; empty if unknown.
    pub fn open(&self, cluster: &LogicalCluster, path: &str, spec: &AccountSpec) -> Result<Arc<dyn RootKey>> {
        let kind = StoreKind::from(spec.provider_type);
        let reference = Reference::parse(kind, &spec.key_reference)
            .map_err(|error| Error::misconfigured(format!("keyReference: {error}")))?;
        let asker = Asker { cluster, path, grants: &self.grants };
        let (place, root): (String, Arc<dyn RootKey>) = match reference {
            Reference::Aws(key) => self.open_aws(&asker, key, spec)?,
            _ => return Err(not_configured(kind)),
        };
        Ok(Arc::new(GuardedRoot {
            root,
            place: place.into(),
            workspace: cluster.clone(),
            guard: Arc::clone(&self.guard),
        }))
    }

    fn open_aws(&self, asker: &Asker<'_>, key: AwsKey, spec: &AccountSpec) -> Result<(String, Arc<dyn RootKey>)> {
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
            return Err(Error::misconfigured("the role in access.aws is in another AWS partition than the key"));
        }
        if self.own_aws_accounts.contains(&role.account) && !asker.may_be(&access.role_arn) {
            return Err(not_granted(", or use a role in an account of your own"));
        }
        let place = format!("{place}/{role}/{}", asker.cluster);
        Ok((place, Arc::new(store.open(key, Some((role, asker.cluster.clone()))))))
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
}

impl GuardedRoot {
    fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        self.guard.call(self.root.kind(), operation, &self.place, &self.workspace, call).boxed()
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
