//! The provider workspace itself.

use std::time::Duration;

use kcp_client_rs::tenancy::{Workspace, WorkspaceSpec, WorkspaceType};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};

use crate::{Action, Change, Error, connection::Connection};

/// Where Platform Mesh keeps the type of provider workspaces, and the type that every kcp has.
const ROOT: &str = "root";
const PROVIDER_TYPE: &str = "provider";
const PLAIN_TYPE: &str = "universal";

/// How long kcp may take to make a workspace, in steps of [`PAUSE`].
const ATTEMPTS: usize = 300;
const PAUSE: Duration = Duration::from_millis(200);

/// Makes what is missing of the path and waits until it is ready. False, in a dry run only, when it is not there.
pub(crate) async fn ensure_path(
    connection: &Connection,
    path: &str,
    dry_run: bool,
    tell: &mut impl FnMut(Change),
) -> Result<bool, Error> {
    let segments = checked(path)?;
    let mut parent = segments[0].to_owned();
    let mut present = true;
    for (depth, name) in segments.iter().enumerate().skip(1) {
        let here = format!("{parent}:{name}");
        let last = depth + 1 == segments.len();
        let mut action = Action::Created;
        if present {
            let client = connection.client(&parent)?;
            action = ensure(connection, client, &parent, name, last, dry_run).await?;
            present = !(dry_run && action == Action::Created);
        }
        tell(Change { action, kind: "Workspace".to_owned(), name: here.clone(), planned: false });
        parent = here;
    }
    Ok(present)
}

async fn ensure(
    connection: &Connection,
    client: Client,
    parent: &str,
    name: &str,
    last: bool,
    dry_run: bool,
) -> Result<Action, Error> {
    let api: Api<Workspace> = Api::all(client);
    let fail = |deed| {
        move |error: kube::Error| Error::Request {
            deed,
            object: format!("Workspace {name}"),
            workspace: parent.to_owned(),
            source: Box::new(error),
        }
    };
    let found = api.get_opt(name).await.map_err(fail("read"))?;
    let mut action = Action::Unchanged;
    if found.is_none() {
        action = Action::Created;
        if dry_run {
            return Ok(action);
        }
        let is_provider = last && has_provider_type(connection).await?;
        let type_ = WorkspaceType {
            name: if is_provider { PROVIDER_TYPE } else { PLAIN_TYPE }.to_owned(),
            path: Some(ROOT.to_owned()),
        };
        let workspace = Workspace::new(name, WorkspaceSpec { type_: Some(type_), ..Default::default() });
        match api.create(&PostParams::default(), &workspace).await {
            Ok(_) => {}
            // Somebody else made it in between.
            Err(kube::Error::Api(status)) if status.code == 409 => action = Action::Unchanged,
            Err(error) => return Err(fail("create")(error)),
        }
    }
    for _ in 0..ATTEMPTS {
        let workspace = api.get_opt(name).await.map_err(fail("read"))?;
        let phase = workspace.and_then(|workspace| workspace.status).and_then(|status| status.phase);
        if phase.as_deref() == Some("Ready") && is_served(connection, &format!("{parent}:{name}")).await? {
            return Ok(action);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::Timeout { what: format!("Workspace {name} to be Ready"), workspace: parent.to_owned() })
}

/// A kcp that has just started, or has just made a workspace, may not find the way into it for a moment.
async fn is_served(connection: &Connection, path: &str) -> Result<bool, Error> {
    let kind = GroupVersionKind::gvk("core.kcp.io", "v1alpha1", "LogicalCluster");
    exists(connection, path, &kind, "cluster").await
}

async fn has_provider_type(connection: &Connection) -> Result<bool, Error> {
    let kind = GroupVersionKind::gvk("tenancy.kcp.io", "v1alpha1", "WorkspaceType");
    exists(connection, ROOT, &kind, PROVIDER_TYPE).await
}

async fn exists(
    connection: &Connection,
    workspace: &str,
    kind: &GroupVersionKind,
    name: &str,
) -> Result<bool, Error> {
    let api: Api<DynamicObject> = Api::all_with(connection.client(workspace)?, &ApiResource::from_gvk(kind));
    let found = api.get_opt(name).await.map_err(|error| Error::Request {
        deed: "read",
        object: format!("{} {name}", kind.kind),
        workspace: workspace.to_owned(),
        source: Box::new(error),
    })?;
    Ok(found.is_some())
}

/// The segments of a path. It becomes part of a URL, so nothing but names and colons may pass.
fn checked(path: &str) -> Result<Vec<&str>, Error> {
    let valid = |name: &&str| {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        (1..=63).contains(&name.len())
            && name.bytes().all(plain)
            && !name.starts_with('-')
            && !name.ends_with('-')
    };
    let segments: Vec<&str> = path.split(':').collect();
    if segments.len() > 1 && segments.iter().all(valid) {
        return Ok(segments);
    }
    Err(Error::Option {
        option: "--workspace",
        problem: format!(
            "{path:?} is not the path of a workspace below another, for example root:providers:openkcm"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_is_refused() {
        for path in [
            "", "root", "root:", ":a", "root::a", "root:A", "root:a/b", "root:*", "root:a?b", "root:-a",
            "root:..",
        ] {
            assert!(checked(path).is_err(), "{path}");
        }
        assert_eq!(checked("root:providers:openkcm").ok(), Some(vec!["root", "providers", "openkcm"]));
    }
}
