//! Objects of one kind from all workspaces and endpoints.
use std::sync::Arc;

use kcp_client_rs::LogicalCluster;

use crate::Watched;

/// Typed, trimmed objects of one kind, by logical cluster, then (namespace, name). Cheap to clone.
pub struct Cache<K>(Arc<std::marker::PhantomData<K>>);

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The answer to [`Cache::look`].
#[derive(Debug)]
pub enum Lookup<K> {
    /// The object.
    Found(Arc<K>),
    /// It exists, but does not fit its type: why. Do not treat it as deleted.
    Undecodable(Arc<str>),
    /// The cache has never seen it, or it is gone.
    Absent,
}

#[allow(unused_variables)]
impl<K: Watched> Cache<K> {
    /// One object, if the cache has it in readable form. Where "exists but is unreadable" matters, use [`Cache::look`].
    pub fn get(&self, cluster: &LogicalCluster, namespace: Option<&str>, name: &str) -> Option<Arc<K>> { todo!() }
    /// One object, and whether an absence is an absence.
    pub fn look(&self, cluster: &LogicalCluster, namespace: Option<&str>, name: &str) -> Lookup<K> { todo!() }
    /// The readable objects of a workspace, by namespace and name.
    pub fn list(&self, cluster: &LogicalCluster) -> Vec<Arc<K>> { todo!() }
    /// (namespace, name, why) of the objects of a workspace that do not fit their type.
    pub fn undecodable(&self, cluster: &LogicalCluster) -> Vec<(Option<String>, String, Arc<str>)> { todo!() }
    /// The workspaces that have objects of this kind, in no order.
    pub fn clusters(&self) -> Vec<LogicalCluster> { todo!() }
    /// Objects of this kind in all workspaces.
    pub fn len(&self) -> usize { todo!() }
    /// No object at all?
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    /// Is what the cache says of this workspace possibly old, because no live watch stands behind some of it?
    pub fn is_stale(&self, cluster: &LogicalCluster) -> bool { todo!() }
}
