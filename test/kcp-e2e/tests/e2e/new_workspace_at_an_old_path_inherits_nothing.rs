//! A path is not an identity: who comes later at the same path is somebody else.

use anyhow::ensure;
use kcp_e2e::{
    story::{Patient as _, scenario},
    workspace::{ACCOUNT, SERVICE_KEY, Workspace},
};

const KEY: &str = "payments/payments-db";

#[test]
fn new_workspace_at_an_old_path() {
    scenario(async |story| {
        let old = story.workspace("org:team").await?;
        old.enable().await?;
        old.chain(&story.kms(), "aws", KEY).await?;
        let sealed = old.application("payments/app").await?.encrypts(KEY, "mine").await?;

        let (parent, name) = old.path().rsplit_once(':').unwrap_or_default();
        Workspace::open(story.kcp(), parent).await?.delete_child(name).await?;
        let new = story.workspace("org:team").await?;
        ensure!(
            new.path() == old.path() && new.cluster() != old.cluster(),
            "kcp gave the same workspace back"
        );

        new.enable().await?;
        let tenant = new.active_tenant().await?;
        ensure!(tenant["status"]["recovered"] == false, "it says that it was recovered");
        ensure!(new.list(ACCOUNT).await?.is_empty(), "it inherited an Account");
        ensure!(new.list(SERVICE_KEY).await?.is_empty(), "it inherited a key");

        // A key of the same name is another key.
        new.chain(&story.kms(), "aws", KEY).await?;
        let application = new.application("payments/app").await?;
        application.encrypts(KEY, "theirs").await?;
        let Err(refusal) = application.decrypt(KEY, &sealed)? else {
            anyhow::bail!("it reads what its predecessor wrote")
        };
        ensure!(!refusal.0.contains("internal"), "{}", refusal.0);
        Ok(())
    });
}
