//! Instances in processes of their own, as workers are: LMDB must not be opened twice in one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::Scoreboard;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Aim, Embedded, Options};
use crate::backplane::conformance::{Cluster, batch, publication, token};
use crate::backplane::{Backplane, BackplaneError};
use crate::batch::{Batch, Increment, Publication};
use crate::store::testing::spawn;
use crate::store::{self, Membership};
use crate::token::Token;

pub(super) const MIB: u64 = 1024 * 1024;

/// A state directory, prepared as a supervisor does it.
pub(super) struct Directory {
    pub(super) membership: Membership,
    pub(super) options: Options,
    pub(super) dir: TempDir,
}

impl Directory {
    pub(super) fn new() -> Directory {
        let dir = tempfile::tempdir().unwrap();
        let (_, membership) = store::prepare(dir.path()).unwrap();
        let options = Options {
            state_dir: dir.path().to_owned(),
            max_size: 64 * MIB,
            session_ttl: Duration::from_secs(3600),
            checkpoint_interval: Duration::ZERO,
        };
        Directory { membership, options, dir }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The one instance that this process may have.
    pub(super) fn open(&self) -> Embedded {
        open(self.options.clone()).unwrap()
    }
}

pub(super) fn open(options: Options) -> Result<Embedded, BackplaneError> {
    Embedded::open(options, Rc::new(Scoreboard::create(1).unwrap()), 0)
}

impl Cluster for Directory {
    type Instance = Remote;

    fn join(&self) -> Remote {
        Remote::start(&self.options)
    }

    fn with_ttl(seconds: u64) -> Directory {
        let mut directory = Directory::new();
        directory.options.session_ttl = Duration::from_secs(seconds);
        directory
    }

    fn spoil(&self, batch: &mut Batch) {
        let more_than_all = "x".repeat(self.options.max_size as usize);
        batch.publications.push(publication(more_than_all));
    }

    fn too_many(&self) -> usize {
        super::bus::KEPT as usize + 500
    }
}

/// What the process of an instance is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Call {
    Commit {
        increments: Vec<(String, u32, u64)>,
        publications: Vec<(String, String)>,
        touches: Vec<String>,
    },
    Load(Vec<String>),
    Published,
    Claim,
    /// Takes the write lock, answers, and never gives it back.
    Hold,
    Close,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Counts(Vec<u64>),
    Published(Vec<(String, String)>, u64),
    Claimed(bool),
    Holding,
    Closed,
    Full(String),
    Failed(String),
}

/// An instance in another process. Dropping it is SIGKILL.
pub(super) struct Remote {
    child: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

const INSTANCE: &str = "BATON_TEST_INSTANCE";
const ANSWER: &str = "answer ";

impl Remote {
    fn start(options: &Options) -> Remote {
        let test = format!("{}::instance_process", module_path!().split_once("::").unwrap().1);
        let order = (&options.state_dir, options.max_size, options.session_ttl.as_secs());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--nocapture"]).env(INSTANCE, serde_json::to_string(&order).unwrap());
        let mut child = spawn(command.stdin(Stdio::piped())).unwrap();
        let (calls, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut remote = Remote { child, calls, answers };
        // It has joined when it answers.
        remote.call(&Call::Load(vec![])).unwrap();
        remote
    }

    fn call(&mut self, call: &Call) -> Result<Answer, BackplaneError> {
        writeln!(self.calls, "{}", serde_json::to_string(call).unwrap()).unwrap();
        let mut line = String::new();
        while !line.starts_with(ANSWER) {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the instance has died");
        }
        match serde_json::from_str(&line[ANSWER.len()..]).unwrap() {
            Answer::Full(message) => Err(BackplaneError::Full(message)),
            Answer::Failed(message) => {
                let source = std::io::Error::other(message);
                Err(BackplaneError::Io { what: "the other process".into(), source })
            }
            answer => Ok(answer),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn claim(&mut self) -> bool {
        matches!(self.call(&Call::Claim).unwrap(), Answer::Claimed(true))
    }

    /// From now on nobody gets the write lock before this process is killed.
    pub(super) fn hold(&mut self) {
        assert!(matches!(self.call(&Call::Hold).unwrap(), Answer::Holding));
    }

    /// Leaves in good order.
    pub(super) fn close(mut self) {
        assert!(matches!(self.call(&Call::Close).unwrap(), Answer::Closed));
        self.child.wait().unwrap();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backplane for Remote {
    fn commit(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let increments = batch.increments.iter().map(|i| (i.token.to_string(), i.by, i.floor)).collect();
        let publications = batch.publications.iter().map(|p| (p.room.clone(), p.text.clone())).collect();
        let touches = batch.touches.iter().map(Token::to_string).collect();
        let answer = self.call(&Call::Commit { increments, publications, touches })?;
        let Answer::Counts(counts) = answer else { panic!("{answer:?}") };
        batch.increments.iter_mut().zip(counts).for_each(|(increment, last)| increment.last = last);
        Ok(())
    }

    fn load(&mut self, sessions: &[Token]) -> Result<Vec<u64>, BackplaneError> {
        match self.call(&Call::Load(sessions.iter().map(Token::to_string).collect()))? {
            Answer::Counts(counts) => Ok(counts),
            other => panic!("{other:?}"),
        }
    }

    fn published(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError> {
        match self.call(&Call::Published)? {
            Answer::Published(texts, missed) => {
                Ok((texts.into_iter().map(|(room, text)| Publication { room, text }).collect(), missed))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// No test by itself: the body of a [`Remote`].
#[test]
fn instance_process() {
    let Ok(order) = std::env::var(INSTANCE) else { return };
    let (state_dir, max_size, ttl): (PathBuf, u64, u64) = serde_json::from_str(&order).unwrap();
    let (session_ttl, checkpoint_interval) = (Duration::from_secs(ttl), Duration::ZERO);
    let mut embedded = open(Options { state_dir, max_size, session_ttl, checkpoint_interval }).unwrap();
    println!();
    for line in std::io::stdin().lines() {
        let outcome = match serde_json::from_str(&line.unwrap()).unwrap() {
            Call::Commit { increments, publications, touches } => {
                let increment =
                    |(session, by, floor): (String, _, _)| Increment { token: token(&session), by, floor, last: 0 };
                let mut batch = batch(
                    increments.into_iter().map(increment).collect(),
                    publications.into_iter().map(|(room, text)| Publication { room, text }).collect(),
                    touches.iter().map(|session| token(session)).collect(),
                );
                let committed = embedded.commit(&mut batch);
                committed.map(|()| Answer::Counts(batch.increments.iter().map(|increment| increment.last).collect()))
            }
            Call::Load(sessions) => {
                let sessions: Vec<Token> = sessions.iter().map(|session| token(session)).collect();
                embedded.load(&sessions).map(Answer::Counts)
            }
            Call::Published => embedded.published().map(|(publications, missed)| {
                Answer::Published(publications.into_iter().map(|p| (p.room, p.text)).collect(), missed)
            }),
            Call::Claim => embedded.claim_checkpoint().map(|claim| Answer::Claimed(claim.is_some())),
            Call::Hold => embedded.write(Aim::Upkeep, 1, 0, |_, _| {
                say(&Answer::Holding);
                loop {
                    std::thread::park();
                }
            }),
            Call::Close => {
                embedded.close().unwrap();
                say(&Answer::Closed);
                return;
            }
        };
        say(&outcome.unwrap_or_else(|error| match error {
            BackplaneError::Full(message) => Answer::Full(message),
            other => Answer::Failed(other.to_string()),
        }));
    }
}

fn say(answer: &Answer) {
    println!("{ANSWER}{}", serde_json::to_string(answer).unwrap());
}
