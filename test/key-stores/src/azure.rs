//! A contract server of Azure Key Vault, Managed HSM and the token endpoint of Microsoft Entra, over TLS.
//!
//! One server is every vault: the `Host` of a request says which. Keys are named as in an Account, without version:
//! `https://acme.vault.azure.net/keys/kek`. Keys of type AES are `oct-HSM` and belong to a Managed HSM.
//!
//! Kept to what the service does where that is surprising: the first call of a client goes without a token and is answered with a challenge;
//! a disabled key still wraps; messages of refusals hold `\r\n`; a deleted key is not found, and is found under `/deletedkeys`.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State as Extract,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    control::{Control, Fault, World},
    keys::{Key, KeyType, State, Version},
    serve::{Running, serve},
    tls::Tls,
};

/// A running server. Identities for [`World::trust`] are `TENANT_ID/CLIENT_ID`; what they may use is a prefix of a key.
pub struct Server {
    /// Where every vault and the login host are.
    pub address: SocketAddr,
    /// Where the control port is.
    pub control_address: SocketAddr,
    /// The inside.
    pub control: Control,
    /// The authority that clients must trust, PEM.
    pub ca_pem: String,
    _running: [Running; 2],
}

/// Hosts that the certificate is for.
const HOSTS: [&str; 7] = [
    "*.vault.azure.net",
    "*.managedhsm.azure.net",
    "*.vault.azure.cn",
    "*.vault.usgovcloudapi.net",
    "login.microsoftonline.com",
    "localhost",
    "127.0.0.1",
];

/// The secret that every application has here.
pub const CLIENT_SECRET: &str = "test-client-secret";

impl Server {
    /// Starts on these addresses; port 0 takes a free one.
    pub async fn start(address: SocketAddr, control_address: SocketAddr) -> anyhow::Result<Self> {
        let tls = Tls::new(&HOSTS)?;
        let control = Control::default();
        let app = Router::new().fallback(answer).with_state(control.clone());
        let running = serve(address, Some(tls.acceptor), control.watch_down(), app).await?;
        let controller = control.serve(control_address).await?;
        Ok(Self {
            address: running.address,
            control_address: controller.address,
            control,
            ca_pem: tls.ca_pem,
            _running: [running, controller],
        })
    }
}

fn error(status: u16, code: &str, message: &str, inner: Option<&str>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut error = json!({"code": code, "message": message});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    (status, Json(json!({"error": error}))).into_response()
}

fn not_found(name: &str) -> Response {
    let message = format!(
        "A key with (name/id) {name} was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command."
    );
    error(404, "KeyNotFound", &message, None)
}

async fn answer(
    Extract(control): Extract<Control>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if host.starts_with("login.") {
        return token(&control, uri.path(), &body);
    }
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(bearer) = bearer else { return challenge(host) };
    let operation = uri.path().rsplit('/').next().unwrap_or_default();
    {
        let calls = &mut control.world().calls;
        match operation {
            "wrapkey" => calls.wrap += 1,
            "unwrapkey" => calls.unwrap += 1,
            _ => calls.describe += 1,
        }
    }
    match control.misbehave().await {
        Fault::None | Fault::Tampered | Fault::Hang => {}
        Fault::Denied => return forbidden(),
        Fault::Throttled => {
            let answer = error(429, "Throttled", "Too many requests", None);
            return ([(header::RETRY_AFTER, "1")], answer).into_response();
        }
        Fault::Error => {
            return error(500, "InternalServerError", "internal error, vault node 10.1.2.3", None);
        }
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
    let world = control.world();
    vault(&world, &method, host, uri.path(), bearer, &body)
}

fn challenge(host: &str) -> Response {
    let resource = if host.contains(".managedhsm.") {
        "https://managedhsm.azure.net"
    } else {
        "https://vault.azure.net"
    };
    let value = format!(
        "Bearer authorization=\"https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47\", resource=\"{resource}\""
    );
    let answer = error(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.", None);
    ([(header::WWW_AUTHENTICATE, value)], answer).into_response()
}

fn forbidden() -> Response {
    let message = "Caller is not authorized to perform action on resource.\r\nCaller: appid=11112222-bbbb-3333-cccc-4444dddd5555;oid=0;iss=https://sts.windows.net/\r\nAction: 'Microsoft.KeyVault/vaults/keys/read'";
    error(403, "Forbidden", message, Some("ForbiddenByRbac"))
}

fn vault(world: &World, method: &Method, host: &str, path: &str, bearer: &str, body: &[u8]) -> Response {
    // With no version the client leaves an empty segment: `/keys/NAME//wrapkey`.
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (name, version, operation) = match (method.as_str(), &segments[..]) {
        ("GET", ["keys", name]) => (*name, "", "get"),
        ("GET", ["keys", name, version]) => (*name, *version, "get"),
        ("GET", ["deletedkeys", name]) => (*name, "", "deleted"),
        ("POST", ["keys", name, version, operation @ ("wrapkey" | "unwrapkey")]) => {
            (*name, *version, *operation)
        }
        _ => return error(400, "BadParameter", "no such operation", None),
    };
    let reference = format!("https://{host}/keys/{name}");
    let identity = bearer.strip_prefix("test-token ").unwrap_or_default();
    if !world.allows(identity, &reference) {
        return forbidden();
    }
    let Some(key) = world.keys.get(&reference) else { return not_found(name) };
    let found =
        if version.is_empty() { key.current().map(|(_, version)| version) } else { key.by_id(version) };
    let Some(found) = found else { return not_found(name) };
    let deleted = found.state == State::PendingDeletion;
    if deleted != (operation == "deleted") {
        return not_found(name);
    }
    match operation {
        "wrapkey" | "unwrapkey" => {
            use_key(&reference, key, found, operation == "wrapkey", world.fault == Fault::Tampered, body)
        }
        _ => Json(describe(host, &reference, key, found)).into_response(),
    }
}

fn describe(host: &str, reference: &str, key: &Key, version: &Version) -> Value {
    let kid = format!("{reference}/{}", version.id);
    let hsm = host.contains(".managedhsm.");
    let mut jwk = match (key.kind, version.rsa_numbers()) {
        (_, Some((n, e))) => json!({
            "kty": if hsm { "RSA-HSM" } else { "RSA" },
            "n": URL_SAFE_NO_PAD.encode(n),
            "e": URL_SAFE_NO_PAD.encode(e),
            "key_ops": ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
        }),
        (KeyType::Signing, None) => json!({"kty": "EC", "crv": "P-256", "key_ops": ["sign", "verify"]}),
        (_, None) => json!({"kty": "oct-HSM", "key_ops": ["encrypt", "decrypt", "wrapKey", "unwrapKey"]}),
    };
    jwk["kid"] = json!(kid);
    json!({
        "key": jwk,
        "attributes": {"enabled": version.state == State::Enabled, "created": 1_700_000_000, "updated": 1_700_000_000,
            "recoveryLevel": "Recoverable", "recoverableDays": 90},
    })
}

fn use_key(reference: &str, key: &Key, version: &Version, wrap: bool, tamper: bool, body: &[u8]) -> Response {
    if version.state == State::Disabled && !wrap {
        let message = "Operation unwrapkey is not allowed on a disabled key.";
        return error(403, "Forbidden", message, Some("KeyDisabled"));
    }
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let value =
        request["value"].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
    let Some(value) = value else {
        return error(400, "BadParameter", "Property  value  is not base64url", None);
    };
    let result = match (request["alg"].as_str(), key.kind, wrap) {
        (Some("RSA-OAEP-256"), KeyType::Rsa, true) => version.wrap_rsa(&value),
        (Some("RSA-OAEP-256"), KeyType::Rsa, false) => version.unwrap_rsa(&value),
        (Some("A256KW"), KeyType::Aes, true) => version.wrap_aes(&value),
        (Some("A256KW"), KeyType::Aes, false) => version.unwrap_aes(&value),
        _ => return error(400, "BadParameter", "The algorithm is not supported by this key", None),
    };
    let Some(mut result) = result else {
        return error(400, "BadParameter", "The parameter is incorrect.\r\n", None);
    };
    if tamper && let Some(last) = result.last_mut() {
        *last ^= 1;
    }
    let kid = format!("{reference}/{}", version.id);
    Json(json!({"kid": kid, "value": URL_SAFE_NO_PAD.encode(result)})).into_response()
}

/// `POST /TENANT_ID/oauth2/v2.0/token`, with a secret or an assertion. The token names the identity, for [`World::allows`].
fn token(control: &Control, path: &str, body: &[u8]) -> Response {
    let tenant = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
    let field =
        |name: &str| fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let (client, assertion) = (field("client_id"), field("client_assertion"));
    // A trust entry `TENANT_ID/CLIENT_ID#TOKEN` is a federated credential: the application accepts exactly that token.
    let subject = format!("{tenant}/{client}#{assertion}");
    let federated = control.world().trust.iter().any(|(who, _)| *who == subject);
    if field("client_secret") != CLIENT_SECRET && !federated {
        let body = json!({"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided.", "error_codes": [7_000_215]});
        return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    let token = format!("test-token {tenant}/{client}");
    Json(json!({"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": token}))
        .into_response()
}
