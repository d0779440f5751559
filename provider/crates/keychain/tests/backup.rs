//! Backups of a ledger in use, and the file itself.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use common::{World, at, chain};
use openkcm_keychain::{AccountKeys, KeychainError, Ledger, Location};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_is_whole() {
    let world = World::sqlite().await;
    let chain = Arc::new(chain(&world.ledger, "c1").await);
    let key = chain.create(&world.ledger, "db").await.id;
    let writer = tokio::spawn({
        let (ledger, chain) = (world.ledger.clone(), Arc::clone(&chain));
        async move {
            for _ in 0..100 {
                chain.rotate(&ledger, key).await;
            }
        }
    });
    let mut newest = 0;
    for n in 0..5 {
        let directory = world.scratch().join(format!("backup{n}"));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("ledger.sqlite");
        let before = world.ledger.history(key).await.unwrap().len();
        world.ledger.backup(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = world.ledger.backup(&path).await;
        assert!(
            matches!(again, Err(KeychainError::File { .. })),
            "an existing file is not overwritten: {again:?}"
        );
        let restored = Ledger::open(&Location::Directory(directory)).await.unwrap();
        let history = restored.history(key).await.unwrap();
        assert!(history.len() >= before.max(newest));
        newest = history.len();
        let cache = AccountKeys::new(common::LONG);
        let now = std::time::Instant::now();
        cache.insert(chain.account.id, 1, chain.account_key.duplicate().unwrap(), now);
        let report = restored.verify(&cache).await.unwrap();
        assert_eq!((report.broken, report.opened), (None, history.len() as u64));
    }
    writer.await.unwrap();
}

/// The ledger is put back from a backup while the world is newer: noticed, and nothing is used again.
#[tokio::test]
async fn a_restored_ledger_is_noticed() {
    let world = World::sqlite().await;
    let chain = chain(&world.ledger, "c1").await;
    let key = chain.create(&world.ledger, "db").await.id;
    let directory = world.scratch().join("restored");
    std::fs::create_dir(&directory).unwrap();
    world.ledger.backup(&directory.join("ledger.sqlite")).await.unwrap();
    for _ in 0..3 {
        chain.rotate(&world.ledger, key).await;
    }
    let restored = Ledger::open(&Location::Directory(directory)).await.unwrap();
    assert!(restored.record_seen_version(key, 4).await.unwrap().is_behind());
    let refused = restored.rotate(key, 1, None, None, &chain.sealer, at(5)).await;
    assert!(matches!(refused, Err(KeychainError::LedgerBehind { current: 1, seen: 4, .. })));
    restored.accept_loss(chain.tenant.id, "payments", "db", 4).await.unwrap();
    assert_eq!(chain.rotate(&restored, key).await.current_version, 5);
}

#[tokio::test]
async fn only_the_owner_reads_the_file() {
    let world = World::sqlite().await;
    let chain = chain(&world.ledger, "c1").await;
    chain.create(&world.ledger, "db").await;
    let data = world.scratch().join("data");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
}

/// What is destroyed is overwritten in the file, not only forgotten.
#[tokio::test]
async fn destroyed_material_leaves_the_file() {
    let world = World::sqlite().await;
    let chain = chain(&world.ledger, "c1").await;
    let key = chain.create(&world.ledger, "db").await.id;
    let other = chain.create(&world.ledger, "other").await.id;
    let sealed = world.ledger.version(key, 1).await.unwrap().sealed.unwrap();
    let kept = world.ledger.version(other, 1).await.unwrap().sealed.unwrap();
    let in_files = |needle: &[u8]| {
        std::fs::read_dir(world.scratch().join("data")).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    assert!(in_files(&sealed));
    world.ledger.schedule_deletion(key, at(1), at(0)).await.unwrap();
    world.ledger.destroy_due(10, at(1)).await.unwrap();
    assert!(!in_files(&sealed));
    assert!(in_files(&kept));
}

#[tokio::test]
async fn odd_directory_names_are_fine() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().join("a b%20c?d#é/x"));
    let ledger = Ledger::open(&location).await.unwrap();
    chain(&ledger, "c1").await;
    ledger.close().await;
    let again = Ledger::open(&location).await.unwrap();
    assert_eq!(again.tenants().await.unwrap().len(), 1);
}
