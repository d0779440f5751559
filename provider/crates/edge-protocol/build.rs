//! Compiles every `proto/*.proto` without `protoc`.

use std::{error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        fs::read_dir("proto")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();

    // Callers may hold messages with key bytes: no derived Debug for those (see `redact.rs`).
    tonic_prost_build::configure().skip_debug(SECRET).compile_fds(protox::compile(&files, ["proto"])?)?;

    // The application's half may be absent from a checkout that only builds the orchestrator's.
    println!("cargo:rustc-check-cfg=cfg(has_application_proto)");
    if files.iter().any(|path| path.ends_with("application.proto")) {
        println!("cargo:rustc-cfg=has_application_proto");
    }
    Ok(())
}

/// Messages that carry key bytes, plaintexts or other secrets, directly.
const SECRET: &[&str] = &[
    "openkcm.orchestrator.v1.JoinRequest",
    "openkcm.orchestrator.v1.KeyVersion",
    "openkcm.edge.v1.EncryptRequest",
    "openkcm.edge.v1.DecryptResponse",
    "openkcm.edge.v1.GenerateDataKeyResponse",
    "openkcm.edge.v1.DecryptDataKeyResponse",
    "openkcm.edge.v1.Items",
    "openkcm.edge.v1.StreamRequest",
    "openkcm.edge.v1.StreamResponse",
];
