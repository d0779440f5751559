//! Disabled means refused at every edge; enabled again means exactly what was there before.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{SERVICE_KEY, is_true},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";

#[test]
fn disabled_key_is_refused_at_every_edge_until_it_is_enabled() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let tenant = team.tenant().await?;
        let here = team.application_at(0, "payments/app", &tenant).await?;
        let there = team.application_at(1, "payments/app", &tenant).await?;
        let sealed = here.encrypts(KEY, "secret").await?;
        there.decrypts(KEY, &sealed, "secret").await?;

        team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Disabled"}})).await?;
        let key = team
            .expect(SERVICE_KEY, KEY, "it is evicted everywhere", |it| {
                it["status"]["state"] == "Disabled" && is_true(it, "Evicted")
            })
            .await?;
        let edges = &key["status"]["edges"];
        ensure!(edges["evicted"] == edges["total"], "not all edges have acknowledged: {edges}");
        // Once the status says so there is nothing to wait for.
        for application in [&here, &there] {
            for answer in [application.decrypt(KEY, &sealed)?, application.encrypt(KEY, b"x")?] {
                let Err(refusal) = answer else { anyhow::bail!("an edge still has the key") };
                ensure!(refusal.0.contains("disabled"), "it refuses otherwise: {}", refusal.0);
            }
        }

        team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Enabled"}})).await?;
        team.key_is(KEY, "Active").await?;
        team.key_is_at(KEY, "v1").await?;
        here.decrypts(KEY, &sealed, "secret").await?;
        there.decrypts(KEY, &sealed, "secret").await
    });
}
