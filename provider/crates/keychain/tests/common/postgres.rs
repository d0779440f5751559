//! A real PostgreSQL server for one test process: started at first use, gone with the process.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sqlx::Connection;

/// A new, empty database; its URL.
pub async fn new_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = server();
    let name = format!("ledger_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&url(server, "postgres")).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
    url(server, &name)
}

fn url(directory: &Path, database: &str) -> String {
    format!("postgres:///{database}?host={}&user=postgres", directory.display())
}

/// The directory of the server's socket.
fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (ready, started) = std::sync::mpsc::channel();
        // The kernel ends the server with the *thread* that started it; this one stays for the process's life.
        thread::spawn(move || {
            let directory = start();
            ready.send(directory).unwrap();
            loop {
                thread::park();
            }
        });
        started.recv().expect("PostgreSQL did not start; see above")
    })
}

#[allow(clippy::zombie_processes)] // it outlives every test, and dies with this process
fn start() -> PathBuf {
    remove_stale();
    let directory = own_directory();
    prepare(&directory);
    run(&directory, "", 5432);
    directory
}

fn own_directory() -> PathBuf {
    std::env::temp_dir().join(format!("openkcm-pg-{}", std::process::id()))
}

/// A server of a test's own at a port of 127.0.0.1, which it may stop and start again. Ends with the thread that started it.
pub struct Server {
    directory: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Server {
    pub fn start_at(port: u16) -> Self {
        let directory = own_directory().join(format!("at-{port}"));
        prepare(&directory);
        let mut server = Self { directory, port, process: None };
        server.start();
        server
    }

    /// Of a database that is empty at first.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn start(&mut self) {
        self.process = Some(run(&self.directory, "127.0.0.1", self.port));
    }

    /// As an operator does, without waiting for clients; returns when it has ended.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let fast = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
        assert!(fast.success(), "PostgreSQL had ended by itself");
        process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn prepare(directory: &Path) {
    let bin = binaries();
    fs::create_dir_all(directory).unwrap();
    let data = directory.join("data");
    if is_root() {
        assert!(Command::new("chown").arg("postgres").arg(directory).status().unwrap().success());
    }
    let init = as_postgres(&bin.join("initdb"))
        .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
        .arg(&data)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(init.status.success(), "initdb: {}", String::from_utf8_lossy(&init.stderr));
}

/// Returns when it answers.
fn run(directory: &Path, listen: &str, port: u16) -> Child {
    let bin = binaries();
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let port = port.to_string();
    let process = as_postgres(&bin.join("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory)
        .args(["-c", &format!("listen_addresses={listen}"), "-p", &port, "-c", "max_connections=300"])
        // Tests end this process's clients, never the machine; a benchmark compares with commits that are on disk.
        .args([
            "-c",
            if std::env::var_os("OPENKCM_BENCH_POSTGRES").is_some() { "fsync=on" } else { "fsync=off" },
        ])
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    let ready = || {
        let mut ask = Command::new(bin.join("pg_isready"));
        let answer = ask.args(["-q", "-p", &port, "-h"]).arg(directory).status();
        answer.unwrap().success()
    };
    while !ready() {
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "PostgreSQL does not answer: {}", log());
        thread::sleep(Duration::from_millis(50));
    }
    process
}

/// Runs as user postgres when we are root (PostgreSQL refuses root), and dies with us.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program);
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .expect("the tests need a PostgreSQL server: apt install postgresql");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<u32>().ok())
        .max()
        .expect("the tests need a PostgreSQL server: apt install postgresql");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// Removes what earlier test processes left behind: their servers are dead, their directories are not.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("openkcm-pg-")?.parse::<u32>().ok());
        if let Some(pid) = pid
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let removed = fs::remove_dir_all(entry.path());
            assert!(removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        }
    }
}
