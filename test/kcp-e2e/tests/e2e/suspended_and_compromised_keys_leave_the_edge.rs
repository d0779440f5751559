//! The operator suspends a tenant; a user declares a version compromised.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{SERVICE_KEY, is_true},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";

#[test]
fn suspended_tenant_s_keys_are_evicted_until_it_is_resumed() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "secret").await?;
        let operator = story.installation().await?;
        let cluster = team.cluster().to_string();
        operator.operator(&["tenants", "suspend", &cluster, "--reason", "invoice 4711"])?;
        team.expect(SERVICE_KEY, KEY, "it is evicted", |it| {
            it["status"]["state"] == "Unavailable" && is_true(it, "Evicted")
        })
        .await?;
        let Err(refusal) = application.decrypt(KEY, &sealed)? else {
            anyhow::bail!("an edge still has the key")
        };
        ensure!(
            refusal.0.contains("evicted") && refusal.0.contains("suspended"),
            "it refuses otherwise: {}",
            refusal.0
        );
        operator.operator(&["tenants", "resume", &cluster])?;
        team.key_is(KEY, "Active").await?;
        application.decrypts(KEY, &sealed, "secret").await
    });
}

#[test]
fn compromised_version_is_taken_from_every_edge_and_the_others_stay() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let first = application.encrypts(KEY, "first").await?;
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "now"}})).await?;
        team.key_is_at(KEY, "v2").await?;
        let second = application.encrypts(KEY, "second").await?;
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"compromisedVersions": ["v1"]}})).await?;
        team.expect(SERVICE_KEY, KEY, "v1 is compromised, and every edge knows", |it| {
            let versions = it["status"]["versions"].as_array();
            let known = versions.is_some_and(|all| {
                all.iter().any(|version| version["version"] == "v1" && version["state"] == "Compromised")
            });
            known && is_true(it, "Distributed")
        })
        .await?;
        let Err(refusal) = application.decrypt(KEY, &first)? else {
            anyhow::bail!("it still decrypts with v1")
        };
        ensure!(refusal.0.contains("compromised"), "it refuses otherwise: {}", refusal.0);
        application.decrypts(KEY, &second, "second").await
    });
}
