//! A service key is made, rotated, switched off and on, deleted and brought back, and the provider is killed at the named steps of
//! each: nothing that was acknowledged is lost, no number is used again, nothing is seen before it is on disk, a request is served
//! once, and the end is that of a key that nobody disturbed.
//!
//! The steps are not listed here: the life of an undisturbed key tells which crash points it passes. Without `OPENKCM_CRASH_STEPS`
//! the provider is killed at one of each kind.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use kcp_e2e::{
    crashes::chosen,
    installation::{Application, Installation},
    story::{Patient as _, Team, scenario},
    wait::eventually,
    workspace::SERVICE_KEY,
};
use openkcm_edge::envelope::Header;
use serde_json::{Value, json};

/// What becomes of a key; the rest of a trace is other work that goes on beside it.
const OURS: [&str; 6] = ["ServiceEncryptionKey.", "create.", "rotate.", "disable.", "delete.", "recover."];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Deed {
    Create,
    Rotate,
    Disable,
    Enable,
    Delete,
    Recover,
}

/// In the order of a life, each with the steps where a crash leaves something half done in a way of its own.
const LIFE: [(Deed, &[&str]); 6] = [
    (
        Deed::Create,
        &[
            "ServiceEncryptionKey.after-add-finalizer",
            "create.before-version",
            "create.after-commit",
            "ServiceEncryptionKey.after-serve",
        ],
    ),
    (
        Deed::Rotate,
        &[
            "rotate.before-pointer",
            "rotate.before-commit",
            "rotate.after-commit",
            "ServiceEncryptionKey.after-serve",
            "ServiceEncryptionKey.before-status",
        ],
    ),
    (
        Deed::Disable,
        &["ServiceEncryptionKey.before-evict", "ServiceEncryptionKey.after-evict", "disable.after-commit"],
    ),
    (Deed::Enable, &["disable.before-commit", "ServiceEncryptionKey.before-serve"]),
    (
        Deed::Delete,
        &["delete.before-commit", "delete.after-commit", "ServiceEncryptionKey.before-remove-finalizer"],
    ),
    (Deed::Recover, &["recover.before-commit", "recover.after-commit", "ServiceEncryptionKey.after-serve"]),
];

#[test]
fn killed_at_every_step_of_its_life_a_key_ends_as_if_undisturbed() {
    scenario(async |story| {
        story.with_own_crashing_provider(&[]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let root = story.kms().create_key().await?;
        team.account("aws", &root).await?;
        team.account_ready("aws").await?;
        let application = team.application("payments/app").await?;
        let mut lives = Lives { team, application, journal: Journal::default() };

        // Nobody disturbs the first. It says which steps there are, and how each deed should end.
        let calm = "payments/calm";
        let mut deeds = Vec::new();
        for (deed, named) in LIFE {
            story.own()?.forget_steps();
            lives.ask(calm, deed).await?;
            let end = lives.end(calm, deed, None).await?;
            // The account key may have to be unwrapped again or not: that depends on the time and on nothing here.
            let mut steps = story.own()?.steps_of(&OURS);
            steps.retain(|step| !step.ends_with("-load"));
            for step in named {
                ensure!(steps.iter().any(|passed| passed == step), "{deed:?} did not pass {step}: {steps:?}");
            }
            deeds.push((deed, steps, named, end));
        }

        // A key for each step at which one deed is killed; the others do it undisturbed, and meet the kills all the same.
        let most = deeds.iter().map(|(_, steps, named, _)| chosen(steps, named).len()).max();
        let keys: Vec<String> = (1..=most.unwrap_or_default()).map(|n| format!("payments/key-{n}")).collect();
        let mut kills = 0;
        for (deed, steps, named, end) in &deeds {
            let steps = chosen(steps, named);
            let (killed, spared) = keys.split_at(steps.len());
            for key in spared {
                lives.ask(key, *deed).await?;
            }
            for (key, step) in killed.iter().zip(&steps) {
                let what = || format!("{key}, killed at {step} of {deed:?}");
                let own = story.own()?;
                own.dies_at(&[step], async || lives.ask(key, *deed).await).await.with_context(what)?;
                kills += 1;
                lives.compare(own, key).await.with_context(what)?;
                own.start_provider().await?;
                lives.end(key, *deed, Some(end)).await.with_context(what)?;
            }
            for key in spared {
                lives.end(key, *deed, Some(end)).await.with_context(|| format!("{key} after {deed:?}"))?;
            }
            println!("{deed:?}: {}", steps.join(", "));
        }
        // Also in the restart that puts right what a crash has left.
        let own = story.own()?;
        let points =
            ["rotate.after-commit", "ServiceEncryptionKey.before-serve", "ServiceEncryptionKey.after-serve"];
        own.dies_at(&points, async || lives.request(calm, "twice").await).await?;
        kills += points.len();
        lives.compare(own, calm).await?;
        own.start_provider().await?;
        lives.team.key_is_at(calm, "v3").await?;
        lives.opens(calm).await?;

        let versions = lives.compare(own, calm).await?;
        ensure!(
            versions == 2 * keys.len() + 3,
            "{versions} versions of {} keys and the calm one",
            keys.len()
        );
        println!(
            "{kills} kills, {} keys, {versions} versions, {} ciphertexts",
            keys.len() + 1,
            lives.journal.sealed.len()
        );
        let verified = own.operator(&["ledger", "verify"])?;
        ensure!(verified.contains("whole"), "ledger verify says {verified}");
        Ok(())
    });
}

struct Lives {
    team: Team,
    application: Application,
    journal: Journal,
}

/// What was acknowledged, kept by a process that is not killed.
#[derive(Default)]
struct Journal {
    /// By key and number: what the ledger holds of that version. It must stay that.
    versions: HashMap<(String, u64), Value>,
    /// Key, its id, version and ciphertext, of all that an edge encrypted.
    sealed: Vec<(String, String, u32, Vec<u8>)>,
}

impl Lives {
    async fn ask(&self, key: &str, deed: Deed) -> Result<()> {
        let state = |state: &str| self.team.patch(SERVICE_KEY, key, json!({"spec": {"state": state}}));
        match deed {
            Deed::Create | Deed::Recover => self.team.service_key(key, "aws").await.map(drop),
            Deed::Rotate => self.request(key, "once").await,
            Deed::Disable => state("Disabled").await.map(drop),
            Deed::Enable => state("Enabled").await.map(drop),
            Deed::Delete => self.team.delete(SERVICE_KEY, key).await,
        }
    }

    async fn request(&self, key: &str, request: &str) -> Result<()> {
        self.team.patch(SERVICE_KEY, key, json!({"spec": {"rotationRequest": request}})).await.map(drop)
    }

    /// Waits until a deed has ended, as `expected` where that is known, at the edge too; what the key shows then.
    async fn end(&mut self, key: &str, deed: Deed, expected: Option<&Value>) -> Result<Value> {
        if deed == Deed::Delete {
            self.team.gone(SERVICE_KEY, key).await?;
            self.refused(key, &["evicted", "unknown-key"]).await?;
            return Ok(Value::Null);
        }
        let what = format!("{key} is at rest after {deed:?}");
        let end = eventually(&what, || async {
            let object = self.team.get(SERVICE_KEY, key).await?.context("there is no such object")?;
            let shown = shown(&object)?;
            match expected {
                Some(expected) => ensure!(&shown == expected, "it shows {shown:#}\ninstead of {expected:#}"),
                None => {
                    let state = if deed == Deed::Disable { "Disabled" } else { "Active" };
                    let version = if deed == Deed::Create { "v1" } else { "v2" };
                    let told = if deed == Deed::Disable { "Evicted True" } else { "Distributed True" };
                    let conditions = shown["conditions"].to_string();
                    ensure!(
                        shown["state"] == state
                            && shown["currentVersion"] == version
                            && conditions.contains(told),
                        "it shows {shown:#}"
                    );
                }
            }
            Ok(shown)
        })
        .await?;
        if deed == Deed::Disable {
            self.refused(key, &["disabled", "evicted"]).await?;
        } else {
            self.opens(key).await?;
        }
        Ok(end)
    }

    /// Everything that was ever encrypted with it opens, and it encrypts.
    async fn opens(&mut self, key: &str) -> Result<()> {
        for (_, _, version, sealed) in self.journal.sealed.iter().filter(|(of, ..)| of == key) {
            let opened = self.application.decrypts(key, sealed, "secret").await;
            opened.with_context(|| format!("v{version} of {key}"))?;
        }
        let sealed = self.application.encrypts(key, "secret").await?;
        self.journal.note(key, sealed)
    }

    async fn refused(&self, key: &str, codes: &[&str]) -> Result<()> {
        let Some((_, _, _, sealed)) = self.journal.sealed.iter().find(|(of, ..)| of == key) else {
            bail!("nothing was encrypted with {key}")
        };
        self.application.is_refused(key, sealed, codes).await
    }

    /// What kcp and the edge say of all keys, and what they ever said, is in the ledger: as it was. Gives back how many versions the
    /// ledger has. An edge may still encrypt with the key whose provider was killed.
    async fn compare(&mut self, own: &Installation, key: &str) -> Result<usize> {
        if let Ok(sealed) = self.application.encrypt(key, b"secret")? {
            self.journal.note(key, sealed)?;
        }
        let objects = self.team.list(SERVICE_KEY).await?;
        let (keys, versions) = ledger(own, self.team.cluster().as_str())?;
        for ((name, number), before) in &self.journal.versions {
            let now = versions.get(&(name.clone(), *number));
            ensure!(now == Some(before), "v{number} of {name} was {before}, and is {now:?}");
        }
        for (name, id, version, _) in &self.journal.sealed {
            let row =
                keys.get(name).with_context(|| format!("{name} is not in the ledger, an edge uses it"))?;
            let known = row["id"].as_str().unwrap_or_default().replace('-', "");
            ensure!(known == *id, "an edge encrypts with another {name} than that of the ledger");
            let known = versions.contains_key(&(name.clone(), u64::from(*version)));
            ensure!(known, "v{version} of {name} encrypts, and is not in the ledger");
        }
        for object in &objects {
            let name = name_of(&object["metadata"]);
            let status = &object["status"];
            let shown = status["versions"].as_array().into_iter().flatten().map(|it| &it["version"]);
            for version in shown.chain([&status["currentVersion"]]).filter_map(Value::as_str) {
                let number = version.strip_prefix('v').and_then(|number| number.parse::<u64>().ok());
                let number = number.with_context(|| format!("a version of {name}: {version}"))?;
                let known = versions.contains_key(&(name.clone(), number));
                ensure!(known, "the status of {name} speaks of v{number}, which is not in the ledger");
            }
        }
        // Gone from kcp is deleted in the ledger, so that nothing puts it back.
        let there: Vec<String> = objects.iter().map(|object| name_of(&object["metadata"])).collect();
        for (name, row) in keys.iter().filter(|(name, _)| !there.contains(name)) {
            ensure!(row["delete_after"].is_string(), "{name} is gone, and the ledger does not know");
        }
        let count = versions.len();
        self.journal.versions.extend(versions);
        Ok(count)
    }
}

impl Journal {
    fn note(&mut self, key: &str, sealed: Vec<u8>) -> Result<()> {
        let header = Header::parse(&sealed).map_err(|error| anyhow::anyhow!("a ciphertext: {error}"))?;
        let id = header.key_id.iter().map(|byte| format!("{byte:02x}")).collect();
        self.sealed.push((key.to_owned(), id, header.version, sealed));
        Ok(())
    }
}

/// Keys by name, and their versions by name and number: what makes up each and never changes.
type Ledger = (HashMap<String, Value>, HashMap<(String, u64), Value>);

/// What the ledger of a provider holds, dead or alive, of one workspace.
fn ledger(own: &Installation, cluster: &str) -> Result<Ledger> {
    let (mut tenant, mut keys, mut names) = (Value::Null, HashMap::new(), HashMap::new());
    let mut versions = HashMap::new();
    for line in own.operator(&["ledger", "export"])?.lines() {
        let row: Value = serde_json::from_str(line).context("a line of the export")?;
        if row["tenant"]["cluster"] == cluster {
            tenant = row["tenant"]["id"].clone();
        } else if !row["serviceKey"].is_null() && row["serviceKey"]["tenant"] == tenant {
            let key = &row["serviceKey"];
            ensure!(key["destroyed_at"].is_null(), "{key} is destroyed");
            names.insert(key["id"].to_string(), name_of(key));
            let twice = keys.insert(name_of(key), key.clone());
            ensure!(twice.is_none(), "there are two of {}", name_of(key));
        } else if let Some(name) = names.get(&row["version"]["key"].to_string()) {
            let version = &row["version"];
            let number = version["version"].as_u64().context("a version's number")?;
            ensure!(version["sealed"].is_string(), "v{number} of {name} has no material");
            let what = json!([version["key"], version["created_at"], version["sealed"]]);
            let twice = versions.insert((name.clone(), number), what);
            ensure!(twice.is_none(), "there are two v{number} of {name}");
        }
    }
    Ok((keys, versions))
}

fn name_of(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// The status without what is different every time: times, and who called.
fn shown(object: &Value) -> Result<Value> {
    let mut status = object["status"].clone();
    ensure!(status["observedGeneration"] == object["metadata"]["generation"], "it is of before: {status}");
    for field in ["observedGeneration", "lastRotation", "activeClients"] {
        status[field] = Value::Null;
    }
    for version in status["versions"].as_array_mut().into_iter().flatten() {
        version["created"] = Value::Null;
    }
    let conditions = status["conditions"].as_array_mut().context("conditions")?;
    let mut told: Vec<String> = conditions
        .iter()
        .map(|it| {
            let message = it["message"].as_str().unwrap_or_default();
            // How long it took, or when it was.
            let message = ["edges in ", "history at "]
                .iter()
                .find_map(|until| message.split_once(until))
                .map_or(message, |it| it.0);
            let text = |field: &str| it[field].as_str().unwrap_or_default();
            format!("{} {} {}: {}", text("type"), text("status"), text("reason"), message.trim_end())
        })
        .collect();
    told.sort();
    status["conditions"] = told.into();
    Ok(json!({
        "spec": object["spec"], "finalizers": object["metadata"]["finalizers"], "state": status["state"],
        "currentVersion": status["currentVersion"], "conditions": status["conditions"], "rest": status,
    }))
}
