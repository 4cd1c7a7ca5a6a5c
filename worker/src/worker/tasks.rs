//! The standing tasks of a worker: the turn, the heartbeat, the publications, the second hand.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::scoreboard::monotonic_ms;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::timeout;

use super::Shared;
use super::upkeep::{self, Upkeep};
use crate::app::App;
use crate::frame::{self, Kind};
use crate::heartbeat::{AHEAD_MS, Beat, Beats, rfc3339, wall_ms};
use crate::http::admin;
use crate::hub::{After, Audience};
use crate::memory::Trimmer;
use crate::metrics::{Gauge, Heartbeats, Single};
use crate::readable::Readable;
use crate::usage::Usage;

/// How often a worker says that its loop turns, and looks at deadlines.
const SECOND: Duration = Duration::from_secs(1);

/// How long a heartbeat that is due is waited for, if another worker is to say so.
const PATIENCE: Duration = Duration::from_millis(300);

/// Handles of the standing tasks.
pub(super) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    pub(super) fn add(&mut self, task: JoinHandle<()>) {
        self.0.push(task);
    }

    /// Ends them all.
    pub(super) async fn stop(self) {
        for task in &self.0 {
            task.abort();
        }
        for task in self.0 {
            // Aborted, which is the point.
            let _ = task.await;
        }
    }
}

pub(super) fn spawn<A: App>(shared: &Rc<Shared<A>>) -> io::Result<Tasks> {
    let epoll = Readable::watch(shared.hub.borrow().epoll())?;
    let wake_up = Readable::watch(shared.hub.borrow_mut().backplane.host().wake_up().as_fd())?;
    let mut tasks = vec![
        spawn_local(turns(shared.clone(), epoll)),
        spawn_local(publications(shared.clone(), wake_up)),
        spawn_local(heartbeats(shared.clone())),
        spawn_local(seconds(shared.clone())),
        spawn_local(upkeep::sweep(shared.clone())),
    ];
    if let Some(interval) = shared.hub.borrow().settings.limits.ping_interval {
        tasks.push(spawn_local(pings(shared.clone(), interval)));
    }
    Ok(Tasks(tasks))
}

/// Turns when the inner epoll is readable; lets others go in between.
async fn turns<A: App>(shared: Rc<Shared<A>>, epoll: Readable) {
    loop {
        let ready = tokio::select! {
            ready = epoll.ready() => ready,
            () = shared.settled.notified() => Ok(()),
        };
        if ready.is_err() {
            return;
        }
        loop {
            match shared.turns() {
                After::Rest => break,
                After::Settlement => shared.settled.notified().await,
                After::More => yield_now().await,
            }
        }
    }
}

async fn publications<A: App>(shared: Rc<Shared<A>>, wake_up: Readable) {
    loop {
        if wake_up.ready().await.is_err() {
            return;
        }
        shared.hub.borrow_mut().deliver_published();
    }
}

/// Heartbeats, at their time. With other hosts one worker of all says when that is; one that is not heard is not waited
/// for.
async fn heartbeats<A: App>(shared: Rc<Shared<A>>) {
    let (alone, clocks) = (shared.hub.borrow().backplane.is_alone(), shared.hub.borrow().clocks());
    let mut beats = Beats::new(shared.hub.borrow().settings.heartbeat_interval, clocks, wall_ms());
    let mut published = shared.beat.subscribe();
    // One that is handed over may not have had this: its giver may have waited for somebody to say that it is due.
    note_beat(&shared, beats.last());
    loop {
        let heard = match beats.at(wall_ms()) {
            // Not longer than a second: the wall clock may be set meanwhile.
            Beat::Wait(wait) => timeout(wait.min(SECOND), published.changed()).await.is_ok(),
            Beat::SetBack => {
                tracing::warn!(event = "clock_set_back", "the clock was set back: heartbeats go on from its new time");
                shared.hub.borrow_mut().forget_beats(wall_ms());
                note_beat(&shared, beats.last());
                continue;
            }
            Beat::Now(at) => {
                // What was heard before the clock was set back is far in the future.
                let said = at..=at.saturating_add(AHEAD_MS);
                let heard = !alone && timeout(PATIENCE, published.wait_for(|heard| said.contains(heard))).await.is_ok();
                send_beat(&shared, at, if heard { Heartbeats::Published } else { Heartbeats::Local }).await;
                false
            }
        };
        let at = *published.borrow_and_update();
        if heard && beats.heard(at, wall_ms()) {
            send_beat(&shared, at, Heartbeats::Published).await;
        }
    }
}

/// Who arrives and has not had this one gets it. Its text, if the app has one.
fn note_beat<A: App>(shared: &Rc<Shared<A>>, at: u64) -> Option<String> {
    let text = shared.hub.borrow().app.heartbeat(&rfc3339(at))?;
    let mut encoded = Vec::new();
    frame::append(&mut encoded, Kind::Text, text.as_bytes());
    shared.hub.borrow_mut().note_beat(at, &encoded);
    Some(text)
}

async fn send_beat<A: App>(shared: &Rc<Shared<A>>, at: u64, source: Heartbeats) {
    // Before the first is written: one that arrives meanwhile must not fall between.
    if let Some(text) = note_beat(shared, at) {
        fan_out(shared, Kind::Text, text.as_bytes(), Audience::Heartbeat(at)).await;
    }
    let metrics = shared.hub.borrow().metrics.clone();
    metrics.heartbeat(source);
    metrics.gauge(Gauge::HeartbeatLag, wall_ms().saturating_sub(at) * 1000);
}

async fn pings<A: App>(shared: Rc<Shared<A>>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        fan_out(&shared, Kind::Ping, b"", Audience::Ping).await;
    }
}

/// Sends a text message to every connection; how many there were.
pub(super) async fn broadcast<A: App>(shared: &Rc<Shared<A>>, text: &str) -> u64 {
    fan_out(shared, Kind::Text, text.as_bytes(), Audience::Broadcast).await
}

async fn fan_out<A: App>(shared: &Rc<Shared<A>>, kind: Kind, payload: &[u8], audience: Audience) -> u64 {
    let mut encoded = Vec::new();
    frame::append(&mut encoded, kind, payload);
    let (mut reached, mut from) = (0, Some(0));
    while let Some(key) = from {
        let (n, next) = shared.hub.borrow_mut().fan_out(&encoded, audience, key);
        reached += n;
        from = next;
        // To the tasks of this worker, and to the other workers: where they share cores all of them are at this at the same
        // time, each for as long as the scheduler lets it, and replies would wait for all of those.
        yield_now().await;
        std::thread::yield_now();
    }
    reached
}

/// Once a second: shows that the loop turns, looks at deadlines, tends the store.
async fn seconds<A: App>(shared: Rc<Shared<A>>) {
    let (mut dropped, trimmer) = (0, Trimmer::default());
    let (mut upkeep, mut usage) = (Upkeep::default(), Usage::default());
    loop {
        {
            let mut hub = shared.hub.borrow_mut();
            hub.metrics.row().tick().set(monotonic_ms());
            hub.keep_sessions();
            hub.look_at_deadlines(monotonic_ms());
            (shared.rest_logs)();
            let lost = (shared.log_lines_dropped)();
            hub.metrics.add(Single::LogDropped, lost - std::mem::replace(&mut dropped, lost));
            if shared.handshakes.len() == 0 {
                trimmer.look(hub.opened());
            }
            hub.metrics.gauge(Gauge::Handshakes, shared.handshakes.len() as u64);
            usage.tell(&hub.metrics);
            upkeep.tend(&mut hub);
            hub.tell_health();
            shared.tell_if_emptied(&hub);
        }
        shared.look_at_backplane();
        admin::tell_refusals(&shared, false);
        shared.look_at_descriptors();
        tokio::time::sleep(SECOND).await;
    }
}
