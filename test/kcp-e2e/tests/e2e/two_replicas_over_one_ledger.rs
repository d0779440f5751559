//! Two whole providers at once, over one kcp and one PostgreSQL, with an edge at each: what one does counts for both, and
//! either may be killed or stop at any moment.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kcp_e2e::{
    installation::Application,
    story::{Patient as _, Team, scenario},
    wait::eventually,
    workspace::{ACCOUNT, SERVICE_KEY, is_true},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const KEY: &str = "payments/payments-db";

#[test]
fn two_replicas_rotate_once_and_evict_at_all_edges_while_either_dies() {
    scenario(async |story| {
        story.with_replicas(2, crate::postgres::new_database().await, &[]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let tenant = team.tenant().await?;
        let apps = [
            team.application_at(0, "payments/app", &tenant).await?,
            team.application_at(1, "payments/app", &tenant).await?,
        ];
        let sealed = apps[0].encrypts(KEY, "secret").await?;
        apps[1].decrypts(KEY, &sealed, "secret").await?;
        for replica in [0, 1] {
            let edges = story.own()?.metric_of(replica, "openkcm_edges_connected").await?;
            ensure!(edges == 1, "replica {replica} has {edges} edges");
        }

        // The status counts the edges of both, whichever of them writes it.
        request_rotation(&team, "first").await?;
        distributed(&team, "v2").await?;
        for app in &apps {
            app.decrypts(KEY, &app.encrypts(KEY, "new").await?, "new").await?;
        }
        disabled_everywhere(&team, &apps, &sealed).await?;
        enabled(&team, &apps, &sealed).await?;
        leaves_its_regions(&team, &apps, &sealed).await?;

        // One is killed while it, or the other, makes a version: there is exactly one, and its edge finds the other replica.
        request_rotation(&team, "second").await?;
        story.own()?.kill_replica(0);
        let killed = Instant::now();
        team.key_is_at(KEY, "v3").await?;
        eprintln!("the other replica had made v3 {:?} after the kill", killed.elapsed());
        for app in &apps {
            app.decrypts(KEY, &sealed, "secret").await?;
        }
        disabled_everywhere(&team, &apps, &sealed).await?;
        story.own()?.start_replica(0).await?;
        enabled(&team, &apps, &sealed).await?;

        // One stands still and cannot hear of anything. When the status says so, its edges cannot use the key either; when
        // it wakes up, it finds that the others went on without it.
        story.own()?.replica(1).context("a second replica")?.signal(Signal::STOP);
        disabled_everywhere(&team, &apps, &sealed).await?;
        story.own()?.replica(1).context("a second replica")?.signal(Signal::CONT);
        eventually("the replica that slept ends itself", || {
            let runs = story.own().map(|own| own.replica_runs(1));
            async move {
                ensure!(!runs?, "it still runs");
                Ok(())
            }
        })
        .await?;
        for app in &apps {
            refused(app, &sealed)?;
        }
        story.own()?.start_replica(1).await?;
        enabled(&team, &apps, &sealed).await?;
        request_rotation(&team, "third").await?;
        let key = distributed(&team, "v4").await?;
        ensure!(key["status"]["versions"].as_array().map_or(0, Vec::len) == 4, "not one version a request");
        ensure!(story.own()?.operator(&["ledger", "verify"])?.contains("the ledger is whole"));
        Ok(())
    });
}

async fn request_rotation(team: &Team, value: &str) -> Result<Value> {
    team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": value}})).await
}

/// Waits until every edge, of whichever replica, has a version.
async fn distributed(team: &Team, version: &str) -> Result<Value> {
    team.expect(SERVICE_KEY, KEY, &format!("both edges have {version}"), |it| {
        let edges = &it["status"]["edges"];
        it["status"]["currentVersion"] == version
            && is_true(it, "Distributed")
            && edges["total"] == 2
            && edges["current"] == 2
    })
    .await
}

async fn disabled_everywhere(team: &Team, apps: &[Application], sealed: &[u8]) -> Result<()> {
    team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Disabled"}})).await?;
    let asked = Instant::now();
    team.expect(SERVICE_KEY, KEY, "it is evicted everywhere", |it| {
        it["status"]["state"] == "Disabled" && is_true(it, "Evicted")
    })
    .await?;
    eprintln!("evicted everywhere after {:?}", asked.elapsed());
    // Once the status says so there is nothing to wait for.
    for app in apps {
        refused(app, sealed)?;
    }
    Ok(())
}

fn refused(app: &Application, sealed: &[u8]) -> Result<()> {
    for answer in [app.decrypt(KEY, sealed)?, app.encrypt(KEY, b"x")?] {
        ensure!(answer.is_err(), "an edge still uses the key");
    }
    Ok(())
}

async fn enabled(team: &Team, apps: &[Application], sealed: &[u8]) -> Result<()> {
    team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Enabled"}})).await?;
    for app in apps {
        app.decrypts(KEY, sealed, "secret").await?;
    }
    Ok(())
}

/// Where a key may be counts for the edges of both, of which neither is in a region.
async fn leaves_its_regions(team: &Team, apps: &[Application], sealed: &[u8]) -> Result<()> {
    team.patch(ACCOUNT, "aws", json!({"spec": {"edgeRegions": ["elsewhere"]}})).await?;
    team.expect(SERVICE_KEY, KEY, "it is where it may be, at no edge", |it| {
        is_true(it, "Distributed") && it["status"]["edges"]["total"] == 0
    })
    .await?;
    for app in apps {
        refused(app, sealed)?;
    }
    team.patch(ACCOUNT, "aws", json!({"spec": {"edgeRegions": []}})).await?;
    for app in apps {
        app.decrypts(KEY, sealed, "secret").await?;
    }
    Ok(())
}
