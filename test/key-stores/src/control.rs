//! What a test can do to a server: in process through [`Control`], or over HTTP on the control port.
//!
//! ```text
//! POST   /keys     {"key": REFERENCE, "type": "aes|rsa|signing"}    makes a key
//! POST   /state    {"key": REFERENCE, "state": "enabled|disabled|pending-deletion", "version": N?}    of one version, or of all
//! POST   /rotate   {"key": REFERENCE}
//! DELETE /keys     {"key": REFERENCE}                               as if it had never been
//! POST   /fault    {"fault": "none|denied|throttled|error|html|hang|empty|tampered|redirect", "delayMs": N}
//! POST   /down     {"down": true|false}                             connections are closed at once
//! POST   /trust    {"identity": ID, "key": REFERENCE PREFIX}        once used, only trusted identities may use what they are trusted for
//! GET    /calls    {"describe": N, "wrap": N, "unwrap": N}          since the start
//! ```
//! A `REFERENCE` is what an Account's `keyReference` would be, without version.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State as Extract,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    keys::{Key, KeyType, State},
    serve::{Running, serve},
};

/// How a server misbehaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It does not.
    #[default]
    None,
    /// Every call is refused.
    Denied,
    /// Every call is told to come back in a second.
    Throttled,
    /// Every call ends in the store's own internal error.
    Error,
    /// Every call is answered with a gateway's HTML page.
    Html,
    /// No answer, ever.
    Hang,
    /// Success with nothing in it.
    Empty,
    /// Wrapped and unwrapped bytes arrive with a bit flipped.
    Tampered,
    /// Every call is sent elsewhere, see [`World::elsewhere`].
    Redirect,
}

/// Calls that reached a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Metadata reads.
    pub describe: u64,
    /// Wraps.
    pub wrap: u64,
    /// Unwraps.
    pub unwrap: u64,
}

/// The inside of a server. Clones share it.
#[derive(Clone)]
pub struct Control {
    world: Arc<Mutex<World>>,
    down: Arc<watch::Sender<bool>>,
}

/// Everything a server knows.
#[derive(Default)]
pub struct World {
    /// Keys by reference without version.
    pub keys: BTreeMap<String, Key>,
    /// How it misbehaves.
    pub fault: Fault,
    /// Where calls are sent by [`Fault::Redirect`].
    pub elsewhere: String,
    /// How long every answer takes.
    pub delay: Duration,
    /// Calls so far.
    pub calls: Calls,
    /// Identity and what it may use. Empty: everybody may use everything.
    pub trust: Vec<(String, String)>,
}

impl World {
    /// Whether this identity may use this key.
    pub fn allows(&self, identity: &str, key: &str) -> bool {
        self.trust.is_empty()
            || self.trust.iter().any(|(who, what)| who == identity && key.starts_with(what.as_str()))
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { world: Arc::default(), down: Arc::new(watch::channel(false).0) }
    }
}

impl Control {
    /// The inside, locked. Not to be held across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a key.
    pub fn create(&self, reference: &str, kind: KeyType) -> anyhow::Result<()> {
        let key = Key::new(kind)?;
        self.world().keys.insert(reference.to_owned(), key);
        Ok(())
    }

    /// Sets the state of one version, or of all. False if there is no such key or version.
    pub fn set_state(&self, reference: &str, version: Option<u32>, state: State) -> bool {
        let mut world = self.world();
        let Some(key) = world.keys.get_mut(reference) else { return false };
        let mut found = false;
        for (_, one) in
            key.versions.iter_mut().filter(|(number, _)| version.is_none_or(|wanted| wanted == **number))
        {
            one.state = state;
            found = true;
        }
        found
    }

    /// Adds a version. False if there is no such key.
    pub fn rotate(&self, reference: &str) -> anyhow::Result<bool> {
        self.world().keys.get_mut(reference).map_or(Ok(false), |key| key.rotate().map(|()| true))
    }

    /// Misbehaves from now on.
    pub fn fault(&self, fault: Fault) {
        self.world().fault = fault;
    }

    /// Takes this long for every answer from now on.
    pub fn delay(&self, delay: Duration) {
        self.world().delay = delay;
    }

    /// Closes every connection, also those to come, until called with false.
    pub fn down(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Calls so far.
    pub fn calls(&self) -> Calls {
        self.world().calls
    }

    /// For the accept loop.
    pub(crate) fn watch_down(&self) -> watch::Receiver<bool> {
        self.down.subscribe()
    }

    /// Waits as long as the server is told to be slow, for ever if it hangs, and says how to misbehave.
    pub(crate) async fn misbehave(&self) -> Fault {
        let (fault, delay) = {
            let world = self.world();
            (world.fault, world.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fault == Fault::Hang {
            std::future::pending::<()>().await;
        }
        fault
    }

    /// Serves the control port.
    pub(crate) async fn serve(&self, address: SocketAddr) -> anyhow::Result<Running> {
        let app = Router::new()
            .route("/keys", post(create).delete(remove))
            .route("/state", post(state))
            .route("/rotate", post(rotate))
            .route("/fault", post(fault))
            .route("/down", post(down))
            .route("/trust", post(trust))
            .route("/calls", get(calls))
            .with_state(self.clone());
        // The control port stays up while the server is down.
        let (_, never) = watch::channel(false);
        serve(address, None, never, app).await
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    key: String,
    #[serde(rename = "type", default)]
    kind: KeyType,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetState {
    key: String,
    state: State,
    version: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SetFault {
    fault: Fault,
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Down {
    down: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trust {
    identity: String,
    key: String,
}

fn done(found: bool) -> StatusCode {
    if found { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn create(Extract(control): Extract<Control>, Json(body): Json<Create>) -> StatusCode {
    control
        .create(&body.key, body.kind)
        .map_or(StatusCode::INTERNAL_SERVER_ERROR, |()| StatusCode::NO_CONTENT)
}

async fn remove(Extract(control): Extract<Control>, Json(body): Json<Named>) -> StatusCode {
    done(control.world().keys.remove(&body.key).is_some())
}

async fn state(Extract(control): Extract<Control>, Json(body): Json<SetState>) -> StatusCode {
    done(control.set_state(&body.key, body.version, body.state))
}

async fn rotate(Extract(control): Extract<Control>, Json(body): Json<Named>) -> StatusCode {
    control.rotate(&body.key).map_or(StatusCode::INTERNAL_SERVER_ERROR, done)
}

async fn fault(Extract(control): Extract<Control>, Json(body): Json<SetFault>) -> StatusCode {
    control.fault(body.fault);
    control.delay(Duration::from_millis(body.delay_ms));
    StatusCode::NO_CONTENT
}

async fn down(Extract(control): Extract<Control>, Json(body): Json<Down>) -> StatusCode {
    control.down(body.down);
    StatusCode::NO_CONTENT
}

async fn trust(Extract(control): Extract<Control>, Json(body): Json<Trust>) -> StatusCode {
    control.world().trust.push((body.identity, body.key));
    StatusCode::NO_CONTENT
}

async fn calls(Extract(control): Extract<Control>) -> Json<Calls> {
    Json(control.calls())
}
