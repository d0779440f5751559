//! A fleet worth looking at, for `make up`: what a workspace of several teams holds after a while, and the teams that use it.
//!
//! Everything is plain objects, made once: what a person changes or breaks afterwards stays as it is.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use openkcm_edge_client::{Address, EdgeClient, Key, Token};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    installation::AUDIENCE,
    stores::{KeyStores, Store},
    wait::eventually,
    workspace::{ACCOUNT, SERVICE_KEY, Workspace, is_true},
};

const NAMESPACES: [&str; 6] =
    ["payments", "checkout", "identity", "analytics", "warehouse", "mobile-backend"];
const USES: [&str; 12] = [
    "cards", "tokens", "ledger", "sessions", "profiles", "events", "archive", "cache", "reports", "mail",
    "uploads", "backups",
];
const PLACES: [&str; 5] = ["", "-eu", "-us", "-apac", "-staging"];
const SCHEDULES: [&str; 8] =
    ["Hourly", "Daily", "Weekly", "30 Days", "90 Days", "Never", "12 Hours", "365 Days"];
/// Service accounts of each namespace.
const CALLERS: [&str; 5] = ["api", "worker", "batch", "reporting", "migration"];

/// Requests under way at the same time: kcp is busy, and nobody else is held up.
const AT_ONCE: usize = 24;
/// A team's applications use their keys, and one key is rotated on request, this often.
const ROUND: Duration = Duration::from_secs(60);
/// The first rotations come quickly and go to a few keys, so that these have a history to show.
const EARLY: usize = 48;
const EARLY_KEYS: usize = 8;
const EARLY_PAUSE: Duration = Duration::from_millis(1_300);
/// Tokens live for a day.
const SHIFT: Duration = Duration::from_secs(12 * 3_600);

/// What becomes of a root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    /// Its owner disables it when the keys below it are in use.
    Lost,
    /// Nobody has made it.
    Missing,
    /// The operator has not granted it to this workspace.
    Foreign,
}

struct Root {
    account: &'static str,
    store: Store,
    keys: usize,
    fate: Fate,
}

const fn root(account: &'static str, store: Store, keys: usize, fate: Fate) -> Root {
    Root { account, store, keys, fate }
}

const ROOTS: [Root; 7] = [
    root("aws-retail", Store::Aws, 140, Fate::Works),
    root("azure-emea", Store::Azure, 80, Fate::Works),
    root("gcp-analytics", Store::Gcp, 50, Fate::Works),
    root("hsm-core-banking", Store::Hsm, 24, Fate::Works),
    root("aws-legacy", Store::Aws, 12, Fate::Lost),
    root("azure-trial", Store::Azure, 3, Fate::Missing),
    root("gcp-partner", Store::Gcp, 0, Fate::Foreign),
];
const FOREIGN: &str = "projects/partner-bank/locations/europe-west3/keyRings/shared/cryptoKeys/root";

/// A service key of the fleet.
#[derive(Debug)]
struct FleetKey {
    namespace: &'static str,
    name: String,
    root: usize,
    number: usize,
}

impl FleetKey {
    fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Switched off on purpose.
    const fn disabled(&self) -> bool {
        self.number % 25 == 24
    }

    fn served(&self) -> bool {
        matches!(ROOTS[self.root].fate, Fate::Works | Fate::Lost)
    }

    /// How many of the service accounts of its namespace use it.
    const fn callers(&self) -> usize {
        // By turns within a namespace: neighbours in the list differ.
        self.number / NAMESPACES.len() * 7 % (CALLERS.len() + 1)
    }

    fn object(&self) -> Value {
        let mut spec = json!({
            "accountRef": {"name": ROOTS[self.root].account},
            "rotationSchedule": SCHEDULES[self.number * 5 % SCHEDULES.len()],
            "state": if self.disabled() { "Disabled" } else { "Enabled" },
        });
        if self.number.is_multiple_of(17) {
            spec["clients"] = json!([{"issuer": "https://issuer.prod.example", "subject": "system:serviceaccount:batch:exporter"}]);
        }
        if !self.served() {
            // Waits with the key for its Account.
            spec["rotationRequest"] = "2026-01-01T00:00:00Z".into();
        }
        json!({
            "apiVersion": "openkcm.io/v1alpha1", "kind": "ServiceEncryptionKey",
            "metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec,
        })
    }
}

/// Every key, in an order that mixes namespaces and Accounts.
fn keys() -> Vec<FleetKey> {
    let total: usize = ROOTS.iter().map(|root| root.keys).sum();
    (0..total)
        .map(|number| {
            // A stride without a common factor with the total: neighbours hang on different Accounts.
            let mut place = number * 97 % total;
            let mut root = 0;
            while place >= ROOTS[root].keys {
                place -= ROOTS[root].keys;
                root += 1;
            }
            let round = number / NAMESPACES.len();
            let name = format!("{}{}", USES[round % USES.len()], PLACES[round / USES.len() % PLACES.len()]);
            FleetKey { namespace: NAMESPACES[number % NAMESPACES.len()], name, root, number }
        })
        .collect()
}

/// How many Accounts and keys [`create`] makes.
pub fn size() -> (usize, usize) {
    (ROOTS.len(), ROOTS.iter().map(|root| root.keys).sum())
}

/// Makes what is not there yet, waits until the keys are served, and then breaks what is to be broken.
pub async fn create(workspace: &Workspace, stores: &KeyStores) -> Result<()> {
    let names = |objects: Vec<Value>| -> HashSet<String> {
        let name =
            |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        objects.iter().map(|object| [name(object, "namespace"), name(object, "name")].join("/")).collect()
    };
    for namespace in NAMESPACES {
        workspace.namespace(namespace).await?;
    }
    let accounts = names(workspace.list(ACCOUNT).await?);
    let mut doomed = Vec::new();
    for root in ROOTS.iter().filter(|root| !accounts.contains(&format!("/{}", root.account))) {
        let reference = match root.fate {
            Fate::Works | Fate::Lost => stores.create_key(root.store, root.account).await?,
            Fate::Missing => root.store.reference(root.account),
            Fate::Foreign => FOREIGN.to_owned(),
        };
        workspace.account_of(root.account, root.store.provider_type(), &reference).await?;
        if root.fate == Fate::Lost {
            doomed.push((root.store, reference));
        }
    }
    for root in ROOTS.iter().filter(|root| root.fate == Fate::Works) {
        workspace.expect(ACCOUNT, root.account, "it is Ready", |it| is_true(it, "Ready")).await?;
    }
    let fleet = keys();
    let there = names(workspace.list(SERVICE_KEY).await?);
    stream::iter(fleet.iter().filter(|key| !there.contains(&key.id())))
        .map(|key| workspace.apply(key.object()))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let expected = fleet.iter().filter(|key| key.served() && !key.disabled()).count();
    eventually("the provider has made every key of the fleet", || async {
        let made = workspace.list(SERVICE_KEY).await?;
        let made = made.iter().filter(|key| key["status"]["currentVersion"].is_string()).count();
        ensure!(made >= expected, "{made} of {expected} are made");
        Ok(())
    })
    .await?;
    for (store, reference) in doomed {
        stores.set_enabled(store, &reference, false).await?;
    }
    Ok(())
}

/// One line on each broken Account, for a person who wonders.
pub fn broken() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROOTS.iter().filter_map(|root| match root.fate {
        Fate::Works => None,
        Fate::Lost => Some((root.account, "its owner has disabled the root key: Unavailable after a minute")),
        Fate::Missing => Some((root.account, "no such root key: Pending, NotFound")),
        Fate::Foreign => Some((root.account, "a root key that is not granted: Pending, AccessDenied")),
    })
}

/// Works as the teams and their applications do, until the process is ended: every minute each application uses its keys,
/// and one key is rotated on request.
pub async fn teams(workspace: &Workspace, tenant: &str, edges: &[PathBuf]) -> Result<()> {
    let fleet = keys();
    let mut asked = 0;
    loop {
        let applications = applications(workspace, edges).await?;
        let shift = Instant::now();
        while shift.elapsed() < SHIFT {
            let round = Instant::now();
            use_keys(&applications, tenant, &fleet).await;
            while round.elapsed() < ROUND {
                rotate(workspace, &fleet, asked).await;
                asked += 1;
                let pause = if asked < EARLY { EARLY_PAUSE } else { ROUND };
                sleep(pause.min(ROUND.saturating_sub(round.elapsed()))).await;
            }
        }
    }
}

/// A service account at one of the edges.
struct Caller {
    namespace: &'static str,
    rank: usize,
    edge: EdgeClient,
}

async fn applications(workspace: &Workspace, edges: &[PathBuf]) -> Result<Vec<Caller>> {
    let mut callers = Vec::new();
    for namespace in NAMESPACES {
        for (rank, name) in CALLERS.into_iter().enumerate() {
            let token = workspace.token(&format!("{namespace}/{name}"), Some(AUDIENCE)).await?;
            let socket = edges.get(rank % edges.len().max(1)).context("an edge")?;
            let edge = EdgeClient::connect(Address::Unix(socket.clone()), Token::Fixed(token))
                .await
                .context("connecting to an edge")?;
            callers.push(Caller { namespace, rank, edge });
        }
    }
    Ok(callers)
}

/// Refusals are part of it: some keys are disabled, and some Accounts are broken.
async fn use_keys(callers: &[Caller], tenant: &str, fleet: &[FleetKey]) {
    for caller in callers {
        for key in fleet.iter().filter(|key| key.namespace == caller.namespace && key.callers() > caller.rank)
        {
            let name = Key::new(tenant, key.id());
            if let Err(refusal) = caller.edge.encrypt(&name, b"an order", b"").await
                && !key.disabled()
                && ROOTS[key.root].fate == Fate::Works
            {
                eprintln!("{}: {refusal}", key.id());
            }
        }
    }
}

async fn rotate(workspace: &Workspace, fleet: &[FleetKey], asked: usize) {
    let turn = if asked < EARLY { asked % EARLY_KEYS } else { asked };
    let key = &fleet[turn * 37 % fleet.len()];
    if key.disabled() || !key.served() {
        return;
    }
    let request = json!({"spec": {"rotationRequest": Timestamp::now().strftime("%FT%TZ").to_string()}});
    if let Err(error) = workspace.patch(SERVICE_KEY, &key.id(), request).await {
        // A person may have deleted it, or OpenKCM is switched off just now.
        eprintln!("rotating {}: {error:#}", key.id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_named_once_and_every_account_has_its_share() {
        let fleet = keys();
        let ids: HashSet<String> = fleet.iter().map(FleetKey::id).collect();
        assert_eq!(ids.len(), size().1);
        for (number, root) in ROOTS.iter().enumerate() {
            assert_eq!(fleet.iter().filter(|key| key.root == number).count(), root.keys, "{}", root.account);
        }
        assert!(
            fleet.iter().any(|key| key.callers() == 0)
                && fleet.iter().any(|key| key.callers() == CALLERS.len())
        );
    }

    #[test]
    fn all_schedules_occur_on_served_keys() {
        let fleet = keys();
        for schedule in SCHEDULES {
            assert!(
                fleet.iter().any(|key| key.served() && key.object()["spec"]["rotationSchedule"] == schedule),
                "{schedule}"
            );
        }
    }
}
