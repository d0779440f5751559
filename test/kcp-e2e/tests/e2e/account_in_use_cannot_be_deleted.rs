//! Nobody takes a root of trust away from under the keys that need it.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, NAMESPACE, SERVICE_KEY},
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

#[test]
fn account_does_not_wait_for_keys_whose_namespace_is_gone() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        // Nothing can be put back into a namespace that went while OpenKCM was off.
        team.disable().await?;
        team.delete(NAMESPACE, "payments").await?;
        team.gone(NAMESPACE, "payments").await?;
        team.enable().await?;
        team.account_ready("aws").await?;

        team.delete(ACCOUNT, "aws").await?;
        team.gone(ACCOUNT, "aws").await?;
        // Its key is not destroyed yet, and the operator sees until when.
        let keys =
            story.installation().await?.operator(&["keys", "list", "--tenant", team.cluster().as_str()])?;
        ensure!(keys.contains(KEY) && keys.contains("PendingDeletion"), "the ledger says: {keys}");
        Ok(())
    });
}
