//! Publishes the export in the provider workspace, and upgrades it.
//!
//! [`run`] may be repeated at any time: it says for each object whether it made, changed or only checked it. A
//! changed schema becomes a new APIResourceSchema, the APIExport is pointed at it and kcp moves every existing
//! binding; the schema that was replaced goes with the *next* run, when nothing can need it any more.
//!
//! Objects carry the label `openkcm.io/managed-by=openkcm-provider`. An object of ours without it belongs to
//! somebody else: bootstrap stops instead of taking it over.
#![warn(missing_docs)]

mod apply;
mod connection;
mod credentials;
mod error;
mod templates;
mod workspace;

use std::{collections::BTreeSet, fmt, path::PathBuf};

use apply::{Applier, Manifest};
use connection::Connection;
pub use error::Error;
use kcp_client_rs::apis::{ApiExport, ApiResourceSchema};
use kube::api::ListParams;
use openkcm_apis::export;

/// What to publish, where and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kubeconfig of an administrator of kcp, for any workspace of it.
    pub kubeconfig: PathBuf,
    /// Path of the provider workspace. What is missing of it is made.
    pub workspace: String,
    /// Where the console's micro-frontend is served. Without it nothing is registered with the console.
    pub console_url: Option<String>,
    /// YAML documents for the console, with `${CONSOLE_URL}` where its address belongs. Kinds that the workspace
    /// does not serve are skipped.
    pub console_manifests: Vec<String>,
    /// Ask, compare and report, but change nothing.
    pub dry_run: bool,
    /// Where to write a kubeconfig with just the rights that `openkcm-provider run` needs.
    pub kubeconfig_out: Option<PathBuf>,
}

/// What happened, or with `dry_run` would happen, to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub action: Action,
    /// Kind of the object.
    pub kind: String,
    /// Its name, with its namespace in front if it has one.
    pub name: String,
    /// It did not happen: this is a dry run.
    pub planned: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.planned && self.action.writes() { "would be " } else { "" };
        write!(f, "{} {} {would}{}", self.kind, self.name, self.action)
    }
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Created,
    /// It was there, and different.
    Updated,
    /// It was as it should be.
    Unchanged,
    /// It is not needed any more.
    Deleted,
    /// It could not be applied here, for the reason given; that is not an error.
    Skipped(&'static str),
}

impl Action {
    fn writes(&self) -> bool {
        matches!(self, Self::Created | Self::Updated | Self::Deleted)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Updated => f.write_str("updated"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Deleted => f.write_str("deleted"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// Counts of what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects made.
    pub created: usize,
    /// Objects changed.
    pub updated: usize,
    /// Objects that were as they should be.
    pub unchanged: usize,
    /// Objects that were not needed any more.
    pub deleted: usize,
    /// Objects that could not be applied here.
    pub skipped: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, updated, unchanged, deleted, skipped } = self;
        write!(
            f,
            "{created} created, {updated} updated, {unchanged} unchanged, {deleted} deleted, {skipped} skipped"
        )
    }
}

impl Summary {
    fn count(&mut self, action: &Action) {
        *match action {
            Action::Created => &mut self.created,
            Action::Updated => &mut self.updated,
            Action::Unchanged => &mut self.unchanged,
            Action::Deleted => &mut self.deleted,
            Action::Skipped(_) => &mut self.skipped,
        } += 1;
    }
}

/// Publishes everything, reporting each object as it is done.
pub async fn run(options: Options, mut report: impl FnMut(Change)) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let mut tell = |change: Change| {
        summary.count(&change.action);
        report(Change { planned: options.dry_run, ..change });
    };
    let console = templates::render(&options.console_manifests, options.console_url.as_deref())?;
    let connection = Connection::from_kubeconfig(&options.kubeconfig).await?;
    let present = workspace::ensure_path(&connection, &options.workspace, options.dry_run, &mut tell).await?;

    let ours = manifests()?;
    if !present {
        // Only in a dry run: nothing can be asked of a workspace that does not exist.
        for manifest in &ours {
            tell(manifest.change(Action::Created));
        }
        let why = "whether its kind is served is known once the workspace exists";
        for manifest in &console {
            tell(manifest.change(Action::Skipped(why)));
        }
        return Ok(summary);
    }

    let client = connection.client(&options.workspace)?;
    let mut applier = Applier::new(client, &options.workspace, options.dry_run);
    applier.wait_until_served("apis.kcp.io/v1alpha2").await?;
    let referenced_before = referenced_schemas(&applier).await?;
    for manifest in &ours {
        match applier.apply(manifest).await? {
            Some(action) => tell(manifest.change(action)),
            None => return Err(applier.not_served(manifest)),
        }
    }
    for manifest in &console {
        let action = if options.console_url.is_none() {
            Action::Skipped("no address of the console was given (--console-url)")
        } else {
            applier.apply(manifest).await?.unwrap_or(Action::Skipped("its kind is not served here"))
        };
        tell(manifest.change(action));
    }
    for name in replaced_schemas(&applier, referenced_before).await? {
        applier.delete::<ApiResourceSchema>(&name).await?;
        tell(Change { action: Action::Deleted, kind: "APIResourceSchema".to_owned(), name, planned: false });
    }
    if let Some(path) = &options.kubeconfig_out
        && !options.dry_run
    {
        let action = credentials::write(&connection, &applier, path).await?;
        tell(Change {
            action,
            kind: "kubeconfig".to_owned(),
            name: path.display().to_string(),
            planned: false,
        });
    }
    Ok(summary)
}

/// What is applied, in this order: rights and policies are there before the export can be bound.
fn manifests() -> Result<Vec<Manifest>, Error> {
    let typed = |error| Error::Manifest { what: "a generated object".to_owned(), source: Box::new(error) };
    let mut values = export::provider_rights();
    values.extend(export::consumer_rights());
    values.extend(export::admission());
    for schema in export::schemas() {
        values.push(export::to_manifest(&schema).map_err(typed)?);
    }
    values.push(export::to_manifest(&export::api_export()).map_err(typed)?);
    values.into_iter().map(Manifest::try_from).collect()
}

/// Names of the schemas that any export of the workspace uses.
async fn referenced_schemas(applier: &Applier) -> Result<BTreeSet<String>, Error> {
    let exports = applier.list::<ApiExport>(&ListParams::default()).await?;
    Ok(exports.into_iter().flat_map(|export| export.spec.resources).map(|resource| resource.schema).collect())
}

/// Our schemas that no export uses, and that none used when this run began.
async fn replaced_schemas(applier: &Applier, before: BTreeSet<String>) -> Result<Vec<String>, Error> {
    let mut needed = before;
    needed.extend(referenced_schemas(applier).await?);
    needed.extend(export::schemas().into_iter().filter_map(|schema| schema.metadata.name));
    let ours = ListParams::default().labels(&format!("{}={}", export::MANAGED_BY_LABEL, export::MANAGED_BY));
    let schemas = applier.list::<ApiResourceSchema>(&ours).await?;
    let names = schemas.into_iter().filter_map(|schema| schema.metadata.name);
    Ok(names.filter(|name| !needed.contains(name)).collect())
}
