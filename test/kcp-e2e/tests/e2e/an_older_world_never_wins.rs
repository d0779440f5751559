//! A ledger that is put back from a backup, a version that is compromised, a deleted key under another Account: numbers are
//! never used again, nothing is silently lost, and the key's diary tells what was. (Objects of before: `the_ledger_wins_over_an_older_object`
//! in `openkcm-plan`; nobody but the provider can write such a status here.)

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kcp_e2e::{
    story::{Patient as _, Team, scenario},
    wait::eventually,
    workspace::{SERVICE_KEY, condition},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";

#[test]
fn an_older_ledger_is_noticed_and_makes_nothing_until_told() {
    scenario(async |story| {
        story.with_own_provider(&["--deletion-window=1s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let first = application.encrypts(KEY, "v1").await?;

        // Backed up, verified and exported while it runs.
        let own = story.own()?;
        let backup = own.folder().join("backup.sqlite");
        own.operator(&["ledger", "backup", backup.to_str().context("a path in UTF-8")?])?;
        ensure!(own.operator(&["ledger", "verify"])?.contains("the ledger is whole"));
        ensure!(own.operator(&["ledger", "export"])?.lines().any(|line| line.contains("\"serviceKey\"")));
        rotate(&team, "one", "v2").await?;
        rotate(&team, "two", "v3").await?;

        // A ledger of before: it is noticed, explained, and nothing is made until somebody says so.
        own_ledger_becomes(story, &backup).await?;
        let behind = team
            .expect(SERVICE_KEY, KEY, "it says that its ledger is older", |it| {
                condition(it, "Ready", "reason") == "LedgerBehind"
            })
            .await?;
        let message = condition(&behind, "Ready", "message").as_str().unwrap_or_default();
        ensure!(message.contains("v3") && message.contains("accept-restore"), "it explains: {message}");
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "three"}})).await?;
        application.decrypts(KEY, &first, "v1").await?;
        let history = story.own()?.operator(&["keys", "history", team.cluster().as_str(), KEY])?;
        ensure!(!history.contains("v2"), "it rotated all the same:\n{history}");
        story.own()?.operator(&["keys", "accept-restore", team.cluster().as_str(), KEY])?;
        // v2 and v3 are lost, and their numbers with them.
        team.key_is_at(KEY, "v4").await?;
        application.decrypts(KEY, &first, "v1").await?;

        // Deleted, and its window is over (which a start looks for at once): whoever asks the edge reads when that was,
        // also after one more restart.
        team.delete(SERVICE_KEY, KEY).await?;
        team.gone(SERVICE_KEY, KEY).await?;
        let day = jiff::Timestamp::now().strftime("%F").to_string();
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..2 {
            let own = story.own()?;
            own.stop_provider();
            own.start_provider().await?;
            application.is_refused(KEY, &first, &[&format!("was destroyed on {}", &day[..8])]).await?;
        }
        // Its name is free for another key, which has nothing of it.
        team.service_key(KEY, "aws").await?;
        team.key_is(KEY, "Active").await?;
        application.encrypts(KEY, "new").await?;
        let Err(refusal) = application.decrypt(KEY, &first)? else {
            bail!("it opens what the old one sealed")
        };
        ensure!(!refusal.0.contains("unknown-key"), "it refuses otherwise: {}", refusal.0);
        Ok(())
    });
}

#[test]
fn a_compromised_version_is_replaced_at_once_and_the_diary_tells_all() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "secret").await?;
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"compromisedVersions": ["v1"]}})).await?;
        let key = team.key_is_at(KEY, "v2").await?;
        let states: Vec<_> =
            key["status"]["versions"].as_array().into_iter().flatten().map(|it| &it["state"]).collect();
        ensure!(states == ["Active", "Compromised"], "{states:?}");
        eventually("the edge refuses the compromised version", || async {
            let Err(refusal) = application.decrypt(KEY, &sealed)? else { anyhow::bail!("it decrypts") };
            ensure!(refusal.0.contains("compromised"), "it refuses otherwise: {}", refusal.0);
            Ok(())
        })
        .await?;
        // Only who says so explicitly may still read what it encrypted.
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"allowCompromisedDecrypt": true}})).await?;
        application.decrypts(KEY, &sealed, "secret").await?;

        team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Disabled"}})).await?;
        team.key_is(KEY, "Disabled").await?;
        eventually("the events tell the story", || async {
            let events = team.events(SERVICE_KEY, KEY).await?;
            for reason in ["Created", "Ready", "Compromised", "Rotated", "Disabled"] {
                ensure!(events.iter().any(|event| event.starts_with(reason)), "no {reason}: {events:?}");
            }
            Ok(())
        })
        .await?;

        // Deleted, it waits for its own Account.
        team.delete(SERVICE_KEY, KEY).await?;
        team.gone(SERVICE_KEY, KEY).await?;
        let root = story.kms().create_key().await?;
        team.account("other", &root).await?;
        team.account_ready("other").await?;
        team.service_key(KEY, "other").await?;
        let key = team
            .expect(SERVICE_KEY, KEY, "it is refused", |it| condition(it, "Ready", "reason") == "InvalidSpec")
            .await?;
        let message = condition(&key, "Ready", "message").as_str().unwrap_or_default();
        ensure!(message.contains("\"aws\""), "it does not name the Account: {message}");
        Ok(())
    });
}

async fn rotate(team: &Team, request: &str, version: &str) -> Result<()> {
    team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": request}})).await?;
    team.key_is_at(KEY, version).await.map(drop)
}

/// As the operator's guide says: stop, put the file in place, start.
async fn own_ledger_becomes(story: &mut kcp_e2e::story::Story, backup: &std::path::Path) -> Result<()> {
    let own = story.own()?;
    own.stop_provider();
    let ledger = own.folder().join("data/ledger.sqlite");
    for leftover in ["data/ledger.sqlite-wal", "data/ledger.sqlite-shm"] {
        let _ = fs::remove_file(own.folder().join(leftover));
    }
    fs::copy(backup, &ledger).context("putting the backup in place")?;
    own.start_provider().await
}
