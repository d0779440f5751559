//! Publishes the export: `bootstrap KUBECONFIG KUBECONFIG_OUT [--dry-run]`, with the console's manifests on stdin.
//! For trying this crate alone; people use `openkcm-provider bootstrap`.

use openkcm_bootstrap::{Options, run};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, out, more @ ..] = args.as_slice() else {
        return Err("bootstrap KUBECONFIG OUT [--dry-run]".into());
    };
    let options = Options {
        kubeconfig: kubeconfig.into(),
        workspace: "root:providers:openkcm".to_owned(),
        console_url: Some("https://console.example".to_owned()),
        console_manifests: vec![std::io::read_to_string(std::io::stdin())?],
        dry_run: more.iter().any(|flag| flag == "--dry-run"),
        kubeconfig_out: Some(out.into()),
    };
    let summary = run(options, |change| println!("{change}")).await?;
    println!("{summary}");
    Ok(())
}
