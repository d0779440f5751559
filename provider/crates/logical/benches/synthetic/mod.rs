//! A server that makes up what it lists: object n of a kind is always the same, so it needs no memory.
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use tokio::sync::broadcast;

#[derive(Clone)]
enum Order {
    Burst(u64),
    Expire,
}

struct Shared {
    orders: broadcast::Sender<Order>,
    address: std::net::SocketAddr,
}

/// Serves until killed; prints its port.
pub fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        println!("{}", address.port());
        let shared = Arc::new(Shared { orders: broadcast::channel(16).0, address });
        axum::serve(listener, Router::new().fallback(answer).with_state(shared)).await.unwrap();
    });
}

/// Objects of a kind in each workspace.
fn per_workspace(plural: &str) -> u64 {
    if plural == "serviceencryptionkeys" { 5 } else { 1 }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let query: BTreeMap<&str, &str> = pairs.collect();
    match segments[..] {
        ["burst", n] => {
            let _ = shared.orders.send(Order::Burst(n.parse().unwrap()));
            return "".into_response();
        }
        ["expire"] => {
            let _ = shared.orders.send(Order::Expire);
            return "".into_response();
        }
        _ => {}
    }
    let plural = segments.last().copied().unwrap_or_default().to_owned();
    let workspaces: u64 = segments[0].parse().unwrap();
    if query.contains_key("watch") {
        return watch(&shared, &plural);
    }
    let mut text = String::with_capacity(1 << 20);
    if plural == "apiexportendpointslices" {
        let url = format!("http://{}/{workspaces}", shared.address);
        text = format!(
            r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{{"metadata":{{"name":"openkcm.io"}},"spec":{{}},"status":{{"endpoints":[{{"url":"{url}"}}]}}}}]}}"#
        );
        return text.into_response();
    }
    let from: u64 = query.get("continue").map_or(0, |n| n.parse().unwrap());
    let limit: u64 = query.get("limit").map_or(u64::MAX, |n| n.parse().unwrap());
    let total = workspaces * per_workspace(&plural);
    let to = total.min(from.saturating_add(limit));
    let next = if to < total { format!(r#","continue":"{to}""#) } else { String::new() };
    let _ = write!(text, r#"{{"kind":"List","metadata":{{"resourceVersion":"1000000"{next}}},"items":["#);
    for n in from..to {
        if n > from {
            text.push(',');
        }
        object(&mut text, &plural, n, n + 1);
    }
    text.push_str("]}");
    text.into_response()
}

fn watch(shared: &Shared, plural: &str) -> Response {
    let (orders, plural) = (shared.orders.subscribe(), plural.to_owned());
    if plural == "apiexportendpointslices" {
        return Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()).into_response();
    }
    // (orders, events left of a burst, resourceVersion)
    let feed = stream::unfold(
        (orders, 0u64, 2_000_000u64, false),
        move |(mut orders, mut left, mut version, over)| {
            let plural = plural.clone();
            async move {
                if over {
                    return None;
                }
                while left == 0 {
                    match orders.recv().await.ok()? {
                        Order::Expire => {
                            let gone = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old"}}"#;
                            return Some((
                                Ok::<_, std::io::Error>(Bytes::from(format!("{gone}\n"))),
                                (orders, 0, version, true),
                            ));
                        }
                        Order::Burst(n) if plural == "serviceencryptionkeys" => left = n,
                        Order::Burst(_) => {}
                    }
                }
                let mut text = String::new();
                for _ in 0..left.min(50) {
                    version += 1;
                    text.push_str(r#"{"type":"MODIFIED","object":"#);
                    object(&mut text, &plural, version % 5_000, version);
                    text.push_str("}\n");
                    left -= 1;
                }
                Some((Ok(Bytes::from(text)), (orders, left, version, false)))
            }
        },
    );
    Body::from_stream(feed.boxed()).into_response()
}

/// As the provider leaves them after one rotation.
fn object(text: &mut String, plural: &str, n: u64, version: u64) {
    let workspace = n / per_workspace(plural);
    let which = n % per_workspace(plural);
    // Sixteen characters, as kcp makes them.
    let cluster = format!("{:016x}", workspace.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let meta = |name: &str, namespace: &str, extra: &str| {
        format!(
            r#""metadata":{{"name":"{name}"{namespace},"uid":"{n:08x}-5c0f-4a63-9d5e-7f0c2b1a4e9d","resourceVersion":"{version}","generation":1,"creationTimestamp":"2026-11-21T10:00:00Z"{extra},"annotations":{{"kcp.io/cluster":"{cluster}"}},"managedFields":[{{"manager":"kubectl","operation":"Update","apiVersion":"openkcm.io/v1alpha1","time":"2026-11-21T10:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{".":{{}},"f:accountRef":{{".":{{}},"f:name":{{}}}},"f:rotationSchedule":{{}}}}}}}}]}}"#
        )
    };
    let condition = |kind: &str, reason: &str, message: &str| {
        format!(
            r#"{{"type":"{kind}","status":"True","reason":"{reason}","message":"{message}","lastTransitionTime":"2026-11-21T10:00:01Z","observedGeneration":1}}"#
        )
    };
    let _ = match plural {
        "apibindings" => write!(
            text,
            r#"{{"apiVersion":"apis.kcp.io/v1alpha2","kind":"APIBinding",{},"spec":{{"reference":{{"export":{{"path":"root:providers:openkcm","name":"openkcm.io"}}}},"permissionClaims":[{{"resource":"events","group":"","verbs":["*"],"selector":{{"matchAll":true}},"state":"Accepted"}}]}},"status":{{"phase":"Bound","apiExportClusterName":"2x7k1pq9vd3mzs0a","boundResources":[{},{},{}],"appliedPermissionClaims":[{{"resource":"events","group":"","verbs":["*"],"selector":{{"matchAll":true}}}}],"exportPermissionClaims":[{{"resource":"events","group":"","verbs":["*"]}}],"conditions":[{},{},{}]}}}}"#,
            meta("openkcm.io-x7k2p", "", r#","finalizers":["apis.kcp.io/apibinding-finalizer"]"#).replace(
                r#""annotations":{"#,
                &format!(r#""annotations":{{"kcp.io/path":"root:orgs:acme:team-{workspace}","#)
            ),
            bound("tenants"),
            bound("accounts"),
            bound("serviceencryptionkeys"),
            condition("Ready", "Ready", ""),
            condition("InitialBindingCompleted", "Done", ""),
            condition("PermissionClaimsApplied", "Applied", ""),
        ),
        "tenants" => write!(
            text,
            r#"{{"apiVersion":"openkcm.io/v1alpha1","kind":"Tenant",{},"spec":{{}},"status":{{"phase":"Active","logicalCluster":"{cluster}","path":"root:orgs:acme:team-{workspace}","recovered":false,"accounts":1,"serviceEncryptionKeys":5,"observedGeneration":1,"conditions":[{}]}}}}"#,
            meta(&format!("tenant-root-orgs-acme-team-{workspace}"), "", ""),
            condition("Ready", "Active", "The workspace is bound and its key chain is in use."),
        ),
        "accounts" => write!(
            text,
            r#"{{"apiVersion":"openkcm.io/v1alpha1","kind":"Account",{},"spec":{{"providerType":"AWSKMS","keyReference":"arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}},"status":{{"phase":"Ready","rootKey":{{"reference":"arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab","algorithm":"SYMMETRIC_DEFAULT","lastVerified":"2026-11-21T10:00:01Z"}},"accountKeyVersion":1,"dependents":5,"observedGeneration":1,"conditions":[{},{}]}}}}"#,
            meta("aws-root-production", "", r#","finalizers":["openkcm.io/keys"]"#),
            condition("Ready", "Verified", "The root key was described, and a probe wrapped and unwrapped."),
            condition("RootKeyVerified", "Verified", ""),
        ),
        _ => write!(
            text,
            r#"{{"apiVersion":"openkcm.io/v1alpha1","kind":"ServiceEncryptionKey",{},"spec":{{"accountRef":{{"name":"aws-root-production"}},"algorithm":"AES-GCM-256","rotationSchedule":"30 Days","state":"Enabled"}},"status":{{"state":"Active","currentVersion":"v2","lastRotation":"2026-11-21T10:00:02Z","nextRotation":"2026-12-21T10:00:02Z","activeClients":3,"edges":{{"total":3,"current":3,"evicted":0}},"versions":[{{"version":"v2","state":"Active","created":"2026-11-21T10:00:02Z","accountKeyVersion":1}},{{"version":"v1","state":"Deactivated","created":"2026-10-21T10:00:02Z","accountKeyVersion":1}}],"observedGeneration":1,"conditions":[{},{}]}}}}"#,
            meta(
                &format!("payments-db-{which}"),
                r#","namespace":"payments""#,
                r#","finalizers":["openkcm.io/keys"]"#
            ),
            condition("Ready", "Active", "The key encrypts with v2."),
            condition("Distributed", "Current", "3 of 3 edges hold v2."),
        ),
    };
}

fn bound(plural: &str) -> String {
    format!(
        r#"{{"group":"openkcm.io","resource":"{plural}","schema":{{"name":"v1a2b3c4d.{plural}.openkcm.io","UID":"7f0c2b1a-5c0f-4a63-9d5e-0123456789ab","identityHash":"4b5f1d6d0e5b7a1c9e2f3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f"}},"storageVersions":["v1alpha1"]}}"#
    )
}
