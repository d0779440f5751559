//! `/readyz` of the real provider is red while its kcp cannot be reached, and green again after.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use kcp_e2e::{link::Link, story::scenario, wait::eventually};

#[test]
fn readiness_follows_the_way_to_kcp() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        let link = Link::listen().await?;
        let kcp: SocketAddr =
            story.kcp().url().trim_start_matches("https://").parse().context("kcp's address")?;
        link.to(kcp);
        let provider = story.own()?;
        provider.stop_provider();
        let kubeconfig = provider.folder().join("provider.kubeconfig");
        let direct = std::fs::read_to_string(&kubeconfig).context("reading a kubeconfig")?;
        let behind = direct.replace(&kcp.to_string(), &link.address().to_string());
        ensure!(behind != direct, "the kubeconfig does not name {kcp}");
        kcp_e2e::installation::write_private(&kubeconfig, &behind)?;
        provider.start_provider().await?;
        let ready = provider.metrics_url().replace("/metrics", "/readyz");

        // Nobody listens there any more: the port of a listener that is gone.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        link.to(nobody.context("a free port")?);
        link.cut();
        let why = eventually("it is red", || async {
            let (status, text) = look(&ready).await?;
            ensure!(status == 503, "it says {status}: {text}");
            Ok(text)
        })
        .await?;
        ensure!(why.contains("endpoint slice cannot be followed"), "it does not say why: {why}");

        link.to(kcp);
        eventually("it is green again", || async {
            let (status, text) = look(&ready).await?;
            ensure!(status == 200, "it says {status}: {text}");
            Ok(())
        })
        .await
    });
}

async fn look(url: &str) -> Result<(u16, String)> {
    let answer = reqwest::get(url).await.context("the readiness page")?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.context("its text")?))
}
