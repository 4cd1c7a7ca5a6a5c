//! Accepts connections, within the bounds of descriptors and handshakes.
//!
//! The last of the descriptors are for HTTP alone: a worker that has all the WebSockets it can have still answers probes, and
//! upgrades with a 503. In that reserve a connection ends after one answer, and the oldest is dropped for a newer one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton_ipc::{Endpoint, Listener};
use nix::errno::Errno;
use socket2::{Domain, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;

use crate::addresses::Counted;
use crate::app::App;
use crate::http;
use crate::metrics::{Gauge, Refused, Single};
use crate::proxies::Peer;
use crate::socket::IntoSocket;
use crate::worker::Shared;

/// Descriptors kept for what is not a client: epolls, the store, logs, the channel to the supervisor.
const RESERVE: u64 = 64;

/// How long to wait before looking again whether there is room.
const PAUSE: Duration = Duration::from_millis(20);

/// The most descriptors for HTTP alone.
const HTTP_RESERVE: usize = 64;

/// How long an HTTP connection is left alone before a newer one may push it out. Long enough for every client of a storm
/// of connects to send its request; short enough that those who never will do not hold up the others.
const GRACE: Duration = Duration::from_secs(1);

/// The same where the descriptors run out: a request for a probe is there at once, and more of them must pass.
const RESERVE_GRACE: Duration = Duration::from_millis(250);

/// The descriptors that clients of this process may have (`RLIMIT_NOFILE`, getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// All of them.
    pub(crate) all: usize,
    /// Those that a WebSocket may have.
    pub(crate) websockets: usize,
}

impl Descriptors {
    pub(crate) fn of_process() -> io::Result<Descriptors> {
        let (soft, _hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        Ok(Descriptors::new(soft))
    }

    /// With so many for the whole process.
    pub(crate) fn new(limit: u64) -> Descriptors {
        let all = usize::try_from(limit.saturating_sub(RESERVE).max(2)).unwrap_or(usize::MAX);
        Descriptors { all, websockets: all - HTTP_RESERVE.min(all / 2) }
    }
}

/// How many HTTP connections there may be now, and how long each is left alone when there are more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    most: usize,
    grace: Duration,
}

impl Room {
    /// With so many set as the most, and so many descriptors that others have.
    fn new(max: usize, descriptors: Descriptors, others: usize) -> Room {
        let left = descriptors.all.saturating_sub(others).max(1);
        let scarce = left <= 2 * (descriptors.all - descriptors.websockets);
        Room { most: left.min(max), grace: if scarce && left < max { RESERVE_GRACE } else { GRACE } }
    }
}

/// HTTP connections that are not, or not yet, WebSockets, oldest first.
#[derive(Debug)]
pub(crate) struct Handshakes {
    open: RefCell<BTreeMap<u64, (Instant, AbortHandle)>>,
    /// Those that wait for another request.
    idle: RefCell<BTreeSet<u64>>,
    next: Cell<u64>,
    max: usize,
    crowded: Cell<bool>,
    /// WebSockets are refused for want of descriptors.
    short: Cell<bool>,
}

impl Handshakes {
    pub(crate) fn new(max: usize) -> Handshakes {
        Handshakes {
            open: RefCell::default(),
            idle: RefCell::default(),
            next: Cell::new(0),
            max,
            crowded: Cell::new(false),
            short: Cell::new(false),
        }
    }

    /// How many there are, those included that have left HTTP and wait to be taken to another process.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Ends them all, answered or not.
    pub(crate) fn abort_all(&self) {
        for (_, (_, task)) in std::mem::take(&mut *self.open.borrow_mut()) {
            task.abort();
        }
    }

    /// The connection that makes room for another, and its age: the oldest that waits for another request, or else the
    /// oldest.
    fn first_to_go(&self, grace: Duration) -> Option<(u64, Duration)> {
        let open = self.open.borrow();
        let age = |id: &u64| open.get(id).map(|(since, _)| (*id, since.elapsed()));
        let idle = self.idle.borrow().first().and_then(age).filter(|(_, age)| *age >= grace);
        idle.or_else(|| open.first_key_value().and_then(|(id, _)| age(id)))
    }

    /// Waits until there is room for one more, or the oldest has had its time and is dropped. A crowd of clients that
    /// never finish their requests thus pushes out its own. Returns whether one was dropped.
    async fn wait_for(&self, room: impl Fn() -> Room) -> bool {
        loop {
            let Room { most, grace } = room();
            if self.len() < most {
                break;
            }
            match self.first_to_go(grace) {
                Some((id, age)) if age >= grace => {
                    if !self.crowded.replace(true) {
                        tracing::warn!(limit = most, "too many HTTP connections at once: dropping the oldest");
                    }
                    self.idle.borrow_mut().remove(&id);
                    if let Some((_, task)) = self.open.borrow_mut().remove(&id) {
                        task.abort();
                    }
                    return true;
                }
                Some((_, age)) => tokio::time::sleep((grace - age).min(PAUSE)).await,
                None => break,
            }
        }
        if self.len() < self.max / 2 && self.crowded.replace(false) {
            tracing::info!("the crowd of HTTP connections is over");
        }
        false
    }
}

/// One of the [`Handshakes`], from accepting until it is over, is a WebSocket that the hub counts, or is in another
/// process.
pub(crate) struct Handshake<A: App> {
    pub(crate) shared: Rc<Shared<A>>,
    /// Who has connected: the client, or a proxy.
    pub(crate) peer: Peer,
    /// It is to end after one answer: descriptors are scarce, or its client has too many connections.
    pub(crate) once: bool,
    /// It is counted for its client's address; none: that is not known before there is a request.
    pub(crate) counted: Cell<Option<Counted>>,
    id: u64,
}

impl<A: App> Handshake<A> {
    /// Records whether it waits for another request.
    pub(crate) fn set_idle(&self, idle: bool) {
        let mut all = self.shared.handshakes.idle.borrow_mut();
        if idle {
            all.insert(self.id);
        } else {
            all.remove(&self.id);
        }
    }
}

impl<A: App> Drop for Handshake<A> {
    fn drop(&mut self) {
        self.set_idle(false);
        self.shared.handshakes.open.borrow_mut().remove(&self.id);
    }
}

/// Accepts from one listener until the task is aborted. Other processes hold the same socket: it is only ever closed,
/// never shut down.
pub(crate) async fn accept<A: App>(shared: Rc<Shared<A>>, listener: Listener) -> io::Result<()> {
    match listener.endpoint {
        Endpoint::Tcp(_) => {
            let socket = TcpListener::from_std(listener.socket.into())?;
            accept_from(shared, async || socket.accept().await.map(|(stream, peer)| (stream, Peer::Tcp(peer)))).await
        }
        Endpoint::Unix(_) => {
            let socket = UnixListener::from_std(listener.socket.into())?;
            accept_from(shared, async || socket.accept().await.map(|(stream, _)| (stream, Peer::Unix))).await
        }
    }
}

async fn accept_from<A, S>(shared: Rc<Shared<A>>, next: impl AsyncFn() -> io::Result<(S, Peer)>) -> io::Result<()>
where
    A: App,
    S: IntoSocket + 'static,
{
    loop {
        if shared.handshakes.wait_for(|| shared.http_room()).await {
            shared.hub.borrow().metrics.refused(Refused::Handshakes);
        }
        match next().await {
            Ok((stream, peer)) => admit(&shared, stream, peer, None),
            Err(error) if out_of_resources(&error) => {
                tracing::warn!(%error, "cannot accept now");
                tokio::time::sleep(PAUSE).await;
            }
            // It does not listen, and never will: to ask it again would be to spin.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(error),
            // The client was gone before it was accepted (accept(2): errors of the new socket).
            Err(error) => tracing::debug!(%error, "a client left before it was accepted"),
        }
    }
}

impl<A: App> Shared<A> {
    /// How many HTTP connections there may be beside the WebSockets.
    fn http_room(&self) -> Room {
        let others = self.hub.borrow().connections.len() + self.lanes.held();
        Room::new(self.handshakes.max, self.descriptors, others)
    }

    /// Whether an HTTP connection that comes now has one of the last descriptors.
    fn is_in_reserve(&self) -> bool {
        self.open_descriptors() >= self.descriptors.websockets
    }

    /// Looks whether WebSockets are refused for want of descriptors, and says so once. To be called every second.
    pub(crate) fn look_at_descriptors(&self) {
        let (metrics, open) = (self.hub.borrow().metrics.clone(), self.hub.borrow().connections.len());
        let limit = self.descriptors.websockets;
        let short = open >= if self.handshakes.short.get() { limit - limit / 50 } else { limit };
        if self.handshakes.short.replace(short) == short {
            return;
        }
        metrics.gauge(Gauge::AcceptPaused, short.into());
        if short {
            metrics.add(Single::AcceptPauses, 1);
            tracing::warn!(event = "descriptors_exhausted", open, limit, "out of descriptors: refusing WebSockets");
        } else {
            tracing::info!(event = "descriptors_available", open, limit, "accepting WebSockets again");
        }
    }
}

/// Serves an HTTP connection that another process began to serve. `unread` is what that one had read and not handled.
pub(crate) fn admit_moved<A: App>(shared: &Rc<Shared<A>>, socket: OwnedFd, unread: Vec<u8>) -> io::Result<()> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(true)?;
    if socket.domain()? == Domain::UNIX {
        admit(shared, UnixStream::from_std(socket.into())?, Peer::Unix, Some(unread));
    } else {
        let stream = TcpStream::from_std(socket.into())?;
        let peer = stream.peer_addr().map_or(Peer::Gone, Peer::Tcp);
        admit(shared, stream, peer, Some(unread));
    }
    Ok(())
}

fn admit<A: App>(shared: &Rc<Shared<A>>, stream: impl IntoSocket + 'static, peer: Peer, read_before: Option<Vec<u8>>) {
    if let Err(error) = stream.tune(&shared.hub.borrow().settings.limits) {
        tracing::debug!(%error, %peer, "a client left before it was served");
        return;
    }
    let handshakes = &shared.handshakes;
    let metrics = shared.hub.borrow().metrics.clone();
    let id = handshakes.next.get();
    handshakes.next.set(id + 1);
    let (counted, crowded) = count(shared, peer);
    let once = crowded || shared.is_in_reserve();
    let handshake = Handshake { shared: shared.clone(), peer, once, counted: Cell::new(counted), id };
    let serve = http::serve(handshake, stream, read_before);
    let task = tokio::task::spawn_local(turns_between(shared.clone(), serve));
    handshakes.open.borrow_mut().insert(id, (Instant::now(), task.abort_handle()));
    metrics.gauge(Gauge::Handshakes, handshakes.len() as u64);
}

/// Counts a connection for the address of its client, if that is known already; and whether that has too many.
fn count<A: App>(shared: &Shared<A>, peer: Peer) -> (Option<Counted>, bool) {
    let hub = shared.hub.borrow();
    let Some(client) = peer.client(&hub.settings.trusted_proxies) else { return (None, false) };
    let counted = hub.addresses.count(client);
    (Some(counted), hub.addresses.check_connections(client, &hub.settings.per_address).is_err())
}

/// Between any two steps of HTTP connections there is time for a turn. After a failure elsewhere thousands of clients come
/// at once; the runtime has all of them take their steps in a row, each of which costs as much as ten messages.
async fn turns_between<A: App>(shared: Rc<Shared<A>>, connection: impl Future<Output = ()>) {
    let mut connection = pin!(connection);
    poll_fn(|context| {
        shared.turn_if_overdue();
        connection.as_mut().poll(context)
    })
    .await;
}

fn out_of_resources(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use hyper::HeaderMap;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::hub::Upgraded;
    use crate::proxies::Client;
    use crate::token::Token;
    use crate::worker::OVERDUE;
    use crate::worker::testing::Worker;

    #[test]
    fn the_last_descriptors_are_for_http() {
        let of = |limit| {
            let Descriptors { all, websockets } = Descriptors::new(limit);
            (all, websockets)
        };
        assert_eq!((of(1024), of(192), of(70)), ((960, 896), (128, 64), (6, 3)));
        assert!([0, 1, 64, 65, 66].map(of).iter().all(|(all, websockets)| *websockets >= 1 && all > websockets));
        assert!(of(u64::MAX).1 > 1 << 60);
    }

    #[test]
    fn room_for_http_is_what_websockets_have_left() {
        let descriptors = Descriptors::new(1024);
        assert_eq!(Room::new(10, descriptors, 896), Room { most: 10, grace: GRACE });
        assert_eq!(Room::new(100, descriptors, 0), Room { most: 100, grace: GRACE });
        assert_eq!(Room::new(4096, descriptors, 0), Room { most: 960, grace: GRACE });
        assert_eq!(Room::new(4096, descriptors, 896), Room { most: 64, grace: RESERVE_GRACE });
        // More than there may be, from another process.
        assert_eq!(Room::new(4096, descriptors, 970), Room { most: 1, grace: RESERVE_GRACE });
    }

    #[test]
    fn who_talks_does_not_wait_for_a_crowd_that_connects() {
        const CROWD: usize = 20;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let worker = Worker::new();
        let (ours, mut client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        let (token, request_id) = (Token::random(), Token::random());
        let upgraded = Upgraded {
            socket: ours.into(),
            token,
            request_id,
            resumed: false,
            client: Client::of(Peer::Unix, &HeaderMap::new(), &[]),
            counted: None,
            early: Vec::new(),
        };
        worker.shared.hub.borrow_mut().adopt(upgraded).unwrap();
        client.write_all(b"\x81\x82\0\0\0\0hi").unwrap();
        let answered = Rc::new(Cell::new(false));
        let client = Rc::new(RefCell::new(client));
        // All are ready at once, and nothing else takes turns here.
        LocalSet::new().block_on(&runtime, async {
            let crowd = (0..CROWD).map(|nth| {
                let (answered, client) = (answered.clone(), client.clone());
                let step = async move {
                    let mut reply = [0; 16];
                    if !answered.get() {
                        answered.set(matches!(client.borrow_mut().read(&mut reply), Ok(4)));
                    }
                    assert!(answered.get() || nth < 2, "no reply before step {nth} of {CROWD}");
                    // What a handshake costs on a slow machine.
                    std::thread::sleep(2 * OVERDUE);
                };
                spawn_local(turns_between(worker.shared.clone(), step))
            });
            for one in crowd.collect::<Vec<_>>() {
                one.await.unwrap();
            }
        });
        assert!(answered.get());
    }
}
