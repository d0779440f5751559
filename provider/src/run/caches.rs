//! What is kept in memory of each object that is watched. There can be a million of them: bindings are boiled down to what
//! is decided about, the others are compressed and decoded for the one round that is about them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kcp_client_rs::{
    apis::{ApiBinding, ApiBindingStatusExportPermissionClaim},
    logical_cluster::PATH_ANNOTATION,
};
use openkcm_apis::{
    Account, AccountPhase, EffectiveState, ServiceEncryptionKey, Tenant,
    conditions::{READY, ROTATION_OVERDUE, reasons},
};
use openkcm_logical::{Builder, Cache, Packed, trim_metadata};
use openkcm_plan::tenant;

use super::provider::UNREADABLE;

/// Everything the provider watches.
pub struct Caches {
    /// `None`: a binding to another export.
    pub bindings: Cache<Option<tenant::Binding>>,
    pub tenants: Cache<Packed<Tenant, ()>>,
    /// With the phase and the reason, for the metrics.
    pub accounts: Cache<Packed<Account, (Option<AccountPhase>, &'static str)>>,
    pub keys: Cache<Packed<ServiceEncryptionKey, KeySummary>>,
    export: String,
}

/// What is asked of all keys of a workspace at once.
pub struct KeySummary {
    /// Name of the Account in the spec.
    pub account: Box<str>,
    /// `None`: no status yet.
    pub state: Option<EffectiveState>,
    /// See [`reason`].
    pub reason: &'static str,
    pub overdue: bool,
}

impl Caches {
    pub fn watch(builder: &mut Builder, export: &str) -> Self {
        let watched = export.to_owned();
        Self {
            bindings: builder.watch_as(move |binding: ApiBinding| view_of(&binding, &watched)),
            tenants: builder.watch_packed(trim_metadata, |_| ()),
            accounts: builder.watch_packed(trim_metadata, |account: &Account| {
                let status = account.status.as_ref();
                let conditions = status.map_or(&[][..], |status| &status.conditions);
                (status.and_then(|status| status.phase), reason(conditions))
            }),
            keys: builder.watch_packed(trim_metadata, |key: &ServiceEncryptionKey| {
                let conditions = key.status.as_ref().map_or(&[][..], |status| &status.conditions);
                KeySummary {
                    account: key.spec.account_ref.name.as_str().into(),
                    state: key.status.as_ref().and_then(|status| status.state),
                    reason: reason(conditions),
                    overdue: conditions.iter().any(|it| it.type_ == ROTATION_OVERDUE && it.status == "True"),
                }
            }),
            export: export.to_owned(),
        }
    }

    /// What is decided about of a binding; `None` if it is one to another export.
    pub fn view(&self, binding: &ApiBinding) -> Option<tenant::Binding> {
        view_of(binding, &self.export)
    }
}

/// The reason of the condition Ready. One of a fixed set, so that no one can make as many time series as they like.
fn reason(conditions: &[Condition]) -> &'static str {
    const KNOWN: &[&str] = &[
        reasons::OK,
        reasons::PROGRESSING,
        reasons::NOT_FOUND,
        reasons::ACCESS_DENIED,
        reasons::DISABLED,
        reasons::PENDING_DELETION,
        reasons::WRONG_KEY_TYPE,
        reasons::THROTTLED,
        reasons::UNREACHABLE,
        reasons::MISCONFIGURED,
        reasons::ACCOUNT_NOT_FOUND,
        reasons::ACCOUNT_NOT_READY,
        reasons::ACCOUNT_DELETING,
        reasons::INVALID_SPEC,
        reasons::TENANT_SUSPENDED,
        reasons::LEDGER_BEHIND,
        "Ready",
        "Verifying",
        "RootLost",
        "Deleting",
        UNREADABLE,
    ];
    let ready = conditions.iter().find(|condition| condition.type_ == READY);
    ready.map_or("", |ready| KNOWN.iter().find(|known| **known == ready.reason).unwrap_or(&"Other"))
}

fn view_of(binding: &ApiBinding, export: &str) -> Option<tenant::Binding> {
    if binding.spec.reference.export.as_ref().is_none_or(|it| it.name != export) {
        return None;
    }
    let accepted = |claim: &ApiBindingStatusExportPermissionClaim| {
        let applied = binding.status.iter().flat_map(|status| &status.applied_permission_claims);
        applied.into_iter().any(|applied| applied.resource == claim.resource && applied.group == claim.group)
    };
    let claims = binding.status.iter().flat_map(|status| &status.export_permission_claims);
    Some(tenant::Binding {
        bound: binding.is_bound(),
        deleting: binding.metadata.deletion_timestamp.is_some(),
        path: binding.metadata.annotations.as_ref().and_then(|all| all.get(PATH_ANNOTATION)).cloned(),
        unaccepted_claims: claims
            .filter(|claim| !accepted(claim))
            .map(|claim| match claim.group.as_deref() {
                None | Some("") => claim.resource.clone(),
                Some(group) => format!("{}.{group}", claim.resource),
            })
            .collect(),
    })
}
