#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Barrier, atomic::AtomicBool};

use openkcm_secret::SecretKey;

use super::{entry::EXPANDED, *};
use crate::{caller, clock::ManualClock, engine::Engine, error::Code};

const SECOND: Duration = Duration::from_secs(1);

fn cluster(name: &str) -> LogicalCluster {
    name.parse().unwrap()
}

fn version(number: u32, usable: Usable) -> KeyVersion {
    let key = SecretKey::from_bytes(&mut [u8::try_from(number).unwrap(); 32]).unwrap();
    KeyVersion { version: number, material: Material::Present { key, usable } }
}

fn entry(revision: u64) -> KeyEntry {
    KeyEntry {
        cluster: cluster("1acme"),
        tenant_name: "tenant-root-acme".into(),
        namespace: "payments".into(),
        name: "db".into(),
        key_id: [7; 16],
        current: 1,
        versions: vec![version(1, Usable::EncryptDecrypt)],
        clients: Vec::new(),
        revision,
    }
}

fn name() -> KeyName {
    KeyName { cluster: cluster("1acme"), namespace: "payments".into(), name: "db".into() }
}

const DB: Address<'_> = Address { tenant: "tenant-root-acme", namespace: "payments", name: "db" };

fn app(number: u32) -> Caller {
    let home = caller::Home { cluster: cluster("1acme"), namespace: "payments".into() };
    Caller::new("kcp", &format!("system:serviceaccount:payments:app-{number}"), Some(home))
}

fn leased() -> (Arc<ManualClock>, Arc<KeyStore>) {
    let clock = Arc::new(ManualClock::new(BootInstant::from_nanos(1_000_000_000_000)));
    let store = KeyStore::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    store.renew_lease(store.now().saturating_add(5 * SECOND));
    (clock, Arc::new(store))
}

fn used(store: &KeyStore, want: Want) -> Result<u32, Refusal> {
    store.lend(DB, want, &app(1), |lent| lent.version)
}

fn exactly(version: u32) -> Want {
    Want::Exactly { key_id: [7; 16], version }
}

#[test]
fn without_a_lease_nothing_can_be_used() {
    let store = KeyStore::with_clock(Arc::new(ManualClock::new(BootInstant::from_nanos(5))));
    store.put(entry(1)).unwrap();
    assert_eq!(used(&store, Want::Current), Err(Refusal::LeaseLost));
    assert_eq!((store.lease().remaining, store.lease().ever), (Duration::ZERO, false));
    assert_eq!(store.describe(DB, &app(1)), Err(Refusal::LeaseLost));
}

#[test]
fn a_lease_ends_to_the_nanosecond_and_comes_back_when_renewed() {
    let (clock, store) = leased();
    store.put(entry(1)).unwrap();
    clock.advance(Duration::from_nanos(4_999_999_999));
    assert_eq!(used(&store, Want::Current), Ok(1));
    assert_eq!(store.lease().age, Duration::from_nanos(4_999_999_999));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(used(&store, Want::Current), Err(Refusal::LeaseLost));
    store.renew_lease(store.now().saturating_add(SECOND));
    assert_eq!(used(&store, Want::Current), Ok(1));
    // A late message with an earlier end changes nothing; an end does.
    store.renew_lease(store.now());
    assert_eq!(used(&store, Want::Current), Ok(1));
    store.end_lease();
    assert_eq!(used(&store, Want::Current), Err(Refusal::LeaseLost));
    assert!(store.lease().ever);
}

#[test]
fn a_process_that_is_stopped_in_the_middle_of_an_operation_releases_nothing() {
    let (clock, store) = leased();
    store.put(entry(1)).unwrap();
    let result = store.lend(DB, Want::Current, &app(1), |_| clock.advance(6 * SECOND));
    assert_eq!(result, Err(Refusal::LeaseLost));
    assert_eq!(store.usage_report(), []);
}

#[test]
fn an_engine_leaves_no_output_of_a_lost_lease_behind() {
    let (clock, store) = leased();
    store.put(entry(1)).unwrap();
    let engine = Engine::new(Arc::clone(&store));
    let mut out = b"before".to_vec();
    engine.encrypt(DB, &app(1), b"plaintext", b"", &mut out).unwrap();
    let mut envelope = out.split_off(6);
    clock.advance(6 * SECOND);
    assert_eq!(engine.encrypt(DB, &app(1), b"x", b"", &mut out).unwrap_err().code, Code::LeaseLost);
    assert_eq!(out, b"before");
    assert_eq!(engine.decrypt(DB, &app(1), &mut envelope, b"").unwrap_err().code, Code::LeaseLost);
    assert!(envelope.iter().all(|byte| *byte == 0));
}

#[test]
fn rotation_moves_encryption_and_keeps_decryption() {
    let (_, store) = leased();
    store.put(entry(1)).unwrap();
    let patch = KeyEntry {
        current: 2,
        versions: vec![version(2, Usable::EncryptDecrypt), version(1, Usable::DecryptOnly)],
        ..entry(2)
    };
    store.patch(patch).unwrap();
    assert_eq!(used(&store, Want::Current), Ok(2));
    assert_eq!(used(&store, exactly(1)), Ok(1));
    assert_eq!(used(&store, exactly(3)), Err(Refusal::UnknownVersion));
    let other = Want::Exactly { key_id: [8; 16], version: 1 };
    assert_eq!(used(&store, other), Err(Refusal::OtherKey));
}

#[test]
fn no_edge_goes_back() {
    let (_, store) = leased();
    store.put(entry(5)).unwrap();
    assert_eq!(store.put(entry(4)), Err(PutError::Older { offered: 4, held: 5 }));
    store.evict(&name(), EvictReason::Disabled);
    assert_eq!(store.patch(entry(4)), Err(PutError::Older { offered: 4, held: 5 }));
    assert_eq!(
        store.bury(KeyEntry { versions: Vec::new(), ..entry(4) }, EvictReason::Deleted),
        Err(PutError::Older { offered: 4, held: 5 })
    );
    // The same state may come back, as after a root key that was away for a while.
    store.put(entry(5)).unwrap();
    assert_eq!(store.revision(&name()), Some(5));
}

#[test]
fn a_key_in_use_does_not_go_back_to_an_older_version() {
    let (_, store) = leased();
    let at = |current: u32, revision| {
        let versions = (1..=current).map(|number| version(number, Usable::EncryptDecrypt)).collect();
        KeyEntry { current, versions, ..entry(revision) }
    };
    store.put(at(3, 1)).unwrap();
    assert_eq!(store.put(at(2, 9)), Err(PutError::OlderVersion { offered: 2, held: 3 }));
    assert_eq!(used(&store, Want::Current), Ok(3));
    // Once nobody uses it here, what the ledger has is what there is (it may have been restored from a backup).
    store.evict(&name(), EvictReason::Disabled);
    store.put(at(2, 9)).unwrap();
    assert_eq!(used(&store, Want::Current), Ok(2));
    // Another key of the same name begins anew.
    store.put(KeyEntry { key_id: [1; 16], ..at(1, 10) }).unwrap();
}

#[test]
fn contradictions_are_refused_and_change_nothing() {
    let (_, store) = leased();
    store.put(entry(1)).unwrap();
    let twice = || vec![version(1, Usable::EncryptDecrypt), version(1, Usable::DecryptOnly)];
    let zero = KeyVersion { version: 0, ..version(1, Usable::DecryptOnly) };
    for wrong in [
        KeyEntry { versions: twice(), ..entry(2) },
        KeyEntry { current: 3, ..entry(2) },
        KeyEntry { versions: Vec::new(), ..entry(2) },
        KeyEntry { versions: vec![zero], current: 0, ..entry(2) },
    ] {
        assert_eq!(store.put(wrong), Err(PutError::Inconsistent));
    }
    let another = KeyEntry { key_id: [1; 16], ..entry(2) };
    assert_eq!(store.patch(another), Err(PutError::NotHeld));
    assert_eq!((used(&store, Want::Current), store.revision(&name())), (Ok(1), Some(1)));
}

#[test]
fn evictions_leave_the_reason_for_those_who_may_know() {
    let (_, store) = leased();
    store.put(entry(1)).unwrap();
    assert_eq!(store.evict(&name(), EvictReason::Disabled), Evicted { keys: 1, wiped: true });
    assert_eq!(used(&store, Want::Current), Err(Refusal::Evicted(EvictReason::Disabled)));
    assert_eq!(store.evict(&name(), EvictReason::Deleted).keys, 0);
    assert_eq!(used(&store, Want::Current), Err(Refusal::Evicted(EvictReason::Deleted)));
    let stranger = Caller::new("https://x", "y", None);
    assert_eq!(store.describe(DB, &stranger), Err(Refusal::UnknownKey));
    assert_eq!(store.stats(), StoreStats { live: 0, tombstones: 1, evictions: 1 });
    store.forget(&name());
    assert_eq!(used(&store, Want::Current), Err(Refusal::UnknownKey));
    assert_eq!(store.stats(), StoreStats { live: 0, tombstones: 0, evictions: 1 });
    store.bury(KeyEntry { versions: Vec::new(), ..entry(1) }, EvictReason::RootUnavailable).unwrap();
    assert_eq!(used(&store, Want::Current), Err(Refusal::Evicted(EvictReason::RootUnavailable)));
}

/// A caller from outside is looked up among what `spec.clients` grants before any key is: whether a key that does not
/// name it exists makes no difference, not even in time.
#[test]
fn a_caller_from_outside_reaches_no_key_that_does_not_name_it() {
    let (_, store) = leased();
    let partner = Caller::new("https://idp", "partner", None);
    let client = || Client { issuer: "https://idp".into(), subject: "partner".into() };
    let may = |caller: &Caller| store.lend(DB, Want::Current, caller, |_| ());
    let granted = || store.granted.read().unwrap().len();
    store.put(entry(1)).unwrap();
    assert_eq!((may(&partner), granted()), (Err(Refusal::UnknownKey), 0));
    store.put(KeyEntry { clients: vec![client(), client()], ..entry(2) }).unwrap();
    assert_eq!((may(&partner), granted()), (Ok(()), 1));
    for other in [("https://idp", "other"), ("https://other", "partner"), ("https://idppartner", "")] {
        assert_eq!(may(&Caller::new(other.0, other.1, None)), Err(Refusal::UnknownKey));
    }
    store.put(KeyEntry { clients: vec![client()], ..entry(3) }).unwrap();
    store.evict(&name(), EvictReason::Disabled);
    assert_eq!(may(&partner), Err(Refusal::Evicted(EvictReason::Disabled)));
    store.put(KeyEntry { clients: vec![client()], ..entry(4) }).unwrap();
    assert_eq!((may(&partner), granted()), (Ok(()), 1));
    store.put(entry(5)).unwrap();
    assert_eq!((may(&partner), granted()), (Err(Refusal::UnknownKey), 0));
    store.put(KeyEntry { clients: vec![client()], ..entry(6) }).unwrap();
    store.forget(&name());
    assert_eq!((may(&partner), granted()), (Err(Refusal::UnknownKey), 0));
}

/// Expanded keys are kept for so many versions; more work as well, and an eviction gives the place back.
#[test]
fn keys_work_with_and_without_a_place_for_their_expanded_form() {
    let (_, store) = leased();
    let number = |number: u32| KeyEntry { name: format!("k{number}"), ..entry(1) };
    let use_it = |number: u32| {
        let address = Address { name: &format!("k{number}"), ..DB };
        let mut data = [7; 32];
        let tag =
            store.lend(address, Want::Current, &app(1), |lent| lent.cipher.seal(&[1; 24], b"", &mut data));
        (tag.unwrap().unwrap(), data)
    };
    let many = u32::try_from(EXPANDED).unwrap() + 10;
    (0..many).for_each(|index| store.put(number(index)).unwrap());
    let first = use_it(0);
    assert!((0..many).all(|index| use_it(index) == first), "all have the same key");
    assert_eq!(store.expanded.taken(), EXPANDED);
    store.evict_all(&EvictReason::Disabled);
    assert_eq!(store.expanded.taken(), 0);
}

#[test]
fn names_of_any_length_are_found() {
    let (_, store) = leased();
    for length in [1, 21, 22, 23, 253] {
        let key = "k".repeat(length);
        store.put(KeyEntry { name: key.clone(), ..entry(1) }).unwrap();
        let address = Address { name: &key, ..DB };
        assert_eq!(store.lend(address, Want::Current, &app(1), |lent| lent.version), Ok(1));
        let other = KeyName { name: key.clone() + "x", ..name() };
        assert_eq!(
            (store.revision(&other), store.revision(&KeyName { name: key, ..name() })),
            (None, Some(1))
        );
    }
}

#[test]
fn evicting_a_tenant_leaves_the_others() {
    let (_, store) = leased();
    for number in 0..500 {
        let cluster = cluster(if number % 2 == 0 { "1acme" } else { "2other" });
        store.put(KeyEntry { cluster, name: format!("k{number}"), ..entry(1) }).unwrap();
    }
    assert_eq!(
        store.evict_tenant(&cluster("1acme"), &EvictReason::TenantSuspended),
        Evicted { keys: 250, wiped: true }
    );
    assert_eq!(store.stats(), StoreStats { live: 250, tombstones: 250, evictions: 250 });
    let address = Address { name: "k0", ..DB };
    let result = store.lend(address, Want::Current, &app(1), |_| ());
    assert_eq!(result, Err(Refusal::Evicted(EvictReason::TenantSuspended)));
    assert_eq!(store.evict_all(&EvictReason::Deleted).keys, 250);
}

#[test]
fn versions_without_material_say_why() {
    let (_, store) = leased();
    let gone = |version, gone| KeyVersion { version, material: Material::Absent(gone) };
    let versions = vec![
        gone(1, Gone::Destroyed { on: "2026-11-21".into() }),
        gone(2, Gone::Compromised),
        version(3, Usable::DecryptOnly),
    ];
    store.put(KeyEntry { current: 3, versions, ..entry(1) }).unwrap();
    assert_eq!(used(&store, exactly(1)), Err(Refusal::Destroyed("2026-11-21".into())));
    assert_eq!(used(&store, exactly(2)), Err(Refusal::Compromised));
    assert_eq!(used(&store, exactly(3)), Ok(3));
    assert_eq!(used(&store, Want::Current), Err(Refusal::UnknownVersion), "decrypt-only never encrypts");
}

#[test]
fn names_are_tuples_not_joined_texts() {
    let (_, store) = leased();
    store.put(KeyEntry { namespace: "a".into(), name: "b-c".into(), ..entry(1) }).unwrap();
    let caller =
        Caller::new("kcp", "s", Some(caller::Home { cluster: cluster("1acme"), namespace: "a-b".into() }));
    let address = Address { tenant: "1acme", namespace: "a-b", name: "c" };
    assert_eq!(store.lend(address, Want::Current, &caller, |_| ()), Err(Refusal::UnknownKey));
    let hashes: Vec<u64> = [("a", "bc"), ("ab", "c"), ("", "abc")]
        .map(|(namespace, name)| store.hasher.hash_one(KeyNameRef { cluster: "x", namespace, name }))
        .into();
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
}

#[test]
fn callers_are_counted_in_the_window_and_over_rotations() {
    let (clock, store) = leased();
    store.put(entry(1)).unwrap();
    store.renew_lease(store.now().saturating_add(3600 * SECOND));
    for number in [1, 2, 3, 1, 2, 1] {
        store.lend(DB, Want::Current, &app(number), |_| ()).unwrap();
    }
    let report = |callers| vec![KeyUsage { name: name(), callers }];
    assert_eq!(store.usage_report(), report(3));
    store
        .put(KeyEntry { current: 2, versions: vec![version(2, Usable::EncryptDecrypt)], ..entry(2) })
        .unwrap();
    store.lend(DB, Want::Current, &app(4), |_| ()).unwrap();
    assert_eq!(store.usage_report(), report(4));
    clock.advance(USAGE_WINDOW + 20 * SECOND);
    assert_eq!(store.usage_report(), []);
}

/// Readers race with rotations and an eviction. After `evict` has returned nobody succeeds, and no reader ever sees a
/// version older than one it has seen.
#[test]
fn readers_never_succeed_after_an_eviction_nor_see_an_older_version() {
    for _ in 0..20 {
        let (_, store) = leased();
        store.put(entry(1)).unwrap();
        let (evicted, start) = (AtomicBool::new(false), Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut newest = 0;
                    start.wait();
                    loop {
                        let after = evicted.load(Ordering::SeqCst);
                        match used(&store, Want::Current) {
                            Ok(version) => {
                                assert!(!after, "success after the eviction");
                                assert!(version >= newest, "{version} after {newest}");
                                newest = version;
                            }
                            Err(refusal) => {
                                assert_eq!(refusal, Refusal::Evicted(EvictReason::Disabled));
                                break;
                            }
                        }
                    }
                });
            }
            start.wait();
            for number in 2..50 {
                let versions = vec![version(number, Usable::EncryptDecrypt)];
                store.patch(KeyEntry { current: number, versions, ..entry(u64::from(number)) }).unwrap();
            }
            store.evict(&name(), EvictReason::Disabled);
            evicted.store(true, Ordering::SeqCst);
        });
    }
}
