//! A real kcp on loopback: one server with etcd inside.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::{
    paths,
    process::{Lifetime, Process, Recipe, free_ports},
    wait::within,
};

/// A running kcp.
#[derive(Debug)]
pub struct Kcp {
    /// None when it is somebody else's.
    process: Option<Process>,
    kubeconfig: PathBuf,
    url: String,
}

/// What a kcp is started with.
#[derive(Debug, Clone)]
pub struct KcpOptions {
    /// Its data, log and kubeconfigs; an existing one is used again.
    pub folder: PathBuf,
    /// Where its log and record are.
    pub logs: PathBuf,
    /// Whether it outlives its owner.
    pub lifetime: Lifetime,
    /// The port; free ones are found for etcd.
    pub port: u16,
}

impl Kcp {
    /// Starts one server with etcd inside, and waits until the root workspace is usable (about 25 seconds).
    pub async fn start(options: &KcpOptions) -> Result<Self> {
        let binaries = paths::kcp_binaries()?;
        fs::create_dir_all(&options.folder).context("making kcp's folder")?;
        let [etcd_client, etcd_peer] = free_ports()?;
        let recipe = Recipe::new("kcp", binaries.join("kcp"), ["start", "--bind-address", "127.0.0.1"])
            .arg("--root-directory")
            .arg(&options.folder)
            .arg(format!("--secure-port={}", options.port))
            .arg(format!("--embedded-etcd-client-port={etcd_client}"))
            .arg(format!("--embedded-etcd-peer-port={etcd_peer}"));
        let kubeconfig = options.folder.join("admin.kubeconfig");
        // kcp keeps hashes of the administrator's tokens, and the tokens themselves only in this file: without it, it does not start
        // again. With another port in it, it is of no use, and kcp makes both anew.
        let port = format!("127.0.0.1:{}", options.port);
        if fs::read_to_string(&kubeconfig).is_ok_and(|text| !text.contains(&port)) {
            fs::remove_file(&kubeconfig).context("removing an old kubeconfig")?;
            fs::remove_file(options.folder.join(".admin-token-store")).context("removing old tokens")?;
        }
        let process = Process::start(&recipe, &options.logs, options.lifetime)?;
        let mut kcp =
            Self { process: Some(process), kubeconfig, url: format!("https://127.0.0.1:{}", options.port) };
        kcp.wait_until_ready().await?;
        Ok(kcp)
    }

    /// Takes a detached one over that is already running.
    pub fn find(options: &KcpOptions) -> Option<Self> {
        let process = Process::find("kcp", &options.logs)?;
        let kubeconfig = options.folder.join("admin.kubeconfig");
        let url = format!("https://127.0.0.1:{}", options.port);
        Some(Self { process: Some(process), kubeconfig, url })
    }

    /// One that somebody else started, by its administrator's kubeconfig.
    pub fn attach(kubeconfig: &Path) -> Result<Self> {
        let text = Kubeconfig::read_from(kubeconfig).context("reading kcp's kubeconfig")?;
        let base = text
            .clusters
            .iter()
            .find(|cluster| cluster.name == "base")
            .and_then(|named| named.cluster.as_ref());
        let url = base
            .and_then(|cluster| cluster.server.clone())
            .context("a kubeconfig of kcp has a cluster `base`")?;
        Ok(Self { process: None, kubeconfig: kubeconfig.to_owned(), url })
    }

    fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig.clone();
        let url = self.url.clone();
        within(Duration::from_secs(180), "kcp serves the root workspace", || {
            let state = self.check();
            let (kubeconfig, url) = (kubeconfig.clone(), url.clone());
            async move {
                state?;
                let client = client(&kubeconfig, "base", &url, "root").await?;
                // The last thing that kcp makes at its first start, and the first that a workspace needs.
                let universal = "/apis/tenancy.kcp.io/v1alpha1/workspacetypes/universal";
                get(&client, universal).await?;
                Ok(())
            }
        })
        .await
    }

    /// A client of the kcp administrator for the workspace at a path, for example `root:acme`.
    pub async fn client(&self, path: &str) -> Result<Client> {
        client(&self.kubeconfig, "base", &self.url, path).await
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig of the administrator whose server is the workspace at a path.
    pub fn kubeconfig_for(&self, path: &str) -> Result<String> {
        let mut text: Value = serde_json::to_value(Kubeconfig::read_from(&self.kubeconfig)?)?;
        let clusters = text["clusters"].as_array_mut().context("a kubeconfig has clusters")?;
        for cluster in clusters.iter_mut().filter(|cluster| cluster["name"] == "base") {
            cluster["cluster"]["server"] = format!("{}/clusters/{path}", self.url).into();
        }
        text["current-context"] = "base".into();
        // JSON is YAML.
        Ok(text.to_string())
    }

    /// Its log: also of one that `openkcm-dev` started, which puts it beside the folder of the kubeconfig.
    pub fn log(&self) -> Option<PathBuf> {
        let beside = || Some(self.kubeconfig.parent()?.parent()?.join("kcp.log"));
        let log = self.process.as_ref().map(|process| process.log().to_owned()).or_else(beside);
        log.filter(|log| log.exists())
    }

    /// `https://HOST:PORT`, without a workspace.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.url
            .trim_start_matches("https://")
            .parse()
            .with_context(|| format!("the address in {}", self.url))
    }

    /// Its certificate authority, in base64 of PEM as a kubeconfig has it.
    pub fn certificate_authority(&self) -> Result<String> {
        let text = Kubeconfig::read_from(&self.kubeconfig).context("reading kcp's kubeconfig")?;
        let cluster =
            text.clusters.into_iter().find(|cluster| cluster.name == "base").and_then(|named| named.cluster);
        cluster
            .and_then(|it| it.certificate_authority_data)
            .context("a kubeconfig of kcp has its authority inside")
    }

    /// The public keys that service account tokens are signed with, as a JWK set.
    pub async fn service_account_keys(&self) -> Result<Value> {
        get(&self.shard().await?, "/openid/v1/jwks").await
    }

    /// Its own metrics.
    pub async fn metrics(&self) -> Result<String> {
        let request = http::Request::get("/metrics").body(Vec::new()).context("a request")?;
        self.shard().await?.request_text(request).await.context("reading kcp's metrics")
    }

    /// A client of the shard's administrator, outside any workspace.
    async fn shard(&self) -> Result<Client> {
        use_one_crypto_provider();
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).context("reading kcp's kubeconfig")?;
        let context = KubeConfigOptions { context: Some("shard-base".to_owned()), ..Default::default() };
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &context).await.context("context shard-base")?;
        Client::try_from(config).context("a client of the shard")
    }
}

/// GETs a path as JSON.
pub async fn get(client: &Client, path: &str) -> Result<Value> {
    let request = http::Request::get(path).body(Vec::new()).context("a request")?;
    client.request(request).await.with_context(|| format!("GET {path}"))
}

async fn client(kubeconfig: &Path, context: &str, url: &str, path: &str) -> Result<Client> {
    use_one_crypto_provider();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("reading kcp's kubeconfig")?;
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.context("kcp's kubeconfig")?;
    config.cluster_url = format!("{url}/clusters/{path}").parse().context("the URL of a workspace")?;
    config.read_timeout = Some(Duration::from_secs(60));
    Client::try_from(config).context("a client of a workspace")
}

fn use_one_crypto_provider() {
    // An error says that it was done before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
