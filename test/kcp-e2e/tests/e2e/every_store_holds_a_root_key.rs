//! What is promised of root keys, for each of the four stores against its running server.

use anyhow::ensure;
use kcp_e2e::{
    stores::{KeyStores, Store},
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, SERVICE_KEY, is_true},
};
use serde_json::json;

/// The service key below a store's Account.
fn key(store: Store) -> String {
    format!("payments/below-{}", store.name())
}

#[test]
fn root_disabled_in_any_store_stops_its_keys_until_it_is_enabled() {
    scenario(async |story| {
        story.with_own_provider(&["--probe-interval=1s", "--root-loss-grace=2s"]).await?;
        let stores = story.stores();
        let team = story.workspace("team").await?;
        team.enable().await?;
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
        let stores = story.stores();
        let team = story.workspace("team").await?;
        team.enable().await?;
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
fn account_moves_from_aws_to_any_store_with_its_keys_in_use() {
    scenario(async |story| {
        let stores = story.stores();
        let team = story.workspace("team").await?;
        team.enable().await?;
        let others = [Store::Azure, Store::Gcp, Store::Hsm];
        let mut old_roots = Vec::new();
        for store in others {
            let old = stores.create_key(Store::Aws, "").await?;
            team.account(store.name(), &old).await?;
            team.service_key(&key(store), store.name()).await?;
            old_roots.push(old);
        }
        let application = team.application("payments/app").await?;
        let mut sealed = Vec::new();
        for store in others {
            team.account_ready(store.name()).await?;
            team.key_is(&key(store), "Active").await?;
            sealed.push(application.encrypts(&key(store), "before").await?);
        }

        let mut new_roots = Vec::new();
        for store in others {
            let new = stores.create_key(store, &format!("{}-new", team.cluster())).await?;
            let spec = json!({"providerType": store.provider_type(), "keyReference": new});
            team.patch(ACCOUNT, store.name(), json!({"spec": spec})).await?;
            new_roots.push(new);
        }
        for (store, new) in others.into_iter().zip(&new_roots) {
            team.expect(ACCOUNT, store.name(), "it is Ready under the new root", |it| {
                it["status"]["rootKey"]["reference"] == new.as_str()
                    && is_true(it, "Ready")
                    && is_true(it, "RewrapComplete")
                    && it["status"]["accountKeyVersion"] == 2
            })
            .await?;
        }

        // The old root is not needed any more: not for what is there, and not for what comes.
        for ((store, old), sealed) in others.into_iter().zip(&old_roots).zip(&sealed) {
            stores.schedule_deletion(Store::Aws, old).await?;
            application.decrypts(&key(store), sealed, "before").await?;
            team.patch(SERVICE_KEY, &key(store), json!({"spec": {"rotationRequest": "under the new root"}}))
                .await?;
        }
        for (store, sealed) in others.into_iter().zip(&sealed) {
            team.key_is_at(&key(store), "v2").await?;
            let after = application.encrypts(&key(store), "after").await?;
            application.decrypts(&key(store), &after, "after").await?;
            application.decrypts(&key(store), sealed, "before").await?;
        }
        Ok(())
    });
}
