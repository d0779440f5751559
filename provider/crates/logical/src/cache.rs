//! Objects of one kind from all workspaces and endpoints.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kcp_client_rs::LogicalCluster;

use crate::{
    Kind, State,
    endpoint::Roster,
    store::{Body, Key, Store},
};

/// Typed, trimmed objects of one kind (or what [`crate::Builder::watch_as`] made of them), by logical cluster, then (namespace, name). Cheap to clone.
///
/// It answers at all times, from memory. [`Cache::is_stale`] says whether the answer may be old.
pub struct Cache<V>(Arc<Inner<V>>);

struct Inner<V> {
    store: RwLock<Store<Arc<V>>>,
    kind: Kind,
    /// Position of the kind among the watched kinds.
    index: usize,
    roster: Arc<Roster>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The answer to [`Cache::look`].
#[derive(Debug)]
pub enum Lookup<V> {
    /// The object.
    Found(Arc<V>),
    /// It exists, but does not fit its type: why. Do not treat it as deleted.
    Undecodable(Arc<str>),
    /// The cache has never seen it, or it is gone.
    Absent,
}

impl<V: Send + Sync + 'static> Cache<V> {
    pub(crate) fn new(kind: Kind, index: usize, roster: Arc<Roster>) -> Self {
        Self(Arc::new(Inner { store: RwLock::default(), kind, index, roster }))
    }

    // A panic while the lock is held ends the driver (its task is joined), and with it the process; until then
    // readers may as well see the last state.
    fn read(&self) -> RwLockReadGuard<'_, Store<Arc<V>>> {
        self.0.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Store<Arc<V>>> {
        self.0.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index(&self) -> usize {
        self.0.index
    }

    /// One object, if the cache has it in readable form. Where "exists but cannot be read" matters, use
    /// [`Cache::look`].
    pub fn get(&self, cluster: &LogicalCluster, namespace: Option<&str>, name: &str) -> Option<Arc<V>> {
        match self.look(cluster, namespace, name) {
            Lookup::Found(object) => Some(object),
            Lookup::Undecodable(_) | Lookup::Absent => None,
        }
    }

    /// One object, and whether an absence is an absence.
    pub fn look(&self, cluster: &LogicalCluster, namespace: Option<&str>, name: &str) -> Lookup<V> {
        match self.read().item(cluster, &Key::new(namespace, name)).map(|item| &item.body) {
            Some(Body::Good(object)) => Lookup::Found(object.clone()),
            Some(Body::Bad(why)) => Lookup::Undecodable(why.as_ref().clone()),
            None => Lookup::Absent,
        }
    }

    /// The readable objects of a workspace, by namespace and name.
    pub fn list(&self, cluster: &LogicalCluster) -> Vec<Arc<V>> {
        let store = self.read();
        let good = |body: &Body<Arc<V>>| match body {
            Body::Good(object) => Some(object.clone()),
            Body::Bad(_) => None,
        };
        store.items(cluster).iter().filter_map(|item| good(&item.body)).collect()
    }

    /// The readable objects of a workspace with their (namespace, name), sorted by them.
    pub fn entries(&self, cluster: &LogicalCluster) -> Vec<(Option<String>, String, Arc<V>)> {
        let store = self.read();
        let good = store.items(cluster).iter().filter_map(|item| match &item.body {
            Body::Good(object) => {
                let (namespace, name) = item.parts();
                Some((namespace.map(str::to_owned), name.to_owned(), object.clone()))
            }
            Body::Bad(_) => None,
        });
        good.collect()
    }

    /// (namespace, name, why) of the objects of a workspace that do not fit their type.
    pub fn undecodable(&self, cluster: &LogicalCluster) -> Vec<(Option<String>, String, Arc<str>)> {
        let store = self.read();
        let bad = store.items(cluster).iter().filter_map(|item| match &item.body {
            Body::Good(_) => None,
            Body::Bad(why) => {
                let (namespace, name) = item.parts();
                Some((namespace.map(str::to_owned), name.to_owned(), why.as_ref().clone()))
            }
        });
        bad.collect()
    }

    /// The workspaces that have objects of this kind, in no order.
    pub fn clusters(&self) -> Vec<LogicalCluster> {
        self.read().clusters().cloned().collect()
    }

    /// Objects of this kind in all workspaces.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// No object at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is what the cache says of this workspace possibly old, because no live watch stands behind some of it? For a
    /// workspace without objects: because not every endpoint has been listed.
    pub fn is_stale(&self, cluster: &LogicalCluster) -> bool {
        let claims = self.read().claims(cluster).cloned();
        match claims {
            Some(claims) => {
                claims.iter().any(|(slot, _)| self.0.roster.state(slot, self.0.index) != Some(State::Live))
            }
            None => !self.0.roster.synced(Some(self.0.index)),
        }
    }
}

/// What the world asks of the cache of any kind.
pub(crate) trait Kept: Send + Sync {
    fn kind(&self) -> Kind;
    /// Endpoints that claim something in the workspace, the last writer first.
    fn claimants(&self, cluster: &LogicalCluster) -> Vec<u16>;
    /// Objects, and how many of them cannot be decoded.
    fn sizes(&self) -> (usize, usize);
}

impl<V: Send + Sync + 'static> Kept for Cache<V> {
    fn kind(&self) -> Kind {
        self.0.kind
    }

    fn claimants(&self, cluster: &LogicalCluster) -> Vec<u16> {
        self.read().claims(cluster).map(|claims| claims.iter().map(|c| c.0).collect()).unwrap_or_default()
    }

    fn sizes(&self) -> (usize, usize) {
        let store = self.read();
        (store.len(), store.bad())
    }
}
