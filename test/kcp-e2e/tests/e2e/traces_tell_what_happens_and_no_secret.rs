//! Traces name what provider and edge do, hold no secret, and a collector that is dead or asleep disturbs nothing.

use anyhow::{Context as _, ensure};
use kcp_e2e::{
    collector::{Collector, Span},
    story::{Patient as _, read_all, scenario},
    wait::eventually,
    workspace::SERVICE_KEY,
};
use serde_json::json;

#[test]
fn traces_tell_what_happens_and_no_secret() {
    scenario(async |story| {
        let collector = Collector::start().await?;
        story.with_own_provider_traced(&collector).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        team.chain(&story.kms(), "aws", "payments/db").await?;
        let application = team.application("payments/app").await?;
        let sealed = application.encrypts("payments/db", "the plaintext that no trace may show").await?;
        application.decrypts("payments/db", &sealed, "the plaintext that no trace may show").await?;

        let cluster = team.cluster().as_str();
        let of = |spans: &[Span], service: &str, name: &str, attribute: (&str, &str)| {
            let fits = |span: &Span| {
                let value = span.attributes.get(attribute.0).map(String::as_str);
                (span.service.as_str(), span.name.as_str(), value) == (service, name, Some(attribute.1))
            };
            let found = spans.iter().find(|span| fits(span)).cloned();
            found.with_context(|| format!("no span {name} of {service} with {attribute:?}"))
        };
        // Spans are sent every five seconds.
        let spans = eventually("the collector has the whole story", || async {
            let spans = collector.spans();
            for name in ["encrypt", "decrypt"] {
                of(&spans, "openkcm-edge", name, ("code", "ok"))?;
            }
            for (name, object) in
                [("Tenant", ""), ("Account", "aws"), ("ServiceEncryptionKey", "payments/db")]
            {
                of(&spans, "openkcm-provider", name, ("object", object))?;
            }
            for name in ["verify", "provision"] {
                of(&spans, "openkcm-provider", name, ("account", "aws"))?;
            }
            of(&spans, "openkcm-provider", "create", ("cluster", cluster))?;
            Ok(spans)
        })
        .await?;
        // Events are written beside the reconciles, which do not wait for them.
        let writes = spans.iter().filter(|span| {
            let attribute = |name| span.attributes.get(name).map_or("", String::as_str);
            span.name == "create"
                && attribute("cluster") == cluster
                && !attribute("object").starts_with("Event ")
        });
        for write in writes {
            ensure!(write.has_parent, "a write does not say which reconcile it is part of: {write:?}");
        }
        let made =
            spans.iter().any(|span| span.name == "ServiceEncryptionKey" && span.events.contains("Create"));
        ensure!(made, "no event tells that the key was made");

        let everything = collector.everything();
        let token = read_all(std::slice::from_ref(&application.token_file))?;
        for secret in ["the plaintext that no trace may show", token.trim()] {
            ensure!(!everything.contains(secret), "a trace shows a secret: {secret}");
        }

        // Asleep: it takes connections and answers nobody. Then dead: nobody takes connections.
        collector.fall_asleep();
        rotate(&team, "while it sleeps", "v2").await?;
        drop(collector);
        rotate(&team, "while it is dead", "v3").await?;
        application.decrypts("payments/db", &sealed, "the plaintext that no trace may show").await?;
        story.own()?.start_provider().await // runs, and says that it is ready
    });
}

async fn rotate(team: &kcp_e2e::story::Team, request: &str, version: &str) -> anyhow::Result<()> {
    team.patch(SERVICE_KEY, "payments/db", json!({"spec": {"rotationRequest": request}})).await?;
    team.key_is_at("payments/db", version).await.map(drop)
}
