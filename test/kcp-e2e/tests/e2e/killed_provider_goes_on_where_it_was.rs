//! `kill -9` of the provider at any moment ends, after a restart, where it would have ended without.
//!
//! The same story is told undisturbed in one workspace, and then in several at once while the provider is killed at random
//! moments; what kcp shows at the end must be the same. `OPENKCM_KILLS=200` tells it again and again until so many were survived.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kcp_e2e::{
    story::{Patient as _, Story, Team, scenario},
    wait::eventually,
    workspace::{ACCOUNT, SERVICE_KEY, TENANT, is_true},
};
use serde_json::{Value, json};

/// Workspaces whose stories the same kills meet, each at another step.
const TEAMS: usize = 3;

#[test]
fn killed_at_any_moment_it_ends_in_the_same_state() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        let calm = story.workspace("calm").await?;
        let root = story.kms().create_key().await?;
        let expected = tell(&calm, &root, Duration::ZERO).await?;

        let wanted = std::env::var("OPENKCM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let mut survived = 0;
        while survived < wanted {
            let mut teams = Vec::new();
            for number in 1..=TEAMS {
                teams.push(story.workspace(&format!("team-{survived}-{number}")).await?);
            }
            survived += disturbed(story, &teams, &root, &expected).await?;
        }
        story.own()?.start_provider().await?;
        let verified = story.own()?.operator(&["ledger", "verify"])?;
        ensure!(!verified.is_empty(), "ledger verify says nothing");
        Ok(())
    });
}

/// Tells the story in all workspaces while the provider is killed; the number of kills.
async fn disturbed(story: &mut Story, teams: &[Team], root: &str, expected: &Value) -> Result<usize> {
    let moments = std::cell::RefCell::new(Vec::new());
    let over = Cell::new(false);
    let provider = story.own()?;
    let killing = async {
        while !over.get() {
            let moment = RandomState::new().hash_one(moments.borrow().len()) % 2_500;
            tokio::time::sleep(Duration::from_millis(moment)).await;
            moments.borrow_mut().push(moment);
            provider.kill_provider();
            provider.start_provider().await?;
        }
        anyhow::Ok(())
    };
    let telling = async {
        let told = |number: usize| {
            let team = teams.get(number).cloned();
            async move {
                let late = Duration::from_millis(700 * number as u64);
                let state = tell(&team.context("a team of that number")?, root, late).await?;
                anyhow::Ok(state)
            }
        };
        let states = tokio::try_join!(told(0), told(1), told(2));
        over.set(true);
        states
    };
    let (killed, told) = tokio::join!(killing, telling);
    let kills = || format!("killed after milliseconds {:?}", moments.borrow());
    killed.with_context(kills)?;
    let (one, two, three) = told.with_context(kills)?;
    for state in [one, two, three] {
        ensure!(state == *expected, "{}: it ended as {state:#}\ninstead of {expected:#}", kills());
    }
    Ok(moments.take().len())
}

/// Everything that a tenant does in its life; what kcp shows at the end.
async fn tell(team: &Team, root: &str, late: Duration) -> Result<Value> {
    tokio::time::sleep(late).await;
    team.enable().await?;
    let tenant = team.tenant().await?;
    team.account("aws", root).await?;
    for key in ["payments/used", "payments/deleted", "payments/disabled"] {
        team.service_key(key, "aws").await?;
    }
    team.account_ready("aws").await?;
    let application = team.application("payments/app").await?;
    let first = application.encrypts("payments/used", "written with v1").await?;
    let other = application.encrypts("payments/disabled", "written before").await?;

    change(team, "payments/used", json!({"rotationRequest": "one"})).await?;
    change(team, "payments/disabled", json!({"state": "Disabled"})).await?;
    team.key_is_at("payments/used", "v2").await?;
    team.key_is("payments/disabled", "Disabled").await?;
    application.is_refused("payments/disabled", &other, &["disabled", "evicted"]).await?;
    team.key_is("payments/deleted", "Active").await?;
    team.delete(SERVICE_KEY, "payments/deleted").await?;
    team.gone(SERVICE_KEY, "payments/deleted").await?;
    change(team, "payments/used", json!({"rotationSchedule": "30 Days"})).await?;

    team.disable().await?;
    team.enable().await?;
    ensure!(team.tenant().await? == tenant, "it is another tenant");
    team.expect(SERVICE_KEY, "payments/used", "it is back", |_| true).await?;
    team.expect(SERVICE_KEY, "payments/disabled", "it is back", |_| true).await?;
    change(team, "payments/used", json!({"rotationRequest": "two"})).await?;
    change(team, "payments/disabled", json!({"state": "Enabled"})).await?;

    // Exactly two rotations were asked for: none is lost, and none is done twice.
    team.key_is_at("payments/used", "v3").await?;
    team.key_is("payments/disabled", "Active").await?;
    application.decrypts("payments/used", &first, "written with v1").await?;
    application.decrypts("payments/disabled", &other, "written before").await?;
    settled(team, &tenant).await
}

async fn change(team: &Team, key: &str, spec: Value) -> Result<()> {
    team.patch(SERVICE_KEY, key, json!({ "spec": spec })).await.map(drop)
}

/// The state once every condition says what it will go on saying, without times and names of this workspace.
async fn settled(team: &Team, tenant: &str) -> Result<Value> {
    eventually(&format!("{} is at rest", team.path()), || async {
        let tenant = team.get(TENANT, tenant).await?.context("there is no Tenant")?;
        let (accounts, keys) = (team.list(ACCOUNT).await?, team.list(SERVICE_KEY).await?);
        for object in accounts.iter().chain(&keys).chain([&tenant]) {
            let seen = &object["status"]["observedGeneration"];
            ensure!(*seen == object["metadata"]["generation"], "a status is of before: {}", object["status"]);
        }
        // kcp applies claims a moment after it has bound.
        ensure!(is_true(&tenant, "ClaimsAccepted"), "kcp has not applied the claims");
        let distributed = |key: &Value| is_true(key, "Distributed");
        ensure!(keys.iter().all(distributed), "not every key is at the edge");
        ensure!(tenant["status"]["serviceEncryptionKeys"] == keys.len(), "the Tenant counts others");
        let dependents = accounts.iter().filter_map(|it| it["status"]["dependents"].as_u64()).sum::<u64>();
        ensure!(dependents == keys.len() as u64, "the Accounts count {dependents} of {} keys", keys.len());
        let about = |object: &Value| {
            let status = &object["status"];
            let versions: Vec<Value> = status["versions"].as_array().into_iter().flatten()
                .map(|it| json!([it["version"], it["state"], it["accountKeyVersion"]])).collect();
            let mut conditions: Vec<String> = status["conditions"].as_array().into_iter().flatten()
                .map(|it| format!("{} {} {}", it["type"], it["status"], it["reason"])).collect();
            conditions.sort();
            json!({
                "spec": object["spec"], "finalizers": object["metadata"]["finalizers"], "conditions": conditions,
                "phase": status["phase"], "state": status["state"], "recovered": status["recovered"],
                "accounts": status["accounts"], "keys": status["serviceEncryptionKeys"], "versions": versions,
                "currentVersion": status["currentVersion"], "served": status["rotationRequest"],
                "accountKeyVersion": status["accountKeyVersion"], "dependents": status["dependents"],
            })
        };
        let all: Vec<Value> = [&tenant].into_iter().chain(&accounts).chain(&keys).map(about).collect();
        Ok(json!(all))
    })
    .await
}
