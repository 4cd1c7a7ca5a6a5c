//! Connections for commands, and how each kind of address comes to one. None repairs itself: who has one that fails drops
//! it and connects again, at a pace of its own.

use std::sync::Once;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value, cmd,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::address::{Credentials, Node, Place};
use super::sentinel::is_text;
use super::settings::{Settings, read_ca};
use super::subscription::Inbox;
use super::{Failure, Reason, refusal, sentinel};

/// Connecting takes several answers, and is not what a client waits for.
const LEAST_TO_CONNECT: Duration = Duration::from_secs(1);

/// A command that meets a moving slot is sent again this often, in milliseconds of this range: the rest is the caller's.
const CLUSTER_RETRIES: u32 = 3;
const CLUSTER_WAIT: (u64, u64) = (5, 80);

/// Makes connections to one address.
#[derive(Clone)]
pub(crate) struct Connector {
    settings: Settings,
    /// The CA file's content: a worker that runs for months need not find it again.
    tls: Option<TlsCertificates>,
}

/// A connection for commands. Clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    /// To one server, the only one or the master.
    Single(MultiplexedConnection),
    /// To the nodes of a cluster.
    Cluster(ClusterConnection),
}

impl Connector {
    /// Fails if the CA file cannot be used.
    pub(crate) fn new(settings: &Settings) -> Result<Connector, Failure> {
        static CRYPTOGRAPHY: Once = Once::new();
        if settings.address.is_tls() {
            CRYPTOGRAPHY.call_once(|| {
                // An error means that one is installed already.
                rustls::crypto::ring::default_provider().install_default().ok();
            });
        }
        let root_cert = match settings.ca_file.as_deref().map(read_ca).transpose() {
            Ok(pem) => pem,
            Err(reason) => return Err(Failure::new(Reason::Tls, reason)),
        };
        let tls = settings.address.is_tls().then_some(TlsCertificates { client_tls: None, root_cert });
        Ok(Connector { settings: settings.clone(), tls })
    }

    /// Whether keys are spread over several servers.
    pub(crate) fn is_cluster(&self) -> bool {
        self.settings.address.is_cluster()
    }

    /// Whether sentinels say which server it is.
    pub(crate) fn has_sentinels(&self) -> bool {
        matches!(self.settings.address.place, Place::Sentinel { .. })
    }

    /// One attempt, bounded in time. Sentinels are asked anew each time.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        self.connect_to_master().await.map(|(connection, _)| connection)
    }

    /// The same, and which server it is, if sentinels have named it.
    pub(crate) async fn connect_to_master(&self) -> Result<(Connection, Option<Node>), Failure> {
        let connecting = async {
            match &self.settings.address.place {
                Place::Cluster { nodes, .. } => Ok((Connection::Cluster(self.cluster(nodes).await?), None)),
                Place::Server { .. } | Place::Socket(_) => Ok((Connection::Single(self.single(None).await?), None)),
                Place::Sentinel { sentinels, master, .. } => {
                    let (connection, node) = self.to_master(sentinels, master, None).await?;
                    Ok((Connection::Single(connection), Some(node)))
                }
            }
        };
        self.bounded(connecting).await
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long connecting may take.
    pub(super) fn limit(&self) -> Duration {
        (2 * self.settings.timeout).max(LEAST_TO_CONNECT)
    }

    /// The result of work that connects, or the failure to do so in time.
    pub(super) async fn bounded<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = || {
            let hint = if self.tls.is_some() { "; so does a server without TLS" } else { "" };
            Failure::new(Reason::Timeout, format!("not connected after {} ms{hint}", self.limit().as_millis()))
        };
        match timeout(self.limit(), work).await {
            Ok(result) => result,
            Err(_) => Err(late()),
        }
    }

    /// To one server: the master, and of a cluster the first of its nodes that answers. What it pushes, such as
    /// publications, goes to `inbox`.
    pub(super) async fn single(&self, inbox: Option<Inbox>) -> Result<MultiplexedConnection, Failure> {
        match &self.settings.address.place {
            Place::Server { node, .. } => alone(self.to_node(node, inbox).await?).await,
            Place::Socket(path) => {
                alone(self.open(ConnectionAddr::Unix(path.clone()), self.login(), inbox).await?).await
            }
            Place::Sentinel { sentinels, master, .. } => {
                self.to_master(sentinels, master, inbox).await.map(|(connection, _)| connection)
            }
            Place::Cluster { nodes, .. } => {
                let (node, _) = self.to_first(nodes).await?;
                self.to_node(&node, inbox).await
            }
        }
    }

    async fn to_master(
        &self,
        sentinels: &[Node],
        name: &str,
        inbox: Option<Inbox>,
    ) -> Result<(MultiplexedConnection, Node), Failure> {
        let node = sentinel::master(self, sentinels, name).await?;
        let connection = self.to_node(&node, inbox).await?;
        Ok((sentinel::confirm(connection, &node).await?, node))
    }

    /// To this server, as the user of the address.
    pub(super) async fn to_node(&self, node: &Node, inbox: Option<Inbox>) -> Result<MultiplexedConnection, Failure> {
        self.to(node, self.login(), inbox).await
    }

    /// To a sentinel, which has no databases. Sentinels have passwords of their own, mostly none; if they want one, it can
    /// only be that of the servers. What it pushes goes to an inbox of each attempt.
    pub(super) async fn to_sentinel(
        &self,
        node: &Node,
        mut inbox: impl FnMut() -> Option<Inbox>,
    ) -> Result<MultiplexedConnection, Failure> {
        match self.to(node, login(None, 0), inbox()).await {
            Err(Failure { reason: Reason::NoAuth, .. }) => {
                self.to(node, login(self.settings.address.credentials.as_ref(), 0), inbox()).await
            }
            outcome => outcome,
        }
    }

    async fn to(
        &self,
        node: &Node,
        login: RedisConnectionInfo,
        inbox: Option<Inbox>,
    ) -> Result<MultiplexedConnection, Failure> {
        match self.open(self.at(node), login, inbox).await {
            // Over TLS it would not be said in the clear.
            Err(failure) if failure.reason == Reason::Unreachable && self.tls.is_none() => {
                Err(refusal::listen(node, self.settings.timeout).await.unwrap_or(failure))
            }
            outcome => outcome,
        }
    }

    /// To the first that answers of several that are as good as each other; if none does, the failure of the last.
    pub(super) async fn to_first(&self, nodes: &[Node]) -> Result<(Node, MultiplexedConnection), Failure> {
        let mut attempts = JoinSet::new();
        for node in nodes {
            let (connector, node) = (self.clone(), node.clone());
            attempts.spawn(async move {
                let connection = connector.to_node(&node, None).await?;
                Ok((node, connection))
            });
        }
        let mut last = Failure::new(Reason::Unreachable, "no node");
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(first)) => return Ok(first),
                Ok(Err(failure)) => last = failure,
                Err(error) => last = Failure::new(Reason::Other, error.to_string()),
            }
        }
        Err(last)
    }

    async fn cluster(&self, nodes: &[Node]) -> Result<ClusterConnection, Failure> {
        let infos = nodes.iter().map(|node| self.info(self.at(node), self.login())).collect::<Result<Vec<_>, _>>();
        let mut builder = ClusterClientBuilder::new(infos.map_err(|error| self.failure(&error))?)
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_WAIT.0)
            .max_retry_wait(CLUSTER_WAIT.1)
            .connection_timeout(self.limit())
            .response_timeout(self.settings.timeout)
            .tcp_settings(tcp_settings());
        if let Some(tls) = &self.tls {
            builder = builder.certs(tls.clone());
        }
        let client = builder.build().map_err(|error| self.failure(&error))?;
        match client.get_async_connection().await {
            Ok(connection) => Ok(connection),
            // It does not say why no node can be reached.
            Err(error) if error.kind() == ErrorKind::Io => match self.to_first(nodes).await {
                Ok(_) => Err(self.failure(&error)),
                Err(failure) => Err(failure),
            },
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn open(
        &self,
        addr: ConnectionAddr,
        login: RedisConnectionInfo,
        inbox: Option<Inbox>,
    ) -> Result<MultiplexedConnection, Failure> {
        let mut config = AsyncConnectionConfig::new()
            // The whole of what a connection takes is bounded.
            .set_connection_timeout(None)
            .set_response_timeout(Some(self.settings.timeout));
        if let Some(inbox) = inbox {
            config = config.set_push_sender(move |push| inbox.take(push));
        }
        let opened = async {
            Client::open(self.info(addr, login)?)?.get_multiplexed_async_connection_with_config(&config).await
        };
        opened.await.map_err(|error| self.failure(&error))
    }

    fn at(&self, node: &Node) -> ConnectionAddr {
        match self.tls {
            None => ConnectionAddr::Tcp(node.host.clone(), node.port),
            Some(_) => {
                ConnectionAddr::TcpTls { host: node.host.clone(), port: node.port, insecure: false, tls_params: None }
            }
        }
    }

    fn login(&self) -> RedisConnectionInfo {
        login(self.settings.address.credentials.as_ref(), self.settings.address.database)
    }

    fn info(&self, addr: ConnectionAddr, login: RedisConnectionInfo) -> Result<ConnectionInfo, RedisError> {
        let info = addr.into_connection_info()?.set_tcp_settings(tcp_settings()).set_redis_settings(login);
        match (&self.tls, info.addr()) {
            (Some(tls), ConnectionAddr::TcpTls { .. }) => {
                Ok(Client::build_with_tls(info, tls.clone())?.get_connection_info().clone())
            }
            _ => Ok(info),
        }
    }

    /// What is told of an error that came while the password was on its way.
    pub(super) fn failure(&self, error: &RedisError) -> Failure {
        let failure = Failure::from(error);
        match &self.settings.address.credentials {
            Some(Credentials { password, .. }) => failure.without(password),
            None => failure,
        }
    }
}

impl Connection {
    /// Sends all of it at once and returns as many results, in the same order, within the time that the settings allow.
    ///
    /// One server gets one write and answers each command; that one fails does not keep the others from being done. If
    /// the connection is lost, or the time is up, every command fails, and some of them may have been done. In a cluster
    /// each command goes to the node of its first key, may fail by itself, and may be done twice when its slot moves.
    pub(crate) async fn execute(&mut self, commands: Vec<Cmd>) -> Vec<Result<Value, Failure>> {
        match self {
            Connection::Single(connection) => in_one_write(connection, commands).await,
            Connection::Cluster(connection) => {
                let each = commands.into_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { answer(connection.req_packed_command(&command).await) }
                });
                join_all(each).await
            }
        }
    }

    /// The name of the command that reaches every subscription of [`Connector::subscribe`].
    #[cfg(test)]
    pub(super) fn publish_command(&self) -> &'static str {
        match self {
            Connection::Single(_) => "PUBLISH",
            Connection::Cluster(_) => "SPUBLISH",
        }
    }
}

/// The connection, unless its server is a node of a Cluster, which serves some of the keys only. Every user may ask that:
/// `HELLO` is what logging in needs.
async fn alone(mut connection: MultiplexedConnection) -> Result<MultiplexedConnection, Failure> {
    let Some(Ok(Value::Map(facts))) = in_one_write(&mut connection, vec![cmd("HELLO")]).await.pop() else {
        return Ok(connection);
    };
    let is_node = |(name, value): &(Value, Value)| is_text(name, "mode") && is_text(value, "cluster");
    match facts.iter().any(is_node) {
        true => Err(Failure::new(Reason::IsCluster, "use redis+cluster://, or rediss+cluster:// with TLS")),
        false => Ok(connection),
    }
}

pub(super) async fn in_one_write(
    connection: &mut MultiplexedConnection,
    commands: Vec<Cmd>,
) -> Vec<Result<Value, Failure>> {
    let count = commands.len();
    match &commands[..] {
        [] => return Vec::new(),
        // Most commits are: a pipeline of one is twice the work.
        [command] => return vec![answer(connection.req_packed_command(command).await)],
        _ => {}
    }
    let mut pipeline = Pipeline::with_capacity(count);
    for command in commands {
        pipeline.add_command(command);
    }
    match connection.send_packed_commands(&pipeline, 0, count).await {
        Ok(values) if values.len() == count => values.into_iter().map(|value| answer(Ok(value))).collect(),
        Ok(values) => {
            let odd = format!("{} answers to {count} commands", values.len());
            vec![Err(Failure::new(Reason::Other, odd)); count]
        }
        Err(error) => vec![Err(Failure::from(&error)); count],
    }
}

/// An error is the answer of a command like any other until it is taken out, also from within an array.
fn answer(result: Result<Value, RedisError>) -> Result<Value, Failure> {
    result.and_then(Value::extract_error).map_err(|error| Failure::from(&error))
}

fn login(credentials: Option<&Credentials>, database: u32) -> RedisConnectionInfo {
    let login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("baton", env!("CARGO_PKG_VERSION"))
        .set_db(database.into());
    match credentials {
        None => login,
        Some(Credentials { user: None, password }) => login.set_password(password),
        Some(Credentials { user: Some(user), password }) => login.set_username(user).set_password(password),
    }
}

/// A pipeline that waits for its last packet's acknowledgement is late.
fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}
