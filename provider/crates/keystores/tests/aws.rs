//! AWS KMS: LocalStack for what it does, the stub for what LocalStack cannot show.
//!
//! LocalStack is taken from `OPENKCM_AWS_ENDPOINT`; without it those tests say that they are skipped.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{KeySpec, KeyUsageType},
};
use common::{
    CLUSTER, LOCAL, binding, cluster, keeps_its_promises, leaks_nothing, reason, refused, same, spec,
    verified,
};
use openkcm_apis::{Access, AccountSpec, AwsAccess, ProviderType};
use openkcm_key_store_servers::{
    aws::Server,
    control::Fault,
    keys::{KeyType, State},
};
use openkcm_keystores::{KeyStores, Operation, Reason, RootKey, StoreKind, verify};
use openkcm_secret::SecretKey;

const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/0e9a7c3e-5a44-4a52-9d0d-0a5d9d1a8b11";
const ROLE: &str = "arn:aws:iam::111122223333:role/openkcm";

fn configured(endpoint: &str, more: &str) -> (KeyStores, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "very-secret\n").unwrap();
    let stores = common::stores(&format!(
        "aws:\n  endpoint: {endpoint}\n  credentials: !accessKey\n    id: test\n    secretFile: {}/secret\n{more}",
        dir.path().display()
    ));
    (stores, dir)
}

fn open(stores: &KeyStores, reference: &str) -> Arc<dyn RootKey> {
    stores.open(&cluster(CLUSTER), "root:acme", &spec(ProviderType::AwsKms, reference)).unwrap()
}

const GRANT: &str =
    "grants:\n- paths: [root:acme]\n  references: ['arn:aws:kms:*']\nlimits:\n  deadline: 1s\n";

struct LocalStack {
    client: Client,
    stores: KeyStores,
    _dir: tempfile::TempDir,
}

fn localstack() -> Option<LocalStack> {
    let Ok(endpoint) = std::env::var("OPENKCM_AWS_ENDPOINT") else {
        eprintln!(
            "skipped: OPENKCM_AWS_ENDPOINT names no LocalStack (test/key-stores/localstack starts one)"
        );
        return None;
    };
    let (stores, dir) = configured(&endpoint, &GRANT.replace("1s", "20s"));
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .build();
    Some(LocalStack { client: Client::from_conf(config), stores, _dir: dir })
}

impl LocalStack {
    async fn key(&self, spec: KeySpec, usage: KeyUsageType) -> String {
        let made = self.client.create_key().key_spec(spec).key_usage(usage).send().await.unwrap();
        made.key_metadata.unwrap().arn.unwrap()
    }

    async fn symmetric(&self) -> String {
        self.key(KeySpec::SymmetricDefault, KeyUsageType::EncryptDecrypt).await
    }
}

#[tokio::test]
async fn localstack_symmetric_rsa_and_alias() {
    let Some(aws) = localstack() else { return };
    let arn = aws.symmetric().await;
    let root = open(&aws.stores, &arn);
    let seen = verified(&root).await;
    assert_eq!((seen.reference.as_str(), seen.algorithm.as_str()), (arn.as_str(), "SYMMETRIC_DEFAULT"));
    keeps_its_promises(&root).await;

    let rsa = open(&aws.stores, &aws.key(KeySpec::Rsa2048, KeyUsageType::EncryptDecrypt).await);
    assert_eq!(verified(&rsa).await.algorithm, "RSA-OAEP-256");
    keeps_its_promises(&rsa).await;

    // LocalStack resolves an alias by ARN only when its target was given by id.
    let id = |arn: &str| arn.rsplit_once('/').unwrap().1.to_owned();
    // An alias that moves: what was wrapped under the first key still opens, and the move shows in the resolved reference.
    let alias = format!("alias/moves-{}", std::process::id());
    aws.client.create_alias().alias_name(&alias).target_key_id(id(&arn)).send().await.unwrap();
    let by_alias = open(&aws.stores, &format!("{}{alias}", arn.split_once("key/").unwrap().0));
    assert_eq!(verified(&by_alias).await.reference, arn);
    let key = SecretKey::random().unwrap();
    let wrapped = by_alias.wrap(&key, &binding()).await.unwrap();
    let second = aws.symmetric().await;
    aws.client.update_alias().alias_name(&alias).target_key_id(id(&second)).send().await.unwrap();
    assert_eq!(verified(&by_alias).await.reference, second);
    assert!(same(&by_alias.unwrap(&wrapped.bytes, &binding()).await.unwrap(), &key));
}

#[tokio::test]
async fn localstack_says_why_a_key_cannot_be_used() {
    let Some(aws) = localstack() else { return };
    let arn = aws.symmetric().await;
    let root = open(&aws.stores, &arn);
    verified(&root).await;

    aws.client.disable_key().key_id(&arn).send().await.unwrap();
    assert_eq!(reason(&root).await, Some(Reason::Disabled));
    let wrapped = root.wrap(&SecretKey::random().unwrap(), &binding()).await;
    assert_eq!(wrapped.err().map(|error| error.reason), Some(Reason::Disabled), "a wrap alone says so too");
    aws.client.enable_key().key_id(&arn).send().await.unwrap();
    verified(&root).await;

    aws.client.schedule_key_deletion().key_id(&arn).pending_window_in_days(7).send().await.unwrap();
    assert_eq!(reason(&root).await, Some(Reason::PendingDeletion));
    let wrapped = root.wrap(&SecretKey::random().unwrap(), &binding()).await;
    assert_eq!(
        wrapped.err().map(|error| error.reason),
        Some(Reason::PendingDeletion),
        "a wrap alone says so too"
    );

    let missing = KEY.replace("111122223333", "000000000000");
    assert_eq!(reason(&open(&aws.stores, &missing)).await, Some(Reason::NotFound));
    let other_region = arn.replace("eu-central-1", "eu-west-1");
    assert_eq!(
        reason(&open(&aws.stores, &other_region)).await,
        Some(Reason::NotFound),
        "the region of the ARN is used"
    );
    let signing = aws.key(KeySpec::Rsa2048, KeyUsageType::SignVerify).await;
    assert_eq!(reason(&open(&aws.stores, &signing)).await, Some(Reason::WrongKeyType));
}

#[tokio::test]
async fn the_stub_shows_what_localstack_cannot() {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Aes).unwrap();
    let (stores, _dir) = configured(&format!("http://{}", server.address), GRANT);
    let root = open(&stores, KEY);
    verified(&root).await;
    keeps_its_promises(&root).await;

    for (fault, expected) in [
        (Fault::Denied, Reason::AccessDenied),
        (Fault::Error, Reason::Unreachable),
        (Fault::Html, Reason::Unreachable),
    ] {
        server.control.fault(fault);
        let error = refused(&root).await;
        assert_eq!(error.reason, expected, "{fault:?}");
        leaks_nothing(&error, &["999988887777", "i-0abc", "0xdeadbeef", "html"]);
    }
    server.control.fault(Fault::Denied);
    assert!(refused(&root).await.message.contains("kms:DescribeKey"), "the missing permission is named");

    server.control.fault(Fault::Empty);
    let wrapped = root.wrap(&SecretKey::random().unwrap(), &binding()).await;
    assert_eq!(
        wrapped.err().map(|error| error.reason),
        Some(Reason::Unreachable),
        "a 200 without ciphertext is no success"
    );

    server.control.fault(Fault::Hang);
    assert_eq!(reason(&root).await, Some(Reason::Timeout));
    server.control.fault(Fault::None);
    server.control.set_state(KEY, None, State::Disabled);
    assert_eq!(reason(&root).await, Some(Reason::Disabled));
    server.control.set_state(KEY, None, State::Enabled);
    verified(&root).await;

    server.control.rotate(KEY).unwrap();
    let before = verified(&root).await.version;
    server.control.rotate(KEY).unwrap();
    assert_ne!(verified(&root).await.version, before, "a rotation inside the store is noticed");

    server.control.down(true);
    assert_eq!(reason(&root).await, Some(Reason::Unreachable));
    server.control.down(false);
    verified(&root).await;

    server.control.fault(Fault::Throttled);
    let error = refused(&root).await;
    assert_eq!((error.reason, error.reason.is_root_loss()), (Reason::Throttled, false));
    let calls = server.control.calls();
    assert_eq!(reason(&root).await, Some(Reason::Throttled));
    assert_eq!(server.control.calls(), calls, "a tired store is left in peace");
    assert!(stores.calls().get(StoreKind::AwsKms, Operation::Describe, Some(Reason::AccessDenied)) > 0);
}

#[tokio::test]
async fn a_verification_is_three_calls_and_a_wrap_after_it_is_one() {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Aes).unwrap();
    let (stores, _dir) = configured(&format!("http://{}", server.address), GRANT);
    let root = open(&stores, KEY);
    verified(&root).await;
    let calls = server.control.calls();
    assert_eq!((calls.describe, calls.wrap, calls.unwrap), (1, 1, 1));
    root.wrap(&SecretKey::random().unwrap(), &binding()).await.unwrap();
    let calls = server.control.calls();
    assert_eq!((calls.describe, calls.wrap, calls.unwrap), (1, 2, 1));
}

/// No grant of the operator's, and an Account that names a role of its own.
fn without_grant_but_a_role(server: &Server) -> (KeyStores, tempfile::TempDir, AccountSpec) {
    let (stores, dir) = configured(
        &format!("http://{}", server.address),
        &GRANT.replace("grants:\n- paths: [root:acme]\n  references: ['arn:aws:kms:*']\n", ""),
    );
    let mut with_role = spec(ProviderType::AwsKms, KEY);
    with_role.access =
        Some(Access { aws: Some(AwsAccess { role_arn: ROLE.to_owned() }), ..Access::default() });
    (stores, dir, with_role)
}

#[tokio::test]
async fn a_tenant_cannot_use_the_role_of_another() {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Aes).unwrap();
    // The trust policy of the role asks for the external id of one workspace.
    server.control.world().trust.push((CLUSTER.to_owned(), ROLE.to_owned()));
    let (stores, _dir, with_role) = without_grant_but_a_role(&server);

    let owner = stores.open(&cluster(CLUSTER), "", &with_role).unwrap();
    verified(&owner).await;
    let thief = stores.open(&cluster("3y8m2rs0we4nat1b"), "", &with_role).unwrap();
    let error = verify(thief.as_ref(), &binding()).await.unwrap_err();
    assert_eq!(error.reason, Reason::AccessDenied);
    assert!(error.message.contains("sts:ExternalId = 3y8m2rs0we4nat1b"), "{error}");
    leaks_nothing(&error, &["999988887777"]);
}

#[tokio::test]
async fn a_role_that_trusts_every_external_id_is_for_nobody_until_that_is_mended() {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Aes).unwrap();
    let (stores, _dir, with_role) = without_grant_but_a_role(&server);
    let owner = stores.open(&cluster(CLUSTER), "", &with_role).unwrap();
    let error = verify(owner.as_ref(), &binding()).await.unwrap_err();
    assert_eq!(error.reason, Reason::Misconfigured);
    assert!(error.message.contains(&format!("add the condition sts:ExternalId = {CLUSTER}")), "{error}");
    assert_eq!(server.control.calls().wrap, 0, "the key is not touched");
    server.control.world().trust.push((CLUSTER.to_owned(), ROLE.to_owned()));
    verified(&owner).await;
}

#[tokio::test]
async fn without_role_or_grant_nothing_opens_and_nothing_is_called() {
    let server = Server::start(LOCAL, LOCAL).await.unwrap();
    server.control.create(KEY, KeyType::Aes).unwrap();
    let (stores, _dir) = configured(
        &format!("http://{}", server.address),
        "  ownAccounts: ['111122223333']\ngrants:\n- paths: ['root:acme:*']\n  references: ['arn:aws:kms:eu-central-1:111122223333:key/*']\n",
    );
    let plain = spec(ProviderType::AwsKms, KEY);
    let refused = |path: &str| stores.open(&cluster(CLUSTER), path, &plain).err().map(|error| error.reason);
    for path in ["", "root", "root:acme", "root:acme2:x", "root:acme:", "xroot:acme:x", "*"] {
        assert_eq!(refused(path), Some(Reason::AccessDenied), "{path}");
    }
    assert_eq!(refused("root:acme:x"), None);
    let mut inside = plain.clone();
    inside.access = Some(Access { aws: Some(AwsAccess { role_arn: ROLE.to_owned() }), ..Access::default() });
    let error = stores.open(&cluster(CLUSTER), "root:acme:x", &inside).err().unwrap();
    assert_eq!(error.reason, Reason::AccessDenied, "a role of the provider's own account needs a grant");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(server.control.calls(), openkcm_key_store_servers::control::Calls::default());
}
