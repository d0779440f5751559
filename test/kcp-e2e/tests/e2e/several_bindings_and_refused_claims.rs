//! Bindings that are not as they should be are told, and stop nothing.

use anyhow::ensure;
use kcp_e2e::{
    installation::EXPORT,
    story::scenario,
    workspace::{BINDING, TENANT, condition, is_true},
};

#[test]
fn several_bindings_in_one_workspace_are_one_tenant() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.enable().await?;
        let tenant = team.tenant().await?;
        team.bind_as("second", "Accepted").await?;
        team.expect(TENANT, &tenant, "it tells of several bindings", |it| {
            condition(it, "SingleBinding", "reason") == "SeveralBindings"
        })
        .await?;
        ensure!(team.list(TENANT).await?.len() == 1, "there is not exactly one Tenant");

        // Taking one away is not a switch-off.
        team.delete(BINDING, "second").await?;
        team.gone(BINDING, "second").await?;
        team.expect(TENANT, &tenant, "it is content again", |it| {
            condition(it, "SingleBinding", "reason").is_null() && it["status"]["phase"] == "Active"
        })
        .await?;
        Ok(())
    });
}

#[test]
fn unaccepted_claims_are_a_condition() {
    scenario(async |story| {
        let team = story.workspace("team").await?;
        team.bind_as(EXPORT, "Rejected").await?;
        let tenant = team.tenant().await?;
        let told = team
            .expect(TENANT, &tenant, "it tells which claim is not accepted", |it| {
                condition(it, "ClaimsAccepted", "status") == "False"
            })
            .await?;
        let message = condition(&told, "ClaimsAccepted", "message").as_str().unwrap_or_default();
        ensure!(message.contains("events"), "the message is: {message}");
        // All else works.
        team.chain(&story.kms(), "aws", "payments/db").await?;

        team.bind_as(EXPORT, "Accepted").await?;
        team.expect(TENANT, &tenant, "it is content again", |it| is_true(it, "ClaimsAccepted")).await?;
        Ok(())
    });
}
