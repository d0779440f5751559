//! The edge's end of the stream to the orchestrator.
//!
//! The agent enrols the edge once, keeps one stream open to one orchestrator after another, and does to the
//! [`KeyStore`] what it is told there. What it decides is in [`openkcm_edge_protocol::session`], which knows no
//! network; here are connections, files and time.
//!
//! The agent runs until it is dropped. It gives up only on what waiting cannot mend: no way to enrol.

mod identity;
mod keys;
mod tls;

use std::{collections::HashMap, fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use openkcm_edge_protocol::{
    JoinToken,
    mask::{MaskError, Offer},
    orchestrator::{
        CertificateRequest, FromEdge, JoinRequest, KeyUsage, Subscription, Usage,
        enrollment_client::EnrollmentClient, from_edge::Message, orchestrator_client::OrchestratorClient,
    },
    session::{EdgeSession, News, SessionError},
};
use tokio::{sync::mpsc, sync::watch, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use self::{
    identity::{Identity, Request},
    keys::Mask,
};
use crate::{
    clock::BootInstant,
    store::{KeyName, KeyStore},
};

pub use self::{identity::IdentityError, keys::StoreKeys};

/// Shortest and longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const CONNECT: Duration = Duration::from_secs(2);
const USAGE_EVERY: Duration = Duration::from_secs(2);
/// Until the orchestrator has said how long leases are.
const ASSUMED_LEASE: Duration = Duration::from_secs(5);
const OUTGOING: usize = 1024;

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The name to enrol with.
    pub name: String,
    /// `https://HOST[:PORT]` of one or more orchestrators. Others are learned from them.
    pub orchestrators: Vec<String>,
    /// Where key and certificate are kept (in `identity/`, mode 0700).
    pub data_dir: PathBuf,
    /// Needed once, until the edge has a certificate.
    pub join_token: Option<JoinToken>,
    /// Certificate of the authority (PEM) that must have signed the orchestrator, if it was brought here by hand. A
    /// join token says the same by fingerprint; with both, both must agree.
    pub authority_file: Option<PathBuf>,
    /// Tenants to ask for, by name or logical cluster; empty: all that the edge may have.
    pub tenants: Vec<String>,
    /// The region that the edge is in, if the certificate must say so too.
    pub region: Option<String>,
}

/// How the agent is doing, for readiness and people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// Address of the orchestrator the stream is open to.
    pub connected_to: Option<String>,
    /// Identity in the edge's certificate, once it has one.
    pub edge_id: Option<String>,
    /// When the certificate ends, Unix seconds.
    pub certificate_ends: Option<i64>,
    /// Why the last attempt failed, until one succeeds.
    pub trouble: Option<String>,
    /// Orders carried out since the start.
    pub orders: u64,
}

/// The agent gives up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is no certificate and no token to get one.
    #[error("this edge has not joined yet and has no join token")]
    NoToken,
    /// Every orchestrator refused the token.
    #[error(
        "the join token is not valid (any more) for this name: make a new one with 'openkcm-provider edges token'"
    )]
    TokenRefused,
    /// The certificate ended while the edge was away.
    #[error("this edge's certificate has ended: remove {} and join with a new token", .0.display())]
    CertificateEnded(PathBuf),
    /// No orchestrator is configured.
    #[error("no orchestrator is configured")]
    NoOrchestrator,
    /// An orchestrator's address is not `https://HOST[:PORT]`.
    #[error("an orchestrator's address must be https://HOST[:PORT]")]
    Address,
    /// Key, certificate or authority cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why one stream ended or one attempt failed; there will be another.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("not an orchestrator's address")]
    Address,
    #[error("cannot connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("not connected within {CONNECT:?}")]
    ConnectTimeout,
    #[error("the orchestrator ended the stream: {}", .0.message())]
    Status(#[source] Box<Status>),
    #[error("the orchestrator closed the stream")]
    Closed,
    #[error("the orchestrator does not answer")]
    Silent,
    #[error("the orchestrator does not take what is sent")]
    Stuck,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Keeps the edge's keys as the orchestrator wants them.
pub struct Agent {
    config: AgentConfig,
    store: Arc<KeyStore>,
    session: EdgeSession,
    status: watch::Sender<AgentStatus>,
    urls: Vec<String>,
    next_url: usize,
    failures: u32,
    reported: HashMap<KeyName, u32>,
    lease_length: Duration,
}

impl Agent {
    /// An agent that has done nothing yet.
    pub fn new(config: AgentConfig, store: Arc<KeyStore>) -> Self {
        Self {
            urls: config.orchestrators.clone(),
            config,
            store,
            session: EdgeSession::default(),
            status: watch::Sender::default(),
            next_url: 0,
            failures: 0,
            reported: HashMap::new(),
            lease_length: ASSUMED_LEASE,
        }
    }

    /// How the agent is doing, now and as it changes.
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    /// Joins if need be, then stays connected. Ends only with what waiting cannot mend. An eviction may block the
    /// thread for as long as [`DRAIN`](crate::store::DRAIN).
    pub async fn run(mut self) -> Result<std::convert::Infallible, AgentError> {
        self.urls.dedup();
        if self.urls.is_empty() {
            return Err(AgentError::NoOrchestrator);
        }
        if self.urls.iter().any(|url| tls::endpoint(url).is_none()) {
            return Err(AgentError::Address);
        }
        let mut identity = self.identity().await?;
        loop {
            let id = identity.edge_id().map(str::to_owned);
            let ends = identity.ends();
            self.status.send_modify(|status| (status.edge_id, status.certificate_ends) = (id, Some(ends)));
            if identity.has_ended() {
                return Err(AgentError::CertificateEnded(identity.path().to_owned()));
            }
            let url = self.url();
            let Err(trouble) = self.stream(&url, &mut identity).await;
            self.session.disconnected();
            self.failed(&url, &trouble).await;
        }
    }

    fn url(&mut self) -> String {
        self.next_url = (self.next_url + 1) % self.urls.len();
        self.urls[self.next_url].clone()
    }

    /// Says what went wrong, and waits longer each time in a row, never long enough to lose a lease over it.
    async fn failed(&mut self, url: &str, trouble: &Trouble) {
        tracing::warn!(
            orchestrator = url,
            error = trouble as &dyn std::error::Error,
            "not connected to the orchestrator"
        );
        self.status.send_modify(|status| {
            status.connected_to = None;
            status.trouble = Some(trouble.to_string());
        });
        let longest = PAUSES.1.min(self.lease_length / 5);
        let pause = (PAUSES.0 * 2_u32.pow(self.failures.min(10))).min(longest);
        self.failures = self.failures.saturating_add(1);
        let mut random = [0; 1];
        let jitter = aws_lc_rs::rand::fill(&mut random).map_or(0, |()| u32::from(random[0]));
        tokio::time::sleep(pause / 2 + pause * jitter / 512).await;
    }

    // ---- enrolment ----

    async fn identity(&mut self) -> Result<Identity, AgentError> {
        let expected = self.config.authority_file.as_deref().map(identity::authority_of).transpose()?;
        if let Some(identity) = Identity::load(&self.config.data_dir, expected.as_deref())? {
            return Ok(identity);
        }
        let token = self.config.join_token.clone().ok_or(AgentError::NoToken)?;
        let request = Request::new(&self.config.name)?;
        let mut refused = 0;
        loop {
            let url = self.url();
            match self.join(&url, &token, &request, expected.as_deref()).await {
                Ok(identity) => {
                    tracing::info!(edge = identity.edge_id(), "joined");
                    self.failures = 0;
                    return Ok(identity);
                }
                Err(Trouble::Status(status)) if status.code() == Code::Unauthenticated => {
                    refused += 1;
                    if refused >= self.urls.len() {
                        return Err(AgentError::TokenRefused);
                    }
                }
                Err(Trouble::Identity(error)) => return Err(error.into()),
                Err(trouble) => {
                    refused = 0;
                    self.failed(&url, &trouble).await;
                }
            }
        }
    }

    async fn join(
        &self,
        url: &str,
        token: &JoinToken,
        request: &Request,
        expected: Option<&[u8]>,
    ) -> Result<Identity, Trouble> {
        let channel = connect(url, tls::joining(token.authority)?).await?;
        let mut join = JoinRequest::default();
        join.token_id = uuid_text(token.id);
        join.token_secret = token.secret.to_vec();
        join.name.clone_from(&self.config.name);
        join.certificate_request = request.der().to_vec();
        let response = EnrollmentClient::new(channel).join(join).await?.into_inner();
        let identity =
            Identity::new(&self.config.data_dir, request, &response.certificate, &response.authority)?;
        identity.check_authority(Some(token.authority), expected)?;
        identity.save()?;
        Ok(identity)
    }

    // ---- the stream ----

    async fn stream(
        &mut self,
        url: &str,
        identity: &mut Identity,
    ) -> Result<std::convert::Infallible, Trouble> {
        let channel = connect(url, identity.tls()?).await?;
        let mut client = OrchestratorClient::new(channel);
        let subscription = Subscription {
            tenants: self.config.tenants.clone(),
            region: self.config.region.clone().unwrap_or_default(),
        };
        let mut mask = Mask::Offered(Offer::new()?);
        let mut hello = self.session.connected(self.now(), subscription, env!("CARGO_PKG_VERSION"));
        mask.tell(&mut hello);
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let outgoing = stream::iter(hello).chain(ReceiverStream::new(receiver));
        let attach = tokio::time::timeout(CONNECT, client.attach(outgoing));
        let mut orders = attach.await.map_err(|_| Trouble::ConnectTimeout)??.into_inner();
        self.reported.clear();

        let mut usage = tokio::time::interval(USAGE_EVERY);
        usage.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewing: Option<Request> = None;
        let send = |message: FromEdge| sender.try_send(message).map_err(|_| Trouble::Stuck);
        loop {
            for message in self.session.poll(self.now(), &StoreKeys(&self.store)) {
                send(message)?;
            }
            self.lease_length = self.session.lease_length().unwrap_or(self.lease_length);
            if self.session.unanswered(self.now()) > self.patience() {
                return Err(Trouble::Silent);
            }
            let wake = self.session.wake_at().unwrap_or(0).saturating_sub(self.now());
            tokio::select! {
                message = orders.message() => {
                    let message = message?.ok_or(Trouble::Closed)?;
                    for mut order in message.orders {
                        mask.lift(&mut order)?;
                        let news = self.session.receive(self.now(), order, &StoreKeys(&self.store))?;
                        self.status.send_if_modified(|status| { status.orders += 1; false });
                        match news {
                            Some(News::Welcome { urls }) => self.welcomed(url, urls),
                            Some(News::Certificate(der)) => {
                                if let Some(request) = renewing.take() {
                                    identity.renew(&request, &der)?;
                                    let ends = identity.ends();
                                    self.status.send_modify(|status| status.certificate_ends = Some(ends));
                                }
                            }
                            None => {}
                        }
                    }
                }
                () = tokio::time::sleep_until(Instant::now() + Duration::from_nanos(wake)) => {}
                _ = usage.tick() => {
                    if let Some(message) = self.usage() {
                        send(message)?;
                    }
                    if renewing.is_none() && identity.should_renew() {
                        let request = Request::new(&self.config.name)?;
                        let certificate_request = request.der().to_vec();
                        renewing = Some(request);
                        let message = Message::CertificateRequest(CertificateRequest { certificate_request });
                        send(FromEdge { message: Some(message) })?;
                    }
                }
            }
        }
    }

    fn welcomed(&mut self, url: &str, urls: Vec<String>) {
        tracing::info!(orchestrator = url, "connected to the orchestrator");
        self.failures = 0;
        for learned in urls {
            if !self.urls.contains(&learned) && self.urls.len() < 64 && tls::endpoint(&learned).is_some() {
                self.urls.push(learned);
            }
        }
        self.status.send_modify(|status| {
            status.connected_to = Some(url.to_owned());
            status.trouble = None;
        });
    }

    /// How long a request for a lease may go unanswered: short enough to find another orchestrator within the lease,
    /// longer after each failure, so that a link slower than that is not cut for ever.
    fn patience(&self) -> Duration {
        let half = self.lease_length / 2;
        (half * 2_u32.pow(self.failures.min(5))).min(self.lease_length * 4)
    }

    /// What changed since the last report of this stream.
    fn usage(&mut self) -> Option<FromEdge> {
        let now: HashMap<KeyName, u32> =
            self.store.usage_report().into_iter().map(|usage| (usage.name, usage.callers)).collect();
        let gone = self.reported.keys().filter(|name| !now.contains_key(*name)).map(|name| (name, 0));
        let changed = now.iter().filter(|(name, callers)| self.reported.get(*name) != Some(*callers));
        let keys: Vec<KeyUsage> = changed
            .map(|(name, callers)| (name, *callers))
            .chain(gone)
            .map(|(name, callers)| KeyUsage { key: Some(keys::key_ref(name)), callers })
            .collect();
        self.reported = now;
        (!keys.is_empty()).then_some(FromEdge { message: Some(Message::Usage(Usage { keys })) })
    }

    fn now(&self) -> u64 {
        BootInstant::as_nanos(self.store.now())
    }
}

async fn connect(url: &str, connector: tls::Connector) -> Result<tonic::transport::Channel, Trouble> {
    let endpoint = tls::endpoint(url).ok_or(Trouble::Address)?;
    let connecting = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connector));
    connecting.await.map_err(|_| Trouble::ConnectTimeout)?.map_err(Trouble::Connect)
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}
