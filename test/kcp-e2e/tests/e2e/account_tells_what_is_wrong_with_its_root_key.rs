//! An Account is Ready only while its root key works, and says exactly why when it does not.

use anyhow::ensure;
use kcp_e2e::{
    story::scenario,
    wait::eventually,
    workspace::{ACCOUNT, is_true},
};
use serde_json::json;

#[test]
fn account_with_a_working_key_is_ready() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        let root = story.kms().create_key().await?;
        team.account("aws", &root).await?;
        let account = team.account_ready("aws").await?;
        ensure!(is_true(&account, "RootKeyVerified"), "it is Ready without a verified root key");
        ensure!(
            account["status"]["accountKeyVersion"] == 1,
            "its account key is {}",
            account["status"]["accountKeyVersion"]
        );
        ensure!(
            account["status"]["rootKey"]["lastVerified"].is_string(),
            "it does not say when it was verified"
        );

        // An alias is as good as the key.
        let alias = story.kms().alias(&format!("alias/e2e-{}", team.cluster()), &root).await?;
        team.account("by-alias", &alias).await?;
        team.account_ready("by-alias").await?;
        Ok(())
    });
}

#[test]
fn account_says_why_its_key_cannot_be_used() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        let kms = story.kms();

        let missing = "arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000000";
        team.account("missing", missing).await?;

        let disabled = kms.create_key().await?;
        kms.disable(&disabled).await?;
        team.account("disabled", &disabled).await?;

        let dying = kms.create_key().await?;
        kms.schedule_deletion(&dying).await?;
        team.account("dying", &dying).await?;

        team.account("signing", &kms.create_signing_key().await?).await?;

        for (name, reason) in [
            ("missing", "NotFound"),
            ("disabled", "Disabled"),
            ("dying", "PendingDeletion"),
            ("signing", "WrongKeyType"),
        ] {
            let message = team.account_refused(name, reason).await?;
            ensure!(message.len() > 20, "Account {name} gives no help: {message}");
            // Whoever runs OpenKCM counts them by reason.
            let url = story.installation().await?.metrics_url();
            let counted = format!("openkcm_accounts{{phase=\"Pending\",reason=\"{reason}\"}}");
            eventually(&format!("there is a metric {counted}"), || async {
                ensure!(reqwest::get(&url).await?.text().await?.contains(&counted), "it is not there");
                Ok(())
            })
            .await?;
        }

        // Pointed at a good key, it needs nobody's help.
        let good = kms.create_key().await?;
        team.patch(ACCOUNT, "missing", json!({"spec": {"keyReference": good}})).await?;
        team.account_ready("missing").await?;
        Ok(())
    });
}

#[test]
fn account_of_a_workspace_without_a_grant_is_denied() {
    scenario(async |story| {
        let stranger = story.stranger("team").await?;
        stranger.enable().await?;
        stranger.account("not-mine", &story.kms().create_key().await?).await?;
        stranger.account_refused("not-mine", "AccessDenied").await?;
        Ok(())
    });
}
