//! Any workspace that binds the export becomes a tenant of its own, however it is called and however deep it lies.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use kcp_e2e::story::{Story, Team, scenario};

/// Binds and returns the tenant's name.
async fn enabled(story: &mut Story, name: &str) -> Result<(Team, String)> {
    let team = story.workspace(name).await?;
    team.enable().await?;
    let tenant = team.active_tenant().await?;
    ensure!(tenant["status"]["path"] == team.path(), "its path is {}", tenant["status"]["path"]);
    ensure!(
        tenant["status"]["logicalCluster"] == team.cluster().as_str(),
        "it names another logical cluster"
    );
    ensure!(tenant["status"]["recovered"] == false, "a new tenant has nothing to recover");
    let name = tenant["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok((team, name))
}

#[test]
fn at_any_depth() {
    scenario(async |story| {
        for path in ["flat", "org:team", "org:team:unit:group"] {
            let (team, tenant) = enabled(story, path).await?;
            ensure!(tenant == format!("tenant-{}", team.path().replace(':', "-")), "its name is {tenant}");
        }
        Ok(())
    });
}

#[test]
fn same_names_in_different_organisations_and_names_that_look_alike() {
    scenario(async |story| {
        let mut clusters = BTreeSet::new();
        for path in ["acme:payments", "umbrella:payments", "a-b", "a:b"] {
            let (team, _) = enabled(story, path).await?;
            ensure!(clusters.insert(team.cluster().clone()), "two tenants are one logical cluster");
            ensure!(
                team.list(kcp_e2e::workspace::TENANT).await?.len() == 1,
                "not exactly one Tenant in {path}"
            );
        }
        Ok(())
    });
}

#[test]
fn with_a_path_longer_than_a_name_may_be() {
    scenario(async |story| {
        let long = format!("{}:{}:{}", "o".repeat(30), "t".repeat(60), "u".repeat(60));
        let (_, tenant) = enabled(story, &long).await?;
        ensure!(tenant.len() <= 63, "its name has {} characters", tenant.len());
        let twin = format!("{}:{}:{}", "o".repeat(30), "t".repeat(60), "u".repeat(59) + "x");
        let (_, other) = enabled(story, &twin).await?;
        ensure!(tenant != other, "two long paths have one name");
        Ok(())
    });
}
