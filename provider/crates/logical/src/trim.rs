//! Dropping what nobody reads before it is stored.

use kcp_client_rs::logical_cluster::CLUSTER_ANNOTATION;
use kube::ResourceExt;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The trim for most kinds: without `managedFields` (about half of an object's metadata), kubectl's copy of the
/// whole object, `selfLink`, and the cluster annotation, which is the key it is stored under.
pub fn trim_metadata<K: ResourceExt>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.self_link = None;
    meta.generate_name = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
        annotations.remove(CLUSTER_ANNOTATION);
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
}
