//! The operator's commands beside `run`. They work on the ledger; a running provider notices within a second.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, bail};
use jiff::Timestamp;
use kcp_client_rs::LogicalCluster;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use openkcm_apis::Account;
use openkcm_keychain::{
    AccountKeys, Ledger,
    rows::{ServiceKeyRow, TenantRow},
};
use openkcm_orchestrator::{Tenants, TokenRequest, create_join_token, list_edges, revoke_edge};

use crate::{
    cli::{
        AccountsCommand, BootstrapArgs, EdgesCommand, KeysCommand, LedgerArgs, LedgerCommand, TenantsCommand,
    },
    run::location,
};

/// What registers the console. `${CONSOLE_URL}` in it becomes the console's address.
const CONSOLE_MANIFESTS: [&str; 2] = [
    include_str!("../../luigi-config/contentconfiguration.yaml"),
    include_str!("../../luigi-config/providermetadata.yaml"),
];

pub async fn bootstrap(args: BootstrapArgs) -> anyhow::Result<()> {
    let options = openkcm_bootstrap::Options {
        kubeconfig: args.kubeconfig,
        workspace: args.workspace,
        console_manifests: CONSOLE_MANIFESTS.map(str::to_owned).to_vec(),
        console_url: args.console_url,
        dry_run: args.dry_run,
        kubeconfig_out: args.kubeconfig_out,
    };
    let summary = openkcm_bootstrap::run(options, |change| println!("{change}")).await?;
    println!("{summary}");
    Ok(())
}

async fn open(args: &LedgerArgs) -> anyhow::Result<Ledger> {
    Ledger::open(&location(args)).await.context("open the ledger")
}

/// Finds a tenant by logical cluster, or by path if that is unmistakable.
async fn find(ledger: &Ledger, text: &str) -> anyhow::Result<TenantRow> {
    let all: Vec<_> = ledger.tenants().await?.into_iter().filter(|row| row.destroyed_at.is_none()).collect();
    if let Ok(cluster) = text.parse::<LogicalCluster>()
        && let Some(row) = all.iter().find(|row| row.cluster == cluster)
    {
        return Ok(row.clone());
    }
    let matches: Vec<_> = all.into_iter().filter(|row| row.path == text).collect();
    match matches.as_slice() {
        [row] => Ok(row.clone()),
        [] => bail!(
            "no tenant {text:?}: give a logical cluster or a path as `openkcm-provider tenants list` shows them"
        ),
        several => bail!(
            "{} tenants were seen at path {text:?} (the workspace was re-created): name one by its logical cluster: {}",
            several.len(),
            several.iter().map(|row| row.cluster.as_str()).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn split(key: &str) -> anyhow::Result<(&str, &str)> {
    key.split_once('/').with_context(|| format!("give the key as NAMESPACE/NAME, not {key:?}"))
}

async fn find_key(ledger: &Ledger, tenant: &TenantRow, text: &str) -> anyhow::Result<ServiceKeyRow> {
    let (namespace, name) = split(text)?;
    let key = ledger.key(tenant.id, namespace, name).await?;
    key.with_context(|| format!("tenant {} has no key {text:?} in the ledger", tenant.cluster))
}

fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("   ").trim_end());
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%FT%TZ").to_string())
}

pub async fn tenants(command: TenantsCommand) -> anyhow::Result<()> {
    let now = Timestamp::now();
    match command {
        TenantsCommand::List(args) => {
            let ledger = open(&args).await?;
            let row = |row: TenantRow| {
                vec![
                    row.cluster.to_string(),
                    row.path.clone(),
                    row.state().to_string(),
                    time(row.retention_until),
                    row.operator_reason.clone().unwrap_or_else(|| "-".to_owned()),
                ]
            };
            let rows: Vec<_> = ledger.tenants().await?.into_iter().map(row).collect();
            table(&["LOGICAL CLUSTER", "PATH", "STATE", "KEPT UNTIL", "SUSPENDED BECAUSE"], &rows);
        }
        TenantsCommand::Suspend { ledger, tenant, reason } => {
            let ledger = open(&ledger).await?;
            let row = find(&ledger, &tenant).await?;
            ledger.suspend_tenant(row.id, &reason, now).await?;
            println!("tenant {} ({}) is suspended; its keys leave every edge", row.cluster, row.path);
        }
        TenantsCommand::Resume { ledger, tenant } => {
            let ledger = open(&ledger).await?;
            let row = find(&ledger, &tenant).await?;
            ledger.resume_tenant(row.id, now).await?;
            println!("tenant {} ({}) is resumed", row.cluster, row.path);
        }
    }
    Ok(())
}

pub async fn accounts(command: AccountsCommand) -> anyhow::Result<()> {
    let (ledger, kubeconfig, export, tenant, account) = match command {
        AccountsCommand::List { ledger, tenant } => return list_accounts(&ledger, tenant.as_deref()).await,
        AccountsCommand::Impact { ledger, kubeconfig, export, tenant, account } => {
            (ledger, kubeconfig, export, tenant, account)
        }
    };
    let ledger = open(&ledger).await?;
    let tenant = find(&ledger, &tenant).await?;
    let row = ledger.account(tenant.id, &account).await?;
    let row =
        row.with_context(|| format!("tenant {} has no Account {account:?} in the ledger", tenant.cluster))?;
    let keys: Vec<_> =
        ledger.keys(tenant.id).await?.into_iter().filter(|key| key.account == row.id).collect();
    let namespaces: std::collections::BTreeSet<_> = keys.iter().map(|key| key.namespace.clone()).collect();
    let sealed: u64 = ledger.rewrap_progress(row.id).await?.iter().map(|by| by.versions).sum();
    let clients = match kubeconfig {
        Some(kubeconfig) => match active_clients(&kubeconfig, &export, &tenant, &account).await? {
            Some(clients) => clients.to_string(),
            None => "unknown (kcp has no status of it now)".to_owned(),
        },
        None => "not asked for (--kubeconfig)".to_owned(),
    };
    println!(
        "Account {account} of {}: {} keys in {} namespaces, {sealed} versions would be re-wrapped; active clients: {clients}",
        tenant.path,
        keys.len(),
        namespaces.len(),
    );
    let rows: Vec<_> = keys
        .into_iter()
        .map(|key| {
            vec![key.namespace, key.name, format!("v{}", key.current_version), time(Some(key.last_rotation))]
        })
        .collect();
    table(&["NAMESPACE", "NAME", "VERSION", "LAST ROTATION"], &rows);
    Ok(())
}

/// How many clients use keys of the Account, as the running provider last wrote into its status. `None`: the workspace is not
/// served, or has no such Account now.
async fn active_clients(
    kubeconfig: &Path,
    export: &str,
    tenant: &TenantRow,
    account: &str,
) -> anyhow::Result<Option<i32>> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("read the kubeconfig {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("use the kubeconfig")?;
    let gvk = GroupVersionKind::gvk("apis.kcp.io", "v1alpha1", "APIExportEndpointSlice");
    let slices = ApiResource::from_gvk_with_plural(&gvk, "apiexportendpointslices");
    let slices = Api::<DynamicObject>::all_with(Client::try_from(config.clone())?, &slices);
    let slice = slices.get(export).await.with_context(|| format!("read the endpoint slice {export}"))?;
    for endpoint in slice.data["status"]["endpoints"].as_array().into_iter().flatten() {
        let url = endpoint["url"].as_str().unwrap_or_default().trim_end_matches('/');
        let mut there = config.clone();
        there.cluster_url =
            format!("{url}/clusters/{}", tenant.cluster).parse().context("an endpoint's URL")?;
        // Our credentials go there: never over a weaker channel than to the provider workspace itself.
        if there.cluster_url.scheme() != config.cluster_url.scheme() {
            continue;
        }
        // Another shard than the workspace's answers that there is nothing.
        let found = match Api::<Account>::all(Client::try_from(there)?).get_opt(account).await {
            Err(kube::Error::Api(status)) if status.code == 403 => None,
            found => found.context("read the Account")?,
        };
        if let Some(impact) = found.and_then(|found| found.status?.impact) {
            return Ok(Some(impact.active_clients));
        }
    }
    Ok(None)
}

async fn list_accounts(ledger: &LedgerArgs, tenant: Option<&str>) -> anyhow::Result<()> {
    let ledger = open(ledger).await?;
    let tenants = match tenant {
        Some(text) => vec![find(&ledger, text).await?],
        None => ledger.tenants().await?,
    };
    let mut rows = Vec::new();
    for tenant in tenants {
        for account in ledger.accounts(tenant.id).await? {
            let root = account.current_key().map(|key| &key.root);
            rows.push(vec![
                tenant.cluster.to_string(),
                account.name.clone(),
                account.id.to_string(),
                account.current_key_version.map_or_else(|| "-".to_owned(), |version| format!("v{version}")),
                time(account.last_verified),
                match account.root_lost_since {
                    Some(since) => format!("root lost since {}", time(Some(since))),
                    None => account.state().to_string(),
                },
                root.map_or_else(|| "-".to_owned(), |root| root.reference.clone()),
            ]);
        }
    }
    let header = ["LOGICAL CLUSTER", "ACCOUNT", "ID", "ACCOUNT KEY", "VERIFIED", "STATE", "ROOT KEY"];
    table(&header, &rows);
    Ok(())
}

pub async fn keys(command: KeysCommand) -> anyhow::Result<()> {
    let now = Timestamp::now();
    match command {
        KeysCommand::List { ledger, tenant } => {
            let ledger = open(&ledger).await?;
            let tenants = match tenant {
                Some(text) => vec![find(&ledger, &text).await?],
                None => ledger.tenants().await?,
            };
            let mut rows = Vec::new();
            for tenant in tenants {
                for key in ledger.keys(tenant.id).await? {
                    rows.push(vec![
                        tenant.cluster.to_string(),
                        format!("{}/{}", key.namespace, key.name),
                        key.account_name.clone(),
                        key.state().to_string(),
                        format!("v{}", key.current_version),
                        time(Some(key.last_rotation)),
                        time(key.delete_after),
                    ]);
                }
            }
            table(
                &["LOGICAL CLUSTER", "KEY", "ACCOUNT", "STATE", "VERSION", "LAST ROTATION", "KEPT UNTIL"],
                &rows,
            );
        }
        KeysCommand::History { ledger, tenant, key } => {
            let ledger = open(&ledger).await?;
            let tenant = find(&ledger, &tenant).await?;
            let key = find_key(&ledger, &tenant, &key).await?;
            let row = |version: openkcm_keychain::rows::VersionRow| {
                vec![
                    format!("v{}", version.version),
                    version.state.to_string(),
                    format!("v{}", version.account_key_version),
                    time(Some(version.created_at)),
                    time(version.destroyed_at),
                ]
            };
            let rows: Vec<_> = ledger.history(key.id).await?.into_iter().map(row).collect();
            table(&["VERSION", "STATE", "ACCOUNT KEY", "CREATED", "DESTROYED"], &rows);
        }
        KeysCommand::Undelete { ledger, tenant, key } => {
            let ledger = open(&ledger).await?;
            let tenant = find(&ledger, &tenant).await?;
            let row = find_key(&ledger, &tenant, &key).await?;
            ledger.undelete(row.id, now).await?;
            println!("key {key} of {} is back with every version; its object follows", tenant.path);
        }
        KeysCommand::AcceptRestore { ledger, tenant, key, up_to } => {
            let ledger = open(&ledger).await?;
            let tenant = find(&ledger, &tenant).await?;
            let (namespace, name) = split(&key)?;
            match up_to {
                Some(text) => {
                    let version = openkcm_apis::parse_version(&text);
                    let version = version.with_context(|| format!("give --up-to like v7, not {text:?}"))?;
                    ledger.accept_loss(tenant.id, namespace, name, version).await?;
                }
                None => {
                    let row = find_key(&ledger, &tenant, &key).await?;
                    ledger.accept_older_ledger(row.id).await?;
                }
            }
            println!("key {key} of {} goes on; numbers that were seen are not used again", tenant.path);
        }
    }
    Ok(())
}

pub async fn ledger(command: LedgerCommand) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Backup { ledger, file } => {
            open(&ledger).await?.backup(&file).await?;
            println!("the ledger is copied to {}", file.display());
        }
        LedgerCommand::Verify(args) => {
            let report = open(&args).await?.verify(&AccountKeys::new(Duration::ZERO)).await?;
            println!(
                "read {} tenants, {} accounts, {} account keys, {} keys, {} versions",
                report.tenants, report.accounts, report.account_keys, report.keys, report.versions
            );
            if let Some(broken) = report.broken {
                bail!("{} row {} is broken: {}", broken.table, broken.row, broken.what);
            }
            println!("the ledger is whole");
        }
        LedgerCommand::Export(args) => {
            let mut out = std::io::stdout();
            open(&args).await?.export(&mut out).await?;
            out.flush()?;
        }
    }
    Ok(())
}

pub fn edges(command: EdgesCommand) -> anyhow::Result<()> {
    match command {
        EdgesCommand::Token { ledger, name, ttl, tenants, region } => {
            let request = TokenRequest {
                name: Some(name),
                region,
                tenants: if tenants.is_empty() {
                    Tenants::All
                } else {
                    Tenants::Only(tenants.iter().map(ToString::to_string).collect())
                },
                ttl: Duration::try_from(ttl)?,
            };
            println!("{}", create_join_token(&ledger.data_dir, &request)?);
        }
        EdgesCommand::Revoke { ledger, id } => {
            if !revoke_edge(&ledger.data_dir, id)? {
                bail!("no edge has the id {id}: list them with `openkcm-provider edges list`");
            }
            println!("edge {id} is refused from now on; its keys end with its lease");
        }
        EdgesCommand::List(args) => {
            let row = |edge: openkcm_orchestrator::EdgeRecord| {
                vec![
                    edge.name,
                    edge.id.to_string(),
                    edge.region.unwrap_or_else(|| "-".to_owned()),
                    match edge.tenants {
                        Tenants::All => "all".to_owned(),
                        Tenants::Only(names) => names.join(","),
                    },
                    time(Timestamp::from_second(edge.joined).ok()),
                    time(Timestamp::from_second(edge.certificate_ends).ok()),
                    if edge.revoked { "revoked" } else { "" }.to_owned(),
                ]
            };
            let rows: Vec<_> = list_edges(&args.data_dir)?.into_iter().map(row).collect();
            table(&["NAME", "ID", "REGION", "TENANTS", "JOINED", "CERTIFICATE ENDS", ""], &rows);
        }
    }
    Ok(())
}
