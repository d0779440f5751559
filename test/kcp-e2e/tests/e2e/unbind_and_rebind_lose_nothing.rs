//! "Disable OpenKCM" takes every key away from the edges and destroys none; "Enable" brings all back.

use anyhow::{Context, Result, ensure};
use kcp_e2e::{
    story::{Patient as _, Story, scenario},
    wait::eventually,
    workspace::{ACCOUNT, SERVICE_KEY},
};
use serde_json::json;

const KEY: &str = "payments/payments-db";
/// Declared under an Account whose root key does not exist: it has no version.
const WAITING: &str = "payments/waiting";

#[test]
fn unbind_and_rebind() {
    scenario(async |story| tell(story, async |_| Ok(())).await);
}

#[test]
fn with_a_restart_of_the_provider_in_between() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        tell(story, async |story| {
            let provider = story.own()?;
            provider.stop_provider();
            provider.start_provider().await?;
            eventually("the provider has looked at everything it knows", || async {
                let log = provider.provider().context("a provider that runs")?.log();
                let rounds = std::fs::read_to_string(log)?.matches("every key was planned once").count();
                ensure!(rounds == 2, "it was started twice and has done so {rounds} times");
                Ok(())
            })
            .await?;
            // What is unbound costs nothing for as long as nobody binds it again.
            for gauge in ["openkcm_queue_ready", "openkcm_queue_delayed"] {
                let waiting = provider.metric(gauge).await?;
                ensure!(waiting == 0, "{gauge} is {waiting}");
            }
            Ok(())
        })
        .await
    });
}

async fn tell(story: &mut Story, meanwhile: impl AsyncFnOnce(&mut Story) -> Result<()>) -> Result<()> {
    // Given a tenant with an Account and a key at its second version, and something encrypted with each version.
    let team = story.workspace("team").await?;
    team.enable().await?;
    let tenant = team.tenant().await?;
    team.chain(&story.kms(), "aws", KEY).await?;
    let application = team.application("payments/app").await?;
    let first = application.encrypts(KEY, "written at v1").await?;
    team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": "once"}})).await?;
    team.key_is_at(KEY, "v2").await?;
    let second = application.encrypts(KEY, "written later").await?;
    // Another key waits for its Account.
    let nowhere = "arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-0000-0000-000000000000";
    team.account("nowhere", nowhere).await?;
    team.service_key(WAITING, "nowhere").await?;
    team.key_is(WAITING, "Provisioning").await?;
    let waiting = spec(&team, SERVICE_KEY, WAITING).await?;
    let (account, key) = (spec(&team, ACCOUNT, "aws").await?, spec(&team, SERVICE_KEY, KEY).await?);

    // When its admin disables OpenKCM, the binding goes and no edge decrypts any more,
    team.disable().await?;
    application.is_refused(KEY, &first, &["evicted", "unknown-key"]).await?;
    // but the ledger has the tenant and its key.
    let cluster = team.cluster().to_string();
    let ledger = story.installation().await?.operator(&["tenants", "list"])?;
    let line =
        ledger.lines().find(|line| line.contains(&cluster)).context("the ledger has forgotten the tenant")?;
    ensure!(line.contains("Suspended"), "the ledger says: {line}");

    meanwhile(story).await?;

    // When OpenKCM is enabled again, the same tenant is there, and says that it came back,
    team.enable().await?;
    let back = team.active_tenant().await?;
    ensure!(back["metadata"]["name"] == tenant.as_str(), "it is another tenant");
    ensure!(back["status"]["recovered"] == true, "it does not say that it was recovered: {}", back["status"]);
    // with its Account and its key as they were,
    team.account_ready("aws").await?;
    team.key_is(KEY, "Active").await?;
    team.key_is_at(KEY, "v2").await?;
    ensure!(spec(&team, ACCOUNT, "aws").await? == account, "the Account's spec has changed");
    ensure!(spec(&team, SERVICE_KEY, KEY).await? == key, "the key's spec has changed");
    // the one that was never made is declared again,
    team.key_is(WAITING, "Provisioning").await?;
    ensure!(spec(&team, SERVICE_KEY, WAITING).await? == waiting, "the waiting key's spec has changed");
    // and everything that was encrypted can be read.
    application.decrypts(KEY, &first, "written at v1").await?;
    application.decrypts(KEY, &second, "written later").await?;

    // Any number of times; what its user deleted stays away.
    team.delete(SERVICE_KEY, WAITING).await?;
    team.gone(SERVICE_KEY, WAITING).await?;
    team.disable().await?;
    team.enable().await?;
    team.key_is_at(KEY, "v2").await?;
    ensure!(team.get(SERVICE_KEY, WAITING).await?.is_none(), "a deleted key came back");
    application.decrypts(KEY, &first, "written at v1").await
}

async fn spec(
    team: &kcp_e2e::story::Team,
    kind: kcp_e2e::workspace::Kind,
    name: &str,
) -> Result<serde_json::Value> {
    Ok(team.get(kind, name).await?.context("it is gone")?["spec"].clone())
}
