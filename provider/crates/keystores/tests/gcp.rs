//! Google Cloud KMS against the contract server.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{
    CLUSTER, LOCAL, binding, cluster, keeps_its_promises, leaks_nothing, reason, refused, same, spec,
    verified,
};
use openkcm_apis::{Access, GcpAccess, ProviderType};
use openkcm_key_store_servers::{
    control::{Calls, Fault},
    gcp::Server,
    keys::{KeyType, State},
};
use openkcm_keystores::{KeyStores, Reason, RootKey};
use openkcm_secret::SecretKey;

const KEY: &str = "projects/acme/locations/europe-west3/keyRings/openkcm/cryptoKeys/kek";

async fn setup() -> (Server, KeyStores) {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Aes).unwrap();
    let stores = common::stores(&format!(
        "limits: {{deadline: 5s}}\ngcp:\n  endpoint: http://{}\n  credentials: anonymous\ngrants:\n- logicalClusters: [{CLUSTER}]\n  references: ['projects/acme/*']\n",
        server.address
    ));
    (server, stores)
}

fn open(stores: &KeyStores, reference: &str) -> Arc<dyn RootKey> {
    stores.open(&cluster(CLUSTER), "root:acme", &spec(ProviderType::GcpKms, reference)).unwrap()
}

#[tokio::test]
async fn symmetric_and_rsa_keys_wrap_and_keep_their_promises() {
    let (server, stores) = setup().await;
    let root = open(&stores, KEY);
    let seen = verified(&root).await;
    assert_eq!((seen.reference.as_str(), seen.version.as_str()), (KEY, "1"));
    let calls = server.control.calls();
    assert_eq!((calls.describe, calls.wrap, calls.unwrap), (1, 1, 1));
    keeps_its_promises(&root).await;

    let key = SecretKey::random().unwrap();
    let wrapped = root.wrap(&key, &binding()).await.unwrap();
    server.control.rotate(KEY).unwrap();
    assert_eq!(verified(&root).await.version, "2", "a rotation inside the store is noticed");
    assert!(same(&root.unwrap(&wrapped.bytes, &binding()).await.unwrap(), &key));
    assert_eq!(verified(&open(&stores, &format!("{KEY}/cryptoKeyVersions/1"))).await.version, "1");

    let rsa = "projects/acme/locations/europe-west3/keyRings/openkcm/cryptoKeys/rsa";
    server.control.create(rsa, KeyType::Rsa).unwrap();
    let root = open(&stores, &format!("{rsa}/cryptoKeyVersions/1"));
    assert_eq!(verified(&root).await.algorithm, "RSA-OAEP-256");
    keeps_its_promises(&root).await;
    assert_eq!(
        reason(&open(&stores, rsa)).await,
        Some(Reason::WrongKeyType),
        "an asymmetric key needs a version"
    );
}

#[tokio::test]
async fn each_failure_has_its_reason_and_nothing_leaks() {
    let (server, stores) = setup().await;
    let root = open(&stores, KEY);
    verified(&root).await;
    for (state, expected) in
        [(State::Disabled, Reason::Disabled), (State::PendingDeletion, Reason::PendingDeletion)]
    {
        let wrapped = root.wrap(&SecretKey::random().unwrap(), &binding()).await.unwrap();
        server.control.set_state(KEY, None, state);
        assert_eq!(reason(&root).await, Some(expected));
        let wrap = root.wrap(&SecretKey::random().unwrap(), &binding()).await;
        assert_eq!(wrap.err().map(|error| error.reason), Some(expected), "a wrap alone says so too");
        let unwrap = root.unwrap(&wrapped.bytes, &binding()).await;
        assert_eq!(unwrap.err().map(|error| error.reason), Some(expected), "an unwrap alone says so too");
        server.control.set_state(KEY, None, State::Enabled);
        verified(&root).await;
    }
    for (fault, expected) in [
        (Fault::Denied, Reason::AccessDenied),
        (Fault::Error, Reason::Unreachable),
        (Fault::Html, Reason::Unreachable),
    ] {
        server.control.fault(fault);
        let error = refused(&root).await;
        assert_eq!(error.reason, expected, "{fault:?}");
        leaks_nothing(&error, &["12345", "borg", "html", "acme"]);
        server.control.fault(Fault::None);
        verified(&root).await;
    }
    // What arrives damaged is not kept: the checksums are looked at.
    let wrapped = root.wrap(&SecretKey::random().unwrap(), &binding()).await.unwrap();
    for fault in [Fault::Empty, Fault::Tampered] {
        server.control.fault(fault);
        let wrap = root.wrap(&SecretKey::random().unwrap(), &binding()).await;
        assert_eq!(wrap.err().map(|error| error.reason), Some(Reason::Unreachable), "{fault:?}");
        let unwrap = root.unwrap(&wrapped.bytes, &binding()).await;
        assert_eq!(unwrap.err().map(|error| error.reason), Some(Reason::Unreachable), "{fault:?}");
        server.control.fault(Fault::None);
        verified(&root).await;
    }
    let ring = KEY.rsplit_once('/').unwrap().0;
    assert_eq!(reason(&open(&stores, &format!("{ring}/none"))).await, Some(Reason::NotFound));
    server.control.create(&format!("{ring}/mac"), KeyType::Signing).unwrap();
    assert_eq!(reason(&open(&stores, &format!("{ring}/mac"))).await, Some(Reason::WrongKeyType));

    server.control.down(true);
    assert_eq!(reason(&root).await, Some(Reason::Unreachable));
    server.control.down(false);
    verified(&root).await;
    server.control.fault(Fault::Hang);
    assert_eq!(reason(&root).await, Some(Reason::Timeout));
    server.control.fault(Fault::Throttled);
    assert_eq!(reason(&root).await, Some(Reason::Throttled));
}

#[tokio::test]
async fn no_workspace_uses_the_key_or_the_service_account_of_another() {
    let (server, stores) = setup().await;
    let refused = |cluster_name: &str, spec| {
        stores.open(&cluster(cluster_name), "root:acme", &spec).err().map(|error| error.reason)
    };
    assert_eq!(refused("3y8m2rs0we4nat1b", spec(ProviderType::GcpKms, KEY)), Some(Reason::AccessDenied));
    let other = KEY.replace("projects/acme/", "projects/acme2/");
    assert_eq!(refused(CLUSTER, spec(ProviderType::GcpKms, &other)), Some(Reason::AccessDenied));
    let mut as_another = spec(ProviderType::GcpKms, KEY);
    as_another.access = Some(Access {
        gcp: Some(GcpAccess { service_account: "kms@victim.iam.gserviceaccount.com".to_owned() }),
        ..Access::default()
    });
    assert_eq!(refused(CLUSTER, as_another), Some(Reason::AccessDenied));
    assert_eq!(server.control.calls(), Calls::default());
}
