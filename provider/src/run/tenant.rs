//! Reconciling a workspace: binding, unbinding, binding again.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kcp_client_rs::LogicalCluster;
use openkcm_apis::{LEDGER_FINALIZER, Tenant, TenantSpec};
use openkcm_keychain::{crash_point, rows::TenantRow};
use openkcm_logical::ErrorClass;
use openkcm_plan::{Event, tenant};

use super::provider::{Flow, Provider, WRITTEN, Workspace, lock, settle, until};

impl Provider {
    pub async fn tenant(&self, cluster: &LogicalCluster) -> anyhow::Result<Option<Duration>> {
        if !self.owns(cluster) {
            return Ok(None);
        }
        settle(|| self.tenant_step(cluster)).await
    }

    async fn tenant_step(&self, cluster: &LogicalCluster) -> anyhow::Result<Flow> {
        let now = Timestamp::now();
        let Workspace { row, bindings, .. } = self.workspace(cluster).await?;
        let visible = self.is_visible(cluster);
        let absent = visible && bindings.is_empty();
        let absent_since = {
            let mut all = lock(&self.absent);
            if absent {
                Some(*all.entry(cluster.clone()).or_insert(now))
            } else {
                all.remove(cluster);
                None
            }
        };
        // A workspace that is not deleted has one Tenant object at most.
        let object = self.caches.tenants.list(cluster).first().and_then(|tenant| tenant.open());
        if !visible && (row.is_some() || tenant::is_bound(&bindings)) {
            return Ok(self.unknown(cluster, row.as_ref()));
        }
        if self.awaits_status(cluster, object.as_ref()) {
            return Ok(WRITTEN);
        }
        let input = tenant::Input {
            now,
            cluster: cluster.as_str(),
            visible,
            absent_since,
            bindings,
            object: object.as_ref(),
            record: row.as_ref().map(record),
            accounts: self.caches.accounts.list(cluster).len(),
            keys: self.caches.keys.list(cluster).len(),
        };
        let plan = tenant::plan(&input);
        if let (Some(status), Some(object)) = (plan.status, object.as_ref()) {
            self.publish(cluster, object, object.status.as_ref(), &status, |status| &status.conditions)
                .await?;
        }
        let Some(effect) = plan.effect else { return Ok(Flow::Wait(until(now, plan.next))) };
        tracing::info!(%cluster, ?effect, "tenant");
        let deed = effect.name();
        crash_point!("Tenant.before-{deed}");
        let flow = self.tenant_effect(cluster, row.as_ref(), &input, effect).await?;
        crash_point!("Tenant.after-{deed}");
        Ok(flow)
    }

    /// Makes the Tenant, and writes its status at once, from what the create answered: a watch would tell the same later.
    async fn create_tenant(
        &self,
        cluster: &LogicalCluster,
        name: String,
        input: &tenant::Input<'_>,
    ) -> anyhow::Result<Flow> {
        let tenant = Tenant {
            metadata: ObjectMeta {
                name: Some(name),
                finalizers: Some(vec![LEDGER_FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: TenantSpec::default(),
            status: None,
        };
        let created = match self.client(cluster)?.create(&tenant).await {
            Err(error) if error.class() == ErrorClass::AlreadyExists => return Ok(WRITTEN),
            result => result?,
        };
        let recovered = input.record.as_ref().is_some_and(|record| record.recovered);
        let (reason, message) = if recovered {
            ("Recovered", "This workspace was here before: its Accounts and keys are being put back.")
        } else {
            ("Created", "OpenKCM is switched on in this workspace.")
        };
        self.note(cluster, &created, Event { warning: false, reason, message: message.to_owned() });
        let plan = tenant::plan(&tenant::Input { object: Some(&created), ..input.clone() });
        if let Some(status) = plan.status {
            self.publish(cluster, &created, None, &status, |status| &status.conditions).await?;
            if let Some(uid) = created.metadata.uid {
                lock(&self.born).insert(cluster.clone(), uid);
            }
        }
        Ok(WRITTEN)
    }

    /// Whether the cache still shows a Tenant as it was before its first status, which was written already.
    fn awaits_status(&self, cluster: &LogicalCluster, object: Option<&Tenant>) -> bool {
        // Not seen at all: a create says that it exists, if it does.
        let Some(object) = object else { return false };
        let mut born = lock(&self.born);
        let Some(uid) = born.get(cluster) else { return false };
        let seen = object.status.is_some()
            || object.metadata.deletion_timestamp.is_some()
            || object.metadata.uid.as_ref() != Some(uid);
        if seen {
            born.remove(cluster);
        }
        !seen
    }

    async fn tenant_effect(
        &self,
        cluster: &LogicalCluster,
        row: Option<&TenantRow>,
        input: &tenant::Input<'_>,
        effect: tenant::Effect,
    ) -> anyhow::Result<Flow> {
        let now = input.now;
        match effect {
            tenant::Effect::Activate { path } => {
                let row = self.ledger.bind_tenant(cluster, &path, now).await?;
                lock(&self.homeless).retain(|key| key.cluster != *cluster);
                self.wake_workspace(&row).await?;
            }
            tenant::Effect::Suspend => {
                lock(&self.born).remove(cluster);
                if let Some(row) = row {
                    let row = self.ledger.unbind_tenant(row.id, now + self.times.retention, now).await?;
                    self.wake_workspace(&row).await?;
                }
            }
            tenant::Effect::Create { name } => return self.create_tenant(cluster, name, input).await,
            tenant::Effect::AddFinalizer | tenant::Effect::RemoveFinalizer => {
                if let Some(object) = input.object {
                    let present = effect == tenant::Effect::AddFinalizer;
                    self.set_finalizer(&self.client(cluster)?, object, present).await?;
                }
                return Ok(WRITTEN);
            }
        }
        Ok(Flow::Again)
    }
}

fn record(row: &TenantRow) -> tenant::Record {
    tenant::Record {
        unbound: row.unbound_at.is_some(),
        operator_reason: row
            .operator_suspended_at
            .map(|_| row.operator_reason.clone().unwrap_or_else(|| "no reason was given".to_owned())),
        recovered: row.recovered_at.is_some(),
        path: row.path.clone(),
    }
}
