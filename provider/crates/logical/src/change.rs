//! What the cache tells its user: which object, of which kind, in which workspace, and what happened to it.

use std::{
    any::{TypeId, type_name},
    borrow::Cow,
    fmt,
    sync::Arc,
};

use kcp_client_rs::LogicalCluster;
use kube::Resource;
use serde::de::DeserializeOwned;

/// What a kind must be to be watched: any typed kube-rs resource.
pub trait Watched: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static> Watched for K {}

/// A watched kind, comparable with [`Kind::of`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    id: TypeId,
    name: &'static str,
}

impl Kind {
    /// The kind of a Rust type.
    pub fn of<K: Watched>() -> Self {
        let name = match K::kind(&()) {
            Cow::Borrowed(name) => name,
            Cow::Owned(_) => type_name::<K>(),
        };
        Self { id: TypeId::of::<K>(), name }
    }

    /// The Kubernetes kind, for example `Account`: for logs and metric labels.
    pub fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One object changed in the cache.
#[derive(Clone, Debug)]
pub struct Change {
    /// The workspace.
    pub cluster: LogicalCluster,
    /// The kind of the object.
    pub kind: Kind,
    /// Its namespace; `None` for kinds that have none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What happened.
    pub what: What,
}

impl Change {
    /// Is the changed object a `K`?
    pub fn is<K: Watched>(&self) -> bool {
        self.kind.id == TypeId::of::<K>()
    }
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub enum What {
    /// It is in the cache, new or different, or seen again after its endpoint was away.
    Applied,
    /// An endpoint in sync says that it does not exist any more. Never emitted because something cannot be seen.
    Gone,
    /// It exists and cannot be read as its type: the reason. The cache answers [`crate::Lookup::Undecodable`].
    Undecodable(Arc<str>),
}
