//! Nobody takes a root of trust away from under the keys that need it.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, SERVICE_KEY},
};

const KEY: &str = "payments/payments-db";

#[test]
fn account_with_dependents_cannot_be_deleted() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        team.expect(ACCOUNT, "aws", "it counts its key", |it| it["status"]["dependents"] == 1).await?;

        let Err(refused) = team.delete(ACCOUNT, "aws").await else {
            anyhow::bail!("the Account was deleted")
        };
        let message = format!("{refused:#}");
        ensure!(message.contains("protects 1 ServiceEncryptionKey"), "the message does not count: {message}");
        ensure!(message.contains("kubectl get sek"), "the message does not say how to list them: {message}");
        let application = team.application("payments/app").await?;
        application.encrypts(KEY, "still here").await?;

        // Without its key it may go.
        team.delete(SERVICE_KEY, KEY).await?;
        team.gone(SERVICE_KEY, KEY).await?;
        team.expect(ACCOUNT, "aws", "it has no dependents", |it| it["status"]["dependents"] == 0).await?;
        team.delete(ACCOUNT, "aws").await?;
        team.gone(ACCOUNT, "aws").await
    });
}
