//! What the provider costs: memory and connections.

use std::{collections::HashSet, fs, time::Duration};

use anyhow::{Context, Result};
use kcp_e2e::installation::Installation;

/// The provider with a number of workspaces.
pub struct Cost {
    pub workspaces: usize,
    objects: f64,
    watches: f64,
    rss: f64,
    connections_to_kcp: usize,
    connections: usize,
}

impl Cost {
    pub async fn of(installation: &Installation, workspaces: usize, kcp_port: u16) -> Result<Self> {
        let pid = installation.provider().context("a provider that runs")?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the provider's memory")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let rss: f64 = rss.trim().trim_end_matches(" kB").parse().context("a number of kB")?;
        let remote = remote_ports(pid)?;
        let metrics = installation.metrics().await?;
        let metric = |name: &str| metrics.get(name).copied().unwrap_or_default();
        Ok(Self {
            workspaces,
            objects: metric("openkcm_objects"),
            watches: metric("openkcm_open_watches"),
            rss: rss / 1024.0,
            connections_to_kcp: remote.iter().filter(|port| **port == kcp_port).count(),
            connections: remote.len(),
        })
    }
}

/// Processor time that the provider has used.
pub fn processor_time(installation: &Installation) -> Result<Duration> {
    let pid = installation.provider().context("a provider that runs")?.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the provider's processor time")?;
    // After the name, which may hold anything: user and system time are the 12th and 13th, in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = fields.get(11..13).context("too few fields")?.iter().filter_map(|it| it.parse::<u64>().ok());
    Ok(Duration::from_millis(ticks.sum::<u64>() * 10))
}

/// The table, and the slope from its first line to its last.
pub fn print(costs: &[Cost]) {
    println!("\nThe provider's process");
    println!(
        "{:>10} {:>8} {:>8} {:>9} {:>18} {:>16}",
        "workspaces", "objects", "watches", "RSS MiB", "connections to kcp", "all connections"
    );
    for cost in costs {
        println!(
            "{:>10} {:>8} {:>8} {:>9.1} {:>18} {:>16}",
            cost.workspaces, cost.objects, cost.watches, cost.rss, cost.connections_to_kcp, cost.connections
        );
    }
    if let [first, .., last] = costs {
        let more = (last.workspaces - first.workspaces) as f64;
        println!(
            "slope: {:.1} KiB and {:.3} connections per workspace",
            (last.rss - first.rss) * 1024.0 / more,
            (last.connections as f64 - first.connections as f64) / more,
        );
    }
}

/// The remote ports of a process's established TCP connections.
fn remote_ports(pid: i32) -> Result<Vec<u16>> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).context("the provider's files")?.flatten() {
        // A file that was closed meanwhile is no connection.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            inodes.insert(inode.to_owned());
        }
    }
    let mut ports = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).context("connections")?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(remote), Some(&"01"), Some(inode)) = (fields.get(2), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let port = remote.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if let (true, Some(port)) = (inodes.contains(*inode), port) {
                ports.push(port);
            }
        }
    }
    Ok(ports)
}
