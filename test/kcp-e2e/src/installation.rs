//! One published export with its provider and edges. A kcp can hold several: each has a provider workspace, data and
//! processes of its own.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use kube::config::Kubeconfig;
use serde_json::json;

use crate::{
    kcp::Kcp,
    link::Link,
    paths,
    process::{CommandExt as _, Lifetime, Process, Recipe, free_ports},
    stores::KeyStores,
    wait::within,
};

/// A family of metrics, over all its labels.
pub fn total(metrics: &BTreeMap<String, f64>, family: &str) -> f64 {
    let of_it = metrics.iter().filter(|(name, _)| name.split('{').next() == Some(family));
    of_it.map(|(_, value)| value).sum()
}

/// What the `/readyz` of a provider says: status and text.
async fn readiness(http_port: u16) -> Result<(u16, String)> {
    let answer =
        reqwest::get(format!("http://127.0.0.1:{http_port}/readyz")).await.context("its readiness page")?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.context("the text of its readiness page")?))
}

/// The audience of tokens for the edge.
pub const AUDIENCE: &str = "openkcm-edge";
/// The name of the export.
pub const EXPORT: &str = "openkcm.io";

/// Where an installation is and what it is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Data, credentials and logs.
    pub folder: PathBuf,
    /// Unix sockets of the edges: a short path, the kernel allows 107 bytes.
    pub sockets: PathBuf,
    /// The provider workspace; bootstrap makes it.
    pub workspace: String,
    /// `openkcm-provider` and `openkcm-edge`.
    pub provider_binary: PathBuf,
    /// See `provider_binary`.
    pub edge_binary: PathBuf,
    /// How many edges.
    pub edges: usize,
    /// Where `/readyz` and `/metrics` are.
    pub http_port: u16,
    /// Where the orchestrator listens.
    pub orchestrator_port: u16,
    /// Where edges connect, if something is in between.
    pub edge_port: Option<u16>,
    /// The address of the console, to be registered with the portal.
    pub console_url: Option<String>,
    /// Whether the processes outlive their owner.
    pub lifetime: Lifetime,
    /// Further flags of `openkcm-provider run`.
    pub provider_flags: Vec<String>,
    /// Further flags of `openkcm-edge run`.
    pub edge_flags: Vec<String>,
    /// Replicas of the provider beside the first: where their `/readyz` is, and where edges connect.
    pub further_replicas: Vec<(u16, u16)>,
    /// A PostgreSQL ledger instead of a file.
    pub database_url: Option<String>,
    /// Whether the provider's binary is the one with crash points.
    pub crashing: bool,
}

impl Plan {
    /// An installation of its own in a folder of a test run, on free ports, with the binaries that cargo built.
    pub fn owned(folder: &Path, workspace: &str) -> Result<Self> {
        let [http_port, orchestrator_port] = free_ports()?;
        Ok(Self {
            folder: folder.to_owned(),
            sockets: folder.to_owned(),
            workspace: workspace.to_owned(),
            provider_binary: paths::built("openkcm-provider")?,
            edge_binary: paths::built("openkcm-edge")?,
            edges: 1,
            http_port,
            orchestrator_port,
            edge_port: None,
            console_url: None,
            lifetime: Lifetime::Owned,
            provider_flags: Vec::new(),
            edge_flags: Vec::new(),
            further_replicas: Vec::new(),
            database_url: None,
            crashing: false,
        })
    }

    /// Ports of all replicas: `/readyz` and `/metrics`, and the edges'.
    fn ports(&self) -> impl Iterator<Item = (u16, u16)> + Clone {
        std::iter::once((self.http_port, self.orchestrator_port)).chain(self.further_replicas.iter().copied())
    }

    /// Where edges find the replicas, beginning with one of them.
    fn orchestrators(&self, first: usize) -> String {
        if let Some(port) = self.edge_port {
            return format!("https://127.0.0.1:{port}");
        }
        let count = self.further_replicas.len() + 1;
        let ports = self.ports().cycle().skip(first % count).take(count);
        ports.map(|(_, port)| format!("https://127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// With the provider that can be told where to die.
    pub fn crashing(self) -> Result<Self> {
        Ok(Self { provider_binary: paths::crashing_provider()?, crashing: true, ..self })
    }
}

/// A published export, its provider and its edges.
#[derive(Debug)]
pub struct Installation {
    plan: Plan,
    /// Variables of the provider: what its PKCS#11 library reads.
    environment: Vec<(String, OsString)>,
    /// All replicas.
    providers: Vec<Option<Process>>,
    edges: Vec<Edge>,
}

/// An edge and the socket where applications find it.
#[derive(Debug)]
pub struct Edge {
    process: Process,
    socket: PathBuf,
}

impl Installation {
    /// Publishes the export and starts provider and edges. With `Lifetime::Detached`, what already runs is kept.
    pub async fn start(plan: Plan, kcp: &Kcp, stores: &KeyStores) -> Result<Self> {
        fs::create_dir_all(plan.logs()).context("making the installation's folder")?;
        plan.write_settings(kcp, stores).await?;
        plan.publish(kcp)?;
        let providers = (0..=plan.further_replicas.len()).map(|number| plan.kept(&replica(number))).collect();
        let environment = stores.environment();
        let mut installation = Self { plan, environment, providers, edges: Vec::new() };
        for number in 0..installation.providers.len() {
            installation.start_replica(number).await?;
        }
        for number in 1..=installation.plan.edges {
            installation.start_edge(&format!("edge-{number}"), None).await?;
        }
        Ok(installation)
    }

    /// Path of the provider workspace.
    pub fn workspace(&self) -> &str {
        &self.plan.workspace
    }

    /// Where the provider's metrics are.
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.plan.http_port)
    }

    /// A metric of the provider that has no labels: a count.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        self.metric_of(0, name).await
    }

    /// The same of one of several replicas.
    pub async fn metric_of(&self, number: usize, name: &str) -> Result<u64> {
        let metrics = self.metrics_of(number).await?;
        metrics.get(name).map(|value| *value as u64).with_context(|| format!("a metric {name}"))
    }

    /// All metrics of the provider, by name and labels.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        self.metrics_of(0).await
    }

    async fn metrics_of(&self, number: usize) -> Result<BTreeMap<String, f64>> {
        let (port, _) = self.plan.ports().nth(number).context("a replica of that number")?;
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await;
        let text = answer.context("the provider's metrics")?.text().await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect())
    }

    /// Where edges connect to.
    pub fn orchestrator_url(&self) -> String {
        self.plan.orchestrators(0)
    }

    /// The folder with data, credentials and logs.
    pub fn folder(&self) -> &Path {
        &self.plan.folder
    }

    /// The edges that run.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The provider's process, if it runs.
    pub fn provider(&self) -> Option<&Process> {
        self.replica(0)
    }

    /// The process of one of several replicas, if it runs.
    pub fn replica(&self, number: usize) -> Option<&Process> {
        self.providers.get(number).and_then(Option::as_ref)
    }

    /// Whether one of several replicas still runs; its process is told apart from one that has ended by itself.
    pub fn replica_runs(&mut self, number: usize) -> bool {
        self.providers.get_mut(number).and_then(Option::as_mut).is_some_and(Process::is_running)
    }

    /// The files that a person reads first when something is wrong.
    pub fn logs(&self) -> Vec<PathBuf> {
        let mut logs: Vec<_> = (0..self.providers.len())
            .map(|number| self.plan.logs().join(format!("{}.log", replica(number))))
            .collect();
        logs.extend(self.edges.iter().map(|edge| edge.process.log().to_owned()));
        logs
    }

    /// Starts the provider if it does not run, and waits until it says that it is ready.
    pub async fn start_provider(&mut self) -> Result<()> {
        self.start_replica(0).await
    }

    /// The same for one of several replicas.
    pub async fn start_replica(&mut self, number: usize) -> Result<()> {
        let (http_port, orchestrator_port) =
            self.plan.ports().nth(number).context("a replica of that number")?;
        let slot = &mut self.providers[number];
        if slot.as_mut().is_none_or(|running| !running.is_running()) {
            let plan = &self.plan;
            let recipe = Recipe::new(&replica(number), &plan.provider_binary, ["run"])
                .arg("--kubeconfig")
                .arg(plan.folder.join("provider.kubeconfig"))
                .arg(format!("--export={EXPORT}"))
                .args(plan.ledger())
                .arg(format!("--http-address=127.0.0.1:{http_port}"))
                .arg(format!("--orchestrator-address=127.0.0.1:{orchestrator_port}"))
                .arg(format!("--orchestrator-url={}", plan.orchestrators(number)))
                .arg("--key-stores")
                .arg(plan.folder.join("key-stores.yaml"));
            let mut recipe = plan.provider_flags.iter().fold(recipe, Recipe::arg);
            if plan.crashing {
                recipe = recipe
                    .env("OPENKCM_CRASH_FILE", plan.crash_order())
                    .env("OPENKCM_CRASH_TRACE", plan.crash_trace());
            }
            let recipe =
                self.environment.iter().fold(recipe, |recipe, (name, value)| recipe.env(name, value));
            *slot = Some(Process::start(&recipe, &plan.logs(), plan.lifetime)?);
        }
        let provider = slot.as_mut().context("a provider that was just started")?;
        within(Duration::from_secs(90), "the provider is ready", || {
            let state = provider.check();
            async move {
                state?;
                let (status, text) = readiness(http_port).await?;
                ensure!(status == 200, "/readyz says {status}: {text}");
                Ok(())
            }
        })
        .await
    }

    /// What `/readyz` of the provider says: status and text.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        readiness(self.plan.http_port).await
    }

    /// Starts the provider anew, with the link as its proxy: for kcp's provider workspace and its virtual workspaces alike.
    pub async fn reach_kcp_over(&mut self, proxy: &Link, kcp: &Kcp) -> Result<()> {
        proxy.to(kcp.address()?);
        self.stop_provider();
        let file = self.folder().join("provider.kubeconfig");
        let mut kubeconfig = serde_json::to_value(Kubeconfig::read_from(&file)?)?;
        for cluster in kubeconfig["clusters"].as_array_mut().context("a kubeconfig has clusters")? {
            cluster["cluster"]["proxy-url"] = format!("http://{}", proxy.address()).into();
        }
        // JSON is YAML.
        write_private(&file, &kubeconfig.to_string())?;
        self.start_provider().await
    }

    /// SIGTERM, as a deployment would.
    pub fn stop_provider(&mut self) {
        if let Some(mut provider) = self.providers[0].take() {
            provider.stop();
        }
    }

    /// `kill -9`, as a power cut would.
    pub fn kill_provider(&mut self) {
        self.kill_replica(0);
    }

    /// The same for one of several replicas.
    pub fn kill_replica(&mut self, number: usize) {
        if let Some(mut provider) = self.providers.get_mut(number).and_then(Option::take) {
            provider.kill();
        }
    }

    /// `openkcm-provider bootstrap` again, as an upgrade does.
    pub fn publish(&self, kcp: &Kcp) -> Result<()> {
        self.plan.publish(kcp)
    }

    /// Orders the provider to die at a crash point, the next time it comes by (`NAME:3`: the third time).
    pub fn crash_at(&self, point: &str) -> Result<()> {
        ensure!(self.plan.crashing, "this provider has no crash points");
        // Whole or not at all: the provider may look at any moment.
        let draft = self.plan.crash_order().with_extension("draft");
        fs::write(&draft, point).context("writing an order to die")?;
        fs::rename(&draft, self.plan.crash_order()).context("giving an order to die")
    }

    /// Waits until the provider has died of [`Self::crash_at`].
    pub async fn provider_died(&mut self, point: &str) -> Result<()> {
        let order = self.plan.crash_order();
        let provider = self.providers[0].as_mut().context("no provider runs")?;
        within(Duration::from_secs(60), &format!("the provider dies at {point}"), || {
            let died = !provider.is_running();
            async move {
                ensure!(died, "it lives on");
                Ok(())
            }
        })
        .await?;
        ensure!(
            !order.exists(),
            "the provider died of something else than {point}: {}",
            provider.log_tail(15)
        );
        self.providers[0] = None;
        Ok(())
    }

    /// The crash points that the provider has passed since [`Self::forget_steps`], in that order.
    pub fn steps(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.plan.crash_trace()).unwrap_or_default();
        trace.lines().map(str::to_owned).collect()
    }

    /// Forgets which crash points were passed.
    pub fn forget_steps(&self) {
        let _ = fs::remove_file(self.plan.crash_trace());
    }

    /// An operator's command on this installation's ledger; its standard output.
    pub fn operator(&self, args: &[&str]) -> Result<String> {
        self.plan.operator(args)
    }

    /// One more edge, in a region or nowhere in particular; a workspace made from now on finds it.
    pub async fn start_edge(&mut self, name: &str, region: Option<&str>) -> Result<()> {
        let plan = &self.plan;
        let socket = plan.sockets.join(format!("{name}.sock"));
        ensure!(socket.as_os_str().len() <= 107, "{}: too long for a unix socket", socket.display());
        let mut process = match plan.kept(name) {
            Some(running) => running,
            None => {
                let data = plan.folder.join(name);
                let token = plan.folder.join(format!("{name}.join-token"));
                let mut args = vec!["edges", "token", name];
                args.extend(region.iter().flat_map(|region| ["--region", region]));
                write_private(&token, plan.operator(&args)?.trim())?;
                let recipe = Recipe::new(name, &plan.edge_binary, ["run", "--name", name])
                    // Spread over the replicas.
                    .arg(format!("--orchestrator={}", plan.orchestrators(self.edges.len() + 1)))
                    .arg("--ca-file")
                    .arg(plan.data().join("orchestrator/authority.pem"))
                    .arg("--join-token-file")
                    .arg(token)
                    .arg("--data-dir")
                    .arg(data)
                    .arg("--socket")
                    .arg(&socket)
                    .arg("--issuers")
                    .arg(plan.folder.join("issuers.yaml"))
                    .arg(format!("--audience={AUDIENCE}"));
                let recipe = plan.edge_flags.iter().fold(recipe, Recipe::arg);
                Process::start(&recipe, &plan.logs(), plan.lifetime)?
            }
        };
        within(Duration::from_secs(60), &format!("{name} listens on its socket"), || {
            let state = process.check();
            let socket = socket.clone();
            async move {
                state?;
                tokio::net::UnixStream::connect(&socket).await.context("connecting to its socket")?;
                Ok(())
            }
        })
        .await?;
        self.edges.push(Edge { process, socket });
        Ok(())
    }
}

impl Plan {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Flags that say where the ledger is.
    fn ledger(&self) -> Vec<OsString> {
        let mut flags = vec!["--data-dir".into(), self.data().into_os_string()];
        flags.extend(self.database_url.iter().map(|url| format!("--database-url={url}").into()));
        flags
    }

    fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    fn crash_order(&self) -> PathBuf {
        self.folder.join("crash-at")
    }

    fn crash_trace(&self) -> PathBuf {
        self.folder.join("crash-trace")
    }

    /// What runs already and should go on.
    fn kept(&self, name: &str) -> Option<Process> {
        if self.lifetime == Lifetime::Detached { Process::find(name, &self.logs()) } else { None }
    }

    /// What the operator configures: key stores for the provider, issuers of tokens for the edges.
    async fn write_settings(&self, kcp: &Kcp, stores: &KeyStores) -> Result<()> {
        fs::create_dir_all(self.data()).context("making the data folder")?;
        fs::set_permissions(self.data(), fs::Permissions::from_mode(0o700))
            .context("closing the data folder")?;
        fs::write(self.folder.join("key-stores.yaml"), stores.configuration(&self.folder)?)
            .context("writing the configuration of key stores")?;
        let keys = self.folder.join("kcp.jwks.json");
        fs::write(&keys, kcp.service_account_keys().await?.to_string())
            .context("writing kcp's public keys")?;
        let issuers = json!([{"issuer": "https://kcp.default.svc", "kind": "kcp", "jwks": keys}]);
        // JSON is YAML.
        fs::write(self.folder.join("issuers.yaml"), issuers.to_string()).context("writing the edge's issuers")
    }

    /// `openkcm-provider bootstrap`.
    pub fn publish(&self, kcp: &Kcp) -> Result<()> {
        let mut command = Command::new(&self.provider_binary);
        command
            .args(["bootstrap", "--kubeconfig"])
            .arg(kcp.kubeconfig())
            .args(["--workspace", &self.workspace])
            .arg("--kubeconfig-out")
            .arg(self.folder.join("provider.kubeconfig"));
        if let Some(url) = &self.console_url {
            command.args(["--console-url", url]);
        }
        run(command, "publishing the export").map(drop)
    }

    fn operator(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.provider_binary);
        command.args(args).args(self.ledger());
        run(command, &format!("openkcm-provider {}", args.join(" ")))
    }
}

/// The name of a replica's process and log.
fn replica(number: usize) -> String {
    if number == 0 { "provider".to_owned() } else { format!("provider-{}", number + 1) }
}

impl Edge {
    /// Where applications find it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process, for its log and to disturb it.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// What an application does through `openkcm-edge encrypt|decrypt`.
#[derive(Debug, Clone)]
pub struct Application {
    /// The command-line client.
    pub edge_binary: PathBuf,
    /// The edge.
    pub socket: PathBuf,
    /// Its service account's token.
    pub token_file: PathBuf,
    /// The tenant's name.
    pub tenant: String,
}

/// Why an edge refused: the exit code and what it printed.
#[derive(Debug)]
pub struct Refusal(pub String);

impl Application {
    /// `openkcm-edge encrypt`.
    pub fn encrypt(&self, key: &str, plaintext: &[u8]) -> Result<Result<Vec<u8>, Refusal>> {
        self.call("encrypt", key, plaintext)
    }

    /// `openkcm-edge decrypt`.
    pub fn decrypt(&self, key: &str, ciphertext: &[u8]) -> Result<Result<Vec<u8>, Refusal>> {
        self.call("decrypt", key, ciphertext)
    }

    fn call(&self, verb: &str, key: &str, input: &[u8]) -> Result<Result<Vec<u8>, Refusal>> {
        let mut command = Command::new(&self.edge_binary);
        command
            .without_our_variables()
            .arg(verb)
            .arg("--socket")
            .arg(&self.socket)
            .arg("--token-file")
            .arg(&self.token_file)
            .args(["--tenant", &self.tenant, "--key", key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("starting openkcm-edge")?;
        let mut stdin = child.stdin.take().context("a pipe to openkcm-edge")?;
        let input = input.to_vec();
        // A client that refuses early closes its end: that is its right.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().context("waiting for openkcm-edge")?;
        let _ = writer.join();
        match output.status.code() {
            Some(0) => Ok(Ok(output.stdout)),
            Some(1) => Ok(Err(Refusal(String::from_utf8_lossy(&output.stderr).trim().to_owned()))),
            _ => bail!("openkcm-edge {verb}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

fn run(mut command: Command, what: &str) -> Result<String> {
    let output = command
        .without_our_variables()
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting: {what}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what} failed ({}):\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}
