//! Re-key: another root key under an Account whose keys are in use.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, is_true},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";

#[test]
fn after_a_rekey_the_old_root_is_not_needed_any_more() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        let kms = story.kms();
        let old = team.chain(&kms, "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "before").await?;

        // A root that does not work changes nothing.
        let bad = kms.create_key().await?;
        kms.disable(&bad).await?;
        team.patch(ACCOUNT, "aws", json!({"spec": {"keyReference": bad}})).await?;
        application.decrypts(KEY, &sealed, "before").await?;

        let new = kms.create_key().await?;
        team.patch(ACCOUNT, "aws", json!({"spec": {"keyReference": new}})).await?;
        let account = team
            .expect(ACCOUNT, "aws", "it is Ready under the new root", |it| {
                it["status"]["rootKey"]["reference"] == new.as_str()
                    && is_true(it, "Ready")
                    && is_true(it, "RewrapComplete")
                    && it["status"]["accountKeyVersion"] == 2
            })
            .await?;
        ensure!(account["status"]["phase"] == "Ready", "its phase is {}", account["status"]["phase"]);

        kms.schedule_deletion(&old).await?;
        application.decrypts(KEY, &sealed, "before").await?;
        team.service_key("payments/another", "aws").await?;
        team.key_is("payments/another", "Active").await?;
        application.encrypts("payments/another", "under the new root").await?;
        Ok(())
    });
}

#[test]
fn from_a_dead_root_is_saved_what_is_in_memory_and_the_rest_is_listed() {
    scenario(async |story| {
        story.with_own_provider(&["--probe-interval=1s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let kms = story.kms();
        let first = team.chain(&kms, "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "before").await?;

        // The account key is still in memory when its root dies: nothing is lost.
        kms.schedule_deletion(&first).await?;
        let second = kms.create_key().await?;
        team.patch(ACCOUNT, "aws", json!({"spec": {"keyReference": second}})).await?;
        let saved = team
            .expect(ACCOUNT, "aws", "all is saved under the second root", |it| {
                it["status"]["rootKey"]["reference"] == second.as_str() && is_true(it, "RewrapComplete")
            })
            .await?;
        ensure!(saved["status"]["rewrap"]["lost"].is_null(), "something is lost: {}", saved["status"]);
        application.decrypts(KEY, &sealed, "before").await?;

        // Memory is gone, too: what only the dead root could open is named, one by one.
        story.own()?.stop_provider();
        kms.schedule_deletion(&second).await?;
        story.own()?.start_provider().await?;
        let third = kms.create_key().await?;
        team.patch(ACCOUNT, "aws", json!({"spec": {"keyReference": third}})).await?;
        let account = team
            .expect(ACCOUNT, "aws", "it lists what is lost", |it| {
                it["status"]["rewrap"]["lost"] == json!([format!("{KEY} v1")])
            })
            .await?;
        ensure!(!is_true(&account, "RewrapComplete"), "it calls that complete: {}", account["status"]);

        // Listed is not destroyed: a root that comes back opens it.
        kms.cancel_deletion(&second).await?;
        kms.enable(&second).await?;
        team.expect(ACCOUNT, "aws", "nothing is lost any more", |it| is_true(it, "RewrapComplete")).await?;
        application.decrypts(KEY, &sealed, "before").await
    });
}
