//! The client processes of a run: started, told what to do, listened to, and always ended.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::CLIENT;
use super::plan::{Event, Order, Plan, tell};

/// A process tells a few times a second how far it is. One that is silent for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);

/// What comes from the process at this place.
pub(super) enum News {
    Event(usize, Event),
    /// It says nothing more.
    Ended(usize),
    Silent(usize),
}

/// All processes. Dropping it kills those that run.
pub(super) struct Fleet {
    processes: Vec<Process>,
    pub(super) news: mpsc::UnboundedReceiver<News>,
}

struct Process {
    child: Child,
    orders: pipe::Sender,
}

impl Fleet {
    /// Starts a process for each plan, and tells it.
    pub(super) async fn start(plans: Vec<Plan>) -> io::Result<Fleet> {
        let (sender, news) = mpsc::unbounded_channel();
        let mut fleet = Fleet { processes: Vec::with_capacity(plans.len()), news };
        for (place, plan) in plans.into_iter().enumerate() {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["load-test", &format!("--{CLIENT}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is for us: they end in order, by what we tell them. Without us their standard input ends.
                .process_group(0)
                .spawn()?;
            let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(io::Error::other("a client process without pipes"));
            };
            let orders = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
            let events = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
            fleet.processes.push(Process { child, orders });
            spawn_local(listen(place, events, sender.clone()));
            fleet.tell(place, &Order::Connect(Box::new(plan))).await;
        }
        Ok(fleet)
    }

    pub(super) fn pid(&self, place: usize) -> u32 {
        self.processes[place].child.id()
    }

    /// Tells all of them.
    pub(super) async fn tell_all(&mut self, order: &Order) {
        for place in 0..self.processes.len() {
            self.tell(place, order).await;
        }
    }

    /// One that cannot be told has ended, which is heard from it otherwise.
    async fn tell(&mut self, place: usize, order: &Order) {
        let _ = tell(&mut self.processes[place].orders, order).await;
    }

    /// Ends it, if it has not ended, and tells how it did.
    pub(super) fn reap(&mut self, place: usize) -> String {
        let child = &mut self.processes[place].child;
        // Its output has ended, or it is stuck: if it has not exited yet, its end is forced, and that is told.
        let _ = child.kill();
        child.wait().map_or_else(|error| error.to_string(), words)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// How a process has ended.
fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = nix::sys::signal::Signal::try_from(signal);
            name.map_or_else(|_| format!("killed by signal {signal}"), |name| format!("killed by {name}"))
        }
        (None, code) => format!("exited with {}", code.unwrap_or(-1)),
    }
}

async fn listen(place: usize, events: pipe::Receiver, sender: mpsc::UnboundedSender<News>) {
    let mut lines = BufReader::new(events).lines();
    loop {
        let news = match timeout(SILENCE, lines.next_line()).await {
            Ok(Ok(Some(line))) => match serde_json::from_str(&line) {
                Ok(event) => News::Event(place, event),
                Err(_) => News::Ended(place),
            },
            Ok(Ok(None) | Err(_)) => News::Ended(place),
            Err(_) => News::Silent(place),
        };
        let last = !matches!(news, News::Event(..));
        if sender.send(news).is_err() || last {
            return;
        }
    }
}
