//! PKCS#11 against SoftHSM, through the same calls as a Thales Luna. Skipped, and says so, where SoftHSM is not installed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{collections::HashMap, path::Path, process::Command, sync::Arc};

use common::{CLUSTER, cluster, keeps_its_promises, reason, refused, same, spec, verified};
use cryptoki::{
    context::Pkcs11,
    object::Attribute,
    session::{Session, UserType},
    types::AuthPin,
};
use openkcm_apis::ProviderType;
use openkcm_keystores::{KeyStores, Reason, RootKey};
use openkcm_secret::SecretKey;

const PIN: &str = "4321";

/// Runs the recipe that the end-to-end harness uses as well; gives what it printed.
fn softhsm(dir: &Path, token: &str, key: &str) -> Option<HashMap<String, String>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../test/key-stores/softhsm");
    let output = Command::new(script)
        .args([dir.as_os_str(), token.as_ref(), key.as_ref(), PIN.as_ref()])
        .output()
        .unwrap();
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("not installed"), "{message}");
        eprintln!("skipped: {message}");
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Some(
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    )
}

struct Hsm {
    module: String,
    pin_file: String,
}

impl Hsm {
    fn stores(&self, mechanism: &str) -> KeyStores {
        common::stores(&format!(
            "pkcs11:\n- module: {}\n  tokens:\n  - {{label: rot-eu, pinFile: {}, mechanism: {mechanism}}}\ngrants:\n- paths: [root:acme]\n  references: ['pkcs11:token=rot-eu;object=*', 'pkcs11:token=none;object=*']\n",
            self.module, self.pin_file
        ))
    }

    /// A session of another hand on the same token: the HSM's administrator.
    fn admin(context: &Pkcs11) -> Session {
        let slot = *context
            .get_slots_with_initialized_token()
            .unwrap()
            .iter()
            .find(|slot| context.get_token_info(**slot).unwrap().label() == "rot-eu")
            .unwrap();
        let session = context.open_rw_session(slot).unwrap();
        let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.to_owned().into())));
        session
    }
}

fn open(stores: &KeyStores, object: &str) -> Arc<dyn RootKey> {
    stores
        .open(
            &cluster(CLUSTER),
            "root:acme",
            &spec(ProviderType::ThalesHsm, &format!("pkcs11:token=rot-eu;object={object}")),
        )
        .unwrap()
}

/// One test, since a process has one PKCS#11 library with one configuration.
#[test]
fn softhsm_story() {
    let dir = tempfile::tempdir().unwrap();
    let Some(printed) = softhsm(dir.path(), "rot-eu", "kek-1") else { return };
    softhsm(dir.path(), "rot-eu", "kek-2").unwrap();
    // The library reads its configuration from the environment. Nothing else runs yet.
    #[expect(unsafe_code, reason = "single-threaded here: the runtime is made below")]
    unsafe {
        std::env::set_var("SOFTHSM2_CONF", &printed["SOFTHSM2_CONF"]);
    }
    let hsm = Hsm { module: printed["PKCS11_MODULE"].clone(), pin_file: printed["PKCS11_PIN_FILE"].clone() };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        a_wrong_pin_is_tried_once(&hsm, dir.path()).await;
        wraps_by_gcm_and_by_key_wrap(&hsm).await;
        says_why_a_key_cannot_be_used(&hsm).await;
    });
}

async fn wraps_by_gcm_and_by_key_wrap(hsm: &Hsm) {
    for (mechanism, algorithm) in [
        ("aesGcm", "AES-GCM-256"),
        ("!keyWrap {number: 0x210a}", "AES-KWP-256"),
        ("!keyWrap {number: 0x2109}", "AES-KW-256"),
    ] {
        let stores = hsm.stores(mechanism);
        let root = open(&stores, "kek-1");
        assert_eq!(verified(&root).await.algorithm, algorithm);
        keeps_its_promises(&root).await;

        // What one key wrapped, the other does not open, whatever its header says.
        let key = SecretKey::random().unwrap();
        let wrapped = root.wrap(&key, &common::binding()).await.unwrap();
        let renamed: Vec<u8> = {
            let text = b"kek-1";
            let at = wrapped.bytes.windows(text.len()).position(|window| window == text).unwrap();
            let mut bytes = wrapped.bytes.clone();
            bytes[at + text.len() - 1] = b'2';
            bytes
        };
        let other = open(&stores, "kek-2");
        for blob in [&wrapped.bytes, &renamed] {
            let error = other.unwrap(blob, &common::binding()).await.err().unwrap();
            assert_eq!(error.reason, Reason::BadCiphertext, "{error}");
        }
        assert!(same(&root.unwrap(&wrapped.bytes, &common::binding()).await.unwrap(), &key));
    }
    let many = hsm.stores("aesGcm");
    let root = open(&many, "kek-1");
    let all = futures::future::join_all((0..8).map(|_| verified(&root))).await;
    assert_eq!(all.len(), 8, "calls at once share few threads");
}

async fn says_why_a_key_cannot_be_used(hsm: &Hsm) {
    let stores = hsm.stores("aesGcm");
    let root = open(&stores, "kek-1");
    verified(&root).await;
    assert_eq!(reason(&open(&stores, "none")).await, Some(Reason::NotFound));

    let context = Pkcs11::new(&hsm.module).unwrap();
    let admin = Hsm::admin(&context);
    let find = |label: &str| admin.find_objects(&[Attribute::Label(label.as_bytes().to_vec())]).unwrap()[0];
    let usable = |yes| [Attribute::Encrypt(yes), Attribute::Decrypt(yes)];
    admin.update_attributes(find("kek-1"), &usable(false)).unwrap();
    assert_eq!(reason(&root).await, Some(Reason::Disabled));
    admin.update_attributes(find("kek-1"), &usable(true)).unwrap();
    verified(&root).await;

    admin.update_attributes(find("kek-2"), &[Attribute::Label(b"kek-1".to_vec())]).unwrap();
    assert_eq!(reason(&root).await, Some(Reason::WrongKeyType), "two keys with one label are no key");
    for key in admin.find_objects(&[Attribute::Label(b"kek-1".to_vec())]).unwrap() {
        admin.destroy_object(key).unwrap();
    }
    assert_eq!(reason(&root).await, Some(Reason::NotFound));

    let denied = |object: &str, path: &str| {
        let spec = spec(ProviderType::ThalesHsm, object);
        stores.open(&cluster(CLUSTER), path, &spec).err().map(|error| error.reason)
    };
    assert_eq!(denied("pkcs11:token=rot-eu;object=kek-1", "root:other"), Some(Reason::AccessDenied));
    assert_eq!(denied("pkcs11:token=rot-us;object=kek-1", "root:acme"), Some(Reason::AccessDenied));
    assert_eq!(denied("pkcs11:token=none;object=kek-1", "root:acme"), Some(Reason::NotFound));
}

async fn a_wrong_pin_is_tried_once(hsm: &Hsm, dir: &Path) {
    let wrong = dir.join("wrong-pin");
    std::fs::write(&wrong, "9999").unwrap();
    let stores = Hsm { module: hsm.module.clone(), pin_file: wrong.display().to_string() }.stores("aesGcm");
    let root = open(&stores, "kek-1");
    let first = refused(&root).await;
    assert_eq!(first.reason, Reason::Misconfigured);
    assert!(std::error::Error::source(&first).unwrap().to_string().contains("PIN"), "the token was asked");
    let second = refused(&root).await;
    assert_eq!(second.reason, Reason::Misconfigured);
    assert!(std::error::Error::source(&second).is_none(), "the token was not asked again");
}
