//! `/readyz` of the real provider is red while its kcp cannot be reached, and green again after.

use anyhow::ensure;
use kcp_e2e::{link::Link, story::scenario, wait::eventually};

#[test]
fn readiness_follows_the_way_to_kcp() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        let link = Link::listen_as_proxy().await?;
        let kcp = story.kcp();
        let provider = story.own()?;
        provider.reach_kcp_over(&link, kcp).await?;
        let provider = &*provider;

        link.to_nobody()?;
        let why = eventually("it is red", || async {
            let (status, text) = provider.readiness().await?;
            ensure!(status == 503, "it says {status}: {text}");
            Ok(text)
        })
        .await?;
        ensure!(why.contains("endpoint slice cannot be followed"), "it does not say why: {why}");

        link.to(kcp.address()?);
        eventually("it is green again", || async {
            let (status, text) = provider.readiness().await?;
            ensure!(status == 200, "it says {status}: {text}");
            Ok(())
        })
        .await
    });
}
