//! Child processes with a log file, that die with their owner, or outlive it on purpose.

use std::{
    env,
    ffi::OsString,
    fmt,
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// Whether a process ends with the program that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Ends when its [`Process`] is dropped, and also when the owner is killed.
    Owned,
    /// Goes on after the owner; found again by its record in the folder of logs.
    Detached,
}

/// What to run. Nothing is inherited on standard input; output goes to a log.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The name of the log and of the record: unique within a folder.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables on top of the owner's environment.
    pub env: Vec<(String, OsString)>,
}

impl Recipe {
    /// A program with arguments.
    pub fn new<A: Into<OsString>>(
        name: &str,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(self, args: impl IntoIterator<Item = OsString>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

/// A process and its descendants (one process group).
#[derive(Debug)]
pub struct Process {
    name: String,
    identity: Identity,
    log: PathBuf,
    record: PathBuf,
    /// None for a process that was found again rather than started.
    child: Option<Child>,
    lifetime: Lifetime,
}

/// A process that should run has ended.
#[derive(Debug)]
pub struct Ended {
    name: String,
    log: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has ended; {}", self.name, self.log)
    }
}

impl std::error::Error for Ended {}

/// A process id is reused one day; with the start time it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    pid: Pid,
    started: u64,
}

impl Process {
    /// Starts a recipe; the log is `FOLDER/NAME.log` and is appended to.
    pub fn start(recipe: &Recipe, folder: &Path, lifetime: Lifetime) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let log = folder.join(format!("{}.log", recipe.name));
        let output = File::options().create(true).append(true).open(&log).context("opening a log")?;
        let mut command = match lifetime {
            Lifetime::Owned => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "SIGTERM"]).process_group(0);
                command
            }
            Lifetime::Detached => Command::new("setsid"),
        };
        command
            .arg(&recipe.program)
            .args(&recipe.args)
            .without_our_variables()
            .envs(recipe.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing a log")?)
            .stderr(output);
        let child = spawn(command).with_context(|| format!("starting {}", recipe.program.display()))?;
        let pid = Pid::from_child(&child);
        let identity = Identity { pid, started: start_time(pid).unwrap_or_default() };
        let record = folder.join(format!("{}.pid", recipe.name));
        if lifetime == Lifetime::Detached {
            fs::write(&record, format!("{} {}\n", pid.as_raw_nonzero(), identity.started))
                .context("recording a process")?;
        }
        Ok(Self { name: recipe.name.clone(), identity, log, record, child: Some(child), lifetime })
    }

    /// Finds a detached process again; None if it is not running any more.
    pub fn find(name: &str, folder: &Path) -> Option<Self> {
        let record = folder.join(format!("{name}.pid"));
        let text = fs::read_to_string(&record).ok()?;
        let mut fields = text.split_whitespace();
        let pid = Pid::from_raw(fields.next()?.parse().ok()?)?;
        let identity = Identity { pid, started: fields.next()?.parse().ok()? };
        let found = Self {
            name: name.to_owned(),
            identity,
            log: folder.join(format!("{name}.log")),
            record,
            child: None,
            lifetime: Lifetime::Detached,
        };
        found.identity_is_running().then_some(found)
    }

    /// The name of its recipe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.identity.pid.as_raw_nonzero().get()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `lines` lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.identity_is_running(),
        }
    }

    /// [`Ended`], with the end of the log, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = format!("the end of {}:\n{}", self.log.display(), self.log_tail(15));
        Err(anyhow::Error::new(Ended { name: self.name.clone(), log }))
    }

    /// Ends it: SIGTERM, and SIGKILL after ten seconds. Returns when it is gone.
    pub fn stop(&mut self) {
        self.end(Signal::TERM, Duration::from_secs(10));
    }

    /// `kill -9`, as a power cut would.
    pub fn kill(&mut self) {
        self.end(Signal::KILL, Duration::from_secs(10));
    }

    /// Sends a signal to the process and its descendants.
    pub fn signal(&self, signal: Signal) {
        // The group is gone when the process is: nothing to report.
        let _ = kill_process_group(self.identity.pid, signal);
    }

    fn end(&mut self, signal: Signal, patience: Duration) {
        let was_running = self.is_running();
        if was_running {
            self.signal(signal);
            let start = Instant::now();
            while self.is_running() && start.elapsed() < patience {
                thread::sleep(Duration::from_millis(10));
            }
        }
        // What it left behind, a child of a script for example. The id of a process that was not ours to wait for and has
        // ended may be another's by now.
        if was_running || self.child.is_some() {
            self.signal(Signal::KILL);
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
        let _ = fs::remove_file(&self.record);
    }

    fn identity_is_running(&self) -> bool {
        start_time(self.identity.pid) == Some(self.identity.started)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Owned {
            self.stop();
        }
    }
}

/// Commands that do what their arguments say.
pub trait CommandExt {
    /// Every flag of ours can also come from the environment; a shell that has read `.openkcm/env` must not decide what a test
    /// does.
    fn without_our_variables(&mut self) -> &mut Self;
}

impl CommandExt for Command {
    fn without_our_variables(&mut self) -> &mut Self {
        for (name, _) in env::vars_os() {
            if name == "KUBECONFIG" || name.to_str().is_some_and(|name| name.starts_with("OPENKCM_")) {
                self.env_remove(name);
            }
        }
        self
    }
}

/// The last lines of a file; a file that cannot be read says so.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// Ports of 127.0.0.1 that are free now. All are held until the last is found, so they differ.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
        *port = listener.local_addr().context("reading a port")?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Spawns on a thread that lives as long as the program: the parent of PR_SET_PDEATHSIG is a thread, and a test's own thread
/// ends with its test.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

/// Field 22 of /proc/PID/stat, in clock ticks since boot; None when the process is gone or a zombie.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
