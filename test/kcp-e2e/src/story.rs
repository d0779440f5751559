//! What a scenario is written in: a world of servers shared by all, workspaces of its own, and a report when it fails.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::{
    collector::Collector,
    installation::{AUDIENCE, Application, EXPORT, Installation, Plan, Refusal, write_private},
    kcp::{Kcp, KcpOptions},
    link::Link,
    paths,
    process::{Lifetime, free_ports, tail},
    stores::{Aws, ContractPorts, KeyStores, Kms, Store},
    wait::eventually,
    workspace::{ACCOUNT, BINDING, Kind, SERVICE_KEY, TENANT, Workspace, binding, condition, is_true},
};

/// Workspaces below `root:` with this prefix may use every key of the test stores, all others none.
const GRANTED: &str = "e2e-";

/// One runtime for all scenarios: what is shared must outlive each of them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static WORLD: OnceCell<World> = OnceCell::const_new();
static SHARED: OnceCell<Installation> = OnceCell::const_new();
static NUMBER: AtomicUsize = AtomicUsize::new(1);

/// The servers that all scenarios of a run share.
#[derive(Debug)]
pub struct World {
    kcp: Kcp,
    stores: KeyStores,
    folder: PathBuf,
}

impl World {
    /// Those of `openkcm-dev with-servers`, or else its own.
    async fn start() -> Result<Self> {
        let folder = paths::test_run()?;
        let variable = |name| std::env::var_os(name);
        let (kcp, aws) =
            match (variable("OPENKCM_TEST_ADMIN_KUBECONFIG"), std::env::var("OPENKCM_AWS_ENDPOINT")) {
                (Some(kubeconfig), Ok(endpoint)) => {
                    (Kcp::attach(kubeconfig.as_ref())?, Aws::attach(endpoint))
                }
                _ => {
                    let [kcp_port, aws_port] = free_ports()?;
                    let lifetime = Lifetime::Owned;
                    let (folder, logs) = (folder.join("kcp"), folder.clone());
                    let aws = Aws::start(aws_port, &logs, lifetime);
                    let options = KcpOptions { folder, logs: logs.clone(), lifetime, port: kcp_port };
                    tokio::try_join!(Kcp::start(&options), aws)?
                }
            };
        let ports = ContractPorts::free()?;
        let stores = KeyStores::start(aws, ports, granted(), &folder, &folder, Lifetime::Owned).await?;
        Ok(Self { kcp, stores, folder })
    }

    async fn install(
        &self,
        name: &str,
        edges: usize,
        flags: &[&str],
        edge_flags: &[&str],
        stores: &KeyStores,
    ) -> Result<Installation> {
        Installation::start(self.plan(name, edges, flags, edge_flags)?, &self.kcp, stores).await
    }

    fn plan(&self, name: &str, edges: usize, flags: &[&str], edge_flags: &[&str]) -> Result<Plan> {
        let mut plan = Plan::owned(&self.folder.join(name), &format!("root:providers:{name}"))?;
        plan.edges = edges;
        plan.provider_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        plan.edge_flags = edge_flags.iter().map(|&flag| flag.to_owned()).collect();
        Ok(plan)
    }
}

fn granted() -> Vec<String> {
    vec![format!("root:{GRANTED}*")]
}

/// Runs a scenario; fails the test with the story's report if it fails.
#[allow(clippy::panic)] // This is how a test fails.
pub fn scenario(tell: impl AsyncFnOnce(&mut Story) -> Result<()>) {
    RUNTIME.block_on(async {
        let world = match WORLD.get_or_try_init(World::start).await {
            Ok(world) => world,
            Err(error) => panic!("the servers do not start: {error:#}"),
        };
        let mut story = Story::new(world);
        if let Err(error) = tell(&mut story).await {
            let report = story.report().await;
            panic!("{error:#}\n{report}");
        }
    });
}

/// A scenario under way.
pub struct Story {
    world: &'static World,
    /// Its workspaces are below `root:` and begin with this.
    prefix: String,
    own: Option<Installation>,
    own_stores: Option<KeyStores>,
    teams: Vec<Team>,
}

impl Story {
    fn new(world: &'static World) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // With the process id: a kcp that is shared by several test programs has their workspaces side by side.
        let prefix = format!("{GRANTED}{}-{number}", std::process::id());
        Self { world, prefix, own: None, own_stores: None, teams: Vec::new() }
    }

    /// From here on the story has a provider and an edge of its own, which it may stop and kill.
    pub async fn with_own_provider(&mut self, flags: &[&str]) -> Result<()> {
        self.own = Some(self.world.install(&self.prefix, 1, flags, &[], self.stores()).await?);
        Ok(())
    }

    /// [`Self::with_own_provider`], whose edge reaches it through a link that the story may disturb.
    pub async fn with_own_provider_behind(&mut self, link: &Link, flags: &[&str]) -> Result<()> {
        let mut plan = self.world.plan(&self.prefix, 1, flags, &[])?;
        link.to(([127, 0, 0, 1], plan.orchestrator_port).into());
        plan.edge_port = Some(link.address().port());
        self.own = Some(Installation::start(plan, &self.world.kcp, self.stores()).await?);
        Ok(())
    }

    /// [`Self::with_own_provider`], where provider and edge send their traces to a collector.
    pub async fn with_own_provider_traced(&mut self, collector: &Collector) -> Result<()> {
        let flag = format!("--otlp-endpoint={}", collector.url());
        let world = self.world;
        self.own = Some(world.install(&self.prefix, 1, &[&flag], &[&flag], self.stores()).await?);
        Ok(())
    }

    /// [`Self::with_own_provider`], with several replicas over a PostgreSQL ledger and as many edges, one at each.
    pub async fn with_replicas(&mut self, count: usize, database_url: String, flags: &[&str]) -> Result<()> {
        let mut plan = self.world.plan(&self.prefix, count, flags, &[])?;
        plan.database_url = Some(database_url);
        for _ in 1..count {
            let [http, orchestrator] = free_ports()?;
            plan.further_replicas.push((http, orchestrator));
        }
        self.own = Some(Installation::start(plan, &self.world.kcp, self.stores()).await?);
        Ok(())
    }

    /// [`Self::with_own_provider`], with a provider that can be told where to die.
    pub async fn with_own_crashing_provider(&mut self, flags: &[&str]) -> Result<()> {
        let plan = self.world.plan(&self.prefix, 1, flags, &[])?.crashing()?;
        self.own = Some(Installation::start(plan, &self.world.kcp, self.stores()).await?);
        Ok(())
    }

    /// [`Self::with_own_provider`], with key stores of its own that the story may disturb. AWS KMS is a stub.
    pub async fn with_own_provider_and_stores(&mut self, flags: &[&str]) -> Result<()> {
        self.with_own_provider_and_limited_stores(flags, "{}").await
    }

    /// [`Self::with_own_provider_and_stores`], with limits on calls as the operator writes them.
    pub async fn with_own_provider_and_limited_stores(&mut self, flags: &[&str], limits: &str) -> Result<()> {
        let folder = self.world.folder.join(&self.prefix);
        self.own_stores = Some(KeyStores::start_own(granted(), &folder, limits).await?);
        self.with_own_provider(flags).await
    }

    /// The story's own provider and edge.
    pub fn own(&mut self) -> Result<&mut Installation> {
        self.own.as_mut().context("a story that disturbs the provider needs with_own_provider() first")
    }

    /// Provider and edge: its own, or those that all others share.
    pub async fn installation(&self) -> Result<&Installation> {
        match &self.own {
            Some(own) => Ok(own),
            None => {
                let world = self.world;
                SHARED.get_or_try_init(|| world.install("openkcm", 2, &[], &[], &world.stores)).await
            }
        }
    }

    /// The administrator's view of kcp.
    pub fn kcp(&self) -> &'static Kcp {
        &self.world.kcp
    }

    /// The customer's hand in AWS KMS.
    pub fn kms(&self) -> Kms {
        self.world.stores.aws.kms()
    }

    /// All key stores, in their customers' hands.
    pub fn stores(&self) -> &KeyStores {
        self.own_stores.as_ref().unwrap_or(&self.world.stores)
    }

    /// A fresh workspace `root:PREFIX-NAME`; what follows a `:` are workspaces below it.
    pub async fn workspace(&mut self, name: &str) -> Result<Team> {
        let path = format!("{}-{name}", self.prefix);
        self.workspace_at(&path).await
    }

    /// A fresh workspace outside what the operator has granted keys to.
    pub async fn stranger(&mut self, name: &str) -> Result<Team> {
        let path = format!("stranger-{}-{name}", self.prefix);
        self.workspace_at(&path).await
    }

    async fn workspace_at(&mut self, path: &str) -> Result<Team> {
        let provider = self.installation().await?.workspace().to_owned();
        let mut parent = "root".to_owned();
        let mut workspace = None;
        for name in path.split(':') {
            let child = Workspace::create(self.kcp(), &parent, name).await?;
            child.path().clone_into(&mut parent);
            workspace = Some(child);
        }
        let workspace = workspace.context("a path has a name")?;
        let installation = self.installation().await?;
        let sockets = installation.edges().iter().map(|edge| edge.socket().to_owned()).collect();
        let team = Team { workspace, provider, sockets, folder: self.world.folder.clone() };
        self.teams.push(team.clone());
        Ok(team)
    }

    /// What a person needs who looks for the reason: the objects, their events, the last lines of the logs.
    async fn report(&self) -> String {
        let mut report = String::new();
        for team in &self.teams {
            let _ = writeln!(report, "\n=== workspace {} ({})", team.path(), team.cluster());
            for kind in [BINDING, TENANT, ACCOUNT, SERVICE_KEY] {
                if let Err(error) = team.describe(kind, &mut report).await {
                    let _ = writeln!(report, "{}: {error:#}", kind.name);
                }
            }
        }
        let mut logs: Vec<PathBuf> = self.kcp().log().into_iter().collect();
        if let Ok(installation) = self.installation().await {
            logs.extend(installation.logs());
        }
        for log in logs {
            let _ = writeln!(report, "\n=== the end of {}\n{}", log.display(), tail(&log, 30));
        }
        report
    }
}

/// A workspace of a story, and what its users do there.
#[derive(Clone)]
pub struct Team {
    workspace: Workspace,
    provider: String,
    sockets: Vec<PathBuf>,
    folder: PathBuf,
}

impl std::ops::Deref for Team {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        &self.workspace
    }
}

impl Team {
    /// Binds the export and waits until it is Bound.
    pub async fn enable(&self) -> Result<()> {
        self.workspace.bind(&self.provider, EXPORT).await
    }

    /// Applies a binding of a certain name, and does not wait.
    pub async fn bind_as(&self, name: &str, claims: &str) -> Result<()> {
        self.apply_binding(binding(name, &self.provider, EXPORT, claims)).await.map(drop)
    }

    /// Deletes the binding, and waits until it is gone.
    pub async fn disable(&self) -> Result<()> {
        self.delete(BINDING, EXPORT).await?;
        self.gone(BINDING, EXPORT).await
    }

    /// Waits until the Tenant is Active and returns it.
    pub async fn active_tenant(&self) -> Result<Value> {
        let name = self.tenant().await?;
        self.get(TENANT, &name).await?.context("a Tenant that was there a moment ago")
    }

    /// Declares an Account, named after its store.
    pub async fn account_in(&self, store: Store, key_reference: &str) -> Result<Value> {
        self.account_of(store.name(), store.provider_type(), key_reference).await
    }

    /// Waits until an Account is Ready and returns it.
    pub async fn account_ready(&self, name: &str) -> Result<Value> {
        self.expect(ACCOUNT, name, "it is Ready", |it| is_true(it, "Ready")).await
    }

    /// Waits until an Account's root key is refused for a reason, and returns the message.
    pub async fn account_refused(&self, name: &str, reason: &str) -> Result<String> {
        let account = self
            .expect(ACCOUNT, name, &format!("its root key is refused: {reason}"), |it| {
                condition(it, "RootKeyVerified", "reason") == reason && !is_true(it, "RootKeyVerified")
            })
            .await?;
        ensure!(!is_true(&account, "Ready"), "it is Ready all the same");
        Ok(condition(&account, "RootKeyVerified", "message").as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a service key has an effective state and returns it.
    pub async fn key_is(&self, name: &str, state: &str) -> Result<Value> {
        self.expect(SERVICE_KEY, name, &format!("its state is {state}"), |it| it["status"]["state"] == state)
            .await
    }

    /// Waits until a service key is at a version.
    pub async fn key_is_at(&self, name: &str, version: &str) -> Result<Value> {
        self.expect(SERVICE_KEY, name, &format!("its current version is {version}"), |it| {
            it["status"]["currentVersion"] == version
        })
        .await
    }

    /// An Account on a fresh KMS key and a service key under it, both working; returns the KMS key's ARN.
    pub async fn chain(&self, kms: &Kms, account: &str, key: &str) -> Result<String> {
        let root = kms.create_key().await?;
        self.account(account, &root).await?;
        self.account_ready(account).await?;
        self.service_key(key, account).await?;
        self.key_is(key, "Active").await?;
        Ok(root)
    }

    /// An application that runs as `NAMESPACE/SERVICE_ACCOUNT` of this workspace, at the first edge.
    pub async fn application(&self, service_account: &str) -> Result<Application> {
        let tenant = self.tenant().await?;
        self.application_at(0, service_account, &tenant).await
    }

    /// An application at a certain edge that names a tenant: its own, or one that it has no business with.
    pub async fn application_at(
        &self,
        edge: usize,
        service_account: &str,
        tenant: &str,
    ) -> Result<Application> {
        let token_file =
            self.folder.join(format!("{}-{}.token", self.cluster(), service_account.replace('/', "-")));
        write_private(&token_file, &self.token(service_account, Some(AUDIENCE)).await?)?;
        Ok(Application {
            edge_binary: paths::built("openkcm-edge")?,
            socket: self.sockets.get(edge).context("an edge of that number")?.clone(),
            token_file,
            tenant: tenant.to_owned(),
        })
    }

    async fn describe(&self, kind: Kind, report: &mut String) -> Result<()> {
        for object in self.list(kind).await? {
            let (namespace, name) = (object["metadata"]["namespace"].as_str(), &object["metadata"]["name"]);
            let name = name.as_str().unwrap_or_default();
            let shown = json!({"spec": object["spec"], "status": object["status"], "finalizers": object["metadata"]["finalizers"],
                "deletionTimestamp": object["metadata"]["deletionTimestamp"]});
            writeln!(
                report,
                "--- {} {}{name}",
                kind.name,
                namespace.map(|it| format!("{it}/")).unwrap_or_default()
            )?;
            writeln!(report, "{}", serde_json::to_string_pretty(&shown)?)?;
            for event in self.events(kind, name).await? {
                writeln!(report, "    event {event}")?;
            }
        }
        Ok(())
    }
}

/// What an application sees, awaited.
pub trait Patient {
    /// Waits until the edge encrypts.
    fn encrypts(&self, key: &str, text: &str) -> impl Future<Output = Result<Vec<u8>>>;
    /// Waits until the edge decrypts, and compares.
    fn decrypts(&self, key: &str, sealed: &[u8], text: &str) -> impl Future<Output = Result<()>>;
    /// Waits until the edge refuses to decrypt, and to encrypt, with one of these codes.
    fn is_refused(&self, key: &str, sealed: &[u8], codes: &[&str]) -> impl Future<Output = Result<()>>;
}

impl Patient for Application {
    async fn encrypts(&self, key: &str, text: &str) -> Result<Vec<u8>> {
        eventually(&format!("the edge encrypts with {key}"), || async {
            self.encrypt(key, text.as_bytes())?.map_err(|Refusal(why)| anyhow::anyhow!("it refuses: {why}"))
        })
        .await
    }

    async fn decrypts(&self, key: &str, sealed: &[u8], text: &str) -> Result<()> {
        let opened = eventually(&format!("the edge decrypts with {key}"), || async {
            self.decrypt(key, sealed)?.map_err(|Refusal(why)| anyhow::anyhow!("it refuses: {why}"))
        })
        .await?;
        ensure!(opened == text.as_bytes(), "it decrypted to something else");
        Ok(())
    }

    async fn is_refused(&self, key: &str, sealed: &[u8], codes: &[&str]) -> Result<()> {
        eventually(&format!("the edge refuses {key} with one of {codes:?}"), || async {
            for answer in [self.decrypt(key, sealed)?, self.encrypt(key, b"x")?] {
                let Err(Refusal(why)) = answer else { anyhow::bail!("it still works") };
                ensure!(codes.iter().any(|code| why.contains(code)), "it refuses otherwise: {why}");
            }
            Ok(())
        })
        .await
    }
}

/// A folder's files, read whole: for a search for what must not be there.
pub fn read_all(paths: &[PathBuf]) -> Result<String> {
    paths
        .iter()
        .map(|path| fs::read_to_string(path).with_context(|| format!("reading {}", path.display())))
        .collect()
}
