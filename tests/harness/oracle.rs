//! The oracle: a crowd of clients that know every byte they must be sent, and say of each that is not so.
//!
//! It knows nothing of processes. While it runs, a test may do to the service whatever no client must notice.

mod character;
mod connection;
mod expected;
mod frame;
mod handshake;
mod heartbeats;
mod inbox;
mod outgoing;
mod pen;
mod report;
mod scene;
mod text;
mod thread;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::epoll::{Epoll, EpollCreateFlags};

use super::{SOON, eventually_async, raise_descriptor_limit};
use report::Gauges;
use scene::{SCRATCH, Scene};
use text::Text;
use thread::{Finish, Thread};

pub use character::{Character, EVERYBODY};
pub use expected::Expected;
pub use frame::Malformed;
pub use handshake::Refused;
pub use heartbeats::Irregular;
pub use report::{Progress, Report, What};

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// How many.
    pub connections: usize,
    /// The service's heartbeat interval.
    pub heartbeat: Duration,
    /// About the time between two messages of a talker; all other pauses are reckoned from it. They are drawn, from a
    /// fifth of this to twice as long.
    pub gap: Duration,
    /// For so long an answer that is owed may not come. A heartbeat has a quarter of it.
    pub patience: Duration,
    /// Dealt to the connections in turn.
    pub cast: &'static [Character],
}

impl Crowd {
    /// So many of all characters.
    pub fn of(connections: usize, heartbeat: Duration) -> Crowd {
        Crowd { connections, heartbeat, gap: Duration::from_millis(100), patience: SOON, cast: EVERYBODY }
    }
}

/// A crowd at work, on a thread of its own. Dropping it ends the connections without a word.
pub struct Oracle {
    gauges: Arc<Gauges>,
    finish: Sender<Finish>,
    thread: JoinHandle<Option<Report>>,
}

impl Oracle {
    /// Lets a crowd loose. All that is drawn at random comes from `seed`.
    pub fn start(address: SocketAddr, crowd: Crowd, seed: u64) -> Oracle {
        raise_descriptor_limit();
        let mut random = Rng::with_seed(seed);
        let gauges = Arc::<Gauges>::default();
        let scene = Scene {
            address,
            crowd,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll"),
            scratch: vec![0; SCRATCH],
            text: Text::new(&mut random),
            now: Instant::now(),
            ending: false,
            report: Report { seed, connections: crowd.connections, ..Report::default() },
            gauges: Arc::clone(&gauges),
        };
        let (finish, orders) = channel();
        let crowd = Thread::new(scene, &mut random, orders);
        let thread = std::thread::Builder::new().name("oracle".to_owned());
        let thread = thread.spawn(move || crowd.run()).expect("a thread");
        Oracle { gauges, finish, thread }
    }

    /// How far the crowd is.
    pub fn sample(&self) -> Progress {
        self.gauges.read()
    }

    /// Waits until so many connections are open, at most for [`SOON`].
    pub async fn opened(&self, connections: usize) {
        let what = format!("{connections} connections");
        eventually_async(&what, async || (self.sample().open >= connections as _).then_some(())).await;
    }

    /// Waits until so many more messages are answered, at most for [`SOON`]. Ends as well when something is wrong, which is
    /// for the report to tell.
    pub async fn answered(&self, messages: u64) {
        let goal = self.sample().messages + messages;
        let what = format!("{messages} more messages answered");
        eventually_async(&what, async || {
            let now = self.sample();
            (now.messages >= goal || now.faults > 0).then_some(())
        })
        .await;
    }

    /// Lets each connection complete what it is at, closes it, and tells what was seen.
    pub fn finish(self) -> Report {
        // If the thread is over it has panicked, and so does this.
        let _ = self.finish.send(Finish);
        let report = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        report.expect("it was asked for")
    }
}
