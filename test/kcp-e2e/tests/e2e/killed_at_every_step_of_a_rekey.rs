//! A re-key that is killed at any of its steps ends, after a restart, as one that nobody disturbed.
//!
//! The steps are not listed here: an undisturbed re-key tells which crash points it passes.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use kcp_e2e::{
    crashes::chosen,
    installation::Application,
    paths,
    story::{Patient as _, Story, Team, scenario},
    workspace::{ACCOUNT, SERVICE_KEY, is_true},
};
use serde_json::{Value, json};

const KEYS: [&str; 2] = ["payments/one", "payments/two"];
/// What a re-key does; the rest of a trace is other work that goes on beside it.
const OURS: [&str; 5] = ["Account.", "root.", "install.", "rewrap.", "erase."];
/// Where a crash leaves something half done, each in another way: verified and not made, made and not recorded, recorded and
/// not known, half re-wrapped, re-wrapped and not erased, erased and not told.
const CHOSEN: [&str; 6] = [
    "root.verified",
    "root.account-key-wrapped",
    "root.account-key-durable",
    "rewrap.before-commit",
    "Account.after-rewrap",
    "erase.after-commit",
];
/// Steps of a start in the middle of a re-key: the account keys come back from their roots.
const IN_THE_RESTART: [&str; 3] =
    ["Account.before-load", "root.account-key-unwrapped", "Account.after-rewrap"];

#[test]
fn killed_at_every_step_of_a_rekey_it_ends_as_if_undisturbed() {
    scenario(async |story| {
        story.with_own_crashing_provider(&[]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let kms = story.kms();
        let roots = [kms.create_key().await?, kms.create_key().await?];
        team.account("aws", &roots[0]).await?;
        team.account_ready("aws").await?;
        for key in KEYS {
            team.service_key(key, "aws").await?;
            team.key_is(key, "Active").await?;
            team.patch(SERVICE_KEY, key, json!({"spec": {"rotationRequest": "once"}})).await?;
            team.key_is_at(key, "v2").await?;
        }
        let application = team.application("payments/app").await?;
        let mut sealed = Vec::new();
        for key in KEYS {
            sealed.push((key, application.encrypts(key, "before").await?));
        }
        let mut rekeys = Rekeys { team, roots, application, sealed, done: 0 };

        // Nobody disturbs the first. It says which steps there are, and how it should end.
        story.own()?.forget_steps();
        let undisturbed = {
            rekeys.ask().await?;
            rekeys.end().await?
        };
        let steps = story.own()?.steps_of(&OURS);
        for needed in [
            "root.verified",
            "root.account-key-durable",
            "rewrap.after-commit",
            "erase.after-commit",
            "Account.after-status",
        ] {
            ensure!(steps.iter().any(|step| step == needed), "the re-key did not pass {needed}: {steps:?}");
        }

        for step in chosen(&steps, &CHOSEN) {
            killed_at(story, &mut rekeys, &[step], &undisturbed).await?;
        }
        for step in IN_THE_RESTART {
            killed_at(story, &mut rekeys, &["Account.before-rewrap", step], &undisturbed).await?;
        }
        println!("{} re-keys, {} of them killed: {}", rekeys.done, rekeys.done - 1, steps.join(", "));
        let verified = story.own()?.operator(&["ledger", "verify"])?;
        ensure!(verified.contains("whole"), "ledger verify says {verified}");
        Ok(())
    });
}

#[test]
fn released_binary_has_no_crash_points() -> Result<()> {
    let has = |binary: &Path| -> Result<bool> {
        let bytes = fs::read(binary)?;
        Ok([b"OPENKCM_CRASH".as_slice(), b"rewrap.before-commit", b"root.verified"]
            .iter()
            .any(|needle| bytes.windows(needle.len()).any(|window| window == *needle)))
    };
    ensure!(has(&paths::crashing_provider()?)?, "the search finds nothing where there is something");
    ensure!(!has(&paths::built("openkcm-provider")?)?, "openkcm-provider was built with crash points");
    Ok(())
}

/// A re-key, killed at each of these points, the later ones in the restarts that follow.
async fn killed_at(
    story: &mut Story,
    rekeys: &mut Rekeys,
    points: &[&str],
    undisturbed: &Value,
) -> Result<()> {
    let what = || format!("a re-key that was killed at {}", points.join(", then "));
    story.own()?.dies_at(points, async || rekeys.ask().await).await.with_context(what)?;
    story.own()?.start_provider().await?;
    let end = rekeys.end().await.with_context(what)?;
    ensure!(&end == undisturbed, "{} ends otherwise:\n{end:#}\ninstead of\n{undisturbed:#}", what());
    Ok(())
}

/// An Account that goes to and fro between two roots.
struct Rekeys {
    team: Team,
    roots: [String; 2],
    application: Application,
    sealed: Vec<(&'static str, Vec<u8>)>,
    done: usize,
}

impl Rekeys {
    /// Asks for the next one.
    async fn ask(&mut self) -> Result<()> {
        self.done += 1;
        let root = &self.roots[self.done % 2];
        self.team.patch(ACCOUNT, "aws", json!({"spec": {"keyReference": root}})).await.map(drop)
    }

    /// Waits for its end; everything that was encrypted before it opens, and the Account's status without what is
    /// different every time: times, and the numbers of account keys.
    async fn end(&self) -> Result<Value> {
        let version = self.done + 1;
        let account = self
            .team
            .expect(ACCOUNT, "aws", "it is Ready under the new root", |it| {
                it["status"]["phase"] == "Ready"
                    && it["status"]["accountKeyVersion"] == version
                    && it["status"]["rootKey"]["reference"] == self.roots[self.done % 2].as_str()
                    && is_true(it, "RewrapComplete")
                    && it["status"]["rewrap"]["finishedAt"].is_string()
            })
            .await?;
        for (key, sealed) in &self.sealed {
            self.application.decrypts(key, sealed, "before").await?;
            let after = self.application.encrypts(key, "after").await?;
            self.application.decrypts(key, &after, "after").await?;
        }
        let mut status = account["status"].clone();
        for condition in status["conditions"].as_array_mut().context("conditions")? {
            for field in ["lastTransitionTime", "observedGeneration"] {
                condition[field] = Value::Null;
            }
            let message =
                condition["message"].as_str().unwrap_or_default().replace(&format!("v{version}"), "vNEW");
            condition["message"] = message.replace(&format!("v{}", version - 1), "vOLD").into();
        }
        ensure!(
            status["rewrap"]["from"] == version - 1 && status["rewrap"]["to"] == version,
            "{}",
            status["rewrap"]
        );
        for field in ["observedGeneration", "accountKeyVersion", "rootKey", "impact"] {
            status[field] = Value::Null;
        }
        for field in ["from", "to", "startedAt", "finishedAt"] {
            status["rewrap"][field] = Value::Null;
        }
        Ok(status)
    }
}
