//! A connection for what is rarely asked: made when it is needed, and anew when it has failed.

use std::cell::RefCell;

use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, Value, cmd, from_redis_value};

use super::{Connection, Connector, Failure, Reason, Settings};

/// Commands go over one connection at a time.
pub(crate) struct Line {
    connector: Connector,
    connection: RefCell<Option<Connection>>,
}

/// A server that holds keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Master {
    /// The only one.
    Only,
    /// One of a cluster.
    Node { host: String, port: u16 },
}

impl Line {
    /// Fails if the CA file cannot be used. Nothing is connected yet.
    pub(crate) fn new(settings: &Settings) -> Result<Line, Failure> {
        Ok(Line { connector: Connector::new(settings)?, connection: RefCell::default() })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.connector.is_cluster()
    }

    /// Carries out commands, which may be done twice: a connection that was made before may have ended unnoticed, and
    /// then they are sent again. One answer for each.
    pub(crate) async fn execute(&self, commands: Vec<Cmd>) -> Result<Vec<Result<Value, Failure>>, Failure> {
        self.with_connection(async |connection| {
            let answers = connection.execute(commands.clone()).await;
            match answers.iter().find_map(|answer| answer.as_ref().err().filter(|failure| is_lost(failure))) {
                Some(failure) => Err(failure.clone()),
                None => Ok(answers),
            }
        })
        .await
    }

    /// All servers that hold keys, in a lasting order.
    pub(crate) async fn masters(&self) -> Result<Vec<Master>, Failure> {
        if !self.is_cluster() {
            return Ok(vec![Master::Only]);
        }
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let odd = |what: &dyn std::fmt::Display| Failure::new(Reason::Other, format!("CLUSTER SLOTS: {what}"));
        let answer = self.execute(vec![slots]).await?.pop().ok_or_else(|| odd(&"no answer"))??;
        // Each range: its first and last slot, then its nodes, the master first, as host, port and more.
        let ranges: Vec<Vec<Value>> = from_redis_value(answer).map_err(|error| odd(&error))?;
        let mut masters = Vec::new();
        for master in ranges.into_iter().filter_map(|range| range.into_iter().nth(2)) {
            let fields: Vec<Value> = from_redis_value(master).map_err(|error| odd(&error))?;
            let mut fields = fields.into_iter();
            let host = fields.next().and_then(|host| from_redis_value(host).ok());
            let port = fields.next().and_then(|port| from_redis_value(port).ok());
            let (host, port) = host.zip(port).ok_or_else(|| odd(&"a node without an address"))?;
            masters.push(Master::Node { host, port });
        }
        masters.sort();
        masters.dedup();
        Ok(masters)
    }

    /// Carries out one command on one server.
    pub(crate) async fn execute_at(&self, master: &Master, command: Cmd) -> Result<Value, Failure> {
        self.with_connection(async |connection| match (master, connection) {
            (Master::Node { host, port }, Connection::Cluster(connection)) => {
                let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                let answer = connection.route_command(command.clone(), RoutingInfo::SingleNode(node)).await;
                answer.and_then(Value::extract_error).map_err(|error| Failure::from(&error))
            }
            (Master::Node { .. } | Master::Only, connection) => {
                let nothing = || Err(Failure::new(Reason::Other, "no answer"));
                connection.execute(vec![command.clone()]).await.pop().unwrap_or_else(nothing)
            }
        })
        .await
    }

    /// Does something over the connection that there is, and again over a new one if that is lost.
    async fn with_connection<T>(
        &self,
        mut work: impl AsyncFnMut(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let made_before = self.connection.borrow_mut().take();
        if let Some(mut connection) = made_before {
            let outcome = work(&mut connection).await;
            if !matches!(&outcome, Err(failure) if is_lost(failure)) {
                *self.connection.borrow_mut() = Some(connection);
                return outcome;
            }
        }
        let mut connection = self.connector.connect().await?;
        let outcome = work(&mut connection).await;
        if !matches!(&outcome, Err(failure) if is_lost(failure)) {
            *self.connection.borrow_mut() = Some(connection);
        }
        outcome
    }
}

fn is_lost(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Unreachable | Reason::Timeout)
}
