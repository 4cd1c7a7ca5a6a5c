//! One worker process: a single-threaded runtime, its tasks, and the line to the supervisor.

mod drain;
mod events;
mod inquiries;
mod standing;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton_ipc::messages::{Amount, Answer, FromWorker, Question, ToWorker};
use baton_ipc::scoreboard::monotonic_ms;
use baton_ipc::{Channel, ChannelError, Inheritance, Listener, Slot, fault};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use crate::accept::{self, Descriptors, Handshakes};
use crate::app::App;
use crate::backplane::{Backplane, Driver, Embedded, Options, Redis};
use crate::handoff::{self, Lanes};
use crate::http::admin::{self, Admin};
use crate::http::{Departures, Moved};
use crate::hub::{After, Hub};
use crate::listing;
use crate::metrics::{Gauge, Metrics};
use crate::readable::Readable;
use crate::settings::Settings;

use inquiries::Inquiries;
pub(crate) use standing::Standing;

/// So long turns may follow each other before HTTP, timers and the supervisor get theirs.
const SLICE: Duration = Duration::from_millis(2);

/// So long others may go on without a turn in between.
pub(crate) const OVERDUE: Duration = Duration::from_millis(1);

/// What the tasks of a worker share. Borrows of the hub never cross an `await`.
pub(crate) struct Shared<A: App> {
    pub(crate) hub: RefCell<Hub<A>>,
    pub(crate) handshakes: Handshakes,
    pub(crate) descriptors: Descriptors,
    pub(crate) slot: Slot,
    /// For the pages of operators; none: they are off.
    pub(crate) admin: Option<Admin>,
    /// True once HTTP connections are to end after their current answer.
    closing: watch::Sender<bool>,
    /// Where HTTP connections go that are to leave this process; none: they stay.
    leaving: watch::Sender<Option<Departures<A>>>,
    /// The hub has no connections left while draining.
    emptied: Notify,
    /// There is something to do for a turn: a commit that was under way is over, or connections have come or stayed.
    pub(crate) settled: Notify,
    /// A commit that was under way is over.
    pub(crate) answered: Notify,
    pub(crate) lanes: Lanes,
    /// The supervisor is gone.
    pub(crate) orphaned: Cell<bool>,
    /// The line to the other hosts was found to be there, or not to be.
    linked: Notify,
    /// The last heartbeat that was heard from another worker (milliseconds since 1970).
    beat: watch::Sender<u64>,
    /// When the last turn ended.
    turned: Cell<Instant>,
    log_lines_dropped: fn() -> u64,
    rest_logs: fn(),
    standing: RefCell<Standing>,
    inquiries: Inquiries,
    supervisor: Channel,
}

impl<A: App> Shared<A> {
    /// What tasks begin with: none runs yet, and nothing has happened.
    pub(crate) fn new(
        hub: Hub<A>,
        descriptors: Descriptors,
        slot: Slot,
        hooks: &Hooks,
        supervisor: Channel,
    ) -> Shared<A> {
        let handshakes = Handshakes::new(hub.settings.limits.max_handshakes);
        let admin = Admin::of(&hub.settings);
        Shared {
            hub: RefCell::new(hub),
            handshakes,
            admin,
            descriptors,
            slot,
            closing: watch::Sender::new(false),
            leaving: watch::Sender::new(None),
            emptied: Notify::new(),
            settled: Notify::new(),
            answered: Notify::new(),
            lanes: Lanes::default(),
            orphaned: Cell::new(false),
            linked: Notify::new(),
            beat: watch::Sender::new(0),
            turned: Cell::new(Instant::now()),
            log_lines_dropped: hooks.log_lines_dropped,
            rest_logs: hooks.rest_logs,
            standing: RefCell::new(Standing::new()),
            inquiries: Inquiries::default(),
            supervisor,
        }
    }

    /// Descriptors in use by clients.
    pub(crate) fn open_descriptors(&self) -> usize {
        self.hub.borrow().connections.len() + self.handshakes.len()
    }

    /// WebSockets that may be open in this worker.
    pub(crate) fn max_connections(&self) -> usize {
        let set = self.hub.borrow().settings.limits.max_connections;
        set.unwrap_or(usize::MAX).min(self.descriptors.websockets)
    }

    /// Resolves when HTTP connections are to end.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Where HTTP connections are to go.
    pub(crate) fn leaving(&self) -> watch::Receiver<Option<Departures<A>>> {
        self.leaving.subscribe()
    }

    /// From now on every HTTP connection leaves this process as soon as it is between two requests, and comes out here.
    /// Once this is dropped, those that have not left stay.
    pub(crate) fn take_http_connections(&self) -> mpsc::UnboundedReceiver<Moved<A>> {
        let (departures, moved) = mpsc::unbounded_channel();
        self.leaving.send_replace(Some(departures));
        moved
    }

    /// Says something to the supervisor, unasked or not. It never waits: a supervisor that stands still is an error.
    pub(crate) fn tell_supervisor(&self, message: &FromWorker) -> Result<(), ChannelError> {
        self.supervisor.send(message, &[])
    }
}

/// What the body of a worker process needs beside its settings.
pub struct Hooks {
    /// Log lines that this process has lost so far.
    pub log_lines_dropped: fn() -> u64,
    /// Opens the log files anew.
    pub reopen_logs: fn(),
    /// Lets go of what logging does not need now. Called every second.
    pub rest_logs: fn(),
}

/// The body of a worker process: serves until it is told to drain, or loses its supervisor. Returns the exit code.
pub fn run<A: App>(inheritance: Inheritance, settings: Settings, app: A, hooks: Hooks) -> i32 {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&inheritance.channel, format!("cannot build the runtime: {error}")),
    };
    let local = LocalSet::new();
    let code = local.block_on(&runtime, serve(inheritance, settings, app, hooks, begun));
    drop(local);
    runtime.shutdown_timeout(BLOCKED_THREADS_WAIT);
    code
}

/// How long an exit waits for threads in calls that block. Names are looked up there, and a resolver may not answer for
/// half a minute.
pub(crate) const BLOCKED_THREADS_WAIT: Duration = Duration::from_millis(250);

/// How long a new worker waits for its backplane before it serves without.
const FIRST_LINK: Duration = Duration::from_secs(1);

/// The backplane that is configured, and the task that talks for it, if it needs one.
fn open_backplane(host: Embedded, settings: &Settings) -> Result<(Box<dyn Backplane>, Option<Driver>), String> {
    let Some(redis) = &settings.redis else { return Ok((Box::new(host), None)) };
    let (redis, driver) = Redis::new(host, redis, settings.lifetimes(), settings.limits.max_output)
        .map_err(|failure| failure.to_string())?;
    Ok((Box::new(redis), Some(driver)))
}

fn fail(channel: &Channel, cause: String) -> i32 {
    tracing::error!(cause, "the worker cannot serve");
    // The supervisor may be gone; the exit code tells the same.
    let _ = channel.send(&FromWorker::Failed { cause }, &[]);
    1
}

async fn serve<A: App>(inheritance: Inheritance, settings: Settings, app: A, hooks: Hooks, begun: Instant) -> i32 {
    let Inheritance { slot, side, channel, listeners, accepting, scoreboard } = inheritance;
    let metrics = Metrics::new(scoreboard.clone(), slot, side);
    let options = Options::of(&settings);
    let started = (|| -> Result<(Rc<Shared<A>>, Option<Driver>), String> {
        let host = Embedded::open(options, scoreboard, slot, side).map_err(|error| error.to_string())?;
        let descriptors = Descriptors::of_process().map_err(|error| format!("getrlimit: {error}"))?;
        let supervisor = channel.try_clone().map_err(|error| format!("fcntl: {error}"))?;
        let (backplane, driver) = open_backplane(host, &settings)?;
        let hub = Hub::new(app, settings, metrics.clone(), backplane).map_err(|error| format!("epoll: {error}"))?;
        let shared = Rc::new(Shared::new(hub, descriptors, slot, &hooks, supervisor));
        Ok((shared, driver))
    })();
    let (shared, driver) = match started {
        Ok(started) => started,
        Err(cause) => return fail(&channel, cause),
    };
    let mut tasks = match tasks::spawn(&shared) {
        Ok(tasks) => tasks,
        Err(error) => return fail(&channel, format!("cannot watch descriptors: {error}")),
    };
    if let Some(driver) = driver {
        events::spawn(&shared, driver, &mut tasks);
        // Clients that resume would be turned away before the first attempt has succeeded.
        let _ = tokio::time::timeout(FIRST_LINK, shared.linked.notified()).await;
    }
    let mut acceptors = Acceptors { accepting, ..Acceptors::default() };
    for listener in listeners {
        acceptors.add(&shared, listener);
    }
    metrics.gauge(Gauge::Limit, shared.max_connections() as u64);
    metrics.gauge(Gauge::Startup, begun.elapsed().as_micros() as u64);
    metrics.row().tick().set(monotonic_ms());
    fault::point("worker not ready");
    // Before ready: one that serves and has no complaint is a sign that all is well.
    shared.look_at_backplane();
    if let Err(error) = channel.send(&FromWorker::Ready, &[]) {
        tracing::error!(%error, "the supervisor is gone before this worker was ready");
        return 1;
    }
    tracing::info!(slot, "ready");
    let within = obey(&shared, &channel, &mut acceptors, hooks.reopen_logs).await;
    acceptors.accept(&shared, false);
    let told = Instant::now();
    shared.lanes.stop_giving().await;
    if shared.orphaned.get() {
        // Whoever takes over has descriptors of its own, and a service manager that keeps them too. If nobody does, clients that
        // waited in vain would be reset at the end, and the next start could not bind until then.
        drop(acceptors);
        give_all_away(&shared).await;
    }
    shared.lanes.wind_up().await;
    let within = within.saturating_sub(told.elapsed());
    let report = drain::drain(&shared, within).await;
    tracing::info!(closed = report.closed, cut = report.cut, "drained");
    // Without a supervisor nobody is left to tell.
    let _ = shared.tell_supervisor(&FromWorker::Drained(report));
    tasks.stop().await;
    admin::tell_refusals(&shared, true);
    match Rc::try_unwrap(shared) {
        Ok(shared) => match shared.hub.into_inner().backplane.close() {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, "the store was not left cleanly");
                1
            }
        },
        // A task that still holds on to it ends with the process.
        Err(_) => 0,
    }
}

/// Does what the supervisor says, until it says to drain or is gone. Returns within which time to be gone.
async fn obey<A: App>(
    shared: &Rc<Shared<A>>,
    channel: &Channel,
    acceptors: &mut Acceptors,
    reopen_logs: fn(),
) -> std::time::Duration {
    let orphaned = shared.hub.borrow().settings.drain_timeout;
    let readable = match Readable::watch(channel.as_fd()) {
        Ok(readable) => readable,
        Err(error) => {
            tracing::error!(%error, "cannot watch the channel to the supervisor; draining");
            return orphaned;
        }
    };
    loop {
        match channel.recv::<ToWorker>() {
            Ok(Some((ToWorker::Drain { within_ms }, _))) => return std::time::Duration::from_millis(within_ms),
            Ok(Some((ToWorker::Lend { slot, endpoint }, fds))) => {
                for socket in fds {
                    tracing::info!(slot, %endpoint, "accepting for a neighbour");
                    acceptors.add(shared, Listener { slot, endpoint: endpoint.clone(), socket });
                }
            }
            Ok(Some((ToWorker::Return { slot }, _))) => acceptors.remove(slot),
            Ok(Some((ToWorker::Admit, fds))) => {
                for socket in fds {
                    if let Err(error) = accept::admit_moved(shared, socket, Vec::new()) {
                        tracing::warn!(%error, "a client that was passed in is lost");
                    }
                }
            }
            Ok(Some((ToWorker::Accept { accept }, _))) => acceptors.accept(shared, accept),
            Ok(Some((ToWorker::Lane { lane, refuge }, fds))) => {
                for socket in fds {
                    if let Err(error) = Lanes::open(shared, lane, refuge, socket) {
                        tracing::error!(%error, lane, "a lane cannot be used");
                    }
                }
            }
            Ok(Some((ToWorker::CallOff { id }, _))) => shared.lanes.call_off(id),
            Ok(Some((ToWorker::CloseLane { lane }, _))) => shared.lanes.close(lane),
            Ok(Some((ToWorker::Give { id, shares, amount }, _))) => {
                let shared = shared.clone();
                spawn_local(async move { handoff::give(&shared, id, &shares, amount).await });
            }
            Ok(Some((ToWorker::ReopenLogs, _))) => reopen_logs(),
            Ok(Some((ToWorker::Told { id, answer }, _))) => shared.inquiries.hear(id, answer),
            Ok(Some((ToWorker::Ask { id, question }, _))) => {
                let shared = shared.clone();
                spawn_local(async move {
                    let answer = answer(&shared, question).await;
                    if let Err(error) = shared.tell_supervisor(&FromWorker::Answer { id, answer }) {
                        tracing::warn!(%error, "an answer did not reach the supervisor");
                    }
                });
            }
            Ok(None) => {
                if let Err(error) = readable.ready().await {
                    tracing::error!(%error, "cannot wait for the supervisor; draining");
                    return orphaned;
                }
            }
            Err(ChannelError::Closed) => {
                tracing::error!("the supervisor is gone; leaving");
                shared.orphaned.set(true);
                return orphaned;
            }
            Err(error) => tracing::error!(%error, "a message from the supervisor was not understood"),
        }
    }
}

async fn answer<A: App>(shared: &Rc<Shared<A>>, question: Question) -> Answer {
    let connections = match &question {
        Question::Connections { order, limit } => {
            return listing::connections(&shared.hub.borrow(), shared.slot, *order, *limit);
        }
        Question::Sessions { sessions, limit } => {
            return listing::sessions(&shared.hub.borrow(), shared.slot, sessions, *limit);
        }
        Question::Backplane => {
            return listing::backplane(&mut shared.hub.borrow_mut(), shared.slot, &shared.standing.borrow());
        }
        Question::Disconnect { session, relay: _ } => shared.hub.borrow_mut().disconnect(session),
        Question::Broadcast { text, relay: _ } => tasks::broadcast(shared, text).await,
    };
    Answer::Reached { connections, relayed: shared.relay(question) }
}

/// The supervisor is lost, and with it all that it would have seen to. Where another generation is at the other end of a
/// lane, it gets the connections; their clients do not notice.
async fn give_all_away<A: App>(shared: &Rc<Shared<A>>) {
    let refuges = shared.lanes.refuges();
    if !refuges.is_empty() {
        let handed = handoff::give(shared, 0, &refuges, Amount::All).await;
        tracing::warn!(handed, "connections were given to the other generation");
    }
}

/// The listeners, and the tasks that accept from them.
#[derive(Default)]
struct Acceptors {
    accepting: bool,
    listeners: Vec<Acceptor>,
}

struct Acceptor {
    listener: Listener,
    task: Option<AbortHandle>,
}

impl Acceptors {
    fn add<A: App>(&mut self, shared: &Rc<Shared<A>>, listener: Listener) {
        let mut acceptor = Acceptor { listener, task: None };
        if self.accepting {
            acceptor.begin(shared);
        }
        self.listeners.push(acceptor);
    }

    /// Lets go of the listeners of a slot.
    fn remove(&mut self, slot: Slot) {
        self.listeners.retain(|acceptor| acceptor.listener.slot != slot);
    }

    /// Accepts from all, or from none; they stay open.
    fn accept<A: App>(&mut self, shared: &Rc<Shared<A>>, accept: bool) {
        if std::mem::replace(&mut self.accepting, accept) == accept {
            return;
        }
        for acceptor in &mut self.listeners {
            if accept { acceptor.begin(shared) } else { acceptor.end() }
        }
    }
}

impl Acceptor {
    fn begin<A: App>(&mut self, shared: &Rc<Shared<A>>) {
        let slot = self.listener.slot;
        let listener = match self.listener.try_clone() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, slot, "a listener cannot be used"),
        };
        let ours = shared.clone();
        let task = spawn_local(async move {
            if let Err(error) = accept::accept(ours, listener).await {
                tracing::error!(%error, slot, "a listener cannot be used");
            }
        });
        self.task = Some(task.abort_handle());
    }

    fn end(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Acceptor {
    /// The task has a descriptor too.
    fn drop(&mut self) {
        self.end();
    }
}

impl<A: App> Shared<A> {
    /// Turns as long as there is something to do, but no longer than others may be kept waiting; tells whoever waits for the
    /// last connection to go.
    fn turns(&self) -> After {
        let mut hub = self.hub.borrow_mut();
        let begun = Instant::now();
        let (after, ended) = loop {
            let after = hub.turn().unwrap_or_else(|error| {
                // epoll_wait(2) fails only on a programming error: nothing can be served any more.
                tracing::error!(%error, "the connections' epoll fails");
                std::process::abort();
            });
            let now = Instant::now();
            if after != After::More || now - begun >= SLICE {
                break (after, now);
            }
        };
        self.turned.set(ended);
        self.tell_if_emptied(&hub);
        after
    }

    /// As [`Shared::turns`], if the last turn was a while ago.
    pub(crate) fn turn_if_overdue(&self) {
        // What is left to do no event may tell of.
        if self.turned.get().elapsed() >= OVERDUE && self.turns() == After::More {
            self.settled.notify_one();
        }
    }

    /// While draining, whoever waits for the last connection to go is told.
    fn tell_if_emptied(&self, hub: &Hub<A>) {
        if hub.draining && hub.connections.is_empty() {
            self.emptied.notify_one();
        }
    }
}
