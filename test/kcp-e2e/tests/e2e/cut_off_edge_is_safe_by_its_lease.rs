//! An edge that cannot be reached, or that stands still, has lost a key when the status says so, and comes back by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use kcp_e2e::{
    installation::Application,
    link::Link,
    story::{Patient as _, scenario},
    wait::PATIENCE,
    workspace::{SERVICE_KEY, condition, is_true},
};
use rustix::process::Signal;
use serde_json::json;

const KEY: &str = "payments/payments-db";

/// An application that decrypts without a pause.
struct Busy(Arc<AtomicBool>, JoinHandle<Result<Vec<Instant>>>);

impl Busy {
    /// Returns when it has decrypted once.
    fn start(application: &Application, sealed: &[u8]) -> Result<Self> {
        let (first, begun) = std::sync::mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (application, sealed, stopped) = (application.clone(), sealed.to_vec(), Arc::clone(&stop));
        let work = std::thread::spawn(move || {
            let mut successes = Vec::new();
            while !stopped.load(Relaxed) {
                let begun = Instant::now();
                if application.decrypt(KEY, &sealed)?.is_ok() {
                    successes.push(begun);
                    let _ = first.send(());
                }
            }
            Ok(successes)
        });
        let busy = Self(stop, work);
        begun.recv_timeout(PATIENCE).context("the application never decrypted")?;
        Ok(busy)
    }

    /// When each call began that succeeded.
    fn stop(self) -> Result<Vec<Instant>> {
        self.0.store(true, Relaxed);
        self.1.join().ok().context("the application panicked")?
    }
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    NothingComesBack,
    NothingArrives,
    StandsStill,
}

#[test]
fn evicted_is_true_when_no_edge_can_use_the_key_whatever_the_network_does() {
    scenario(async |story| {
        let link = Link::listen().await?;
        story.with_own_provider_behind(&link, &["--lease=2s"]).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts(KEY, "secret").await?;

        for trouble in [Trouble::NothingComesBack, Trouble::NothingArrives, Trouble::StandsStill] {
            let busy = Busy::start(&application, &sealed)?;
            let edge = story.own()?.edges().first().context("an edge")?.process();
            match trouble {
                Trouble::NothingComesBack => link.up.stall(true),
                Trouble::NothingArrives => link.down.stall(true),
                Trouble::StandsStill => edge.signal(Signal::STOP),
            }
            team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Disabled"}})).await?;
            // It is not said too early, and it is said how long it takes.
            team.expect(SERVICE_KEY, KEY, "its status says what is open", |it| {
                let message = condition(it, "Evicted", "message").as_str().unwrap_or_default();
                !is_true(it, "Evicted") && message.contains("evicted on 0/1, 1 lease ends in")
            })
            .await?;
            let key = team.expect(SERVICE_KEY, KEY, "it is evicted", |it| is_true(it, "Evicted")).await?;
            let claimed = Instant::now();
            let message = condition(&key, "Evicted", "message").as_str().unwrap_or_default();
            ensure!(message.starts_with("evicted on 1/1"), "{trouble:?}: its message is {message}");
            link.stall(false);
            edge.signal(Signal::CONT);
            // The network is well again, and the key stays away.
            application.is_refused(KEY, &sealed, &["disabled", "evicted", "lease-lost"]).await?;
            let successes = busy.stop()?;
            let late = successes.iter().filter(|begun| **begun > claimed).count();
            ensure!(late == 0, "{trouble:?}: {late} successes after the status said Evicted");
            team.patch(SERVICE_KEY, KEY, json!({"spec": {"state": "Enabled"}})).await?;
            application.decrypts(KEY, &sealed, "secret").await?;
        }

        // Without a provider it works until the lease ends, and again when the provider is back.
        story.own()?.kill_provider();
        application.is_refused(KEY, &sealed, &["lease-lost"]).await?;
        story.own()?.start_provider().await?;
        application.decrypts(KEY, &sealed, "secret").await
    });
}
