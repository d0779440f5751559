//! Objects that an older, laxer schema let in get a condition that says what is wrong; they hurt only themselves, survive
//! the upgrade to the stricter schema, and can be deleted.

use anyhow::{Context as _, Result, ensure};
use kcp_e2e::{
    installation::EXPORT as NAME,
    story::scenario,
    wait::eventually,
    workspace::{ACCOUNT, BINDING, EXPORT, Kind, SCHEMA, SERVICE_KEY, Workspace, condition},
};
use serde_json::{Value, json};

#[test]
fn objects_of_an_older_schema_get_a_condition() {
    scenario(async |story| {
        story.with_own_provider(&[]).await?;
        let home = Workspace::open(story.kcp(), story.installation().await?.workspace()).await?;
        publish_lax_schemas(&home).await?;
        let team = story.workspace("team").await?;
        team.enable().await?;
        let root = story.kms().create_key().await?;
        team.namespace("payments").await?;

        let key = |spec: Value| {
            let mut whole = json!({
                "accountRef": {"name": "good"}, "algorithm": "AES-GCM-256", "rotationSchedule": "Never", "state": "Enabled",
            });
            for (field, value) in spec.as_object().into_iter().flatten() {
                whole[field] = value.clone();
            }
            whole
        };
        let bad: [(Kind, &str, Value, &str, &str); 6] = [
            (
                ACCOUNT,
                "store",
                json!({"providerType": "OracleKMS", "keyReference": root}),
                "Unreadable",
                "OracleKMS",
            ),
            (ACCOUNT, "half", json!({"providerType": "AWSKMS"}), "Unreadable", "keyReference"),
            (
                ACCOUNT,
                "arn",
                json!({"providerType": "AWSKMS", "keyReference": "not an ARN"}),
                "Misconfigured",
                "arn:",
            ),
            (
                SERVICE_KEY,
                "payments/schedule",
                key(json!({"rotationSchedule": "Fortnightly"})),
                "InvalidSpec",
                "Fortnightly",
            ),
            (SERVICE_KEY, "payments/algorithm", key(json!({"algorithm": "ROT13"})), "Unreadable", "ROT13"),
            (
                SERVICE_KEY,
                "payments/account",
                key(json!({"accountRef": {"name": "store"}})),
                "AccountNotReady",
                "OracleKMS",
            ),
        ];
        team.account("good", &root).await?;
        for (kind, name, spec, _, _) in &bad {
            create(&team, *kind, name, spec).await?;
        }
        for (kind, name, _, reason, said) in &bad {
            team.expect(*kind, name, &format!("Ready is False: {reason}, and speaks of {said}"), |object| {
                let ready = |field| condition(object, "Ready", field);
                ready("status") == "False"
                    && ready("reason") == *reason
                    && ready("message").as_str().is_some_and(|message| message.contains(said))
            })
            .await?;
        }
        // Beside them everything works, in the same process.
        team.service_key("payments/db", "good").await?;
        team.key_is("payments/db", "Active").await?;
        // One that was good and has our finalizer breaks later.
        team.patch(SERVICE_KEY, "payments/db", json!({"spec": {"algorithm": "ROT13"}})).await?;
        team.expect(SERVICE_KEY, "payments/db", "it is Unreadable", |object| {
            condition(object, "Ready", "reason") == "Unreadable"
        })
        .await?;

        // The upgrade: the binding follows, what is there stays, and nothing of that kind gets in any more.
        let old = bound(&team).await?;
        story.installation().await?.publish(story.kcp())?;
        eventually("the binding follows to the new schemas", || async {
            ensure!(bound(&team).await? != old, "it is bound to {old:?}");
            Ok(())
        })
        .await?;
        eventually("the new schema refuses what the old one let in", || async {
            match create(&team, ACCOUNT, "another", &bad[0].2).await {
                Ok(()) => {
                    team.delete(ACCOUNT, "another").await?;
                    anyhow::bail!("it was let in")
                }
                Err(error) => {
                    let said = format!("{error:#}");
                    ensure!(said.contains("Unsupported value") && said.contains("AWSKMS"), "{said}");
                    Ok(())
                }
            }
        })
        .await?;
        for (kind, name, _, reason, _) in &bad {
            team.expect(*kind, name, "it is as before", |it| condition(it, "Ready", "reason") == *reason)
                .await?;
        }
        team.delete(ACCOUNT, "store").await?;
        team.gone(ACCOUNT, "store").await?;
        // Nothing unreadable holds up an unbind.
        team.disable().await
    });
}

/// Publishes copies of our schemas that check nothing but what is an object and what is text.
async fn publish_lax_schemas(home: &Workspace) -> Result<()> {
    let mut export = home.get(EXPORT, NAME).await?.context("there is no export")?;
    for resource in export["spec"]["resources"].as_array_mut().context("resources")? {
        let name = resource["schema"].as_str().context("the name of a schema")?.to_owned();
        let mut schema = home.get(SCHEMA, &name).await?.context("a schema that the export names")?;
        let lax = format!("v0lax.{}", name.split_once('.').context("a prefix")?.1);
        schema["metadata"] = json!({"name": lax, "labels": schema["metadata"]["labels"]});
        schema["apiVersion"] = json!("apis.kcp.io/v1alpha1");
        schema["kind"] = json!("APIResourceSchema");
        for version in schema["spec"]["versions"].as_array_mut().context("versions")? {
            relax(&mut version["schema"]["properties"]["spec"]);
        }
        home.apply(schema).await?;
        resource["schema"] = json!(lax);
    }
    home.patch(EXPORT, NAME, json!({"spec": {"resources": export["spec"]["resources"]}})).await.map(drop)
}

fn relax(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for rule in ["x-kubernetes-validations", "enum", "pattern", "required", "maxLength", "minLength"]
            {
                fields.remove(rule);
            }
            // The keys of a list have to be required.
            fields.iter_mut().filter(|(name, _)| *name != "items").for_each(|(_, field)| relax(field));
        }
        Value::Array(all) => all.iter_mut().for_each(relax),
        _ => {}
    }
}

async fn create(team: &Workspace, kind: Kind, name: &str, spec: &Value) -> Result<()> {
    let (namespace, base) =
        name.split_once('/').map_or((None, name), |(namespace, base)| (Some(namespace), base));
    team.apply(json!({
        "apiVersion": "openkcm.io/v1alpha1", "kind": kind.name,
        "metadata": {"name": base, "namespace": namespace}, "spec": spec,
    }))
    .await
    .map(drop)
}

/// The schemas that the workspace is bound to.
async fn bound(team: &Workspace) -> Result<Vec<Value>> {
    let binding = team.get(BINDING, NAME).await?.context("the binding")?;
    let bound = binding["status"]["boundResources"].as_array().cloned().unwrap_or_default();
    Ok(bound.into_iter().map(|resource| resource["schema"]["name"].clone()).collect())
}
