//! The client commands: standard input to standard output.

use anyhow::{Context, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use openkcm_edge::envelope::{Format, Header, OVERHEAD};
use openkcm_edge_client::{Address, EdgeClient, Key, MAX_PLAINTEXT, Token, VersionState};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Stdin, stdin, stdout};
use zeroize::Zeroizing;

use super::args::{Command, KeyArgs};

/// Runs one client command.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Encrypt(args) => {
            let (edge, key) = connect(&args).await?;
            encrypt(&edge, &key, args.aad.as_bytes()).await
        }
        Command::Decrypt(args) => {
            let (edge, key) = connect(&args).await?;
            decrypt(&edge, &key, args.aad.as_bytes()).await
        }
        Command::Describe(args) => {
            let (edge, key) = connect(&args).await?;
            describe(&edge, &key).await
        }
        Command::DataKey { key: args, open } => {
            let (edge, key) = connect(&args).await?;
            data_key(&edge, &key, args.aad.as_bytes(), open).await
        }
        Command::Run(_) => bail!("`run` is no client command"),
    }
}

async fn connect(args: &KeyArgs) -> anyhow::Result<(EdgeClient, Key)> {
    let token = Token::File(args.token_file.clone());
    let edge = EdgeClient::connect(Address::Unix(args.socket.clone()), token).await?;
    Ok((edge, Key::new(&args.tenant, &args.key)))
}

/// Up to `limit` bytes of standard input, and whether there is more.
async fn head(input: &mut Stdin, limit: usize) -> anyhow::Result<(Zeroizing<Vec<u8>>, bool)> {
    let mut bytes = Zeroizing::new(Vec::new());
    input.take(limit as u64 + 1).read_to_end(&mut bytes).await.context("read standard input")?;
    let more = bytes.len() > limit;
    Ok((bytes, more))
}

async fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = stdout();
    output.write_all(bytes).await.context("write standard output")?;
    output.flush().await.context("write standard output")
}

async fn encrypt(edge: &EdgeClient, key: &Key, aad: &[u8]) -> anyhow::Result<()> {
    let mut input = stdin();
    let (head, more) = head(&mut input, MAX_PLAINTEXT).await?;
    if more {
        return Ok(edge.encrypt_stream(key, aad, head.chain(input), stdout()).await?);
    }
    write(&edge.encrypt(key, &head, aad).await?).await
}

async fn decrypt(edge: &EdgeClient, key: &Key, aad: &[u8]) -> anyhow::Result<()> {
    let mut input = stdin();
    let (head, more) = head(&mut input, MAX_PLAINTEXT + OVERHEAD).await?;
    let is_stream = Header::parse(&head).is_ok_and(|header| header.format == Format::Stream);
    if is_stream {
        return Ok(edge.decrypt_stream(key, aad, head.chain(input), stdout()).await?);
    }
    if more {
        bail!("malformed: the input is longer than any ciphertext of this format");
    }
    let plaintext = Zeroizing::new(edge.decrypt(key, head.to_vec(), aad).await?);
    write(&plaintext).await
}

async fn describe(edge: &EdgeClient, key: &Key) -> anyhow::Result<()> {
    let description = edge.describe(key).await?;
    let versions = description.versions.iter().map(|version| {
        let state = match version.state() {
            VersionState::Active => "Active",
            VersionState::DecryptOnly => "DecryptOnly",
            VersionState::Compromised => "Compromised",
            VersionState::Destroyed => "Destroyed",
            VersionState::Unspecified => "Unknown",
        };
        json!({ "version": format!("v{}", version.version), "state": state })
    });
    let text = json!({
        "tenant": key.tenant,
        "key": key.name,
        "keyId": description.key_id,
        "currentVersion": format!("v{}", description.current_version),
        "versions": versions.collect::<Vec<_>>(),
        "leaseRemainingMilliseconds": description.lease_remaining_ms,
    });
    write(format!("{text:#}\n").as_bytes()).await
}

async fn data_key(edge: &EdgeClient, key: &Key, aad: &[u8], open: bool) -> anyhow::Result<()> {
    let answer = if open {
        let (text, _) = head(&mut stdin(), 4096).await?;
        let wrapped = BASE64_STANDARD.decode(text.trim_ascii());
        let wrapped = wrapped.map_err(|_| anyhow::anyhow!("malformed: standard input is not base64"))?;
        let plaintext = Zeroizing::new(edge.open_data_key(key, wrapped, aad).await?);
        json!({ "dataKey": BASE64_STANDARD.encode(&plaintext) })
    } else {
        let data_key = edge.data_key(key, aad).await?;
        let plaintext = Zeroizing::new(data_key.plaintext);
        json!({ "dataKey": BASE64_STANDARD.encode(&plaintext), "wrapped": BASE64_STANDARD.encode(data_key.wrapped) })
    };
    write(format!("{answer:#}\n").as_bytes()).await
}
