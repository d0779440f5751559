//! What is promised of root keys, for each of the four stores against its running server.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use kcp_e2e::{
    installation::{Application, EXPORT, Refusal},
    stores::{KeyStores, Store, Trouble},
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, BINDING, SERVICE_KEY, is_true},
};
use serde_json::json;
use tokio::task::{JoinHandle, spawn_blocking};

/// The service key below a store's Account.
fn key(store: Store) -> String {
    format!("payments/below-{}", store.name())
}

#[test]
fn root_disabled_in_any_store_stops_its_keys_until_it_is_enabled() {
    scenario(async |story| {
        story.with_own_provider(&["--probe-interval=1s", "--root-loss-grace=2s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let stores = story.stores();
        let mut roots = Vec::new();
        for store in Store::ALL {
            let root = stores.create_key(store, &format!("{}-root", team.cluster())).await?;
            team.account_in(store, &root).await?;
            team.service_key(&key(store), store.name()).await?;
            roots.push((store, root));
        }
        let application = team.application("payments/app").await?;
        let mut sealed = Vec::new();
        for store in Store::ALL {
            let account = team.account_ready(store.name()).await?;
            ensure!(
                is_true(&account, "RootKeyVerified"),
                "{} is Ready without a verified root",
                store.name()
            );
            team.key_is(&key(store), "Active").await?;
            sealed.push(application.encrypts(&key(store), store.name()).await?);
        }

        for (store, root) in &roots {
            stores.set_enabled(*store, root, false).await?;
        }
        for (store, sealed) in Store::ALL.into_iter().zip(&sealed) {
            let what = "it is Unavailable";
            team.expect(ACCOUNT, store.name(), what, |it| it["status"]["phase"] == "Unavailable").await?;
            team.account_refused(store.name(), "Disabled").await?;
            team.key_is(&key(store), "Unavailable").await?;
            application.is_refused(&key(store), sealed, &["evicted"]).await?;
        }

        for (store, root) in &roots {
            stores.set_enabled(*store, root, true).await?;
        }
        for (store, sealed) in Store::ALL.into_iter().zip(&sealed) {
            team.account_ready(store.name()).await?;
            team.key_is(&key(store), "Active").await?;
            application.decrypts(&key(store), sealed, store.name()).await?;
        }
        Ok(())
    });
}

#[test]
fn account_says_why_the_key_of_its_store_cannot_be_used() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        let stores = story.stores();
        let mut expected = Vec::new();
        for store in Store::ALL {
            let name = |what: &str| format!("{}-{what}", team.cluster());
            let disabled = stores.create_key(store, &name("disabled")).await?;
            stores.set_enabled(store, &disabled, false).await?;
            let mut roots = vec![
                ("missing", KeyStores::missing_key(store), "NotFound"),
                ("disabled", disabled, "Disabled"),
            ];
            // An HSM deletes at once, and its keys are of one type here.
            if store != Store::Hsm {
                let dying = stores.create_key(store, &name("dying")).await?;
                stores.schedule_deletion(store, &dying).await?;
                roots.push(("dying", dying, "PendingDeletion"));
                let signing = stores.create_signing_key(store, &name("signing")).await?;
                roots.push(("signing", signing, "WrongKeyType"));
            }
            for (what, root, reason) in roots {
                let account = format!("{}-{what}", store.name());
                team.account_of(&account, store.provider_type(), &root).await?;
                expected.push((account, reason));
            }
        }
        for (account, reason) in expected {
            let message = team.account_refused(&account, reason).await?;
            ensure!(message.len() > 20, "Account {account} gives no help: {message}");
        }
        Ok(())
    });
}

#[test]
fn key_of_any_store_is_denied_to_a_workspace_without_a_grant() {
    scenario(async |story| {
        let stranger = story.stranger("team").await?;
        stranger.enable().await?;
        for store in Store::ALL {
            let root = story.stores().create_key(store, &format!("{}-not-mine", stranger.cluster())).await?;
            stranger.account_in(store, &root).await?;
        }
        for store in Store::ALL {
            stranger.account_refused(store.name(), "AccessDenied").await?;
        }

        // Claiming to be at a path that has a grant helps nobody.
        let granted = story.workspace("granted").await?.path().to_owned();
        let claim = json!({"metadata": {"annotations": {"kcp.io/path": granted}}});
        let _refused = stranger.patch(BINDING, EXPORT, claim).await;
        let binding = stranger.get(BINDING, EXPORT).await?.context("a binding that was there")?;
        ensure!(
            binding["metadata"]["annotations"]["kcp.io/path"] == stranger.path(),
            "a tenant writes its own path: {}",
            binding["metadata"]["annotations"]
        );
        let root = story.stores().create_key(Store::Gcp, &format!("{}-claimed", stranger.cluster())).await?;
        stranger.account_of("claimed", "GCPKMS", &root).await?;
        stranger.account_refused("claimed", "AccessDenied").await?;
        Ok(())
    });
}

#[test]
fn trouble_with_a_store_is_told_apart_and_passes_without_help() {
    scenario(async |story| {
        let limits = "{deadline: 2s}";
        story.with_own_provider_and_limited_stores(&["--probe-interval=1s"], limits).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let stores = story.stores();
        let mut roots = Vec::new();
        for store in Store::ALL {
            roots.push((store, stores.create_key(store, "root").await?));
        }
        for (trouble, reason) in [
            (Trouble::Denied, "AccessDenied"),
            (Trouble::Throttled, "Throttled"),
            (Trouble::Down, "Unreachable"),
            (Trouble::Silent, "Timeout"),
        ] {
            let account = |store: Store| format!("{}-{}", store.name(), reason.to_lowercase());
            for (store, root) in &roots {
                stores.disturb(*store, trouble).await?;
                team.account_of(&account(*store), store.provider_type(), root).await?;
            }
            for store in Store::ALL {
                team.account_refused(&account(store), reason).await?;
                // The first look tells it: there was no other reason before.
                for event in team.events(ACCOUNT, &account(store)).await? {
                    let told = ["Verifying", reason].iter().any(|known| event.contains(known));
                    ensure!(told, "{} said something else before: {event}", account(store));
                }
            }
            for store in Store::ALL {
                stores.disturb(store, Trouble::None).await?;
            }
            for store in Store::ALL {
                team.account_ready(&account(store)).await?;
            }
        }
        Ok(())
    });
}

#[test]
fn silent_store_holds_up_nobody_but_its_own_accounts() {
    const MANY: usize = 12;
    scenario(async |story| {
        // A call hangs for as long as this story takes: what is Ready meanwhile did not wait for it.
        let limits = "{deadline: 10m}";
        story.with_own_provider_and_limited_stores(&["--probe-interval=1s"], limits).await?;
        let (slow, quick) = (story.workspace("slow").await?, story.workspace("quick").await?);
        slow.enable().await?;
        quick.enable().await?;
        let stores = story.stores();
        for (silent, other) in Store::ALL.into_iter().zip(Store::ALL.into_iter().cycle().skip(1)) {
            stores.disturb(silent, Trouble::Silent).await?;
            let root = stores.create_key(silent, "slow").await?;
            let stuck: Vec<String> = (0..MANY).map(|n| format!("{}-{n}", silent.name())).collect();
            for account in &stuck {
                slow.account_of(account, silent.provider_type(), &root).await?;
            }
            for account in &stuck {
                slow.expect(ACCOUNT, account, "it was looked at", |it| it["status"]["phase"] == "Pending")
                    .await?;
            }
            let account = format!("beside-{}", silent.name());
            let root = stores.create_key(other, "quick").await?;
            quick.account_of(&account, other.provider_type(), &root).await?;
            quick.account_ready(&account).await?;
            // Nor does the tenant of the silent store wait with its other Accounts.
            for account in &stuck {
                let now = slow.get(ACCOUNT, account).await?.context("an Account that was made")?;
                ensure!(!is_true(&now, "Ready"), "{account} is Ready on a silent store");
            }
            stores.disturb(silent, Trouble::None).await?;
        }
        Ok(())
    });
}

#[test]
fn rekey_costs_one_wrap_and_one_unwrap_however_many_keys_there_are() {
    scenario(async |story| {
        story.with_own_provider_and_stores(&["--probe-interval=1h"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let stores = story.stores();
        let old = stores.create_key(Store::Azure, "old").await?;
        let new = stores.create_key(Store::Gcp, "new").await?;
        team.account_of("chain", "AzureKeyVault", &old).await?;
        team.account_ready("chain").await?;
        for n in 0..5 {
            let key = format!("payments/key-{n}");
            team.service_key(&key, "chain").await?;
            team.key_is(&key, "Active").await?;
        }
        let before = [stores.calls(Store::Azure).await?, stores.calls(Store::Gcp).await?];
        ensure!(before == [[1, 1, 1], [0, 0, 0]], "an Account was made with these calls: {before:?}");
        let spec = json!({"providerType": "GCPKMS", "keyReference": new});
        team.patch(ACCOUNT, "chain", json!({"spec": spec})).await?;
        team.expect(ACCOUNT, "chain", "everything is under the new root", |it| {
            it["status"]["accountKeyVersion"] == 2 && is_true(it, "RewrapComplete")
        })
        .await?;
        let after = [stores.calls(Store::Azure).await?, stores.calls(Store::Gcp).await?];
        ensure!(after == [[1, 1, 1], [1, 1, 1]], "a re-key of 5 keys took it from {before:?} to {after:?}");

        // The same count, by the Account's id, where the operator looks.
        let installation = story.installation().await?;
        let listed = installation.operator(&["accounts", "list"])?;
        let id = listed
            .lines()
            .find(|line| line.contains("chain"))
            .and_then(|line| line.split_whitespace().nth(2));
        let id = id.with_context(|| format!("no id in {listed}"))?;
        let metrics = reqwest::get(installation.metrics_url()).await?.text().await?;
        for operation in ["describe", "wrap", "unwrap"] {
            let line = format!(
                "openkcm_account_root_key_calls_total{{account=\"{id}\",operation=\"{operation}\"}} 2"
            );
            ensure!(metrics.contains(&line), "no line {line} in:\n{metrics}");
        }

        // And the diary has it all.
        let diary = team.events(ACCOUNT, "chain").await?.join("\n");
        for line in ["RewrapStarted: 5 versions", "RewrapComplete: 5 versions"] {
            ensure!(diary.contains(line), "no {line:?} in the diary:\n{diary}");
        }
        Ok(())
    });
}

#[test]
fn account_moves_from_each_store_to_each_other_with_its_keys_in_use() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        let stores = story.stores();
        let mut moves = Vec::new();
        for from in Store::ALL {
            for to in Store::ALL.into_iter().filter(|to| *to != from) {
                let account = format!("{}-to-{}", from.name(), to.name());
                let name = |what: &str| format!("{}-{account}-{what}", team.cluster());
                let old = stores.create_key(from, &name("old")).await?;
                let new = stores.create_key(to, &name("new")).await?;
                team.account_of(&account, from.provider_type(), &old).await?;
                let key = format!("payments/{account}");
                team.service_key(&key, &account).await?;
                moves.push(Move { account, key, from, to, old, new });
            }
        }
        let application = team.application("payments/app").await?;
        let mut ciphertexts = Vec::new();
        for it in &moves {
            team.account_ready(&it.account).await?;
            team.key_is(&it.key, "Active").await?;
            ciphertexts.push((it.key.clone(), application.encrypts(&it.key, "before").await?));
        }

        let load = Load::start(&application, ciphertexts.clone());
        for it in &moves {
            let spec = json!({"providerType": it.to.provider_type(), "keyReference": it.new});
            team.patch(ACCOUNT, &it.account, json!({"spec": spec})).await?;
        }
        for it in &moves {
            team.expect(ACCOUNT, &it.account, "it is Ready under the new root", |now| {
                now["status"]["rootKey"]["reference"] == it.new.as_str()
                    && is_true(now, "Ready")
                    && is_true(now, "RewrapComplete")
                    && now["status"]["accountKeyVersion"] == 2
            })
            .await?;
        }
        let decrypted = load.stop().await?;
        ensure!(decrypted > 0, "nothing was decrypted while the roots changed");

        // The old roots are not needed any more: not for what is there, and not for what comes.
        for it in &moves {
            stores.set_enabled(it.from, &it.old, false).await?;
            team.patch(SERVICE_KEY, &it.key, json!({"spec": {"rotationRequest": "under the new root"}}))
                .await?;
        }
        for (it, (_, sealed)) in moves.iter().zip(&ciphertexts) {
            team.key_is_at(&it.key, "v2").await?;
            let after = application.encrypts(&it.key, "after").await?;
            application.decrypts(&it.key, &after, "after").await?;
            application.decrypts(&it.key, sealed, "before").await?;
        }
        Ok(())
    });
}

/// An Account that goes from one store to another.
struct Move {
    account: String,
    key: String,
    from: Store,
    to: Store,
    old: String,
    new: String,
}

/// An application that decrypts, one key after the other, until it is stopped or refused.
struct Load {
    goes_on: Arc<AtomicBool>,
    task: JoinHandle<Result<u64>>,
}

impl Load {
    fn start(application: &Application, ciphertexts: Vec<(String, Vec<u8>)>) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let (application, flag) = (application.clone(), goes_on.clone());
        let task = spawn_blocking(move || {
            let mut decrypted = 0;
            for (key, sealed) in ciphertexts.iter().cycle() {
                if !flag.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(Refusal(why)) = application.decrypt(key, sealed)? {
                    bail!("{key} is refused in the middle of a re-key: {why}");
                }
                decrypted += 1;
            }
            Ok(decrypted)
        });
        Self { goes_on, task }
    }

    /// How many were decrypted.
    async fn stop(mut self) -> Result<u64> {
        self.goes_on.store(false, Ordering::Relaxed);
        (&mut self.task).await?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
    }
}
