//! Messages as fast as they are answered: a closed loop of `depth` messages in flight on each connection.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::connect::{Link, Received, Trigger, Watch};
use crate::client::wrong;
use crate::frame;
use crate::procfs::Cpu;

/// A server that answers nothing on any connection for this long fails the run.
const STALL: Duration = Duration::from_secs(5);

/// What a run has done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Replies, each of which was the count expected.
    pub messages: u64,
    /// From the first message to the last reply.
    pub seconds: f64,
    /// CPU time of the client itself meanwhile.
    pub client_cpu_ns: u64,
}

/// When a run ends; every message under way is waited for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// No burst begins after this time.
    Elapsed(Duration),
    /// No burst begins after this many messages, over all connections.
    Messages(u64),
}

/// The connections of a run, with what each must be answered next.
pub struct Load {
    lanes: Vec<Lane>,
    watch: Watch,
    /// `depth` times the frame.
    burst: Vec<u8>,
    depth: u32,
    busy_poll: bool,
}

struct Lane {
    link: Link,
    next: u64,
    awaited: u32,
}

impl Load {
    /// `depth` messages in flight on each of `links`, each a text message of `payload` (at most 125 bytes).
    ///
    /// # Errors
    /// Those of epoll.
    pub fn new(links: Vec<Link>, depth: u32, payload: &[u8]) -> io::Result<Load> {
        let watch = Watch::new(&links, Trigger::Edge)?;
        let burst = frame::masked(frame::TEXT, payload).repeat(depth as usize);
        let lanes = links.into_iter().map(|link| Lane { link, next: 1, awaited: 0 }).collect();
        Ok(Load { lanes, watch, burst, depth, busy_poll: false })
    }

    /// Never sleeps. On one machine the server's kernel wakes the client, and pays for it, only if it sleeps: so a server
    /// that keeps it less busy would seem to need more. A client on another machine is woken there.
    #[must_use]
    pub fn busy_polling(self) -> Load {
        Load { busy_poll: true, ..self }
    }

    /// Sends and checks until the end is reached and nothing is under way any more. May be called again: counts go on.
    ///
    /// # Errors
    /// A wrong reply, a connection that ends, a server that stalls.
    pub fn run(&mut self, until: Until) -> io::Result<LoadReport> {
        let before = Cpu::of_self()?;
        let started = Instant::now();
        let (mut begun, mut answered) = (0u64, 0u64);
        let depth = u64::from(self.depth);
        for lane in &mut self.lanes {
            if matches!(until, Until::Messages(limit) if begun >= limit) {
                break;
            }
            lane.begin(&self.burst, self.depth)?;
            begun += depth;
        }
        while answered < begun {
            let ready = if self.busy_poll { self.watch.busy_poll(STALL)? } else { self.watch.wait(STALL)? };
            if ready == 0 {
                return Err(wrong(format!("{} replies have not come within {STALL:?}", begun - answered)));
            }
            let mut going_on = match until {
                Until::Elapsed(limit) => started.elapsed() < limit,
                Until::Messages(limit) => begun < limit,
            };
            for nth in 0..ready {
                let lane = &mut self.lanes[self.watch.place(nth)];
                let before = lane.awaited;
                lane.check(&mut self.watch.scratch)?;
                answered += u64::from(before - lane.awaited);
                if before > 0 && lane.awaited == 0 && going_on {
                    lane.begin(&self.burst, self.depth)?;
                    begun += depth;
                    if let Until::Messages(limit) = until {
                        going_on = begun < limit;
                    }
                }
            }
        }
        Ok(LoadReport {
            messages: answered,
            seconds: started.elapsed().as_secs_f64(),
            client_cpu_ns: Cpu::of_self()?.since(before).spent_ns,
        })
    }

    /// The connections, for another use.
    pub fn into_links(self) -> Vec<Link> {
        self.lanes.into_iter().map(|lane| lane.link).collect()
    }
}

impl Lane {
    #[inline]
    fn begin(&mut self, burst: &[u8], depth: u32) -> io::Result<()> {
        self.awaited = depth;
        self.link.send(burst)
    }

    #[inline]
    fn check(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let (next, awaited) = (&mut self.next, &mut self.awaited);
        let state = self.link.receive(scratch, |opcode, payload| {
            if opcode == frame::TEXT && payload.starts_with(br#"{"ts""#) {
                return Ok(());
            }
            if opcode != frame::TEXT || frame::count_of(payload) != Some(*next) || *awaited == 0 {
                let payload = String::from_utf8_lossy(payload);
                return Err(wrong(format!("expected count {next} of {awaited}, got opcode {opcode}: {payload}")));
            }
            *next += 1;
            *awaited -= 1;
            Ok(())
        })?;
        match state {
            Received::Open => Ok(()),
            Received::End => Err(wrong(format!("the server closed a connection while count {next} was awaited"))),
        }
    }
}
