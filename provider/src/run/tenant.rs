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
            return Ok(self.unknown(cluster));
        }
        let plan = tenant::plan(&tenant::Input {
            now,
            cluster: cluster.as_str(),
            visible,
            absent_since,
            bindings,
            object: object.as_ref(),
            record: row.as_ref().map(record),
            accounts: self.caches.accounts.list(cluster).len(),
            keys: self.caches.keys.list(cluster).len(),
        });
        if let (Some(status), Some(object)) = (plan.status, object.as_ref()) {
            self.publish(cluster, object, object.status.as_ref(), &status, |status| &status.conditions)
                .await?;
        }
        let Some(effect) = plan.effect else { return Ok(Flow::Wait(until(now, plan.next))) };
        tracing::info!(%cluster, ?effect, "tenant");
        let deed = effect.name();
        crash_point!("Tenant.before-{deed}");
        let flow = self.tenant_effect(cluster, row.as_ref(), object.as_ref(), effect, now).await?;
        crash_point!("Tenant.after-{deed}");
        Ok(flow)
    }

    async fn tenant_effect(
        &self,
        cluster: &LogicalCluster,
        row: Option<&TenantRow>,
        object: Option<&Tenant>,
        effect: tenant::Effect,
        now: Timestamp,
    ) -> anyhow::Result<Flow> {
        match effect {
            tenant::Effect::Activate { path } => {
                let row = self.ledger.bind_tenant(cluster, &path, now).await?;
                lock(&self.homeless).retain(|key| key.cluster != *cluster);
                self.wake_workspace(&row).await?;
            }
            tenant::Effect::Suspend => {
                if let Some(row) = row {
                    let row = self.ledger.unbind_tenant(row.id, now + self.times.retention, now).await?;
                    self.wake_workspace(&row).await?;
                }
            }
            tenant::Effect::Create { name } => {
                let tenant = Tenant {
                    metadata: ObjectMeta {
                        name: Some(name),
                        finalizers: Some(vec![LEDGER_FINALIZER.to_owned()]),
                        ..ObjectMeta::default()
                    },
                    spec: TenantSpec::default(),
                    status: None,
                };
                let client = self.client(cluster)?;
                let created = match client.create(&tenant).await {
                    Err(error) if error.class() == ErrorClass::AlreadyExists => return Ok(WRITTEN),
                    result => result?,
                };
                let recovered = row.is_some_and(|row| row.recovered_at.is_some());
                let (reason, message) = if recovered {
                    ("Recovered", "This workspace was here before: its Accounts and keys are being put back.")
                } else {
                    ("Created", "OpenKCM is switched on in this workspace.")
                };
                self.note(cluster, &created, Event { warning: false, reason, message: message.to_owned() });
                return Ok(WRITTEN);
            }
            tenant::Effect::AddFinalizer | tenant::Effect::RemoveFinalizer => {
                if let Some(object) = object {
                    let present = effect == tenant::Effect::AddFinalizer;
                    self.set_finalizer(&self.client(cluster)?, object, present).await?;
                }
                return Ok(WRITTEN);
            }
            tenant::Effect::Shred => {
                if let Some(row) = row {
                    self.wake_workspace(row).await?;
                    self.ledger.shred_tenant(row.id, now).await?;
                    tracing::warn!(%cluster, path = %row.path, "retention is over: the tenant's keys are destroyed");
                }
            }
        }
        Ok(Flow::Again)
    }
}

fn record(row: &TenantRow) -> tenant::Record {
    tenant::Record {
        unbound: row.unbound_at.is_some(),
        retention_until: row.retention_until,
        operator_reason: row
            .operator_suspended_at
            .map(|_| row.operator_reason.clone().unwrap_or_else(|| "no reason was given".to_owned())),
        recovered: row.recovered_at.is_some(),
        path: row.path.clone(),
    }
}
