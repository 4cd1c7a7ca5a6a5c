//! A client process: does its share of a run, as it is told on standard input, and tells on standard output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use baton_worker::Readable;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{interval, sleep, timeout};

use super::connection::Connection;
use super::dial::Dialer;
use super::lane::{Phase, Shared, Stage};
use super::plan::{Event, Order, Progress, monotonic, tell};
use super::tally::{Fault, Tally};
use crate::descriptors;

/// How often it tells how far it is.
const TELL: Duration = Duration::from_millis(200);

/// Handshakes under way at once, if no ramp is given: enough to keep a server busy, too few to overflow a queue.
const WINDOW: usize = 256;

/// Messages that are handed out in one go.
const BATCH: u64 = 64;

/// How long replies are waited for after an order to stop.
const HASTE: Duration = Duration::from_secs(2);

type Orders = Lines<BufReader<pipe::Receiver>>;

/// The whole life of a client process.
pub(super) fn client() -> ExitCode {
    let outcome = Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .and_then(|runtime| runtime.block_on(serve()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton: a client process of a load test: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> io::Result<()> {
    let mut orders = BufReader::new(pipe::Receiver::from_owned_fd(duplicate(io::stdin())?)?).lines();
    let mut driver = pipe::Sender::from_owned_fd(duplicate(io::stdout())?)?;
    let Some(Order::Connect(plan)) = next(&mut orders).await? else {
        return Err(io::Error::other("it is started by `baton load-test` alone"));
    };
    let prepared = descriptors::raise_limit().map_err(|error| error.to_string()).and_then(|_| Dialer::new(&plan));
    match prepared {
        Ok(dialer) => Run { shared: Rc::new(Shared::new(*plan, dialer)), orders, driver, stopped: false }.run().await,
        Err(reason) => tell(&mut driver, &Event::Failed { reason }).await,
    }
}

fn duplicate(of: impl AsFd) -> io::Result<OwnedFd> {
    of.as_fd().try_clone_to_owned()
}

/// The next order; none: whoever gave them is gone.
async fn next(orders: &mut Orders) -> io::Result<Option<Order>> {
    match orders.next_line().await? {
        Some(line) => Ok(Some(serde_json::from_str(&line)?)),
        None => Ok(None),
    }
}

/// How a wait has ended.
enum Wait<T> {
    Over(T),
    /// By an order to stop; it is not waited for any more.
    Stopped,
}

struct Run {
    shared: Rc<Shared>,
    orders: Orders,
    driver: pipe::Sender,
    stopped: bool,
}

impl Run {
    async fn run(mut self) -> io::Result<()> {
        let shared = Rc::clone(&self.shared);
        let plan = &shared.plan;
        let mut connections = JoinSet::new();
        let connecting = connect_all(Rc::clone(&shared), &mut connections);
        // A stop ends the beginning of connections too, since it is dropped with its wait.
        if let Wait::Stopped = self.until(connecting).await? {
            let begun = shared.lanes.borrow().len() as u32;
            shared.forget(plan.connections - begun);
        }
        if !self.stopped {
            self.until(shared.all_at(Stage::Settled)).await?;
        }
        shared.tally.borrow_mut().created = shared.lanes.borrow().len() as u64;
        tell(&mut self.driver, &Event::Connected).await?;
        let overdue = spawn_local(look_for_overdue(Rc::clone(&shared)));
        if let Some(start) = self.start().await? {
            self.send_until_the_end(start).await?;
        }
        tell(&mut self.driver, &Event::Sent).await?;
        shared.enter(Phase::Draining);
        let patience = if self.stopped { HASTE.min(plan.timeout) } else { plan.timeout };
        self.until(timeout(patience, shared.all_at(Stage::Drained))).await?;
        if !self.stopped {
            self.until(sleep(plan.hold)).await?;
        }
        shared.enter(Phase::Closing);
        // Each has its own patience for its close; those that are still being opened would use it to the end.
        let patience = if self.stopped { HASTE } else { plan.timeout + HASTE };
        self.until_told(timeout(patience, shared.all_at(Stage::Ended))).await?;
        overdue.abort();
        connections.abort_all();
        let tally: Tally = shared.tally.take();
        tell(&mut self.driver, &Event::Report(Box::new(tally))).await
    }

    /// When to send the first message; none: not at all.
    async fn start(&mut self) -> io::Result<Option<Duration>> {
        while !self.stopped {
            let tick = sleep(TELL);
            tokio::select! {
                biased;
                order = next(&mut self.orders) => match order? {
                    Some(Order::Send { at }) => return Ok(Some(at)),
                    Some(Order::Stop) => self.stopped = true,
                    Some(Order::Connect(_)) => {}
                    None => return Err(orphaned()),
                },
                () = tick => self.progress().await?,
            }
        }
        Ok(None)
    }

    async fn send_until_the_end(&mut self, start: Duration) -> io::Result<()> {
        let shared = Rc::clone(&self.shared);
        let used = cpu();
        if let Wait::Stopped = self.until(sleep(start.saturating_sub(monotonic()))).await? {
            return Ok(());
        }
        shared.tally.borrow_mut().first_sent = start.max(monotonic());
        shared.enter(Phase::Sending);
        let sending = async {
            let end = start + shared.plan.duration;
            let work = async {
                pace(&shared, start).await?;
                let rest = async {
                    match shared.plan.messages {
                        Some(_) => shared.all_at(Stage::Sent).await,
                        // They go on until the time is over.
                        None => std::future::pending().await,
                    }
                };
                let _ = timeout(end.saturating_sub(monotonic()), rest).await;
                Ok::<_, io::Error>(())
            };
            tokio::select! {
                outcome = work => outcome,
                // Nobody is left to send.
                () = shared.all_at(Stage::Ended) => Ok(()),
            }
        };
        let outcome = self.until(sending).await?;
        shared.tally.borrow_mut().cpu = cpu().saturating_sub(used);
        match outcome {
            Wait::Over(outcome) => outcome,
            Wait::Stopped => Ok(()),
        }
    }

    /// Waits, tells how far it is, and hears whether to stop; once it is stopped, that ends no more waits.
    async fn until<T>(&mut self, work: impl Future<Output = T>) -> io::Result<Wait<T>> {
        tokio::pin!(work);
        let mut tick = interval(TELL);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(Wait::Over(done)),
                order = next(&mut self.orders) => match order? {
                    Some(Order::Stop) if !self.stopped => {
                        self.stopped = true;
                        return Ok(Wait::Stopped);
                    }
                    Some(Order::Stop | Order::Connect(_) | Order::Send { .. }) => {}
                    None => return Err(orphaned()),
                },
                _ = tick.tick() => self.progress().await?,
            }
        }
    }

    /// As [`Run::until`], to its end.
    async fn until_told<T>(&mut self, work: impl Future<Output = T>) -> io::Result<()> {
        tokio::pin!(work);
        while let Wait::Stopped = self.until(&mut work).await? {}
        Ok(())
    }

    async fn progress(&mut self) -> io::Result<()> {
        let shared = &self.shared;
        let progress = {
            let tally = shared.tally.borrow();
            Progress {
                settled: shared.number_at(Stage::Settled).into(),
                sent: tally.sent,
                answered: tally.answered,
                errors: tally.errors(),
                ended: shared.number_at(Stage::Ended).into(),
            }
        };
        tell(&mut self.driver, &Event::Progress(progress)).await
    }
}

fn orphaned() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "`baton load-test` is gone")
}

/// Begins all connections: when they are due, or so many at a time.
async fn connect_all(shared: Rc<Shared>, connections: &mut JoinSet<()>) {
    let (start, window) = (monotonic(), Arc::new(Semaphore::new(WINDOW)));
    shared.tally.borrow_mut().first_connect = start;
    for place in 0..shared.plan.connections {
        let (due, permit) = match &shared.plan.ramp {
            Some(ramp) => {
                let due = start + ramp.due(place.into());
                sleep(due.saturating_sub(monotonic())).await;
                (due, None)
            }
            None => {
                let permit = Arc::clone(&window).acquire_owned().await.ok();
                (monotonic(), permit)
            }
        };
        let connection = Connection::new(Rc::clone(&shared), shared.new_lane(), place);
        connections.spawn_local(connection.run(due, permit));
    }
}

/// Hands messages to connections when they are due, one after another: all that are due within the time, also those that
/// this process was kept from for longer. They are sent late, which is in their latency and the send delay. A timer of its
/// own, since those of tokio count milliseconds, which would be added to every latency.
async fn pace(shared: &Shared, start: Duration) -> io::Result<()> {
    let Some(schedule) = shared.plan.pace else { return Ok(()) };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::all())?;
    let expired = Readable::watch(timer.as_fd())?;
    let lanes = shared.lanes.borrow().clone();
    if lanes.is_empty() {
        return Ok(());
    }
    let all = shared.plan.messages.map(|messages| messages * lanes.len() as u64);
    let mut n = 0;
    while all.is_none_or(|all| n < all) && schedule.due(n) < shared.plan.duration {
        let due = start + schedule.due(n);
        let now = monotonic();
        if now < due {
            let wake = Expiration::OneShot(TimeSpec::from_duration(due));
            timer.set(wake, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            // What says that it has expired may be left from the time before.
            while monotonic() < due {
                expired.ready().await?;
            }
            continue;
        }
        let lane = &lanes[(n % lanes.len() as u64) as usize];
        match lane.stage() {
            Stage::Ended => shared.tally.borrow_mut().fault(Fault::NotSent, 1, || "there was no connection".to_owned()),
            Stage::Begun | Stage::Settled | Stage::Sent | Stage::Drained => {
                lane.due.borrow_mut().push_back(due);
                lane.wake();
            }
        }
        n += 1;
        // A schedule that is far behind leaves time for the connections.
        if n.is_multiple_of(BATCH) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn look_for_overdue(shared: Rc<Shared>) {
    let pause = (shared.plan.timeout / 10).clamp(Duration::from_millis(10), Duration::from_millis(500));
    loop {
        sleep(pause).await;
        shared.find_overdue();
    }
}

/// The processor time of this process so far, in user mode and in the kernel.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000))
        .sum()
}
