//! Instances in processes of their own, as workers are: LMDB must not be opened twice in one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::{Scoreboard, Side};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Aim, Embedded, Need, Options};
use crate::backplane::conformance::{Cluster, Instance, batch, last, publication, token};
use crate::backplane::{Backplane, BackplaneError, Progress};
use crate::batch::{Batch, Increment, Outcome, Publication};
use crate::lifetimes::Lifetimes;
use crate::store::testing::spawn;
use crate::store::{self, Membership};
use crate::token::Token;

pub(super) const MIB: u64 = 1024 * 1024;

/// A state directory, prepared as a supervisor does it.
pub(crate) struct Directory {
    pub(crate) membership: Membership,
    pub(crate) options: Options,
    pub(crate) dir: TempDir,
}

impl Directory {
    pub(crate) fn new() -> Directory {
        let dir = tempfile::tempdir().unwrap();
        let (_, membership) = store::prepare(dir.path()).unwrap();
        let options = Options {
            state_dir: dir.path().to_owned(),
            max_size: 64 * MIB,
            lifetimes: lifetime(3600),
            checkpoint_interval: Duration::ZERO,
        };
        Directory { membership, options, dir }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The one instance that this process may have.
    pub(crate) fn open(&self) -> Embedded {
        open(self.options.clone()).unwrap()
    }
}

/// All sessions live for so many seconds.
pub(crate) fn lifetime(seconds: u64) -> Lifetimes {
    Lifetimes { session: seconds, new: seconds }
}

pub(super) fn open(options: Options) -> Result<Embedded, BackplaneError> {
    Embedded::open(options, Rc::new(Scoreboard::create(1).unwrap()), 0, Side::A)
}

impl Cluster for Directory {
    type Instance = Remote;

    fn join(&self) -> Remote {
        Remote::start(&self.options)
    }

    fn with_ttl(seconds: u64) -> Directory {
        let mut directory = Directory::new();
        directory.options.lifetimes = lifetime(seconds);
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
    Settle {
        increments: Vec<(String, u32, Option<u64>)>,
        publications: Vec<(String, String)>,
    },
    Peek(Vec<String>),
    Hear,
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
pub(crate) struct Remote {
    child: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

const INSTANCE: &str = "BATON_TEST_INSTANCE";
const ANSWER: &str = "answer ";

impl Remote {
    fn start(options: &Options) -> Remote {
        let test = format!("{}::instance_process", module_path!().split_once("::").unwrap().1);
        let order = (&options.state_dir, options.max_size, options.lifetimes.session);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--nocapture"]).env(INSTANCE, serde_json::to_string(&order).unwrap());
        let mut child = spawn(command.stdin(Stdio::piped())).unwrap();
        let (calls, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut remote = Remote { child, calls, answers };
        // It has joined when it answers.
        remote.call(&Call::Peek(vec![])).unwrap();
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

impl Instance for Remote {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let increments = batch.increments.iter().map(|i| (i.token.spelling(), i.by, i.floor)).collect();
        let publications = batch.publications.iter().map(|p| (p.room.clone(), p.text.clone())).collect();
        let answer = self.call(&Call::Settle { increments, publications })?;
        let Answer::Counts(counts) = answer else { panic!("{answer:?}") };
        let outcomes = counts.into_iter().map(Outcome::Count);
        batch.increments.iter_mut().zip(outcomes).for_each(|(increment, outcome)| increment.outcome = outcome);
        Ok(())
    }

    fn hear(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError> {
        match self.call(&Call::Hear)? {
            Answer::Published(texts, missed) => {
                Ok((texts.into_iter().map(|(room, text)| Publication { room, text }).collect(), missed))
            }
            other => panic!("{other:?}"),
        }
    }

    fn peek(&mut self, sessions: &[Token]) -> Vec<u64> {
        match self.call(&Call::Peek(sessions.iter().map(Token::spelling).collect())).unwrap() {
            Answer::Counts(counts) => counts,
            other => panic!("{other:?}"),
        }
    }
}

impl Instance for Embedded {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        self.commit(batch).map(|progress| assert_eq!(progress, Progress::Done))
    }

    fn hear(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError> {
        self.published()
    }

    fn peek(&mut self, sessions: &[Token]) -> Vec<u64> {
        let mut increments: Vec<Increment> = sessions
            .iter()
            .map(|token| Increment { token: token.clone(), by: 0, floor: None, began: false, outcome: Outcome::Failed })
            .collect();
        self.look_up(increments.iter_mut()).unwrap();
        increments.iter().map(last).collect()
    }
}

/// No test by itself: the body of a [`Remote`].
#[test]
fn instance_process() {
    let Ok(order) = std::env::var(INSTANCE) else { return };
    let (state_dir, max_size, ttl): (PathBuf, u64, u64) = serde_json::from_str(&order).unwrap();
    let (lifetimes, checkpoint_interval) = (lifetime(ttl), Duration::ZERO);
    let mut embedded = open(Options { state_dir, max_size, lifetimes, checkpoint_interval }).unwrap();
    println!();
    for line in std::io::stdin().lines() {
        let outcome = match serde_json::from_str(&line.unwrap()).unwrap() {
            Call::Settle { increments, publications } => {
                let increment = |(session, by, floor): (String, _, _)| {
                    let (token, outcome) = (token(&session), Outcome::Failed);
                    Increment { token, by, floor, began: false, outcome }
                };
                let mut batch = batch(
                    increments.into_iter().map(increment).collect(),
                    publications.into_iter().map(|(room, text)| Publication { room, text }).collect(),
                );
                let settled = Instance::settle(&mut embedded, &mut batch);
                settled.map(|()| Answer::Counts(batch.increments.iter().map(last).collect()))
            }
            Call::Peek(sessions) => {
                let sessions: Vec<Token> = sessions.iter().map(|session| token(session)).collect();
                Ok(Answer::Counts(embedded.peek(&sessions)))
            }
            Call::Hear => embedded.hear().map(|(publications, missed)| {
                Answer::Published(publications.into_iter().map(|p| (p.room, p.text)).collect(), missed)
            }),
            Call::Claim => embedded.claim_checkpoint().map(|claim| Answer::Claimed(claim.is_some())),
            Call::Hold => embedded.write(Aim::Upkeep, Need::records(1), |_, _| {
                say(&Answer::Holding);
                loop {
                    std::thread::park();
                }
            }),
            Call::Close => {
                embedded.leave().unwrap();
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
