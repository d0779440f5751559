//! Unbound and bound again while no provider ran: the provider finds another binding in the same workspace and goes on.

use std::time::Duration;

use anyhow::ensure;
use kcp_e2e::{
    installation::EXPORT,
    story::{Patient as _, scenario},
    workspace::BINDING,
};

const KEY: &str = "payments/payments-db";

#[test]
fn unbind_and_rebind_while_the_provider_was_down() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let tenant = team.tenant().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "from before").await?;

        story.own()?.stop_provider();
        // kcp waits with the old binding for a provider that lets go of its objects.
        team.delete(BINDING, EXPORT).await?;
        team.bind_as("openkcm-again", "Accepted").await?;
        story.own()?.start_provider().await?;

        team.gone(BINDING, EXPORT).await?;
        team.expect(BINDING, "openkcm-again", "it is Bound", |it| it["status"]["phase"] == "Bound").await?;
        let back = team.active_tenant().await?;
        ensure!(back["metadata"]["name"] == tenant.as_str(), "it is another tenant");
        ensure!(
            back["status"]["recovered"] == true,
            "it does not say that it was recovered: {}",
            back["status"]
        );
        team.account_ready("aws").await?;
        team.key_is_at(KEY, "v1").await?;
        application.decrypts(KEY, &sealed, "from before").await
    });
}

#[test]
fn bound_again_in_time_nothing_is_shredded_when_the_provider_comes_late() {
    scenario(async |story| {
        story.with_own_provider(&["--retention=8s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "from before").await?;

        team.disable().await?;
        story.own()?.stop_provider();
        team.bind_as(EXPORT, "Accepted").await?;
        team.expect(BINDING, EXPORT, "it is Bound", |it| it["status"]["phase"] == "Bound").await?;
        tokio::time::sleep(Duration::from_secs(9)).await;
        story.own()?.start_provider().await?;

        team.active_tenant().await?;
        team.key_is_at(KEY, "v1").await?;
        application.decrypts(KEY, &sealed, "from before").await
    });
}
