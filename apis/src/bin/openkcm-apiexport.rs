//! Writes `apiexport/`, or with `--check` fails when it is not what it should be.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use openkcm_apis::export;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("usage: openkcm-apiexport [--check]".into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../apiexport");
    let files = export::files()?;
    let mut stale: Vec<PathBuf> = yaml_files(&root)?;
    stale.retain(|path| !files.iter().any(|(name, _)| root.join(name) == *path));
    let mut wrong = stale.clone();
    for (name, text) in files {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if !check {
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            fs::write(&path, text)?;
        }
        wrong.push(path);
    }
    if check && !wrong.is_empty() {
        eprintln!("not what apis/ generates (run `cargo run -p openkcm-apis --bin openkcm-apiexport`):");
        for path in &wrong {
            eprintln!("  {}", path.display());
        }
        return Ok(ExitCode::FAILURE);
    }
    if !check {
        stale.iter().try_for_each(fs::remove_file)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The YAML files below a directory, which need not exist.
fn yaml_files(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if root.is_dir() {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.is_dir() {
                found.extend(yaml_files(&path)?);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push(path);
            }
        }
    }
    Ok(found)
}
