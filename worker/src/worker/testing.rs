//! What the tasks of a worker share, without a process around it, for the tests of what needs no more.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::{Channel, Scoreboard, Side};
use tempfile::TempDir;

use super::{Hooks, Shared};
use crate::accept::Descriptors;
use crate::app::{App, Message, Session};
use crate::backplane::{Embedded, Options};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::settings::{Limits, PerAddress, Settings};
use crate::store::{self, Membership};

/// Answers every message with itself.
pub(crate) struct Echo;

impl App for Echo {
    type State = ();

    fn message(&mut self, (): &mut (), message: Message<'_>, session: &mut Session<'_>) {
        match message {
            Message::Text(text) => session.reply().text(text),
            Message::Binary(data) => session.reply().binary(data),
        }
    }
}

/// A worker with a store of its own.
pub(crate) struct Worker {
    pub(crate) shared: Rc<Shared<Echo>>,
    _supervisor: Channel,
    _membership: Membership,
    _dir: TempDir,
}

impl Worker {
    pub(crate) fn new() -> Worker {
        let dir = tempfile::tempdir().unwrap();
        let (_, membership) = store::prepare(dir.path()).unwrap();
        let settings = settings(dir.path());
        let board = Rc::new(Scoreboard::create(1).unwrap());
        let (supervisor, channel) = Channel::pair().unwrap();
        let host = Embedded::open(Options::of(&settings), board.clone(), 0, Side::A).unwrap();
        let hub = Hub::new(Echo, settings, Metrics::new(board, 0, Side::A), Box::new(host)).unwrap();
        let hooks = Hooks { log_lines_dropped: || 0, reopen_logs: || {}, rest_logs: || {} };
        let shared = Shared::new(hub, Descriptors::new(1064), 0, &hooks, channel);
        Worker { shared: Rc::new(shared), _supervisor: supervisor, _membership: membership, _dir: dir }
    }
}

fn settings(state_dir: &Path) -> Settings {
    Settings {
        color: "blue".to_owned(),
        version: "test",
        heartbeat_interval: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(8),
        session_ttl: Duration::from_secs(3600),
        new_session_ttl: Duration::from_secs(3600),
        state_dir: state_dir.to_owned(),
        store_max_size: 64 * 1024 * 1024,
        checkpoint_interval: Duration::ZERO,
        redis: None,
        ws_base_url: "ws://localhost:8000".to_owned(),
        secret_key: None,
        allowed_origins: Vec::new(),
        debug: false,
        trusted_proxies: Vec::new(),
        per_address: PerAddress::default(),
        retry_spread: Duration::from_secs(5),
        limits: Limits::default(),
    }
}
