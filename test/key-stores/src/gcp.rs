//! A contract server of Google Cloud KMS: the REST form that Google's own Rust and Python clients speak.
//!
//! Keys are named as in an Account, without version. `aes` keys have the purpose `ENCRYPT_DECRYPT`, `rsa` keys `ASYMMETRIC_DECRYPT`, `signing`
//! keys `MAC`. The identity of a caller is its bearer token; none without.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State as Extract,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use serde_json::{Value, json};

use crate::{
    control::{Control, Fault, World},
    keys::{Key, KeyType, State, Version},
    serve::{Running, serve},
};

/// A running server.
pub struct Server {
    /// Where the service is, over plain HTTP.
    pub address: SocketAddr,
    /// Where the control port is.
    pub control_address: SocketAddr,
    /// The inside.
    pub control: Control,
    _running: [Running; 2],
}

impl Server {
    /// Starts on these addresses; port 0 takes a free one.
    pub async fn start(address: SocketAddr, control_address: SocketAddr) -> anyhow::Result<Self> {
        let control = Control::default();
        let app = Router::new().fallback(answer).with_state(control.clone());
        let running = serve(address, None, control.watch_down(), app).await?;
        let controller = control.serve(control_address).await?;
        Ok(Self {
            address: running.address,
            control_address: controller.address,
            control,
            _running: [running, controller],
        })
    }
}

fn error(status: u16, code: &str, message: &str, details: &Value) -> Response {
    let http = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (http, Json(json!({"error": {"code": status, "message": message, "status": code, "details": details}})))
        .into_response()
}

fn not_found(name: &str) -> Response {
    error(404, "NOT_FOUND", &format!("{name} not found."), &json!([]))
}

fn denied(name: &str) -> Response {
    let message =
        format!("Permission 'cloudkms.cryptoKeys.get' denied on resource '{name}' (or it may not exist).");
    let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED",
        "domain": "cloudkms.googleapis.com", "metadata": {"permission": "cloudkms.cryptoKeys.get", "resource": name}});
    error(403, "PERMISSION_DENIED", &message, &json!([info]))
}

fn precondition(name: &str, state: State) -> Response {
    let state = state_name(state);
    let kind = if state == "DISABLED" { "KEY_DISABLED" } else { "KEY_DESTROY_SCHEDULED" };
    let detail = json!({"@type": "type.googleapis.com/google.rpc.PreconditionFailure",
        "violations": [{"type": kind, "subject": name, "description": state}]});
    let message = format!("{name} is not enabled, current state is: {state}.");
    error(400, "FAILED_PRECONDITION", &message, &json!([detail]))
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Enabled => "ENABLED",
        State::Disabled => "DISABLED",
        State::PendingDeletion => "DESTROY_SCHEDULED",
    }
}

async fn answer(
    Extract(control): Extract<Control>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().strip_prefix("/v1/").unwrap_or_default();
    let (name, operation) = match path.rsplit_once(':') {
        Some((name, operation)) if !operation.contains('/') => (name, operation),
        _ => (path, "get"),
    };
    let (name, operation) = match name.strip_suffix("/publicKey") {
        Some(name) => (name, "publicKey"),
        None => (name, operation),
    };
    {
        let calls = &mut control.world().calls;
        match operation {
            "encrypt" | "publicKey" => calls.wrap += 1,
            "decrypt" | "asymmetricDecrypt" => calls.unwrap += 1,
            _ => calls.describe += 1,
        }
    }
    match control.misbehave().await {
        Fault::None | Fault::Tampered | Fault::Hang => {}
        Fault::Denied => return denied(name),
        Fault::Throttled => {
            return error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for project 12345", &json!([]));
        }
        Fault::Error => return error(500, "INTERNAL", "internal error on borg task 17", &json!([])),
        Fault::Html => {
            return (
                StatusCode::BAD_GATEWAY,
                [(header::CONTENT_TYPE, "text/html")],
                "<html>bad gateway</html>",
            )
                .into_response();
        }
        Fault::Empty => return Json(json!({})).into_response(),
        Fault::Redirect => return Redirect::temporary(&control.world().elsewhere).into_response(),
    }
    let request: Value =
        if body.is_empty() { json!({}) } else { serde_json::from_slice(&body).unwrap_or_default() };
    if request.is_null() {
        return error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.", &json!([]));
    }
    let identity =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let identity = identity.strip_prefix("Bearer ").unwrap_or_default();
    let world = control.world();
    service(&world, &method, name, operation, identity, &request)
}

fn service(
    world: &World,
    method: &Method,
    name: &str,
    operation: &str,
    identity: &str,
    request: &Value,
) -> Response {
    let (base, number) = match name.split_once("/cryptoKeyVersions/") {
        Some((base, number)) => (base, number.parse::<u32>().ok()),
        None => (name, None),
    };
    if !world.allows(identity, base) {
        return denied(base);
    }
    let Some(key) = world.keys.get(base) else { return not_found(name) };
    let current = key.current();
    let chosen = match number {
        Some(number) => key.versions.get(&number).map(|version| (number, version)),
        None if name == base => current,
        None => None,
    };
    let Some((number, version)) = chosen else { return not_found(name) };
    let full = format!("{base}/cryptoKeyVersions/{number}");
    match (method.as_str(), operation) {
        ("GET", "get") if name == base => Json(describe(base, key, current)).into_response(),
        ("GET", "get") => Json(describe_version(&full, key, version)).into_response(),
        ("GET", "publicKey") => public_key(&full, version),
        ("POST", "encrypt") => encrypt(&full, key, version, request, world.fault),
        ("POST", "decrypt") if name == base => decrypt(base, key, request, world.fault),
        ("POST", "asymmetricDecrypt") if name != base => {
            asymmetric_decrypt(&full, version, request, world.fault)
        }
        _ => error(404, "NOT_FOUND", "Method not found.", &json!([])),
    }
}

fn describe(base: &str, key: &Key, current: Option<(u32, &Version)>) -> Value {
    let purpose = match key.kind {
        KeyType::Aes => "ENCRYPT_DECRYPT",
        KeyType::Rsa => "ASYMMETRIC_DECRYPT",
        KeyType::Signing => "MAC",
    };
    let mut answer = json!({"name": base, "purpose": purpose, "createTime": "2026-01-01T00:00:00Z"});
    if let (KeyType::Aes, Some((number, version))) = (key.kind, current) {
        answer["primary"] = describe_version(&format!("{base}/cryptoKeyVersions/{number}"), key, version);
    }
    answer
}

fn describe_version(full: &str, key: &Key, version: &Version) -> Value {
    let algorithm = match key.kind {
        KeyType::Aes => "GOOGLE_SYMMETRIC_ENCRYPTION",
        KeyType::Rsa => "RSA_DECRYPT_OAEP_2048_SHA256",
        KeyType::Signing => "HMAC_SHA256",
    };
    json!({"name": full, "state": state_name(version.state), "protectionLevel": "SOFTWARE", "algorithm": algorithm})
}

fn sum(bytes: &[u8]) -> String {
    crc32c::crc32c(bytes).to_string()
}

/// A field of bytes; absent is empty. `None` if it is not base64.
fn bytes(request: &Value, field: &str) -> Option<Vec<u8>> {
    match &request[field] {
        Value::Null => Some(Vec::new()),
        // Both alphabets are accepted for JSON by the service.
        Value::String(text) => STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok(),
        _ => None,
    }
}

/// Whether the checksum, if there is one, fits; `Err` if it does not.
#[allow(clippy::result_large_err)] // axum's own response
fn checked(request: &Value, field: &str, content: &[u8]) -> Result<bool, Response> {
    let given = match &request[field] {
        Value::Null => return Ok(false),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if given == sum(content) {
        return Ok(true);
    }
    let message = format!("The checksum in field {field} did not match the data in the request.");
    Err(error(400, "INVALID_ARGUMENT", &message, &json!([])))
}

fn invalid(message: &str) -> Response {
    error(400, "INVALID_ARGUMENT", message, &json!([]))
}

/// Flips a bit after the checksums are made, as a broken path would.
fn on_the_way(mut content: Vec<u8>, fault: Fault) -> String {
    if fault == Fault::Tampered
        && let Some(last) = content.last_mut()
    {
        *last ^= 1;
    }
    STANDARD.encode(content)
}

fn encrypt(full: &str, key: &Key, version: &Version, request: &Value, fault: Fault) -> Response {
    if version.state != State::Enabled {
        return precondition(full, version.state);
    }
    if key.kind != KeyType::Aes {
        return invalid("The purpose of the key does not permit this operation.");
    }
    let (Some(plaintext), Some(aad)) =
        (bytes(request, "plaintext"), bytes(request, "additionalAuthenticatedData"))
    else {
        return invalid("Invalid base64.");
    };
    let plaintext_checked = match checked(request, "plaintextCrc32c", &plaintext) {
        Ok(checked) => checked,
        Err(answer) => return answer,
    };
    let aad_checked = match checked(request, "additionalAuthenticatedDataCrc32c", &aad) {
        Ok(checked) => checked,
        Err(answer) => return answer,
    };
    let Some(sealed) = version.seal(&plaintext, &aad) else { return invalid("Encryption failed.") };
    Json(json!({"name": full, "ciphertextCrc32c": sum(&sealed), "ciphertext": on_the_way(sealed, fault),
        "verifiedPlaintextCrc32c": plaintext_checked, "verifiedAdditionalAuthenticatedDataCrc32c": aad_checked,
        "protectionLevel": "SOFTWARE"}))
    .into_response()
}

fn decrypt(base: &str, key: &Key, request: &Value, fault: Fault) -> Response {
    if key.kind != KeyType::Aes {
        return invalid("The purpose of the key does not permit this operation.");
    }
    let (Some(sealed), Some(aad)) =
        (bytes(request, "ciphertext"), bytes(request, "additionalAuthenticatedData"))
    else {
        return invalid("Invalid base64.");
    };
    for (field, content) in [("ciphertextCrc32c", &sealed), ("additionalAuthenticatedDataCrc32c", &aad)] {
        if let Err(answer) = checked(request, field, content) {
            return answer;
        }
    }
    let opened = key.versions.iter().rev().find_map(|(number, version)| {
        version.open(&sealed, &aad).map(|plaintext| (*number, version, plaintext))
    });
    match opened {
        None => invalid("Decryption failed: the ciphertext is invalid."),
        Some((number, version, _)) if version.state != State::Enabled => {
            precondition(&format!("{base}/cryptoKeyVersions/{number}"), version.state)
        }
        Some((number, _, plaintext)) => Json(json!({
            "plaintextCrc32c": sum(&plaintext), "plaintext": on_the_way(plaintext, fault),
            "usedPrimary": key.current().is_some_and(|(current, _)| current == number), "protectionLevel": "SOFTWARE"}))
        .into_response(),
    }
}

fn public_key(full: &str, version: &Version) -> Response {
    if version.state != State::Enabled {
        return precondition(full, version.state);
    }
    let Some(der) = version.public_der() else { return invalid("The key is not asymmetric.") };
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    Json(json!({"name": full, "pemCrc32c": sum(pem.as_bytes()), "pem": pem,
        "algorithm": "RSA_DECRYPT_OAEP_2048_SHA256", "protectionLevel": "SOFTWARE"}))
    .into_response()
}

fn asymmetric_decrypt(full: &str, version: &Version, request: &Value, fault: Fault) -> Response {
    if version.state != State::Enabled {
        return precondition(full, version.state);
    }
    let Some(sealed) = bytes(request, "ciphertext") else { return invalid("Invalid base64.") };
    let verified = match checked(request, "ciphertextCrc32c", &sealed) {
        Ok(verified) => verified,
        Err(answer) => return answer,
    };
    let Some(plaintext) = version.unwrap_rsa(&sealed) else {
        return invalid("Decryption failed: the ciphertext is invalid.");
    };
    Json(json!({"plaintextCrc32c": sum(&plaintext), "plaintext": on_the_way(plaintext, fault),
        "verifiedCiphertextCrc32c": verified, "protectionLevel": "SOFTWARE"}))
    .into_response()
}
