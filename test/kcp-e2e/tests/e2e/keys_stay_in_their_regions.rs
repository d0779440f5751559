//! The security admin says on the Account in which regions its keys may be; edges elsewhere never get them, or lose them at once.

use anyhow::{Result, ensure};
use kcp_e2e::{
    installation::Application,
    story::{Patient as _, Team, scenario},
    workspace::{ACCOUNT, SERVICE_KEY, is_true},
};
use serde_json::{Value, json};

const KEY: &str = "payments/payments-db";

/// Waits until exactly so many edges have the key, and all of them have it.
async fn at(team: &Team, edges: u32) -> Result<Value> {
    team.expect(SERVICE_KEY, KEY, &format!("{edges} edges have it"), |it| {
        let counts = &it["status"]["edges"];
        counts["total"] == edges && counts["current"] == edges && is_true(it, "Distributed")
    })
    .await
}

#[test]
fn a_key_travels_only_to_edges_of_its_account_s_regions() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        for (name, region) in [("north", "eu-north-1"), ("south", "eu-south-1")] {
            story.own()?.start_edge(name, Some(region)).await?;
        }
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let tenant = team.tenant().await?;
        let mut applications: Vec<Application> = Vec::new();
        for edge in 0..3 {
            applications.push(team.application_at(edge, "payments/app", &tenant).await?);
        }
        let [nowhere, north, south] = &applications[..] else { anyhow::bail!("three edges") };
        at(&team, 3).await?;
        let listed = story.own()?.operator(&["edges", "list"])?;
        ensure!(listed.contains("eu-north-1") && listed.contains("eu-south-1"), "edges list says: {listed}");
        let sealed = nowhere.encrypts(KEY, "secret").await?;
        for application in &applications {
            application.decrypts(KEY, &sealed, "secret").await?;
        }

        // From now on in the north only. Once the status counts one edge, the others have let go.
        team.patch(ACCOUNT, "aws", json!({"spec": {"edgeRegions": ["eu-north-1"]}})).await?;
        at(&team, 1).await?;
        for application in [nowhere, south] {
            let Err(refusal) = application.decrypt(KEY, &sealed)? else { anyhow::bail!("it has the key") };
            // What may not be here does not exist here.
            ensure!(refusal.0.contains("unknown-key"), "it refuses otherwise: {}", refusal.0);
        }
        north.decrypts(KEY, &sealed, "secret").await?;

        // A new version stays there as well.
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "now"}})).await?;
        team.key_is_at(KEY, "v2").await?;
        at(&team, 1).await?;
        let second = north.encrypts(KEY, "second").await?;
        south.is_refused(KEY, &second, &["unknown-key"]).await?;

        // It moves, and comes everywhere again.
        team.patch(ACCOUNT, "aws", json!({"spec": {"edgeRegions": ["eu-south-1", "eu-west-1"]}})).await?;
        south.decrypts(KEY, &second, "second").await?;
        at(&team, 1).await?;
        ensure!(north.decrypt(KEY, &second)?.is_err(), "the north still has it");
        team.patch(ACCOUNT, "aws", json!({"spec": {"edgeRegions": null}})).await?;
        at(&team, 3).await?;
        for application in &applications {
            application.decrypts(KEY, &second, "second").await?;
        }
        Ok(())
    });
}
