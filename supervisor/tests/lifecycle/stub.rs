//! The supervisor under test, with workers that are as simple as can be.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::control::{BackplaneRow, ConnectionRow, Link, Relayed};
use baton_ipc::messages::{Answer, DrainReport, FromWorker, Question, ToWorker};
use baton_ipc::receipt::Pauses;
use baton_ipc::scoreboard::monotonic_ms;
use baton_ipc::{ChannelError, Endpoint, Inheritance, Scoreboard, Side, Slot};
use baton_supervisor::{Service, Settings};
use nix::poll::{PollFd, PollFlags, poll};

/// The argument that makes this program a supervisor.
pub(crate) const SERVE: &str = "serve-as-supervisor";

/// While this file, followed by a slot's number, is in the runtime directory, the slot's backplane is degraded: for the
/// reason that it holds.
pub(crate) const DEGRADED: &str = "degraded-";

/// While this file is in the runtime directory no worker can start.
pub(crate) const FORBIDDEN: &str = "forbidden";

struct Stub(Settings);

/// `serve-as-supervisor COLOR ADDRESS WORKERS DIRECTORY`; returns the exit code.
pub(crate) fn serve(arguments: &[String]) -> i32 {
    let [color, address, workers, directory] = arguments else { panic!("four arguments") };
    let ms = |name, default| std::env::var(name).map_or(default, |text: String| text.parse().unwrap());
    let settings = Settings {
        digest: String::new(),
        foreground_parent: baton_supervisor::ForegroundParent::Never,
        color: color.clone(),
        version: "0.0.0-test",
        listen: vec![Endpoint::Tcp(address.parse().unwrap())],
        workers: workers.parse().unwrap(),
        runtime_dir: PathBuf::from(directory),
        drain_timeout: Duration::from_millis(ms("DRAIN_MS", 8000)),
        start_timeout: Duration::from_secs(30),
        hang_timeout: Duration::from_millis(ms("HANG_MS", 5000)),
        takeover: baton_supervisor::Takeover::Never,
        max_generations: 2,
        control_group: None,
        backplane: "none".into(),
        store: None,
    };
    match baton_supervisor::run(settings.clone(), &mut Stub(settings), None) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

impl Service for Stub {
    fn work(&mut self, inheritance: Inheritance) -> i32 {
        let Inheritance { slot, side, channel, listeners, scoreboard, mut accepting } = inheritance;
        if self.0.runtime_dir.join(FORBIDDEN).exists() {
            channel.send(&FromWorker::Failed { cause: "told to fail".into() }, &[]).unwrap();
            return 3;
        }
        let mut listeners: Vec<(Slot, TcpListener)> =
            listeners.into_iter().map(|listener| (listener.slot, listener.socket.into())).collect();
        let mut told = None;
        let mut tell = || {
            let degraded = std::fs::read_to_string(self.0.runtime_dir.join(format!("{DEGRADED}{slot}"))).ok();
            if degraded != told {
                channel.send(&FromWorker::Backplane { degraded: degraded.clone() }, &[]).unwrap();
                told = degraded;
            }
        };
        tell();
        channel.send(&FromWorker::Ready, &[]).unwrap();
        let deaf = std::env::var_os("DEAF").is_some();
        loop {
            scoreboard.row(slot, side).tick().set(monotonic_ms());
            tell();
            for (_, listener) in listeners.iter().filter(|_| accepting) {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = writeln!(stream, "{slot} {}", std::process::id());
                }
            }
            match channel.recv::<ToWorker>() {
                Err(ChannelError::Closed) => return 0,
                Err(error) => panic!("{error}"),
                Ok(Some((ToWorker::Drain { .. }, _))) if !deaf => {
                    let _ = channel.send(&FromWorker::Drained(DrainReport::default()), &[]);
                    return 0;
                }
                Ok(Some((ToWorker::Drain { .. } | ToWorker::ReopenLogs, _))) => {}
                Ok(Some((ToWorker::Lend { slot: owner, .. }, fds))) => {
                    listeners.extend(fds.into_iter().map(|fd| (owner, TcpListener::from(fd))));
                }
                Ok(Some((ToWorker::Return { slot: owner }, _))) => listeners.retain(|(slot, _)| *slot != owner),
                Ok(Some((ToWorker::Accept { accept }, _))) => accepting = accept,
                // It has nothing to give, and gets nothing.
                Ok(Some((ToWorker::Lane { lane, .. }, _))) => {
                    channel.send(&FromWorker::Taken { lane, pauses: Pauses::default() }, &[]).unwrap();
                }
                Ok(Some((ToWorker::Give { id, .. }, _))) => {
                    channel.send(&FromWorker::Given { id, handed: 0, stayed: vec![] }, &[]).unwrap();
                }
                Ok(Some((ToWorker::CloseLane { .. } | ToWorker::CallOff { .. } | ToWorker::Admit, _))) => {}
                // It asks nothing.
                Ok(Some((ToWorker::Told { .. }, _))) => {}
                Ok(Some((ToWorker::Ask { id, question }, _))) => {
                    let answer = answer(slot, question);
                    channel.send(&FromWorker::Answer { id, answer }, &[]).unwrap();
                }
                Ok(None) => {
                    let mut fds = vec![PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
                    fds.extend(
                        listeners
                            .iter()
                            .filter(|_| accepting)
                            .map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
                    );
                    let _ = poll(&mut fds, 200u16);
                }
            }
        }
    }

    fn digest_now(&self) -> Option<String> {
        None
    }

    fn reload(&mut self) -> Result<Settings, String> {
        Ok(self.0.clone())
    }

    fn probe(&mut self, _: Vec<(Slot, OwnedFd)>, _: &[Endpoint], _: u32) -> Result<(), String> {
        Ok(())
    }

    fn reopen_logs(&mut self) {}

    fn scoreboard(&mut self, _: Rc<Scoreboard>, _: Side) {}
}

fn answer(slot: Slot, question: Question) -> Answer {
    match question {
        Question::Connections { .. } => Answer::Connections {
            total: 1,
            rows: vec![ConnectionRow {
                slot,
                connection_id: format!("c{slot}"),
                session_uuid: "s".into(),
                client: String::new(),
                age_seconds: 1.0,
                messages: slot.into(),
                queued_bytes: 0,
            }],
        },
        Question::Sessions { sessions, limit: _ } => {
            Answer::Sessions { connections: vec![0; sessions.len()], rows: vec![] }
        }
        Question::Backplane => Answer::Backplane(Box::new(BackplaneRow {
            slot,
            kind: "none".into(),
            target: String::new(),
            state: Link::Up,
            since_seconds: 1.0,
            reason: None,
            latency_seconds: None,
            heartbeat_lag_seconds: None,
            lease_holder: None,
            holds_lease: false,
            pending: 0,
            gaps: 0,
            reconnects: 0,
        })),
        Question::Disconnect { session: _, relay } | Question::Broadcast { text: _, relay } => {
            // So that the sum tells how many were asked to pass it on.
            Answer::Reached { connections: if relay { 100 } else { 1 }, relayed: relay.then_some(Relayed::Sent) }
        }
    }
}
