//! The crowd's thread: all sockets, one epoll, and the pauses.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::connection::Connection;
use super::report::{Fault, Report, What};
use super::scene::Scene;

/// How often it is looked for what does not come. Orders are seen as often.
const ROUND: Duration = Duration::from_millis(200);

/// Between two that come: a crowd of thousands does not overflow an accept queue.
const SPACING: Duration = Duration::from_millis(1);

const EVENTS: usize = 1024;

/// The test wants the report. Without anybody who could want it the thread ends.
pub(super) struct Finish;

/// The thread's own.
pub(super) struct Thread {
    scene: Scene,
    connections: Vec<Connection>,
    /// When pauses end, and whose. One that was cut short is still here, and means nothing.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    orders: Receiver<Finish>,
}

impl Thread {
    /// Deals the cast; each member has a generator of its own, so that its acts do not depend on the others.
    pub(super) fn new(scene: Scene, random: &mut Rng, orders: Receiver<Finish>) -> Thread {
        let mut cast = scene.crowd.cast.to_vec();
        random.shuffle(&mut cast);
        let connections = (0..scene.crowd.connections).zip(cast.into_iter().cycle());
        let connections: Vec<Connection> = connections
            .map(|(place, character)| {
                Connection::new(place, character, random.fork(), scene.now + SPACING * place as u32)
            })
            .collect();
        let dues = connections.iter().enumerate();
        let timers = dues.filter_map(|(place, connection)| Some(Reverse((connection.due()?, place)))).collect();
        Thread { scene, connections, timers, orders }
    }

    /// Runs until the crowd was told to finish and is gone. None: nobody wants to know any more.
    pub(super) fn run(mut self) -> Option<Report> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut round = Instant::now();
        loop {
            match self.orders.try_recv() {
                Ok(Finish) => self.finish(),
                Err(TryRecvError::Disconnected) if !self.scene.ending => return None,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
            self.end_pauses();
            if self.scene.now >= round {
                round = self.scene.now + ROUND;
                self.look();
                if self.scene.ending && self.connections.iter().all(Connection::is_gone) {
                    return Some(self.scene.report);
                }
            }
            let next = self.timers.peek().map_or(round, |Reverse((due, _))| round.min(*due));
            let ready = self.wait(next, &mut events);
            for event in &events[..ready] {
                self.step(event.data() as usize, |connection, scene| connection.event(event.events(), scene));
            }
        }
    }

    fn wait(&self, until: Instant, events: &mut [EpollEvent]) -> usize {
        let wait = until.saturating_duration_since(Instant::now());
        // In whole milliseconds, and not so early that there would be nothing to do.
        let wait = wait.as_micros().div_ceil(1000) as u16;
        match self.scene.epoll.wait(events, EpollTimeout::from(wait)) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(errno) => panic!("epoll_wait: {errno}"),
        }
    }

    fn finish(&mut self) {
        self.scene.ending = true;
        for place in 0..self.connections.len() {
            self.step(place, Connection::advance);
        }
    }

    fn end_pauses(&mut self) {
        self.scene.now = Instant::now();
        while let Some(&Reverse((due, place))) = self.timers.peek().filter(|Reverse((due, _))| *due <= self.scene.now) {
            self.timers.pop();
            if self.connections[place].due() == Some(due) {
                self.step(place, Connection::timer);
            }
        }
    }

    fn look(&mut self) {
        for place in 0..self.connections.len() {
            self.step(place, |connection, scene| connection.look(scene));
        }
    }

    /// Lets one connection do something, takes down what was wrong, and notes the pause that it makes.
    fn step(&mut self, place: usize, act: impl FnOnce(&mut Connection, &mut Scene) -> Result<(), What>) {
        let connection = &mut self.connections[place];
        let before = connection.due();
        self.scene.now = Instant::now();
        if let Err(what) = act(connection, &mut self.scene) {
            let character = connection.character;
            connection.give_up(&mut self.scene);
            self.scene.report.faults.push(Fault { connection: place, character, what, when: SystemTime::now() });
            self.scene.gauges.faults.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(due) = connection.due().filter(|due| before != Some(*due)) {
            self.timers.push(Reverse((due, place)));
        }
    }
}
