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

        // Who asks first what it would touch is told about the clients, too.
        team.expect(ACCOUNT, "aws", "it counts its client", |it| {
            it["status"]["impact"]["activeClients"] == 1
        })
        .await?;
        let installation = story.installation().await?;
        let kubeconfig =
            format!("--kubeconfig={}", installation.folder().join("provider.kubeconfig").display());
        let impact =
            installation.operator(&["accounts", "impact", &kubeconfig, team.cluster().as_str(), "aws"])?;
        ensure!(
            impact.contains("1 keys in 1 namespaces") && impact.contains("active clients: 1"),
            "the impact is {impact}"
        );

        // Without its key it may go.
        team.delete(SERVICE_KEY, KEY).await?;
        team.gone(SERVICE_KEY, KEY).await?;
        team.expect(ACCOUNT, "aws", "it has no dependents", |it| it["status"]["dependents"] == 0).await?;
        team.delete(ACCOUNT, "aws").await?;
        team.gone(ACCOUNT, "aws").await
    });
}
