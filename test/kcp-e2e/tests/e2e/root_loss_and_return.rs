//! The customer's switch: a root key disabled in its store takes every key below it from the edges, and back.

use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::ACCOUNT,
};

const KEY: &str = "payments/payments-db";

#[test]
fn root_disabled_in_the_store_stops_its_keys_until_it_is_enabled() {
    scenario(async |story| {
        story.with_own_provider(&["--probe-interval=1s", "--root-loss-grace=2s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let root = team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "secret").await?;

        story.kms().disable(&root).await?;
        team.expect(ACCOUNT, "aws", "it is Unavailable", |it| it["status"]["phase"] == "Unavailable").await?;
        team.account_refused("aws", "Disabled").await?;
        team.key_is(KEY, "Unavailable").await?;
        application.is_refused(KEY, &sealed, &["evicted"]).await?;

        story.kms().enable(&root).await?;
        team.account_ready("aws").await?;
        team.key_is(KEY, "Active").await?;
        application.decrypts(KEY, &sealed, "secret").await
    });
}
