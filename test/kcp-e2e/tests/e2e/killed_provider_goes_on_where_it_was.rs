//! `kill -9` of the provider at any moment ends, after a restart, where it would have ended without.

use std::time::Duration;

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, BINDING, SERVICE_KEY, TENANT},
};
use serde_json::json;

const ROUNDS: u32 = 4;

#[test]
fn killed_at_any_moment_it_ends_in_the_same_state() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        let team = story.workspace("team").await?;
        team.bind_as(kcp_e2e::installation::EXPORT, "Accepted").await?;
        // The first kill meets the birth of the tenant.
        killed_after(story, 300).await?;
        let tenant = team.tenant().await?;
        let root = story.kms().create_key().await?;
        team.account("aws", &root).await?;
        killed_after(story, 100).await?;
        team.account_ready("aws").await?;

        let mut written = Vec::new();
        for round in 1..=ROUNDS {
            let key = format!("payments/key-{round}");
            team.service_key(&key, "aws").await?;
            // Each round dies at another step of making and rotating a key.
            killed_after(story, u64::from(round) * 40).await?;
            team.key_is(&key, "Active").await?;
            let application = team.application("payments/app").await?;
            let sealed = application.encrypts(&key, "v1").await?;
            team.patch(SERVICE_KEY, &key, json!({"spec": {"rotationRequest": format!("round {round}")}}))
                .await?;
            killed_after(story, u64::from(round) * 30).await?;
            team.key_is_at(&key, "v2").await?;
            team.patch(SERVICE_KEY, &key, json!({"spec": {"state": "Disabled"}})).await?;
            killed_after(story, u64::from(round) * 20).await?;
            team.key_is(&key, "Disabled").await?;
            application.is_refused(&key, &sealed, &["disabled", "evicted"]).await?;
            team.patch(SERVICE_KEY, &key, json!({"spec": {"state": "Enabled"}})).await?;
            team.key_is(&key, "Active").await?;
            application.decrypts(&key, &sealed, "v1").await?;
            written.push((key, sealed));
        }

        // In the middle of a switch-off and a switch-on.
        team.delete(BINDING, kcp_e2e::installation::EXPORT).await?;
        killed_after(story, 150).await?;
        team.gone(BINDING, kcp_e2e::installation::EXPORT).await?;
        team.bind_as(kcp_e2e::installation::EXPORT, "Accepted").await?;
        killed_after(story, 150).await?;

        ensure!(team.tenant().await? == tenant, "it is another tenant");
        team.expect(TENANT, &tenant, "it was recovered", |it| it["status"]["recovered"] == true).await?;
        team.account_ready("aws").await?;
        ensure!(team.list(ACCOUNT).await?.len() == 1, "there is not exactly one Account");
        let application = team.application("payments/app").await?;
        for (key, sealed) in &written {
            // Exactly one rotation was asked for: not lost, and not done twice.
            team.key_is_at(key, "v2").await?;
            application.decrypts(key, sealed, "v1").await?;
        }
        let verified = story.own()?.operator(&["ledger", "verify"])?;
        ensure!(!verified.is_empty(), "ledger verify says nothing");
        Ok(())
    });
}

async fn killed_after(story: &mut kcp_e2e::story::Story, milliseconds: u64) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    story.own()?.kill_provider();
    story.own()?.start_provider().await
}
