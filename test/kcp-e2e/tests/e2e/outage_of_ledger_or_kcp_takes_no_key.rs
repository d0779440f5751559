//! The database alone, or kcp alone, its virtual workspaces included, may be away for longer than any lease: applications do not
//! notice, nothing untrue is said, and what was asked for meanwhile is done once, afterwards and by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kcp_e2e::{
    installation::{Application, Installation, Refusal},
    link::Link,
    process::free_ports,
    story::{Patient as _, Team, scenario},
    wait::eventually,
    workspace::{ACCOUNT, SERVICE_KEY, TENANT},
};
use serde_json::{Value, json};

use crate::postgres::Server;

const KEY: &str = "payments/payments-db";
/// Longer than a replica's mandate (5 s) and its lease together: with neither renewed, an edge has surely lost its keys.
const OUTAGE: Duration = Duration::from_secs(11);
const LEASE: &str = "--lease=3s";
/// A replica whose Lease in kcp is so old owns nothing.
const OWNERLESS: Duration = Duration::from_secs(6);

#[test]
fn an_outage_of_the_ledger_or_of_kcp_alone_takes_no_key_from_an_edge() {
    scenario(async |story| {
        let [port] = free_ports()?;
        let mut database = Server::start_at(port);
        story.with_replicas(1, database.url(), &[LEASE]).await?;
        let way = Link::listen_as_proxy().await?;
        let kcp = story.kcp();
        story.own()?.reach_kcp_over(&way, kcp).await?;

        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let app = team.application("payments/app").await?;
        let sealed = app.encrypts(KEY, "secret").await?;

        database.stop();
        let away = Instant::now();
        readiness_is(story.own()?, 503, "the ledger does not answer").await?;
        request_rotation(&team, "while the database was away").await?;
        works_until(&app, &sealed, away + OUTAGE)?;
        not_served(&team, "v1").await?;
        database.start();
        served(&team, "v2", "while the database was away").await?;
        readiness_is(story.own()?, 200, "ok").await?;
        works_until(&app, &sealed, Instant::now())?;

        // It does not answer, and then it is not there at all.
        way.stall(true);
        let away = Instant::now();
        works_until(&app, &sealed, away + OWNERLESS)?;
        let before = statuses(&team).await?;
        way.to_nobody()?;
        request_rotation(&team, "while kcp was away").await?;
        readiness_is(story.own()?, 503, "endpoint slice cannot be followed").await?;
        works_until(&app, &sealed, away + OUTAGE)?;
        let after = statuses(&team).await?;
        ensure!(after == before, "a status was written: {before:#?}\n{after:#?}");
        way.stall(false);
        way.to(kcp.address()?);
        served(&team, "v3", "while kcp was away").await?;
        readiness_is(story.own()?, 200, "ok").await?;
        works_until(&app, &sealed, Instant::now())?;

        ensure!(story.own()?.metric("openkcm_evictions_total").await? == 0, "a key was taken back");
        for (kind, name) in
            [(TENANT, team.tenant().await?), (ACCOUNT, "aws".into()), (SERVICE_KEY, KEY.into())]
        {
            let diary = team.events(kind, &name).await?;
            let mut since = diary.iter().skip_while(|it| !it.starts_with("Ready"));
            ensure!(!since.any(|it| it.starts_with("NotReady")), "{name} was called not ready: {diary:#?}");
        }
        ensure!(story.own()?.replica_runs(0), "the provider has ended");
        ensure!(story.own()?.operator(&["ledger", "verify"])?.contains("the ledger is whole"));
        Ok(())
    });
}

/// What kcp shows of the tenant, its Account and its key.
async fn statuses(team: &Team) -> Result<Vec<Value>> {
    let mut statuses = Vec::new();
    for kind in [TENANT, ACCOUNT, SERVICE_KEY] {
        statuses.extend(team.list(kind).await?.iter().map(|object| object["status"].clone()));
    }
    Ok(statuses)
}

/// The application decrypts and encrypts without a single refusal, at least once.
fn works_until(app: &Application, sealed: &[u8], end: Instant) -> Result<()> {
    loop {
        let refused = |Refusal(why)| anyhow::anyhow!("the edge refuses: {why}");
        let opened = app.decrypt(KEY, sealed)?.map_err(refused)?;
        ensure!(opened == b"secret", "it decrypted to something else");
        app.encrypt(KEY, b"new")?.map_err(refused)?;
        if Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

async fn request_rotation(team: &Team, value: &str) -> Result<Value> {
    team.patch(SERVICE_KEY, KEY, json!({"spec": {"rotationRequest": value}})).await
}

async fn not_served(team: &Team, version: &str) -> Result<()> {
    let key = team.get(SERVICE_KEY, KEY).await?.context("the key's object")?;
    let status = &key["status"];
    ensure!(
        status["currentVersion"] == version && status["rotationRequest"] != key["spec"]["rotationRequest"],
        "the status says that it was served: {status}"
    );
    Ok(())
}

async fn served(team: &Team, version: &str, request: &str) -> Result<()> {
    let key = team
        .expect(SERVICE_KEY, KEY, &format!("the request {request:?} is served"), |it| {
            it["status"]["rotationRequest"] == request
        })
        .await?;
    let (status, count) = (&key["status"], version.trim_start_matches('v'));
    let versions = status["versions"].as_array().map_or(0, Vec::len);
    ensure!(
        status["currentVersion"] == version && versions.to_string() == count,
        "not one version for one request: {status}"
    );
    Ok(())
}

async fn readiness_is(provider: &Installation, expected: u16, says: &str) -> Result<()> {
    eventually(&format!("/readyz says {expected}, {says}"), || async {
        let (status, text) = provider.readiness().await?;
        ensure!(status == expected && text.contains(says), "it says {status}: {text}");
        Ok(())
    })
    .await
}
