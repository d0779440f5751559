//! Canaries: what must not leave is looked for where it could show.

use anyhow::{Context as _, ensure};
use kcp_e2e::{
    stores::{AWS_ACCESS_KEY, AZURE_CLIENT_SECRET, HSM_PIN, KeyStores, Store},
    story::{Patient as _, read_all, scenario},
    workspace::{ACCOUNT, EVENT, SERVICE_KEY, TENANT},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";
const PLAINTEXT: &str = "canary-plaintext-4f1d";

#[test]
fn neither_credentials_nor_tokens_nor_plaintexts_show_in_logs_metrics_or_objects() {
    scenario(async |story| {
        story.with_own_provider(&["--log=debug"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, PLAINTEXT).await?;
        application.decrypts(KEY, &sealed, PLAINTEXT).await?;
        // Failures are where secrets like to show.
        for store in Store::ALL {
            let missing = format!("{}-missing", store.name());
            team.account_of(&missing, store.provider_type(), &KeyStores::missing_key(store)).await?;
            team.account_refused(&missing, "NotFound").await?;
        }
        team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Disabled"}})).await?;
        team.key_is(KEY, "Disabled").await?;

        let installation = story.installation().await?;
        let metrics = reqwest::get(installation.metrics_url()).await?.error_for_status()?.text().await?;
        ensure!(metrics.contains("openkcm"), "the metrics are not ours: {metrics}");
        let logs = read_all(&installation.logs())?;
        ensure!(!logs.is_empty(), "the logs are empty: this test would prove nothing");
        let mut objects = String::new();
        for kind in [TENANT, ACCOUNT, SERVICE_KEY, EVENT] {
            objects += &serde_json::to_string(&team.list(kind).await?)?;
        }

        let token = std::fs::read_to_string(&application.token_file).context("the application's token")?;
        let signature = token.trim().rsplit('.').next().context("a token has a signature")?.to_owned();
        for (what, canary) in [
            ("AWS credentials", AWS_ACCESS_KEY.1),
            ("Azure credentials", AZURE_CLIENT_SECRET),
            ("the HSM's PIN", HSM_PIN),
            ("a plaintext", PLAINTEXT),
            ("a token", &signature),
        ] {
            for (place, text) in [("logs", &logs), ("metrics", &metrics), ("objects", &objects)] {
                ensure!(!text.contains(canary), "{what} in the {place}");
            }
        }
        // Nor do metrics name what belongs to a tenant.
        for name in ["payments-db", team.path(), team.cluster().as_str()] {
            ensure!(!metrics.contains(name), "{name} in the metrics");
        }
        Ok(())
    });
}
