//! Our contract servers of Azure Key Vault and Google Cloud KMS, and their control ports.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Trouble;
use crate::{
    paths,
    process::{Lifetime, Process, Recipe},
    wait::within,
};

/// A contract server.
#[derive(Debug)]
pub(super) struct Contract {
    _process: Process,
    address: SocketAddr,
    control: SocketAddr,
}

impl Contract {
    /// Starts it; one that is detached and runs already is kept. `args` is the name of the store and what it needs.
    pub async fn start(args: &[&str], ports: [u16; 2], logs: &Path, lifetime: Lifetime) -> Result<Self> {
        let name = *args.first().context("the name of a store")?;
        let [address, control] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let running = match lifetime {
            Lifetime::Detached => Process::find(name, logs),
            Lifetime::Owned => None,
        };
        let mut process = if let Some(running) = running {
            running
        } else {
            let recipe = Recipe::new(name, paths::built("openkcm-key-store-servers")?, args)
                .arg(format!("--listen={address}"))
                .arg(format!("--control={control}"));
            Process::start(&recipe, logs, lifetime)?
        };
        within(Duration::from_secs(30), &format!("the contract server of {name} answers"), || {
            let state = process.check();
            async move {
                state?;
                let answer =
                    reqwest::get(format!("http://{control}/calls")).await.context("its control port")?;
                ensure!(answer.status().is_success(), "its control port says {}", answer.status());
                Ok(())
            }
        })
        .await?;
        Ok(Self { _process: process, address, control })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a key of a type: `aes`, `rsa` or `signing`.
    pub async fn create(&self, key: &str, kind: &str) -> Result<()> {
        self.order("keys", &json!({"key": key, "type": kind})).await
    }

    /// Sets the state of a key: `enabled`, `disabled` or `pending-deletion`.
    pub async fn set_state(&self, key: &str, state: &str) -> Result<()> {
        self.order("state", &json!({"key": key, "state": state})).await
    }

    /// Misbehaves from now on, or no more.
    pub async fn disturb(&self, trouble: Trouble) -> Result<()> {
        let fault = match trouble {
            Trouble::None | Trouble::Down => "none",
            Trouble::Denied => "denied",
            Trouble::Throttled => "throttled",
            Trouble::Silent => "hang",
        };
        self.order("fault", &json!({"fault": fault})).await?;
        self.order("down", &json!({"down": trouble == Trouble::Down})).await
    }

    /// Metadata reads, wraps and unwraps that reached it.
    pub async fn calls(&self) -> Result<[u64; 3]> {
        let answer =
            reqwest::get(format!("http://{}/calls", self.control)).await.context("reading its calls")?;
        let calls: Value = answer.json().await.context("its calls as JSON")?;
        let count = |name: &str| calls[name].as_u64().with_context(|| format!("no count of {name}"));
        Ok([count("describe")?, count("wrap")?, count("unwrap")?])
    }

    async fn order(&self, path: &str, body: &Value) -> Result<()> {
        let answer = reqwest::Client::new()
            .post(format!("http://{}/{path}", self.control))
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .context("calling a contract server's control port")?;
        ensure!(answer.status().is_success(), "a contract server says {} to {body}", answer.status());
        Ok(())
    }
}
