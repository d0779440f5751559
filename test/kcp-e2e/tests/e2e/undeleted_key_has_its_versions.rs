//! A deleted key can be had back for a while: by its name, or by the operator.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{SERVICE_KEY, is_true},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";

#[test]
fn key_created_again_has_its_versions() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "before").await?;
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "once"}})).await?;
        team.key_is_at(KEY, "v2").await?;

        team.delete(SERVICE_KEY, KEY).await?;
        team.gone(SERVICE_KEY, KEY).await?;
        application.is_refused(KEY, &sealed, &["evicted", "unknown-key"]).await?;

        team.service_key(KEY, "aws").await?;
        team.expect(SERVICE_KEY, KEY, "it says that it came back", |it| is_true(it, "Recovered")).await?;
        team.key_is_at(KEY, "v2").await?;
        application.decrypts(KEY, &sealed, "before").await?;

        // Once more, and the operator does it: the object comes back with the key.
        team.delete(SERVICE_KEY, KEY).await?;
        team.gone(SERVICE_KEY, KEY).await?;
        let (operator, tenant) = (story.installation().await?, team.cluster().as_str());
        let list = operator.operator(&["keys", "list", "--tenant", tenant])?;
        ensure!(list.contains("PendingDeletion") && list.contains("payments-db"), "the list says: {list}");
        let history = operator.operator(&["keys", "history", tenant, KEY])?;
        ensure!(history.contains("v1") && history.contains("v2"), "the history says: {history}");
        operator.operator(&["keys", "undelete", tenant, KEY])?;
        team.expect(SERVICE_KEY, KEY, "it is back", |it| is_true(it, "Recovered")).await?;
        team.key_is_at(KEY, "v2").await?;
        application.decrypts(KEY, &sealed, "before").await
    });
}
