//! A small stub of AWS KMS and STS, for what LocalStack cannot show: refusals in KMS's own form, throttling, errors, silence, answers with
//! nothing in them, and roles that want an external id. Everything else is LocalStack's to prove.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State as Extract,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    control::{Control, Fault},
    keys::{Key, KeyType, State},
    serve::{Running, serve},
};

/// A running stub. Roles are trusted by [`crate::control::World::trust`] entries of the form (`external id`, `role ARN`).
pub struct Server {
    /// Where KMS and STS are.
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

fn error(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({"__type": code, "message": message}).to_string();
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

async fn answer(Extract(control): Extract<Control>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let Some(operation) = target.strip_prefix("TrentService.") else { return assume_role(&control, &body) };
    {
        let calls = &mut control.world().calls;
        match operation {
            "DescribeKey" => calls.describe += 1,
            "Encrypt" => calls.wrap += 1,
            "Decrypt" => calls.unwrap += 1,
            _ => {}
        }
    }
    match control.misbehave().await {
        Fault::None | Fault::Tampered | Fault::Hang => {}
        Fault::Denied => {
            // As KMS says it: with names that a tenant must not be shown.
            return error(
                400,
                "AccessDeniedException",
                &format!(
                    "User: arn:aws:sts::999988887777:assumed-role/openkcm-provider/i-0abc is not authorized to perform: kms:{operation} on resource: arn"
                ),
            );
        }
        Fault::Throttled => return error(400, "ThrottlingException", "Rate exceeded"),
        Fault::Error => return error(500, "KMSInternalException", "internal error, request 0xdeadbeef"),
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
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return error(400, "SerializationException", "not JSON");
    };
    kms(&control, operation, &request)
}

fn kms(control: &Control, operation: &str, request: &Value) -> Response {
    let arn = request["KeyId"].as_str().unwrap_or_default();
    let world = control.world();
    let Some(key) = world.keys.get(arn) else {
        return error(400, "NotFoundException", &format!("Key '{arn}' does not exist"));
    };
    let Some((_, version)) = key.current() else { return error(400, "NotFoundException", "no version") };
    if operation == "DescribeKey" {
        return Json(json!({"KeyMetadata": metadata(arn, key, version.state, &version.id)})).into_response();
    }
    match version.state {
        State::Enabled => {}
        State::Disabled => return error(400, "DisabledException", &format!("{arn} is disabled.")),
        State::PendingDeletion => {
            return error(400, "KMSInvalidStateException", &format!("{arn} is pending deletion."));
        }
    }
    if key.kind == KeyType::Signing {
        return error(400, "InvalidKeyUsageException", &format!("{arn} key usage is SIGN_VERIFY"));
    }
    // serde_json's map is sorted: the same context is the same text.
    let context = request["EncryptionContext"].to_string();
    let input = |field: &str| request[field].as_str().and_then(|text| STANDARD.decode(text).ok());
    let rsa = key.kind == KeyType::Rsa;
    match operation {
        "Encrypt" => {
            let plaintext = input("Plaintext").unwrap_or_default();
            let sealed =
                if rsa { version.wrap_rsa(&plaintext) } else { version.seal(&plaintext, context.as_bytes()) };
            sealed.map_or_else(
                || error(400, "ValidationException", "plaintext"),
                |sealed| {
                    Json(json!({"KeyId": arn, "CiphertextBlob": STANDARD.encode(sealed)})).into_response()
                },
            )
        }
        "Decrypt" => {
            let sealed = input("CiphertextBlob").unwrap_or_default();
            let plain = key.versions.values().rev().find_map(|version| {
                if rsa { version.unwrap_rsa(&sealed) } else { version.open(&sealed, context.as_bytes()) }
            });
            plain.map_or_else(
                || error(400, "InvalidCiphertextException", ""),
                |plain| Json(json!({"KeyId": arn, "Plaintext": STANDARD.encode(plain)})).into_response(),
            )
        }
        _ => error(400, "UnknownOperationException", ""),
    }
}

fn metadata(arn: &str, key: &Key, state: State, id: &str) -> Value {
    let (usage, spec) = match key.kind {
        KeyType::Aes => ("ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT"),
        KeyType::Rsa => ("ENCRYPT_DECRYPT", "RSA_2048"),
        KeyType::Signing => ("SIGN_VERIFY", "RSA_2048"),
    };
    let state = match state {
        State::Enabled => "Enabled",
        State::Disabled => "Disabled",
        State::PendingDeletion => "PendingDeletion",
    };
    json!({"Arn": arn, "KeyId": arn, "KeyUsage": usage, "KeySpec": spec, "KeyState": state, "CurrentKeyMaterialId": id})
}

/// STS speaks forms and XML.
fn assume_role(control: &Control, body: &[u8]) -> Response {
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
    let field =
        |name: &str| fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let (role, external_id) = (field("RoleArn"), field("ExternalId"));
    let xml = |status, body: String| (status, [(header::CONTENT_TYPE, "text/xml")], body).into_response();
    if field("Action") != "AssumeRole" || !control.world().allows(external_id, role) {
        return xml(StatusCode::FORBIDDEN, "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:iam::999988887777:user/openkcm is not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>".to_owned());
    }
    xml(
        StatusCode::OK,
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials><AccessKeyId>ASIATESTTESTTESTTEST</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>AROA:openkcm</AssumedRoleId><Arn>{role}</Arn></AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>"
        ),
    )
}
