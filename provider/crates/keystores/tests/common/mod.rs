//! What the tests of every store share.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use kcp_client_rs::LogicalCluster;
use openkcm_apis::{AccountSpec, ProviderType};
use openkcm_keystores::{Binding, Config, Error, KeyStores, Reason, RootKey, verify};
use openkcm_secret::SecretKey;

pub const CLUSTER: &str = "2x7k1pq9vd3mzs0a";
pub const LOCAL: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub fn cluster(name: &str) -> LogicalCluster {
    name.parse().unwrap()
}

pub fn binding() -> Binding {
    Binding { logical_cluster: cluster(CLUSTER), account: "0f9a7c3e-5a44-4a52-9d0d-0a5d9d1a8b11".to_owned() }
}

pub fn spec(provider_type: ProviderType, reference: &str) -> AccountSpec {
    AccountSpec {
        provider_type,
        key_reference: reference.to_owned(),
        access: None,
        root_compromised: false,
        edge_regions: Vec::new(),
    }
}

pub fn stores(yaml: &str) -> KeyStores {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    KeyStores::from_config(Config::parse(yaml).unwrap()).unwrap()
}

pub fn same(one: &SecretKey, two: &SecretKey) -> bool {
    one.expose(|one| two.expose(|two| one == two))
}

pub async fn verified(root: &Arc<dyn RootKey>) -> openkcm_keystores::Verified {
    verify(root.as_ref(), &binding()).await.unwrap()
}

pub async fn refused(root: &Arc<dyn RootKey>) -> Error {
    verify(root.as_ref(), &binding()).await.unwrap_err()
}

pub async fn reason(root: &Arc<dyn RootKey>) -> Option<Reason> {
    verify(root.as_ref(), &binding()).await.err().map(|error| error.reason)
}

/// What every store must hold: a key comes back, only under its binding, only undamaged, only from its own store.
pub async fn keeps_its_promises(root: &Arc<dyn RootKey>) {
    let key = SecretKey::random().unwrap();
    let binding = binding();
    let wrapped = root.wrap(&key, &binding).await.unwrap();
    assert!(same(&root.unwrap(&wrapped.bytes, &binding).await.unwrap(), &key));
    key.expose(|bytes| assert!(!wrapped.bytes.windows(32).any(|window| window == bytes)));

    let elsewhere = Binding { logical_cluster: cluster("3y8m2rs0we4nat1b"), ..binding.clone() };
    let other_account = Binding { account: "other".to_owned(), ..binding.clone() };
    for foreign in [elsewhere, other_account] {
        let error = root.unwrap(&wrapped.bytes, &foreign).await.err().unwrap();
        assert_eq!(error.reason, Reason::BadCiphertext, "{error}");
    }
    // One bit of magic, store, algorithm, reference and ciphertext. (Where a store opens under any version, the version is only a note.)
    let length = wrapped.bytes.len();
    for at in [0, 3, 4, 5, 7, 12, length - 20, length - 1] {
        let mut damaged = wrapped.bytes.clone();
        damaged[at] ^= 1;
        assert!(root.unwrap(&damaged, &binding).await.is_err(), "byte {at} changed and the key still opens");
    }
    for truncated in [&wrapped.bytes[..0], &wrapped.bytes[..5], &wrapped.bytes[..length - 1]] {
        let error = root.unwrap(truncated, &binding).await.err().unwrap();
        assert_eq!(error.reason, Reason::BadCiphertext, "{error}");
    }
}

/// Nothing that a store said may reach the tenant.
pub fn leaks_nothing(error: &Error, secrets: &[&str]) {
    for secret in secrets {
        assert!(!error.to_string().contains(secret), "{error}");
    }
}
