//! Azure Key Vault and Managed HSM against the contract server, with the vendor's own challenge, token and TLS checks on.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{
    CLUSTER, LOCAL, binding, cluster, keeps_its_promises, leaks_nothing, reason, refused, same, spec,
    verified,
};
use openkcm_apis::{Access, AzureAccess, ProviderType};
use openkcm_key_store_servers::{
    azure::{CLIENT_SECRET, Server},
    control::Fault,
    keys::{KeyType, State},
};
use openkcm_keystores::{KeyStores, Reason, RootKey, verify};
use openkcm_secret::SecretKey;

const KEY: &str = "https://acme.vault.azure.net/keys/kek";
const HSM_KEY: &str = "https://acme.managedhsm.azure.net/keys/kek";
const DIRECTORY: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const APPLICATION: &str = "0e9a7c3e-5a44-4a52-9d0d-0a5d9d1a8b11";
const GRANT: &str = "grants:\n- paths: [root:acme]\n  references: ['https://acme.vault.azure.net/keys/*', 'https://acme.managedhsm.azure.net/keys/*', 'https://private.vault.azure.net/*']\n";

struct Setup {
    server: Server,
    stores: KeyStores,
    dir: tempfile::TempDir,
}

async fn setup(grants: &str, azure: &str) -> Setup {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Rsa).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("ca.pem"), &server.ca_pem).unwrap();
    std::fs::write(path("secret"), CLIENT_SECRET).unwrap();
    for tenant in [CLUSTER, "3y8m2rs0we4nat1b"] {
        std::fs::write(path(&format!("{tenant}.jwt")), format!("token-of-{tenant}")).unwrap();
    }
    let hosts = ["acme.vault.azure.net", "acme.managedhsm.azure.net", "login.microsoftonline.com"];
    let resolve: BTreeMap<_, _> = hosts.map(|host| (host, server.address.to_string())).into();
    let resolve: String =
        resolve.iter().map(|(host, address)| format!("    {host}: '{address}'\n")).collect();
    let stores = common::stores(&format!(
        "limits: {{deadline: 2s}}\nazure:\n  caFile: {dir}/ca.pem\n  assertionFile: '{dir}/{{logicalCluster}}.jwt'\n  resolve:\n{resolve}{azure}{grants}",
        dir = dir.path().display(),
        azure = azure.replace("DIR", &dir.path().display().to_string()),
    ));
    Setup { server, stores, dir }
}

fn own() -> String {
    format!(
        "  credentials: !clientSecret\n    tenantId: {DIRECTORY}\n    clientId: {APPLICATION}\n    secretFile: DIR/secret\n"
    )
}

fn open(stores: &KeyStores, reference: &str) -> Arc<dyn RootKey> {
    stores.open(&cluster(CLUSTER), "root:acme", &spec(ProviderType::AzureKeyVault, reference)).unwrap()
}

#[tokio::test]
async fn vault_and_managed_hsm_wrap_and_keep_their_promises() {
    let Setup { server, stores, dir: _dir } = setup(GRANT, &own()).await;
    let root = open(&stores, KEY);
    let seen = verified(&root).await;
    assert_eq!((seen.reference.as_str(), seen.algorithm.as_str()), (KEY, "RSA-OAEP-256"));
    keeps_its_promises(&root).await;

    server.control.create(HSM_KEY, KeyType::Aes).unwrap();
    let hsm = open(&stores, HSM_KEY);
    assert_eq!(verified(&hsm).await.algorithm, "A256KW");
    keeps_its_promises(&hsm).await;

    // A rotation is noticed; what the version before wrapped still opens; a reference with a version stays with it.
    let key = SecretKey::random().unwrap();
    let wrapped = root.wrap(&key, &binding()).await.unwrap();
    let pinned = open(&stores, &format!("{KEY}/{}", wrapped.version));
    server.control.rotate(KEY).unwrap();
    assert_ne!(verified(&root).await.version, wrapped.version);
    assert!(same(&root.unwrap(&wrapped.bytes, &binding()).await.unwrap(), &key));
    assert_eq!(verified(&pinned).await.version, wrapped.version);
}

#[tokio::test]
async fn each_failure_has_its_reason_and_nothing_leaks() {
    let Setup { server, stores, dir: _dir } = setup(GRANT, &own()).await;
    let root = open(&stores, KEY);
    verified(&root).await;
    let wrapped = root.wrap(&SecretKey::random().unwrap(), &binding()).await.unwrap();

    for (state, expected) in
        [(State::Disabled, Reason::Disabled), (State::PendingDeletion, Reason::PendingDeletion)]
    {
        server.control.set_state(KEY, None, state);
        assert_eq!(reason(&root).await, Some(expected));
    }
    server.control.set_state(KEY, None, State::Disabled);
    assert!(root.wrap(&SecretKey::random().unwrap(), &binding()).await.is_ok(), "as the service does");
    let unwrapped = root.unwrap(&wrapped.bytes, &binding()).await;
    assert_eq!(unwrapped.err().map(|error| error.reason), Some(Reason::Disabled));
    server.control.set_state(KEY, None, State::Enabled);
    verified(&root).await;

    for (fault, expected) in [
        (Fault::Denied, Reason::AccessDenied),
        (Fault::Error, Reason::Unreachable),
        (Fault::Html, Reason::Unreachable),
        (Fault::None, Reason::Unreachable),
    ] {
        server.control.fault(fault);
        if fault == Fault::None {
            break;
        }
        let error = refused(&root).await;
        assert_eq!(error.reason, expected, "{fault:?}");
        leaks_nothing(&error, &["11112222", "10.1.2.3", "html", "sts.windows.net"]);
    }
    server.control.fault(Fault::Denied);
    assert!(refused(&root).await.message.contains("keys/read/action"), "the missing permission is named");
    // A vault cannot send us elsewhere.
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    server.control.world().elsewhere = format!("https://{}/", elsewhere.local_addr().unwrap());
    server.control.fault(Fault::Redirect);
    assert_eq!(refused(&root).await.reason, Reason::Unreachable);
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
    for fault in [Fault::Empty, Fault::Tampered] {
        server.control.fault(fault);
        assert!(verify(root.as_ref(), &binding()).await.is_err(), "{fault:?}");
    }
    server.control.fault(Fault::None);
    verified(&root).await;

    assert_eq!(
        reason(&open(&stores, "https://acme.vault.azure.net/keys/none")).await,
        Some(Reason::NotFound)
    );
    let no_version = format!("{KEY}/{}", "0".repeat(32));
    assert_eq!(reason(&open(&stores, &no_version)).await, Some(Reason::NotFound));
    server.control.create("https://acme.vault.azure.net/keys/ec", KeyType::Signing).unwrap();
    assert_eq!(
        reason(&open(&stores, "https://acme.vault.azure.net/keys/ec")).await,
        Some(Reason::WrongKeyType)
    );

    server.control.fault(Fault::Hang);
    assert_eq!(reason(&root).await, Some(Reason::Timeout));
    server.control.fault(Fault::None);
    verified(&root).await;
    server.control.down(true);
    assert_eq!(reason(&root).await, Some(Reason::Unreachable));
    server.control.down(false);
    verified(&root).await;
    server.control.fault(Fault::Throttled);
    let error = refused(&root).await;
    assert_eq!((error.reason, error.retry_after.map(|after| after.as_secs())), (Reason::Throttled, Some(1)));
}

#[tokio::test]
async fn an_application_trusts_the_token_of_one_workspace() {
    let Setup { server, stores, dir: _dir } = setup("", "").await;
    // The owner's application has a federated credential for the token of its workspace, and a role on its vault.
    let application = format!("{DIRECTORY}/{APPLICATION}");
    let trust = [
        (format!("{application}#token-of-{CLUSTER}"), String::new()),
        (application.clone(), "https://acme.".to_owned()),
    ];
    server.control.world().trust.extend(trust);
    let mut federated = spec(ProviderType::AzureKeyVault, KEY);
    federated.access = Some(Access {
        azure: Some(AzureAccess { tenant_id: DIRECTORY.to_owned(), client_id: APPLICATION.to_owned() }),
        ..Access::default()
    });
    let owner = stores.open(&cluster(CLUSTER), "", &federated).unwrap();
    verified(&owner).await;
    let thief = stores.open(&cluster("3y8m2rs0we4nat1b"), "", &federated).unwrap();
    let error = refused(&thief).await;
    assert_eq!(error.reason, Reason::Misconfigured);
    leaks_nothing(&error, &["AADSTS", "token-of"]);
}

#[tokio::test]
async fn without_grant_or_with_one_token_for_all_nothing_opens() {
    let Setup { server, stores, dir } = setup(GRANT, &own()).await;
    let plain = spec(ProviderType::AzureKeyVault, KEY);
    let refused = stores.open(&cluster(CLUSTER), "root:other", &plain).err().map(|error| error.reason);
    assert_eq!(refused, Some(Reason::AccessDenied));

    let shared = common::stores(&format!("azure: {{assertionFile: {}/{CLUSTER}.jwt}}", dir.path().display()));
    let mut federated = plain;
    federated.access = Some(Access {
        azure: Some(AzureAccess { tenant_id: DIRECTORY.to_owned(), client_id: APPLICATION.to_owned() }),
        ..Access::default()
    });
    let refused = shared.open(&cluster(CLUSTER), "root:acme", &federated).err().map(|error| error.reason);
    assert_eq!(
        refused,
        Some(Reason::AccessDenied),
        "an application that trusts the provider as such needs a grant"
    );
    assert_eq!(server.control.calls(), openkcm_key_store_servers::control::Calls::default());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let Setup { server, stores: _, dir } = setup(GRANT, &own()).await;
    let stranger = openkcm_key_store_servers::tls::Tls::new(&["acme.vault.azure.net"]).unwrap();
    std::fs::write(dir.path().join("ca.pem"), stranger.ca_pem).unwrap();
    let stores = common::stores(&format!(
        "azure:\n  caFile: {dir}/ca.pem\n  resolve: {{acme.vault.azure.net: '{}'}}\n{}{GRANT}",
        server.address,
        own().replace("DIR", &dir.path().display().to_string()),
        dir = dir.path().display(),
    ));
    assert_eq!(reason(&open(&stores, KEY)).await, Some(Reason::Unreachable));
    assert_eq!(server.control.calls(), openkcm_key_store_servers::control::Calls::default());
}
