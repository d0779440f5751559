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
