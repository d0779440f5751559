//! A workspace binds, unbinds and binds again.

use jiff::{SignedDuration, Timestamp};
use openkcm_apis::{Tenant, TenantPhase, TenantStatus, conditions};

use crate::{Plan, conditions::Conditions};

/// Condition of a Tenant: there is just one binding of our export in the workspace.
const SINGLE_BINDING: &str = "SingleBinding";

/// A binding that is simply not there any more (its finalizers were forced away) ends the tenant's activity after
/// this time. Until then it is unknown, not gone.
const ABSENT_GRACE: SignedDuration = SignedDuration::from_mins(10);

/// One APIBinding to our export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding {
    /// Its kinds are served in the workspace. A second binding of the same export never gets there.
    pub bound: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// The workspace's path, as kcp wrote it on the binding.
    pub path: Option<String>,
    /// Claims of the export that the binding does not accept, as `resource.group`.
    pub unaccepted_claims: Vec<String>,
}

/// What the ledger says of the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Suspended because its binding went.
    pub unbound: bool,
    /// Suspended by the operator, with this reason.
    pub operator_reason: Option<String>,
    /// It was unbound before and came back.
    pub recovered: bool,
    /// Path when last recorded.
    pub path: String,
}

/// Everything that the decision depends on.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The time.
    pub now: Timestamp,
    /// Name of the logical cluster.
    pub cluster: &'a str,
    /// The workspace is served by an endpoint that is in sync.
    pub visible: bool,
    /// Since when it is visible without any binding, as far as this process has seen.
    pub absent_since: Option<Timestamp>,
    /// All bindings to our export in the workspace.
    pub bindings: Vec<Binding>,
    /// The Tenant object.
    pub object: Option<&'a Tenant>,
    /// The ledger's record.
    pub record: Option<Record>,
    /// Accounts in the workspace.
    pub accounts: usize,
    /// ServiceEncryptionKeys in the workspace.
    pub keys: usize,
}

/// What to do about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Record the tenant as bound; find it again if it was here before.
    Activate {
        /// The workspace's path.
        path: String,
    },
    /// Record the tenant as unbound. Its keys leave the edges, and nothing is destroyed.
    Suspend,
    /// Make the Tenant object, with our finalizer.
    Create {
        /// Its name.
        name: String,
    },
    /// Put our finalizer on the Tenant object.
    AddFinalizer,
    /// Let the Tenant object go.
    RemoveFinalizer,
}

impl Effect {
    /// One word, for logs and tests.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Activate { .. } => "activate",
            Self::Suspend => "suspend",
            Self::Create { .. } => "create",
            Self::AddFinalizer => "add-finalizer",
            Self::RemoveFinalizer => "remove-finalizer",
        }
    }
}

/// Whether a binding that works is being deleted: then every deletion in the workspace is an unbind.
pub fn is_unbinding(bindings: &[Binding]) -> bool {
    bindings.iter().any(|binding| binding.bound && binding.deleting)
}

/// Whether a binding works and stays.
pub fn is_bound(bindings: &[Binding]) -> bool {
    !is_unbinding(bindings) && bindings.iter().any(|binding| binding.bound)
}

/// Decides about one workspace.
pub fn plan(input: &Input<'_>) -> Plan<Effect, TenantStatus> {
    let deleting = input.object.is_some_and(|object| object.metadata.deletion_timestamp.is_some());
    let ours = input.object.is_some_and(|object| crate::conditions::has_finalizer(&object.metadata));
    if is_unbinding(&input.bindings) {
        // Durable before the finalizers go: after that kcp forgets the workspace's objects.
        if input.record.as_ref().is_some_and(|record| !record.unbound) {
            return Plan::act(Effect::Suspend);
        }
        if deleting && ours {
            return Plan::act(Effect::RemoveFinalizer);
        }
        return Plan::idle();
    }
    if !is_bound(&input.bindings) {
        return without_binding(input);
    }
    let path = input.bindings.iter().find_map(|binding| binding.path.clone());
    let Some(path) = path.or_else(|| input.record.as_ref().map(|record| record.path.clone())) else {
        // kcp writes the path at admission, except for a moment while a workspace is made.
        return Plan::wait(Some(input.now + SignedDuration::from_secs(2)));
    };
    let Some(record) = input.record.as_ref().filter(|record| !record.unbound && record.path == path) else {
        return Plan::act(Effect::Activate { path });
    };
    match input.object {
        None => Plan::act(Effect::Create { name: openkcm_apis::tenant_name(&path) }),
        Some(_) if deleting && ours => Plan::act(Effect::RemoveFinalizer),
        Some(_) if deleting => Plan::idle(),
        Some(_) if !ours => Plan::act(Effect::AddFinalizer),
        Some(object) => Plan::settled(status(input, object, record, path), None),
    }
}

fn without_binding(input: &Input<'_>) -> Plan<Effect, TenantStatus> {
    let Some(record) = &input.record else { return Plan::idle() };
    if record.unbound || !input.visible {
        return Plan::idle();
    }
    let Some(since) = input.absent_since else { return Plan::wait(Some(input.now + ABSENT_GRACE)) };
    let until = since + ABSENT_GRACE;
    if input.now >= until { Plan::act(Effect::Suspend) } else { Plan::wait(Some(until)) }
}

fn status(input: &Input<'_>, object: &Tenant, record: &Record, path: String) -> TenantStatus {
    let mut set = Conditions::of(
        object.status.as_ref().map(|status| status.conditions.as_slice()),
        object.metadata.generation,
        input.now,
    );
    if let Some(reason) = &record.operator_reason {
        set.set_false(
            conditions::READY,
            "SuspendedByOperator",
            format!("The operator of OpenKCM suspended this tenant: {reason}. No key works until it is resumed; none is lost."),
        );
    } else {
        set.set_true(conditions::READY, "Active", "Keys of this workspace can be used.");
    }
    let unaccepted = input
        .bindings
        .iter()
        .filter(|binding| binding.bound)
        .flat_map(|binding| binding.unaccepted_claims.iter())
        .fold(
            String::new(),
            |all, claim| if all.is_empty() { claim.clone() } else { format!("{all}, {claim}") },
        );
    if unaccepted.is_empty() {
        set.set_true(
            conditions::CLAIMS_ACCEPTED,
            "Accepted",
            "The binding accepts everything that the export asks for.",
        );
    } else {
        set.set_false(
            conditions::CLAIMS_ACCEPTED,
            "NotAccepted",
            format!(
                "The APIBinding does not accept: {unaccepted}. OpenKCM works without it, but cannot write Events here. \
                 To accept, set state: Accepted for it in spec.permissionClaims of the APIBinding."
            ),
        );
    }
    if input.bindings.len() > 1 {
        set.set_false(
            SINGLE_BINDING,
            "SeveralBindings",
            format!(
                "{} APIBindings in this workspace name this export. One is in use; delete the others.",
                input.bindings.len()
            ),
        );
    } else {
        set.remove(SINGLE_BINDING);
    }
    TenantStatus {
        phase: Some(if record.operator_reason.is_some() {
            TenantPhase::Suspended
        } else {
            TenantPhase::Active
        }),
        logical_cluster: Some(input.cluster.to_owned()),
        path: Some(path),
        recovered: record.recovered,
        accounts: i32::try_from(input.accounts).unwrap_or(i32::MAX),
        service_encryption_keys: i32::try_from(input.keys).unwrap_or(i32::MAX),
        conditions: set.done(),
        observed_generation: object.metadata.generation,
    }
}
