//! Hearing what is published, on a connection of its own. It ends whenever something may have been missed, and never
//! mends itself: who subscribes again knows that there is a gap.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, Value, cmd};
use tokio::sync::mpsc;

use super::address::{Node, Place};
use super::connection::Connector;
use super::{Failure, Reason};

/// Publications that wait to be heard: more, and the subscription ends as if Redis had dropped it for being slow.
const MAX_MESSAGES: usize = 8192;
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Nodes of a cluster that may refer to each other until one has the channel.
const MAX_REFERRALS: usize = 5;

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// All of it.
    Whole(Vec<u8>),
    /// Larger than was asked for: the rest was thrown away.
    Cut {
        /// Its first bytes.
        beginning: Vec<u8>,
        /// How many there were.
        bytes: usize,
    },
}

impl Payload {
    /// Bytes that are kept of what is too large.
    const BEGINNING: usize = 64;

    fn new(mut bytes: Vec<u8>, most: usize) -> Payload {
        match bytes.len() {
            length if length > most => {
                bytes.truncate(Payload::BEGINNING);
                bytes.shrink_to_fit();
                Payload::Cut { beginning: bytes, bytes: length }
            }
            _ => Payload::Whole(bytes),
        }
    }

    /// What there is of it.
    pub(crate) fn beginning(&self) -> &[u8] {
        match self {
            Payload::Whole(bytes) | Payload::Cut { beginning: bytes, .. } => bytes,
        }
    }

    /// Bytes as it was published.
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Whole(bytes) => bytes.len(),
            Payload::Cut { bytes, .. } => *bytes,
        }
    }
}

/// What is published on one channel, from when it was made.
pub(crate) struct Subscription {
    messages: mpsc::Receiver<Payload>,
    waiting: Arc<AtomicUsize>,
    /// It lives as long as this.
    _connection: MultiplexedConnection,
}

impl Subscription {
    /// The next publication, or none once the connection is gone, or was too far behind.
    pub(crate) async fn next(&mut self) -> Option<Payload> {
        let message = self.messages.recv().await?;
        self.waiting.fetch_sub(message.beginning().len(), Ordering::Relaxed);
        Some(message)
    }
}

/// Where a connection puts publications. The connection alone holds it, so that it ends with it.
pub(super) struct Inbox {
    /// None once it has ended.
    sender: Mutex<Option<mpsc::Sender<Payload>>>,
    /// Bytes that are not taken out yet.
    waiting: Arc<AtomicUsize>,
    /// Bytes of the largest publication that is kept whole.
    most: usize,
}

/// The other end of an [`Inbox`].
struct Outlet {
    messages: mpsc::Receiver<Payload>,
    waiting: Arc<AtomicUsize>,
}

impl Outlet {
    fn of(self, connection: MultiplexedConnection) -> Subscription {
        Subscription { messages: self.messages, waiting: self.waiting, _connection: connection }
    }
}

impl Inbox {
    fn new(most: usize) -> (Inbox, Outlet) {
        let (sender, messages) = mpsc::channel(MAX_MESSAGES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let inbox = Inbox { sender: Mutex::new(Some(sender)), waiting: Arc::clone(&waiting), most };
        (inbox, Outlet { messages, waiting })
    }

    /// Called by the connection for all that is no answer, and for the confirmation of a subscription.
    pub(super) fn take(&self, push: PushInfo) -> Result<(), ()> {
        match push.kind {
            PushKind::Message | PushKind::SMessage => match push.data.into_iter().nth(1) {
                Some(Value::BulkString(payload)) => self.put(payload),
                Some(_) | None => self.end(),
            },
            // A node that gives up a slot takes its channels' subscriptions back.
            PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => self.end(),
            // Confirmations, and what was never asked for.
            _ => {}
        }
        Ok(())
    }

    fn put(&self, payload: Vec<u8>) {
        let payload = Payload::new(payload, self.most);
        let kept = payload.beginning().len();
        let waiting = self.waiting.fetch_add(kept, Ordering::Relaxed) + kept;
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let full = waiting > MAX_BYTES || sender.as_ref().is_some_and(|sender| sender.try_send(payload).is_err());
        if full {
            *sender = None;
        }
    }

    fn end(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Connector {
    /// Subscribes to a channel, in a cluster to a sharded one: only the node that serves its slot, and its replicas, have
    /// work with it. Of a publication of more than `most` bytes only the beginning comes.
    pub(crate) async fn subscribe(&self, channel: &str, most: usize) -> Result<Subscription, Failure> {
        let subscribing = async {
            match &self.settings().address.place {
                Place::Cluster { nodes, .. } => self.subscribe_shard(nodes, channel, most).await,
                Place::Server { .. } | Place::Socket(_) | Place::Sentinel { .. } => {
                    let (inbox, outlet) = Inbox::new(most);
                    let mut connection = self.single(Some(inbox)).await?;
                    connection.subscribe(channel).await.map_err(|error| self.failure(&error))?;
                    Ok(outlet.of(connection))
                }
            }
        };
        self.bounded(subscribing).await
    }

    /// A connection to a sentinel, and what it publishes on one of its channels.
    pub(super) async fn listen_to_sentinel(
        &self,
        sentinel: &Node,
        channel: &str,
    ) -> Result<(MultiplexedConnection, Subscription), Failure> {
        // It names servers, and is short.
        const MOST: usize = 1024;
        let mut outlet = None;
        let mut connection = self
            .to_sentinel(sentinel, || {
                let (inbox, outlet_of_it) = Inbox::new(MOST);
                outlet = Some(outlet_of_it);
                Some(inbox)
            })
            .await?;
        connection.subscribe(channel).await.map_err(|error| self.failure(&error))?;
        let outlet = outlet.ok_or_else(|| Failure::new(Reason::Other, "no inbox"))?;
        Ok((connection.clone(), outlet.of(connection)))
    }

    /// Any node knows which one has the channel, and says so.
    async fn subscribe_shard(&self, nodes: &[Node], channel: &str, most: usize) -> Result<Subscription, Failure> {
        let (mut node, _) = self.to_first(nodes).await?;
        for _ in 0..=MAX_REFERRALS {
            let (inbox, outlet) = Inbox::new(most);
            let mut connection = self.to_node(&node, Some(inbox)).await?;
            let mut command = cmd("SSUBSCRIBE");
            command.arg(channel);
            match connection.send_packed_command(&command).await.and_then(Value::extract_error) {
                Ok(_) => return Ok(outlet.of(connection)),
                Err(error) => node = referral(&error, &node).ok_or_else(|| self.failure(&error))?,
            }
        }
        Err(Failure::new(Reason::ClusterDown, "its nodes do not agree on who serves what"))
    }
}

/// Where `MOVED` points to. An empty host is the one that was asked (Redis cluster specification, redirection).
fn referral(error: &RedisError, asked: &Node) -> Option<Node> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { &asked.host } else { host };
    Some(Node { host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
}
