//! The half of the Redis backplane that talks: one loop for commands, one for what others publish, each on a connection
//! of its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout, timeout_at};

use super::bus::{self, Heard, Message, Numbers};
use super::script::{self, Counted, Layout, Scripts};
use super::{Call, Stages};
use crate::backplane::embedded::ledger::{Unit, UnitId};
use crate::backplane::{Health, Settlement};
use crate::heartbeat::{Beat, Beats, Clocks, wall_ms};
use crate::publication::Rejection;
use crate::redis::{Connection, Connector, Failure, Node, Reason, Subscription};

/// How often the lease is renewed, and how often a worker that has lost sight of its holder tries to take it.
const PULSE: Duration = Duration::from_secs(1);

/// Whoever has not heard the holder of the lease for this long tries to take it.
const HOLDER_SILENT: Duration = Duration::from_millis(2500);

/// A subscription on which nothing is heard for this long, though Redis is there, is made anew: its holder says
/// something every second.
const DEAF: Duration = Duration::from_secs(5);

/// Bounds of the pause between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A line that held for this long was no flicker: the next pause is a short one again.
const STEADY: Duration = Duration::from_secs(5);

/// What the hub is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Redis is there, or is not.
    Link(Result<(), Failure>),
    /// The answers to the commit that is under way.
    Settled(Settlement),
    /// Somebody has published.
    Heard(Message),
    /// So many publications went missing.
    Missed(u64),
    /// Somebody has published what is not delivered.
    Rejected(Rejection),
}

/// Bounds what Redis, and those who write to it, can do to a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long all stages of a commit together may take: clients wait for it.
    pub(super) answer: Duration,
    /// Bytes of the longest text that is delivered.
    pub(super) text: usize,
}

/// Talks to Redis until nobody listens any more.
pub(crate) struct Driver {
    connector: Connector,
    layout: Rc<Layout>,
    commits: mpsc::Receiver<Stages>,
    announcements: mpsc::Receiver<Message>,
    health: Rc<RefCell<Health>>,
    bounds: Bounds,
    /// The server that is connected, if sentinels have named it.
    master: RefCell<Option<Node>>,
    /// The server that most of the sentinels name now.
    named: watch::Receiver<Option<Node>>,
    /// Where that comes from, until it is followed.
    naming: Option<watch::Sender<Option<Node>>>,
    /// The name under which this worker asks for the lease.
    me: String,
    /// When the holder of the lease was last heard.
    heard: Rc<Cell<Option<Instant>>>,
    /// The subscription has ended: the other line may be lost, too.
    ended: Rc<Notify>,
}

/// Pauses that grow, with some chance in them so that workers do not come as a herd.
struct Pauses(Duration);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (2 * pause).min(RETRY.1);
        pause.mul_f64(0.5 + fastrand::f64())
    }

    fn over(&mut self, held: Duration) {
        if held >= STEADY {
            self.0 = RETRY.0;
        }
    }
}

impl Driver {
    pub(super) fn new(
        connector: Connector,
        layout: Rc<Layout>,
        commits: mpsc::Receiver<Stages>,
        announcements: mpsc::Receiver<Message>,
        health: Rc<RefCell<Health>>,
        bounds: Bounds,
    ) -> Driver {
        // Readable, and never twice.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let me = format!("{} pid {} ({:08x})", host.trim(), std::process::id(), fastrand::u32(..));
        let (naming, named) = watch::channel(None);
        Driver {
            connector,
            layout,
            commits,
            announcements,
            health,
            bounds,
            master: RefCell::default(),
            named,
            naming: Some(naming),
            me,
            heard: Rc::default(),
            ended: Rc::default(),
        }
    }

    /// Runs until the receiver of the events is gone. `interval` is that of the heartbeats.
    pub(crate) async fn run(mut self, events: mpsc::Sender<Event>, interval: Duration) {
        let listener = Listener {
            connector: self.connector.clone(),
            channel: self.layout.channel(),
            health: self.health.clone(),
            heard: self.heard.clone(),
            ended: self.ended.clone(),
            events: events.clone(),
            max_text: self.bounds.text,
            named: self.named.clone(),
        };
        let (connector, naming) = (self.connector.clone(), self.naming.take());
        let follow = async {
            if let Some(naming) = naming {
                connector.follow(naming).await;
            }
        };
        tokio::join!(self.speak(&events, interval), listener.listen(), follow);
    }

    /// Connects, serves, and does it again.
    async fn speak(mut self, events: &mpsc::Sender<Event>, interval: Duration) {
        let mut pauses = Pauses(RETRY.0);
        let mut failure = Failure::new(Reason::Unreachable, "not connected yet");
        loop {
            let connected = {
                let connecting = connect(&self.connector, &self.layout, &self.health);
                tokio::pin!(connecting);
                loop {
                    tokio::select! {
                        connected = &mut connecting => break connected,
                        Some(stages) = self.commits.recv() => refuse(events, &stages, &failure).await,
                    }
                }
            };
            let begun = Instant::now();
            failure = match connected {
                Ok((connection, scripts, master)) => {
                    self.master.replace(master);
                    if events.send(Event::Link(Ok(()))).await.is_err() {
                        return;
                    }
                    match self.serve(connection, &scripts, events, interval).await {
                        Some(failure) => failure,
                        None => return,
                    }
                }
                Err(failure) => failure,
            };
            self.health.borrow_mut().holds_lease = false;
            // What was announced before is not for those who are there when Redis is back.
            while self.announcements.try_recv().is_ok() {}
            if events.send(Event::Link(Err(failure.clone()))).await.is_err() {
                return;
            }
            pauses.over(begun.elapsed());
            let pause = sleep(pauses.next());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(stages) = self.commits.recv() => refuse(events, &stages, &failure).await,
                }
            }
        }
    }

    /// Does what is asked for until Redis fails. None: nobody asks any more.
    async fn serve(
        &mut self,
        mut connection: Connection,
        scripts: &Scripts,
        events: &mpsc::Sender<Event>,
        interval: Duration,
    ) -> Option<Failure> {
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut named, master) = (self.named.clone(), self.master.borrow().clone());
        let mut beats = Beats::new(interval, Clocks::Own, wall_ms());
        loop {
            // Not longer than a second: the wall clock may be set meanwhile.
            let until_beat = beats.until_next(wall_ms()).min(PULSE);
            let failed = tokio::select! {
                stages = self.commits.recv() => {
                    let begun = Instant::now();
                    let (answers, failed) = self.carry_out(&mut connection, scripts, stages?).await;
                    self.health.borrow_mut().latency = Some(begun.elapsed());
                    events.send(Event::Settled(Settlement(answers))).await.ok()?;
                    failed
                }
                message = self.announcements.recv() => {
                    let id = UnitId { source: fastrand::u64(..), number: 1 };
                    let call = Call::Publish(id, vec![message?.encode()]);
                    self.carry_out(&mut connection, scripts, vec![vec![call]]).await.1
                }
                _ = pulse.tick() => match self.is_full() {
                    true => self.look_for_memory(&mut connection, scripts).await,
                    false => self.keep_lease(&mut connection, scripts).await,
                },
                () = is_replaced(&mut named, master.as_ref()) => self.elsewhere(),
                // A client that comes to a worker which had nothing to say for a while must not be the one to find out.
                () = self.ended.notified() => ping(&mut connection).await,
                () = sleep(until_beat) => match beats.at(wall_ms()) {
                    Beat::Now(due) => self.beat(&mut connection, scripts, due).await,
                    Beat::Wait(_) | Beat::SetBack => None,
                },
            };
            if failed.is_some() {
                return failed;
            }
        }
    }

    /// Carries out stages in their order; after a failure those that follow fail like it.
    async fn carry_out(
        &self,
        connection: &mut Connection,
        scripts: &Scripts,
        stages: Stages,
    ) -> (Vec<Result<Value, Failure>>, Option<Failure>) {
        let end = tokio::time::Instant::now() + self.bounds.answer;
        let (mut answers, mut failed) = (Vec::new(), None::<Failure>);
        for stage in stages {
            if let Some(failure) = &failed {
                answers.extend(stage.iter().map(|_| Err(failure.clone())));
                continue;
            }
            let command = |call: &Call| match call {
                Call::Commit(unit) => self.layout.commit(scripts, unit),
                Call::Publish(id, texts) => self.layout.publications(scripts, *id, texts),
            };
            let commands = || stage.iter().map(command).collect();
            // The first has the limit of the connection, which is the same.
            let these = match answers.is_empty() {
                true => execute(connection, commands).await,
                false => timeout_at(end, execute(connection, commands)).await.unwrap_or_else(|_| {
                    let late = Failure::new(Reason::Timeout, format!("no answer within {:?}", self.bounds.answer));
                    stage.iter().map(|_| Err(late.clone())).collect()
                }),
            };
            // The server that has answered may have been replaced: it forgets this when it is told so.
            if let Some(failure) = self.elsewhere() {
                answers.extend(these.iter().map(|_| Err(failure.clone())));
                failed = Some(failure);
                continue;
            }
            let failing = |(call, answer): (&Call, &Result<Value, Failure>)| match (call, answer.as_ref().err()) {
                (Call::Publish(..), Some(failure)) if is_only_mute(failure) => {
                    self.health.borrow_mut().note_publishing(Some(failure));
                    None
                }
                (Call::Publish(..) | Call::Commit(_), failure) => failure.cloned(),
            };
            failed = stage.iter().zip(&these).find_map(failing);
            answers.extend(these);
        }
        (answers, failed)
    }

    /// Why the server that is connected is not, or not any more, the one whose answers are to be believed.
    fn elsewhere(&self) -> Option<Failure> {
        let (master, named) = (self.master.borrow(), self.named.borrow());
        let (master, named) = master.as_ref().zip(named.as_ref())?;
        let detail = || format!("the sentinels name {named} as the master, and not {master} any more");
        (master != named).then(|| Failure::new(Reason::ReadOnly, detail()))
    }

    fn is_full(&self) -> bool {
        self.health.borrow().refuses.is_some()
    }

    /// Looks whether Redis has memory again, and keeps the lease.
    async fn look_for_memory(&self, connection: &mut Connection, scripts: &Scripts) -> Option<Failure> {
        match probe(connection, &self.layout, scripts, &self.health).await {
            Ok(()) => self.keep_lease(connection, scripts).await,
            Err(failure) => Some(failure),
        }
    }

    /// Renews the lease, or takes it when its holder is not heard any more. Says something in any case.
    async fn keep_lease(&self, connection: &mut Connection, scripts: &Scripts) -> Option<Failure> {
        let holder_heard = self.heard.get().is_some_and(|at| at.elapsed() < HOLDER_SILENT);
        let is_mute = self.health.borrow().mute.is_some();
        if holder_heard && !is_mute && !self.health.borrow().holds_lease {
            // A line that was lost while nobody needed it must not turn the next client away.
            return ping(connection).await;
        }
        let text = Message::Lease(self.me.clone()).encode();
        self.ask(connection, || self.layout.lease(scripts, &self.me, &text)).await
    }

    async fn beat(&self, connection: &mut Connection, scripts: &Scripts, at: u64) -> Option<Failure> {
        if !self.health.borrow().holds_lease {
            return None;
        }
        let text = Message::Beat(at).encode();
        self.ask(connection, || self.layout.beat(scripts, &self.me, at, &text)).await
    }

    /// Asks something whose answer is whether the lease is ours.
    async fn ask(&self, connection: &mut Connection, command: impl Fn() -> redis::Cmd) -> Option<Failure> {
        match execute(connection, || vec![command()]).await.pop() {
            Some(Ok(value)) => {
                let mut health = self.health.borrow_mut();
                health.holds_lease = script::held(&value);
                health.note_publishing(None);
                None
            }
            // Others may have it: counting goes on.
            Some(Err(failure)) if is_only_mute(&failure) => {
                let mut health = self.health.borrow_mut();
                health.holds_lease = false;
                health.note_publishing(Some(&failure));
                None
            }
            Some(Err(failure)) => Some(failure),
            None => None,
        }
    }
}

/// Connects, brings the scripts, and sees whether Redis takes changes.
pub(super) async fn connect(
    connector: &Connector,
    layout: &Layout,
    health: &RefCell<Health>,
) -> Result<(Connection, Scripts, Option<Node>), Failure> {
    let (mut connection, master) = connector.connect_to_master().await?;
    let scripts = load(&mut connection).await?;
    probe(&mut connection, layout, &scripts, health).await?;
    Ok((connection, scripts, master))
}

/// Makes Redis know the scripts.
async fn load(connection: &mut Connection) -> Result<Scripts, Failure> {
    let digests = connection.execute(script::load()).await.into_iter().collect::<Result<_, _>>()?;
    Scripts::from_digests(digests)
        .ok_or_else(|| Failure::new(Reason::Other, "SCRIPT LOAD was not answered with a digest"))
}

/// Carries out commands. A script that the server does not know, since somebody has flushed it or another server has taken
/// over, is brought once more, and what was not done for its absence is sent again.
pub(super) async fn execute(
    connection: &mut Connection,
    commands: impl Fn() -> Vec<redis::Cmd>,
) -> Vec<Result<Value, Failure>> {
    let is_unknown = |answer: &Result<Value, Failure>| answer.as_ref().is_err_and(Failure::is_no_script);
    let mut answers = connection.execute(commands()).await;
    if !answers.iter().any(is_unknown) {
        return answers;
    }
    tracing::debug!("redis does not know the scripts any more: they are loaded again");
    if let Err(failure) = load(connection).await {
        let missing = answers.iter_mut().filter(|answer| is_unknown(answer));
        missing.for_each(|answer| *answer = Err(failure.clone()));
        return answers;
    }
    let (places, again): (Vec<usize>, Vec<redis::Cmd>) =
        commands().into_iter().enumerate().filter(|(place, _)| answers.get(*place).is_some_and(is_unknown)).unzip();
    for (place, answer) in places.into_iter().zip(connection.execute(again).await) {
        answers[place] = answer;
    }
    answers
}

/// Whether this failure of a publication, or of the lease, is no loss of Redis: it serves, and its user may not publish.
pub(super) fn is_only_mute(failure: &Failure) -> bool {
    failure.reason == Reason::NoPermission
}

/// Commits an empty unit to each group: whether Redis takes changes, and whether it is at its maxmemory.
async fn probe(
    connection: &mut Connection,
    layout: &Layout,
    scripts: &Scripts,
    health: &RefCell<Health>,
) -> Result<(), Failure> {
    let groups = if layout.cluster { script::GROUPS } else { 1 };
    let source = fastrand::u64(..);
    let probe = |group| {
        let id = UnitId { source, number: 1 };
        layout.commit(scripts, &Unit { id, order: 0, group, items: Vec::new() })
    };
    let answers = execute(connection, || (0..groups).map(probe).collect()).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let is_full = |answer| matches!(script::counted(answer, 0), Some(Counted::Counts(_, true)));
    health.borrow_mut().note_memory(answers.iter().any(is_full));
    Ok(())
}

/// Waits until the sentinels name another server than this one.
async fn is_replaced(named: &mut watch::Receiver<Option<Node>>, master: Option<&Node>) {
    let is_another = |named: &Option<Node>| named.as_ref().is_some_and(|named| Some(named) != master);
    if master.is_none() || named.wait_for(is_another).await.is_err() {
        std::future::pending().await
    }
}

async fn ping(connection: &mut Connection) -> Option<Failure> {
    connection.execute(vec![redis::cmd("PING")]).await.pop()?.err()
}

/// Redis was lost after the hub had asked, or before it had heard.
async fn refuse(events: &mpsc::Sender<Event>, stages: &Stages, failure: &Failure) {
    let answers = stages.iter().flatten().map(|_| Err(failure.clone())).collect();
    // If nobody listens, the next event will find out.
    let _ = events.send(Event::Settled(Settlement(answers))).await;
}

/// Hears what others publish.
struct Listener {
    connector: Connector,
    channel: String,
    health: Rc<RefCell<Health>>,
    heard: Rc<Cell<Option<Instant>>>,
    ended: Rc<Notify>,
    events: mpsc::Sender<Event>,
    max_text: usize,
    /// The server that most of the sentinels name.
    named: watch::Receiver<Option<Node>>,
}

impl Listener {
    /// Subscribes, listens, and does it again.
    async fn listen(self) {
        let (mut pauses, mut numbers, mut before) = (Pauses(RETRY.0), Numbers::default(), false);
        let mut heard = Instant::now();
        while !self.events.is_closed() {
            let begun = Instant::now();
            let master = self.named.borrow().clone();
            match self.connector.subscribe(&self.channel, bus::max_payload(self.max_text)).await {
                Ok(subscription) => {
                    if std::mem::replace(&mut before, true) {
                        self.health.borrow_mut().resubscribed += 1;
                    }
                    if let Some(reason) = self.health.borrow_mut().deaf.take() {
                        tracing::info!(reason = reason.label(), "the other hosts are heard again");
                    }
                    self.hear(subscription, &mut numbers, master).await;
                    self.ended.notify_one();
                    heard = Instant::now();
                    tracing::debug!("the subscription has ended");
                }
                Err(failure) => self.is_deaf(&failure, heard),
            }
            pauses.over(begun.elapsed());
            sleep(pauses.next()).await;
        }
    }

    /// There is no subscription. That is told once, if it lasts while Redis takes commands.
    fn is_deaf(&self, failure: &Failure, heard: Instant) {
        let mut health = self.health.borrow_mut();
        if health.away.is_some() || heard.elapsed() < DEAF {
            tracing::debug!(%failure, "no subscription");
        } else if health.cannot_hear(failure.reason) && health.mute != Some(failure.reason) {
            let (reason, detail) = (failure.reason.label(), &failure.detail);
            tracing::warn!(reason, detail, "the other hosts are not heard: redis takes commands, but no subscription");
        }
    }

    /// Listens until the subscription ends, or seems to be deaf.
    async fn hear(&self, mut subscription: Subscription, numbers: &mut Numbers, master: Option<Node>) {
        let mut named = self.named.clone();
        loop {
            let next = async {
                tokio::select! {
                    payload = subscription.next() => payload,
                    () = is_replaced(&mut named, master.as_ref()) => None,
                }
            };
            let payload = match timeout(DEAF, next).await {
                Ok(Some(payload)) => payload,
                Ok(None) => return,
                // While Redis is away nobody says anything.
                Err(_) if self.health.borrow().away.is_some() => continue,
                Err(_) => return tracing::debug!("nothing was heard for too long"),
            };
            let Heard { number, message } = bus::decode(&payload, self.max_text, wall_ms());
            let missed = match (number, &message) {
                (None, _) => 0,
                (Some(number), Ok(Some(Message::Lease(_)))) => numbers.missed_with(number),
                (Some(number), _) => numbers.missed(number),
            };
            if missed > 0 && self.events.send(Event::Missed(missed)).await.is_err() {
                return;
            }
            match message {
                Ok(Some(Message::Lease(holder))) => {
                    self.heard.set(Some(Instant::now()));
                    self.health.borrow_mut().lease_holder = Some(holder);
                }
                Ok(Some(message)) => {
                    if self.events.send(Event::Heard(message)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => tracing::debug!(number, "a message of another version"),
                Err(rejection) => {
                    if self.events.send(Event::Rejected(rejection)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
