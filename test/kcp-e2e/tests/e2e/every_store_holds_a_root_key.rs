//! What is promised of root keys, for each of the four stores against its running server.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail, ensure};
use kcp_e2e::{
    installation::{Application, Refusal},
    stores::{KeyStores, Store, Trouble},
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, SERVICE_KEY, is_true},
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
        Ok(())
    });
}

#[test]
fn trouble_with_a_store_is_told_apart_and_passes_without_help() {
    scenario(async |story| {
        story.with_own_provider_and_stores(&["--probe-interval=1s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let stores = story.stores();
        let servers = [Store::Aws, Store::Azure, Store::Gcp];
        let mut roots = Vec::new();
        for store in servers {
            roots.push(stores.create_key(store, "root").await?);
        }
        let mut accounts = Vec::new();
        for (trouble, reason) in [
            (Trouble::Denied, "AccessDenied"),
            (Trouble::Throttled, "Throttled"),
            (Trouble::Down, "Unreachable"),
            (Trouble::Silent, "Timeout"),
        ] {
            let mut troubled = Vec::new();
            for (store, root) in servers.into_iter().zip(&roots) {
                stores.disturb(store, trouble).await?;
                let account = format!("{}-{}", store.name(), reason.to_lowercase());
                team.account_of(&account, store.provider_type(), root).await?;
                troubled.push(account);
            }
            for account in &troubled {
                team.account_refused(account, reason).await?;
            }
            accounts.extend(troubled);
        }
        // The HSM has nothing to do with it.
        let hsm = stores.create_key(Store::Hsm, "root").await?;
        team.account_in(Store::Hsm, &hsm).await?;
        team.account_ready(Store::Hsm.name()).await?;

        for store in servers {
            stores.disturb(store, Trouble::None).await?;
        }
        for account in &accounts {
            team.account_ready(account).await?;
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
