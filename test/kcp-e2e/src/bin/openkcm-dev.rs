//! `make up`, `make down`: the whole of OpenKCM on this machine, for a person to try.
//!
//! Everything is below `.openkcm/` in the work tree. `up` may be repeated: what runs is kept, what has ended is started again, and
//! a provider or edge that was built anew is replaced. The ports are chosen once.

use std::{
    env,
    fmt::Write as _,
    fs, iter,
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Parser;
use kcp_e2e::{
    fleet,
    installation::{AUDIENCE, Application, EXPORT, Installation, Plan, write_private},
    kcp::{Kcp, KcpOptions},
    paths,
    process::{Lifetime, Process, Recipe, free_ports, tail},
    stores::{Aws, ContractPorts, KeyStores, Store},
    wait::eventually,
    workspace::{ACCOUNT, SERVICE_KEY, Workspace, is_true},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROVIDER_WORKSPACE: &str = "root:providers:openkcm";
const DEMO_WORKSPACE: &str = "root:demo";
const DEMO_KEY: &str = "payments/payments-db";
const EDGES: usize = 2;

/// Starts and stops OpenKCM on this machine.
#[derive(Parser)]
enum Command {
    /// Starts everything and uses it once.
    Up,
    /// Stops everything and forgets its data.
    Down,
    /// Shows what runs.
    Status,
    /// Uses and rotates the keys of the demo's fleet, as its teams would. `up` starts it.
    #[command(hide = true)]
    Teams,
    /// Runs a command with a kcp and an AWS KMS of its own, and ends with its exit code.
    ///
    /// In its environment: OPENKCM_TEST_ADMIN_KUBECONFIG, OPENKCM_TEST_KUBECONFIG (a workspace that has bound the export; no
    /// provider runs), OPENKCM_AWS_ENDPOINT and OPENKCM_KCP_BIN_DIR; kubectl is on its PATH.
    WithServers {
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let dev = Dev { folder: paths::work_tree().join(".openkcm"), started: Instant::now() };
    let result = match Command::parse() {
        Command::Up => dev.up().await,
        Command::Down => dev.down(),
        Command::Status => dev.status(),
        Command::Teams => dev.teams().await,
        Command::WithServers { command } => match with_servers(&command).await {
            Ok(code) => return code,
            Err(error) => {
                eprintln!("\nfailed: {error:#}");
                return ExitCode::FAILURE;
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            dev.print_logs();
            ExitCode::FAILURE
        }
    }
}

/// See [`Command::WithServers`].
async fn with_servers(command: &[String]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("a command")?;
    let folder = paths::test_run()?;
    let [kcp_port, aws_port] = free_ports()?;
    let lifetime = Lifetime::Owned;
    let options = KcpOptions { folder: folder.join("kcp"), logs: folder.clone(), lifetime, port: kcp_port };
    println!("starting kcp and LocalStack; their logs: {}", folder.display());
    let (kcp, aws) = tokio::try_join!(Kcp::start(&options), Aws::start(aws_port, &folder, lifetime))?;

    let plan = Plan::owned(&folder.join("bound"), PROVIDER_WORKSPACE)?;
    fs::create_dir_all(&plan.folder).context("making a folder")?;
    plan.publish(&kcp)?;
    let bound = Workspace::create(&kcp, "root", "bound").await?;
    bound.bind(PROVIDER_WORKSPACE, EXPORT).await?;
    let kubeconfig = folder.join("bound.kubeconfig");
    fs::write(&kubeconfig, kcp.kubeconfig_for(bound.path())?).context("writing a kubeconfig")?;

    let binaries = paths::kcp_binaries()?;
    let others = env::var_os("PATH").unwrap_or_default();
    let path =
        env::join_paths(iter::once(binaries.clone()).chain(env::split_paths(&others))).context("a PATH")?;
    let status = tokio::process::Command::new(program)
        .args(args)
        .env("OPENKCM_TEST_ADMIN_KUBECONFIG", kcp.kubeconfig())
        .env("OPENKCM_TEST_KUBECONFIG", &kubeconfig)
        .env("OPENKCM_AWS_ENDPOINT", aws.endpoint())
        .env("OPENKCM_KCP_BIN_DIR", &binaries)
        .env("PATH", path)
        .status()
        .await
        .with_context(|| format!("starting {program}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Dev {
    folder: PathBuf,
    started: Instant,
}

/// Ports that stay the same from one `up` to the next.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Ports {
    kcp: u16,
    aws: u16,
    provider_http: u16,
    orchestrator: u16,
    console: u16,
    contract: ContractPorts,
}

/// What `up` has made, for the table and the environment file.
struct Demo {
    tenant: String,
    token_file: PathBuf,
    roundtrip: String,
    /// Those that are Ready.
    accounts: Vec<(String, Store)>,
}

impl Dev {
    async fn up(&self) -> Result<()> {
        let ports = self.ports()?;
        self.check_ports(&ports)?;
        let console_url = format!("http://127.0.0.1:{}", ports.console);
        self.link_tools()?;
        let options = self.kcp_options(ports);
        self.say(5, "kcp");
        let kcp = match Kcp::find(&options) {
            Some(running) => running,
            None => Kcp::start(&options).await?,
        };
        self.say(6, "LocalStack's AWS KMS");
        let aws = match Aws::find(ports.aws, &self.logs()) {
            Some(running) => running,
            None => Aws::start(ports.aws, &self.logs(), Lifetime::Detached).await?,
        };
        self.say(7, "Azure Key Vault, Google Cloud KMS and an HSM");
        let granted = vec![DEMO_WORKSPACE.into(), format!("{DEMO_WORKSPACE}:*")];
        if Process::find("azure", &self.logs()).is_none() {
            // It will have another certificate authority, which the provider reads when it starts.
            if let Some(mut provider) = Process::find("provider", &self.logs()) {
                provider.stop();
            }
        }
        let stores =
            KeyStores::start(aws, ports.contract, granted, &self.folder, &self.logs(), Lifetime::Detached)
                .await?;

        self.install_binaries()?;
        self.say(8, "the export, the provider and the edge");
        let plan = Plan {
            folder: self.folder.clone(),
            sockets: self.folder.clone(),
            workspace: PROVIDER_WORKSPACE.to_owned(),
            provider_binary: self.folder.join("bin/openkcm-provider"),
            edge_binary: self.folder.join("bin/openkcm-edge"),
            edges: EDGES,
            http_port: ports.provider_http,
            orchestrator_port: ports.orchestrator,
            edge_port: None,
            console_url: Some(format!("{console_url}/mfe")),
            lifetime: Lifetime::Detached,
            // A person who takes a root key away wants to see what follows.
            provider_flags: vec!["--probe-interval=20s".to_owned(), "--root-loss-grace=1m".to_owned()],
            edge_flags: Vec::new(),
            further_replicas: Vec::new(),
            database_url: None,
            crashing: false,
        };
        let installation = Installation::start(plan, &kcp, &stores).await?;

        self.say(9, "a demo workspace that uses it");
        let demo = self.demo(&kcp, &stores, &installation).await?;
        let (accounts, keys) = fleet::size();
        self.say(10, &format!("a fleet to look at there: {accounts} Accounts, {keys} keys"));
        fleet::create(&Workspace::open(&kcp, DEMO_WORKSPACE).await?, &stores).await?;
        self.start_teams()?;
        self.say(11, "the console");
        self.console(&kcp, ports.console, &console_url).await?;
        self.write_environment(&kcp, &stores, &installation, &demo, &console_url)?;
        self.print_table(&kcp, &stores, &installation, &demo, &console_url);
        Ok(())
    }

    /// Binds the export in a workspace, makes an Account and a key there, and encrypts and decrypts something.
    async fn demo(&self, kcp: &Kcp, stores: &KeyStores, installation: &Installation) -> Result<Demo> {
        let (parent, name) = DEMO_WORKSPACE.rsplit_once(':').context("a workspace below root")?;
        let workspace = Workspace::create(kcp, parent, name).await?;
        workspace.bind(installation.workspace(), EXPORT).await?;
        let tenant = workspace.tenant().await?;
        let mut accounts = Vec::new();
        for store in Store::ALL {
            let account = format!("{}-production", store.name());
            if workspace.get(ACCOUNT, &account).await?.is_none() {
                let root = stores.create_key(store, &account).await?;
                workspace.account_of(&account, store.provider_type(), &root).await?;
            }
            accounts.push((account, store));
        }
        for (account, _) in &accounts {
            workspace
                .expect(ACCOUNT, account, "it is Ready", |it| is_true(it, "Ready"))
                .await
                .context("if a key store was started again, its keys are gone: run `make down` first")?;
        }
        workspace.service_key(DEMO_KEY, "aws-production").await?;
        workspace
            .expect(SERVICE_KEY, DEMO_KEY, "it is Active", |it| it["status"]["state"] == "Active")
            .await?;

        let token_file = self.folder.join("demo.token");
        write_private(&token_file, &workspace.token("payments/app", Some(AUDIENCE)).await?)?;
        let edge = installation.edges().first().context("an edge")?;
        let application = Application {
            edge_binary: self.folder.join("bin/openkcm-edge"),
            socket: edge.socket().to_owned(),
            token_file: token_file.clone(),
            tenant: tenant.clone(),
        };
        let secret = b"hello from the demo workspace";
        let sealed = eventually("the edge encrypts with the demo key", || async {
            application.encrypt(DEMO_KEY, secret)?.map_err(|refusal| anyhow::anyhow!(refusal.0))
        })
        .await?;
        let opened = application.decrypt(DEMO_KEY, &sealed)?.map_err(|refusal| anyhow::anyhow!(refusal.0))?;
        ensure!(opened == secret, "the edge decrypted to something else");
        let roundtrip =
            format!("{} bytes -> {} bytes -> the same {} bytes", secret.len(), sealed.len(), opened.len());
        Ok(Demo { tenant, token_file, roundtrip, accounts })
    }

    /// Starts the teams of the fleet, if they are not at work.
    fn start_teams(&self) -> Result<()> {
        if Process::find("teams", &self.logs()).is_none() {
            let recipe = Recipe::new("teams", self.folder.join("bin/openkcm-dev"), ["teams"]);
            Process::start(&recipe, &self.logs(), Lifetime::Detached)?;
        }
        Ok(())
    }

    /// See [`Command::Teams`].
    async fn teams(&self) -> Result<()> {
        let kcp = Kcp::find(&self.kcp_options(self.ports()?)).context("no kcp runs: `make up` starts it")?;
        let workspace = Workspace::open(&kcp, DEMO_WORKSPACE).await?;
        let edges: Vec<PathBuf> =
            (1..=EDGES).map(|number| self.folder.join(format!("edge-{number}.sock"))).collect();
        fleet::teams(&workspace, &workspace.tenant().await?, &edges).await
    }

    /// Serves the console on the demo workspace, signed in as a service account that administers it.
    async fn console(&self, kcp: &Kcp, port: u16, url: &str) -> Result<()> {
        let workspace = Workspace::open(kcp, DEMO_WORKSPACE).await?;
        let token_file = self.folder.join("console.token");
        write_private(&token_file, &workspace.token("console/admin", None).await?)?;
        workspace
            .apply(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "console-admin"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "namespace": "console", "name": "admin"}],
            }))
            .await?;
        let shell = self.folder.join("console.json");
        let settings =
            json!({"workspace": DEMO_WORKSPACE, "tokenFile": token_file, "user": "demo administrator"});
        fs::write(&shell, settings.to_string()).context("writing the console's settings")?;
        let authority = self.folder.join("kcp-ca.pem");
        fs::write(&authority, BASE64_STANDARD.decode(kcp.certificate_authority()?).context("base64")?)
            .context("writing kcp's authority")?;

        let mut process = if let Some(running) = Process::find("console", &self.logs()) {
            running
        } else {
            let pages = paths::work_tree().join("luigi-config");
            let recipe = Recipe::new("console", self.folder.join("bin/openkcm-console"), ["--mfe-dir"])
                .arg(pages.join("mfe/dist"))
                .arg("--shell-dir")
                .arg(pages.join("shell/dist"))
                .arg("--shell-config")
                .arg(shell)
                .arg("--kcp-ca")
                .arg(authority)
                .arg(format!("--kcp-url={}", kcp.url()))
                .arg(format!("--address=127.0.0.1:{port}"));
            Process::start(&recipe, &self.logs(), Lifetime::Detached)?
        };
        eventually("the console is served", || {
            let state = process.check();
            async move {
                state?;
                reqwest::get(url)
                    .await
                    .context("its first page")?
                    .error_for_status()
                    .context("its first page")
                    .map(drop)
            }
        })
        .await
    }

    fn down(&self) -> Result<()> {
        // Applications first, what they need last.
        for mut process in self.processes().rev().flatten() {
            println!("stopping {} ({})", process.name(), process.pid());
            process.stop();
        }
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).context("removing .openkcm")?;
        }
        Ok(())
    }

    fn status(&self) -> Result<()> {
        ensure!(self.folder.exists(), "nothing is up: `make up` starts it");
        for process in self.processes().flatten() {
            println!("{:<12} pid {:<8} {}", process.name(), process.pid(), process.log().display());
        }
        Ok(())
    }

    /// Every process that may run, in the order of starting.
    fn processes(&self) -> impl DoubleEndedIterator<Item = Option<Process>> {
        let names = ["kcp", "localstack", "azure", "gcp", "provider", "edge-1", "edge-2", "teams", "console"];
        names.into_iter().map(|name| Process::find(name, &self.logs()))
    }

    fn kcp_options(&self, ports: Ports) -> KcpOptions {
        KcpOptions {
            folder: self.folder.join("kcp"),
            logs: self.logs(),
            lifetime: Lifetime::Detached,
            port: ports.kcp,
        }
    }

    fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Steps 1 to 4 are those of the Makefile.
    fn say(&self, step: u32, what: &str) {
        println!("[{:>4} s] {step}{}  {what}", self.seconds(), env::var("OPENKCM_STEPS").unwrap_or_default());
    }

    /// Since `make` was called.
    fn seconds(&self) -> u64 {
        let before = env::var("OPENKCM_STARTED").ok().and_then(|text| text.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        before.map_or_else(|| self.started.elapsed().as_secs(), |before: u64| now.saturating_sub(before))
    }

    fn ports(&self) -> Result<Ports> {
        fs::create_dir_all(self.logs()).context("making .openkcm")?;
        let file = self.folder.join("ports.json");
        if let Ok(text) = fs::read_to_string(&file) {
            return serde_json::from_str(&text).context("reading .openkcm/ports.json: run `make down` first");
        }
        let [kcp, aws, provider_http, orchestrator, console] = free_ports()?;
        let contract = ContractPorts::free()?;
        let ports = Ports { kcp, aws, provider_http, orchestrator, console, contract };
        fs::write(&file, serde_json::to_string(&ports)?).context("writing .openkcm/ports.json")?;
        Ok(ports)
    }

    /// A port may have been taken since it was chosen.
    fn check_ports(&self, ports: &Ports) -> Result<()> {
        for (name, port) in [
            ("kcp", ports.kcp),
            ("localstack", ports.aws),
            ("provider", ports.provider_http),
            ("provider", ports.orchestrator),
            ("console", ports.console),
        ] {
            let ours = Process::find(name, &self.logs()).is_some();
            ensure!(
                ours || TcpListener::bind(("127.0.0.1", port)).is_ok(),
                "port {port}, which {name} had before, is used by another program now. End that program (it is named by: \
                 ss -ltnp 'sport = :{port}'), or `make down` and `make up`: it chooses other ports"
            );
        }
        Ok(())
    }

    fn link_tools(&self) -> Result<()> {
        let bin = self.folder.join("bin");
        fs::create_dir_all(&bin).context("making .openkcm/bin")?;
        let kcp = paths::kcp_binaries()?;
        for name in ["kcp", "kubectl"] {
            let link = bin.join(name);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(kcp.join(name), link).with_context(|| format!("linking {name}"))?;
        }
        Ok(())
    }

    /// Puts the built binaries into `.openkcm/bin`; a process whose binary changed is stopped, to be started again.
    fn install_binaries(&self) -> Result<()> {
        let bin = self.folder.join("bin");
        for (name, processes) in [
            ("openkcm-provider", &["provider"][..]),
            ("openkcm-edge", &["edge-1", "edge-2"]),
            ("openkcm-console", &["console"]),
            ("openkcm-dev", &["teams"]),
        ] {
            let built = fs::read(paths::built(name)?).with_context(|| format!("reading {name}"))?;
            let installed = bin.join(name);
            if fs::read(&installed).is_ok_and(|old| old == built) {
                continue;
            }
            for mut process in processes.iter().filter_map(|process| Process::find(process, &self.logs())) {
                println!("{name} has changed: restarting {}", process.name());
                process.stop();
            }
            let _ = fs::remove_file(&installed);
            fs::copy(paths::built(name)?, &installed).with_context(|| format!("installing {name}"))?;
        }
        Ok(())
    }

    fn write_environment(
        &self,
        kcp: &Kcp,
        stores: &KeyStores,
        installation: &Installation,
        demo: &Demo,
        console_url: &str,
    ) -> Result<()> {
        let edge = installation.edges().first().context("an edge")?;
        let variables: [(&str, String); 12] = [
            ("KUBECONFIG", kcp.kubeconfig().display().to_string()),
            ("KCP_URL", kcp.url().to_owned()),
            ("OPENKCM_PROVIDER_WORKSPACE", installation.workspace().to_owned()),
            ("OPENKCM_EXPORT", EXPORT.to_owned()),
            ("OPENKCM_EDGE_SOCKET", edge.socket().display().to_string()),
            ("OPENKCM_CONSOLE_URL", console_url.to_owned()),
            ("OPENKCM_PROVIDER_METRICS_URL", installation.metrics_url()),
            ("OPENKCM_AWS_ENDPOINT", stores.aws.endpoint().to_owned()),
            ("OPENKCM_DEMO_WORKSPACE", DEMO_WORKSPACE.to_owned()),
            ("OPENKCM_DEMO_TENANT", demo.tenant.clone()),
            ("OPENKCM_DEMO_KEY", DEMO_KEY.to_owned()),
            ("OPENKCM_EDGE_TOKEN_FILE", demo.token_file.display().to_string()),
        ];
        let mut text = String::from("# Written by `make up`: `. .openkcm/env` in a shell.\n");
        for (name, value) in variables {
            writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"))?;
        }
        writeln!(text, "export PATH='{}':\"$PATH\"", self.folder.join("bin").display())?;
        fs::write(self.folder.join("env"), text).context("writing .openkcm/env")
    }

    fn print_table(
        &self,
        kcp: &Kcp,
        stores: &KeyStores,
        installation: &Installation,
        demo: &Demo,
        console_url: &str,
    ) {
        println!("\nOpenKCM is up ({} s).\n", self.seconds());
        let row = |what: &str, at: &str, log: &str| println!("  {what:<22} {at:<58} {log}");
        row("WHAT", "WHERE", "LOG (.openkcm/logs)");
        row("kcp", kcp.url(), "kcp.log");
        for ((what, at), log) in stores.places().iter().zip(["localstack.log", "azure.log", "gcp.log", ""]) {
            row(what, at, log);
        }
        row("provider", &installation.metrics_url(), "provider.log");
        for edge in installation.edges() {
            row(
                edge.process().name(),
                &Self::relative(edge.socket()),
                &format!("{}.log", edge.process().name()),
            );
        }
        row("console", console_url, "console.log");
        row("export", &format!("{EXPORT} in {}", installation.workspace()), "");
        row("demo workspace", &format!("{DEMO_WORKSPACE}, tenant {}", demo.tenant), "");
        for (account, store) in &demo.accounts {
            row("demo account", &format!("{account}, {}: Ready", store.provider_type()), "");
        }
        row("demo key", &format!("{DEMO_KEY}: {}", demo.roundtrip), "");
        let (accounts, keys) = fleet::size();
        let fleet = format!("{accounts} Accounts, {keys} keys, used and one rotated every minute");
        row("fleet", &fleet, "teams.log");
        for (account, why) in fleet::broken() {
            row("", &format!("{account}: {why}"), "");
        }
        println!(
            "\nNext:\n  . .openkcm/env\n  \
             kubectl --server $KCP_URL/clusters/$OPENKCM_DEMO_WORKSPACE get openkcm -A\n  \
             echo hello | openkcm-edge encrypt --socket $OPENKCM_EDGE_SOCKET --token-file $OPENKCM_EDGE_TOKEN_FILE \
             --tenant $OPENKCM_DEMO_TENANT --key $OPENKCM_DEMO_KEY | base64"
        );
    }

    fn relative(path: &Path) -> String {
        path.strip_prefix(paths::work_tree()).unwrap_or(path).display().to_string()
    }

    fn print_logs(&self) {
        for name in ["provider", "edge-1", "console"] {
            let log = self.logs().join(format!("{name}.log"));
            if log.exists() {
                eprintln!("\n--- the end of {} ---\n{}", Self::relative(&log), tail(&log, 15));
            }
        }
    }
}
