//! Who may use a key is decided by what kcp has signed into the caller's token; to all others it does not exist.

use anyhow::ensure;
use kcp_e2e::{installation::Application, story::scenario};

const KEY: &str = "payments/payments-db";

fn refused(application: &Application, sealed: &[u8], code: &str) -> anyhow::Result<String> {
    let Err(refusal) = application.decrypt(KEY, sealed)? else { anyhow::bail!("it decrypts") };
    ensure!(refusal.0.contains(code), "it is refused otherwise: {}", refusal.0);
    let Err(refusal) = application.encrypt(KEY, b"x")? else { anyhow::bail!("it encrypts") };
    Ok(refusal.0)
}

#[test]
fn only_service_accounts_of_the_workspace_and_namespace_may_use_a_key() {
    scenario(async |story| {
        use kcp_e2e::story::Patient as _;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", KEY).await?;
        let tenant = team.tenant().await?;
        let sealed = team.application("payments/app").await?.encrypts(KEY, "mine").await?;

        // Another namespace of the same workspace.
        let neighbour = team.application_at(0, "web/app", &tenant).await?;
        refused(&neighbour, &sealed, "not-allowed")?;

        // The same names in another workspace, asking for this tenant; and for a tenant that does not exist: no difference
        // that would tell it what exists.
        let other = story.workspace("other").await?;
        other.enable().await?;
        other.tenant().await?;
        let stranger = other.application_at(0, "payments/app", &tenant).await?;
        let here = refused(&stranger, &sealed, "unknown-key")?;
        let nowhere = Application { tenant: "tenant-root-nobody".to_owned(), ..stranger };
        let there = refused(&nowhere, &sealed, "unknown-key")?;
        ensure!(
            here.replace(&tenant, "T") == there.replace("tenant-root-nobody", "T"),
            "{here:?} differs from {there:?}"
        );

        // A token for another audience, and no token.
        let mut forged = team.application("payments/app").await?;
        forged.token_file = forged.token_file.with_extension("forged");
        kcp_e2e::installation::write_private(
            &forged.token_file,
            &team.token("payments/app", Some("elsewhere")).await?,
        )?;
        refused(&forged, &sealed, "unauthenticated")?;
        kcp_e2e::installation::write_private(&forged.token_file, "not a token")?;
        refused(&forged, &sealed, "unauthenticated")?;
        Ok(())
    });
}
