//! kcp in kube-rs terms: endpoints, wildcard watches, a cache by logical cluster, a fair queue, scoped clients.
