//! From an Account to a ciphertext, and through a rotation.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    wait::eventually,
    workspace::SERVICE_KEY,
};
use serde_json::json;

const KEY: &str = "payments/payments-db";

#[test]
fn rotate_now_makes_exactly_one_version_and_old_ciphertexts_stay_readable() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        team.key_is_at(KEY, "v1").await?;
        let application = team.application("payments/app").await?;
        let old = application.encrypts(KEY, "before").await?;
        application.decrypts(KEY, &old, "before").await?;

        // Any new value asks for one rotation, and the value that was served is in the status.
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "2026-01-01T00:00:00Z"}})).await?;
        let key = team.key_is_at(KEY, "v2").await?;
        ensure!(
            key["status"]["rotationRequest"] == "2026-01-01T00:00:00Z",
            "served: {}",
            key["status"]["rotationRequest"]
        );
        let new = application.encrypts(KEY, "after").await?;
        application.decrypts(KEY, &old, "before").await?;
        application.decrypts(KEY, &new, "after").await?;

        // The same value again asks for nothing; the next asks for one more.
        team.patch(SERVICE_KEY, KEY, json!({"metadata": {"labels": {"touched": "yes"}}})).await?;
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "and once more"}})).await?;
        let key = team.key_is_at(KEY, "v3").await?;
        let versions = key["status"]["versions"].as_array().map_or(0, Vec::len);
        ensure!(versions == 3, "{versions} versions after two requests");
        // Events come after the status: they tell the story and are nothing to act on.
        eventually("an event tells of v3", || async {
            let events = team.events(SERVICE_KEY, KEY).await?;
            ensure!(events.iter().any(|event| event.contains("v3")), "{events:?}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

#[test]
fn changed_schedule_shows_in_the_next_rotation() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let key = team.key_is_at(KEY, "v1").await?;
        ensure!(
            key["status"]["nextRotation"].is_null(),
            "Never has a next rotation: {}",
            key["status"]["nextRotation"]
        );
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationSchedule": "30 Days"}})).await?;
        team.expect(SERVICE_KEY, KEY, "it says when it rotates next", |it| {
            it["status"]["nextRotation"].is_string()
        })
        .await?;
        // `kubectl get sek` answers what a person asks.
        let (columns, rows) = team.table(SERVICE_KEY).await?;
        ensure!(
            columns == ["Name", "ACCOUNT", "STATE", "VERSION", "NEXT ROTATION", "CLIENTS", "AGE"],
            "the columns are {columns:?}"
        );
        let [row] = rows.as_slice() else { anyhow::bail!("not one row: {rows:?}") };
        ensure!(row[..4] == ["payments-db", "aws", "Active", "v1"], "its row is {row:?}");
        let next = row[4].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        ensure!(
            next.is_some_and(|next| next > jiff::Timestamp::now())
                && row[5].is_number()
                && row[6].is_string(),
            "its row is {row:?}"
        );
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationSchedule": "Never"}})).await?;
        team.expect(SERVICE_KEY, KEY, "it rotates never", |it| it["status"]["nextRotation"].is_null())
            .await?;
        team.key_is_at(KEY, "v1").await?;
        Ok(())
    });
}
