//! A real kcp of two shards, one of which can be stopped and started.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

pub struct Shards {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    script: Child,
    port: u16,
    /// Command line of shard-1, once it was stopped.
    command: Vec<String>,
    shard_1: Option<Child>,
}

impl Drop for Shards {
    fn drop(&mut self) {
        if let Some(mut shard) = self.shard_1.take() {
            let _ = (shard.kill(), shard.wait());
        }
        // It ends what it started when it is asked to.
        let _ = Command::new("kill").arg(self.script.id().to_string()).status();
        let _ = self.script.wait();
        if std::thread::panicking() {
            for log in ["root.log", "shard-1.log"] {
                let text = fs::read_to_string(self.folder.path().join(log)).unwrap_or_default();
                let errors: Vec<&str> = text.lines().filter(|line| line.starts_with('E')).collect();
                eprintln!(
                    "== last errors of {log}\n{}",
                    errors[errors.len().saturating_sub(15)..].join("\n")
                );
            }
        }
    }
}

impl Shards {
    pub fn start(binaries: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../test/kcp-e2e/kcp-tool/two-shards");
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let port = free_range();
        let log = fs::File::create(folder.path().join("script.log")).unwrap();
        let script = Command::new(script)
            .arg(folder.path())
            .env("PATH", path)
            .env("PORT0", port.to_string())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut shards = Self { folder, binaries, script, port, command: vec![], shard_1: None };
        let deadline = Instant::now() + Duration::from_secs(300);
        while !shards.folder.path().join("ready").exists() {
            let ended = shards.script.try_wait().unwrap();
            let log = || fs::read_to_string(shards.folder.path().join("script.log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "two-shards did not start: {}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        shards
    }

    /// For the workspace at a path, as kcp's administrator.
    pub async fn config(&self, path: &str) -> Config {
        let file = Kubeconfig::read_from(self.folder.path().join("admin.kubeconfig")).unwrap();
        let options = KubeConfigOptions { context: Some("base".to_owned()), ..Default::default() };
        let mut config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
        config.cluster_url = format!("https://127.0.0.1:{}/clusters/{path}", self.port).parse().unwrap();
        config
    }

    async fn send(&self, workspace: &str, method: &str, path: &str, body: Value) -> kube::Result<Value> {
        let client = Client::try_from(self.config(workspace).await).unwrap();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        client
            .request(
                request.body(if body.is_null() { vec![] } else { body.to_string().into_bytes() }).unwrap(),
            )
            .await
    }

    /// Until the server takes it: what a request needs may not be there yet.
    async fn insist(&self, workspace: &str, method: &str, path: &str, body: Value) -> Value {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            match self.send(workspace, method, path, body.clone()).await {
                Ok(answer) => return answer,
                Err(kube::Error::Api(status)) if status.code == 409 && method == "POST" => {
                    return Value::Null;
                }
                Err(error) => assert!(Instant::now() < deadline, "{method} {path} in {workspace}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Makes `root:NAME` on a shard; answers with its logical cluster.
    pub async fn workspace(&mut self, name: &str, shard: &str) -> String {
        let all = "/apis/tenancy.kcp.io/v1alpha1/workspaces";
        let workspace = json!({
            "apiVersion": "tenancy.kcp.io/v1alpha1", "kind": "Workspace", "metadata": {"name": name},
            "spec": {"type": {"name": "universal", "path": "root"}, "location": {"selector": {"matchLabels": {"shard": shard}}}},
        });
        self.insist("root", "POST", all, workspace).await;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let now = self.insist("root", "GET", &format!("{all}/{name}"), Value::Null).await;
            if now["status"]["phase"] == "Ready" {
                return now["spec"]["cluster"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < deadline, "workspace {name}: {now}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Publishes one namespaced kind with `spec.value` and `status.seen` in an export named like its group.
    pub async fn publish(&self, workspace: &str, group: &str, plural: &str, kind: &str) {
        let schema = format!("v1.{plural}.{group}");
        let text = |field: &str| json!({"type": "object", "properties": {field: {"type": "string"}}});
        self.insist(workspace, "POST", "/apis/apis.kcp.io/v1alpha1/apiresourceschemas", json!({
            "apiVersion": "apis.kcp.io/v1alpha1", "kind": "APIResourceSchema", "metadata": {"name": schema},
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"type": "object", "properties": {"spec": text("value"), "status": text("seen")}},
                }],
            },
        })).await;
        self.insist(workspace, "POST", "/apis/apis.kcp.io/v1alpha2/apiexports", json!({
            "apiVersion": "apis.kcp.io/v1alpha2", "kind": "APIExport", "metadata": {"name": group},
            "spec": {"resources": [{"group": group, "name": plural, "schema": schema, "storage": {"crd": {}}}]},
        })).await;
    }

    pub async fn bind(&self, workspace: &str, provider: &str, export: &str) {
        let all = "/apis/apis.kcp.io/v1alpha2/apibindings";
        self.insist(
            workspace,
            "POST",
            all,
            json!({
                "apiVersion": "apis.kcp.io/v1alpha2", "kind": "APIBinding", "metadata": {"name": "it"},
                "spec": {"reference": {"export": {"path": provider, "name": export}}},
            }),
        )
        .await;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let now = self.insist(workspace, "GET", &format!("{all}/it"), Value::Null).await;
            if now["status"]["phase"] == "Bound" {
                return;
            }
            assert!(Instant::now() < deadline, "binding in {workspace}: {now}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Unbinds, and waits until the binding is gone.
    pub async fn unbind(&self, workspace: &str) {
        let binding = "/apis/apis.kcp.io/v1alpha2/apibindings/it";
        self.delete(workspace, binding).await;
        eventually("the binding to go", async || {
            matches!(self.send(workspace, "GET", binding, Value::Null).await, Err(kube::Error::Api(s)) if s.code == 404)
        })
        .await;
    }

    pub async fn delete(&self, workspace: &str, path: &str) {
        self.insist(workspace, "DELETE", path, Value::Null).await;
    }

    pub async fn thing(&self, workspace: &str, name: &str, value: &str) {
        let all = "/apis/logical.example/v1/namespaces/default/things";
        self.insist(workspace, "POST", all, json!({
            "apiVersion": "logical.example/v1", "kind": "Thing", "metadata": {"name": name}, "spec": {"value": value},
        })).await;
    }

    pub async fn set_thing(&self, workspace: &str, name: &str, value: &str) {
        let path = format!("/apis/logical.example/v1/namespaces/default/things/{name}");
        self.insist(workspace, "PATCH", &path, json!({"spec": {"value": value}})).await;
    }

    /// Kills shard-1 without a warning.
    pub fn stop_shard_1(&mut self) {
        let pids = fs::read_to_string(self.folder.path().join("pids")).unwrap();
        let pid = pids.lines().nth(2).unwrap(); // cache server, root, shard-1, front proxy
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        self.command = command
            .split(|b| *b == 0)
            .filter(|a| !a.is_empty())
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        assert!(self.command.contains(&"--shard-name=shard-1".to_owned()), "{:?}", self.command);
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    }

    /// Starts it again as it was.
    pub fn start_shard_1(&mut self) {
        let log = fs::OpenOptions::new().append(true).open(self.folder.path().join("shard-1.log")).unwrap();
        let shard = Command::new(self.binaries.join("kcp"))
            .args(&self.command[1..])
            .current_dir(self.folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn();
        self.shard_1 = Some(shard.unwrap());
    }
}

/// First port of some thirty that are free now, below the range that the kernel hands out.
fn free_range() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let seed = std::process::id() as u16 % 200;
    let mut firsts = (0..200u16).map(|n| 12_000 + (seed + n) % 200 * 40);
    firsts.find(|first| (0..30).all(|n| free(first + n))).expect("30 free ports in a row")
}

/// Waits for something that must come true; how long it takes says nothing.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
