//! `openkcm-edge run` as a process: configuration, readiness, metrics, traces, end. Its orchestrator is out of reach; edges
//! with one are in the orchestrator's tests and in the scenarios on a real kcp.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use common::{ACME, KCP, TestIssuer};
use openkcm_edge_client::{Address, EdgeClient, Key, Token};
use openkcm_edge_protocol::JoinToken;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

struct Run {
    directory: TempDir,
    child: Child,
    http: SocketAddr,
    issuer: TestIssuer,
}

impl Run {
    /// Settings come from all three sources: some from the file, one from the environment, one from a flag that wins over
    /// the file.
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let issuer = TestIssuer::new(KCP, "kcp-1");
        issuer.write_jwks(&directory.path().join("jwks.json"));
        let issuers = format!("- {{issuer: {KCP}, kind: kcp, jwks: {}}}\n", path("jwks.json"));
        std::fs::write(path("issuers.yaml"), issuers).unwrap();
        let token = JoinToken { id: [1; 16], secret: [2; 32], authority: [3; 32] };
        std::fs::write(path("join-token"), token.to_text()).unwrap();
        let config = format!(
            "name: from-file\norchestrator: [https://127.0.0.1:1]\ndata-dir: {}\njoin-token-file: {}\n\
             issuers: {}\nsocket: /nowhere\nthreads: 1\n",
            path("data"),
            path("join-token"),
            path("issuers.yaml"),
        );
        std::fs::write(path("edge.yaml"), config).unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_openkcm-edge"))
            .args(["run", "--config", &path("edge.yaml"), "--socket", &path("edge.sock")])
            .args(flags)
            .env("OPENKCM_HTTP_ADDRESS", http.to_string())
            .env("OPENKCM_NAME", "from-environment")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut run = Self { directory, child, http, issuer };
        let deadline = Instant::now() + PATIENCE;
        while run.try_get("/healthz").is_none() {
            assert!(Instant::now() < deadline && run.child.try_wait().unwrap().is_none(), "does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        run
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("edge.sock")
    }

    fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut connection = TcpStream::connect(self.http).ok()?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        connection.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap()
    }

    async fn client(&self) -> EdgeClient {
        let token = Token::Fixed(self.issuer.service_account(ACME, "payments", "app"));
        EdgeClient::connect(Address::Unix(self.socket()), token).await.unwrap()
    }

    /// Ends it as an init system does; exit code and log.
    fn end(mut self) -> (Option<i32>, String, TempDir) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log, self.directory)
    }
}

/// What a caller gets from an edge that has never had a lease.
async fn refusal(app: &EdgeClient) -> String {
    app.encrypt(&Key::new("tenant-root-acme", "payments/db"), b"plaintext", b"").await.unwrap_err().code
}

#[tokio::test]
async fn an_edge_without_an_orchestrator_lives_says_that_it_is_not_ready_and_ends_cleanly() {
    let run = Run::start(&[]);
    assert_eq!(run.get("/healthz"), (200, "ok\n".into()));
    let (status, why) = run.get("/readyz");
    assert_eq!(status, 503);
    assert!(why.starts_with("no lease: there has been no lease yet"), "{why}");
    assert_eq!(refusal(&run.client().await).await, "unknown-key");

    let (status, metrics) = run.get("/metrics");
    assert_eq!(status, 200);
    for line in [
        "openkcm_edge_keys 0",
        "openkcm_edge_tombstones 0",
        "openkcm_edge_lease_remaining_seconds 0",
        "openkcm_edge_lease_age_seconds ",
        "openkcm_edge_evictions_total 0",
        r#"openkcm_edge_operations_total{operation="encrypt",code="unknown-key"} 1"#,
        r#"openkcm_edge_request_seconds_bucket{le="+Inf",operation="encrypt"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains("payments") && !metrics.contains("acme"), "names in metrics\n{metrics}");

    // What the kernel says of the process: no core dumps.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", run.child.id())).unwrap();
    let dumps = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(dumps.split_whitespace().filter(|word| *word == "0").count(), 2, "{dumps}");

    let socket = run.socket();
    let (code, log, _directory) = run.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists());
    assert!(log.contains("from-environment") && !log.contains("from-file"), "{log}");
    // The join token's secret, in the form in which the operator carries it.
    assert!(!log.contains("AgICAgIC"), "a secret in the log\n{log}");
}

/// A collector that keeps what it is sent.
fn collector() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let (mut request, mut part) = (Vec::new(), [0; 4096]);
            loop {
                let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let head = text.find("\r\n\r\n");
                if let (Some(length), Some(head)) = (length, head)
                    && request.len() >= head + 4 + length.parse::<usize>().unwrap()
                {
                    break;
                }
                match connection.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => request.extend_from_slice(&part[..count]),
                }
            }
            let _ =
                connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn traces_go_to_the_collector_that_is_configured_and_name_no_key() {
    let (address, requests) = collector();
    let run = Run::start(&["--otlp-endpoint", &format!("http://{address}/")]);
    assert_eq!(refusal(&run.client().await).await, "unknown-key");
    let (code, log, _directory) = run.end();
    assert_eq!(code, Some(0), "{log}");
    let traces = requests.recv_timeout(PATIENCE).unwrap();
    let text = String::from_utf8_lossy(&traces);
    assert!(text.starts_with("POST /v1/traces "), "{text}");
    for expected in ["openkcm-edge", "encrypt", "unknown-key"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for secret in ["payments", "acme", "plaintext", "eyJ0eXAi", "eyJhbGci"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[test]
fn mistakes_in_the_configuration_are_named_and_exit_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("edge.yaml");
    std::fs::write(&config, "nmae: x\n").unwrap();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_openkcm-edge")).args(arguments).output().unwrap()
    };
    for (arguments, expected) in [
        (&["run", "--config", config.to_str().unwrap()][..], "nmae"),
        (&["run", "--config", "/nowhere/edge.yaml"], "/nowhere/edge.yaml"),
        (&["run", "--name", "x"], "--orchestrator"),
        (&["run", "--threads", "0"], "--threads"),
        (&["sign"], "sign"),
    ] {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
