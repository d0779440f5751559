//! Who may do what: in the provider workspace, and through it in every workspace that binds the export.

use serde_json::{Value, json};

use super::{
    EXPORT_NAME, MANAGED_BY, MANAGED_BY_LABEL, PROVIDER_NAMESPACE, PROVIDER_SERVICE_ACCOUNT,
    PROVIDER_TOKEN_SECRET, sorted,
};
use crate::GROUP;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The ServiceAccount of the provider and the least that it needs: to find and use the export's virtual workspace,
/// and Leases beside itself.
pub fn provider_rights() -> Vec<Value> {
    let subject =
        json!({"kind": "ServiceAccount", "name": PROVIDER_SERVICE_ACCOUNT, "namespace": PROVIDER_NAMESPACE});
    let name = "openkcm-provider";
    finished([
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROVIDER_NAMESPACE}}),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": PROVIDER_SERVICE_ACCOUNT, "namespace": PROVIDER_NAMESPACE},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": PROVIDER_TOKEN_SECRET, "namespace": PROVIDER_NAMESPACE,
                "annotations": {"kubernetes.io/service-account.name": PROVIDER_SERVICE_ACCOUNT},
            },
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [
                {
                    "apiGroups": ["apis.kcp.io"], "resources": ["apiexports", "apiexportendpointslices"],
                    "verbs": ["get", "list", "watch"],
                },
                {
                    "apiGroups": ["apis.kcp.io"], "resources": ["apiexports/content"],
                    "resourceNames": [EXPORT_NAME], "verbs": ["*"],
                },
            ],
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name}, "subjects": [subject],
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "Role",
            "metadata": {"name": name, "namespace": PROVIDER_NAMESPACE},
            "rules": [{
                "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
            }],
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": PROVIDER_NAMESPACE},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name}, "subjects": [subject],
        }),
    ])
}

const RBAC_V1: &str = "rbac.authorization.k8s.io/v1";

/// What consumers may do at most, whatever their own workspace grants, and who may bind.
///
/// Tenants and every status are read-only to them: the provider alone says what is true.
pub fn consumer_rights() -> Vec<Value> {
    let (limit, bind) = ("openkcm-consumers", "openkcm-bind");
    let group = |name: &str| json!([{"apiGroup": RBAC, "kind": "Group", "name": name}]);
    finished([
        json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRole", "metadata": {"name": limit},
            "rules": [
                {
                    "apiGroups": [GROUP], "resources": ["accounts", "serviceencryptionkeys"],
                    "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
                },
                {"apiGroups": [GROUP], "resources": ["tenants"], "verbs": ["get", "list", "watch"]},
                {
                    "apiGroups": [GROUP],
                    "resources": ["tenants/status", "accounts/status", "serviceencryptionkeys/status"],
                    "verbs": ["get"],
                },
            ],
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRoleBinding", "metadata": {"name": limit},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": limit},
            // kcp prefixes groups of a bound workspace like this when it asks here.
            "subjects": group("apis.kcp.io:binding:system:authenticated"),
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRole", "metadata": {"name": bind},
            "rules": [{
                "apiGroups": ["apis.kcp.io"], "resources": ["apiexports"],
                "resourceNames": [EXPORT_NAME], "verbs": ["bind"],
            }],
        }),
        json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRoleBinding", "metadata": {"name": bind},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": bind},
            "subjects": group("system:authenticated"),
        }),
    ])
}

/// Admission policies: kcp enforces those of the provider workspace in every workspace that binds the export.
pub fn admission() -> Vec<Value> {
    let name = "openkcm-account-in-use";
    finished([
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [GROUP], "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["accounts"],
                }]},
                // kcp itself deletes everything when a workspace unbinds or goes. It must not be stopped.
                "matchConditions": [{
                    "name": "not-kcp-itself",
                    "expression": "request.userInfo.username != 'system:apiserver' \
                        && !('system:masters' in request.userInfo.groups)",
                }],
                // A policy cannot count other objects. Only the provider writes status, so its count can be trusted;
                // a key that it has not counted yet is held by the Account's finalizer.
                "variables": [{
                    "name": "dependents",
                    "expression": "has(oldObject.status) && has(oldObject.status.dependents) \
                        ? oldObject.status.dependents : 0",
                }],
                "validations": [{
                    "expression": "variables.dependents == 0",
                    "reason": "Forbidden",
                    "messageExpression": "'Account ' + oldObject.metadata.name + ' protects ' \
                        + string(variables.dependents) + (variables.dependents == 1 \
                        ? ' ServiceEncryptionKey, which ' : ' ServiceEncryptionKeys, which ') \
                        + 'could not be used without it. Delete them first; to list them: kubectl get sek -A | awk \\'$3 == \"' \
                        + oldObject.metadata.name + '\"\\''",
                }],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        }),
    ])
}

/// Roles to copy into a workspace that has bound the export: administer, operate, look.
pub fn consumer_roles() -> Vec<Value> {
    let read = json!(["get", "list", "watch"]);
    let auditor = json!({"apiGroups": [GROUP], "resources": ["*"], "verbs": read});
    let events = json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": read});
    let role = |name: &str, more: Value| {
        let rules: Vec<&Value> =
            [&auditor, &events].into_iter().chain(more.as_array().into_iter().flatten()).collect();
        sorted(&json!({
            "apiVersion": RBAC_V1, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
        }))
    };
    vec![
        role(
            "openkcm-key-admin",
            json!([{
                "apiGroups": [GROUP], "resources": ["accounts", "serviceencryptionkeys"],
                "verbs": ["create", "update", "patch", "delete"],
            }]),
        ),
        role(
            "openkcm-key-operator",
            json!([{"apiGroups": [GROUP], "resources": ["serviceencryptionkeys"], "verbs": ["update", "patch"]}]),
        ),
        role("openkcm-key-auditor", json!([])),
    ]
}

fn finished<const N: usize>(manifests: [Value; N]) -> Vec<Value> {
    manifests
        .into_iter()
        .map(|mut manifest| {
            manifest["metadata"]["labels"][MANAGED_BY_LABEL] = json!(MANAGED_BY);
            sorted(&manifest)
        })
        .collect()
}
