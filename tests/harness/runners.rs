//! Clients that send without pause and resume their sessions whenever their connections end, and the book of all counts
//! that they were given.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;

use super::client::{Raw, Refused, frame, read_frame, soon};
use super::eventually_async;

/// Messages that each client has in flight.
const WINDOW: usize = 8;

/// A crowd of such clients. Every count is checked as it comes: to one client none goes backward, and none is given
/// twice in one session.
pub struct Runners {
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Book {
    /// Counts given, by session.
    pub counts: HashMap<String, HashSet<u64>>,
    /// Messages sent, by session.
    pub sent: HashMap<String, u64>,
    /// Counts given to each client.
    pub answers: Vec<u64>,
    /// Ends of connections without a close.
    pub lost: u64,
    /// Ends of connections by bye and 1001.
    pub byes: u64,
    /// Handshakes that ended without an answer, as they do when their worker is killed.
    pub unanswered: u64,
    /// What must not happen.
    failure: Option<String>,
}

impl Book {
    /// All counts given.
    pub fn total(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// The highest count given in a session.
    pub fn highest(&self, session: &str) -> u64 {
        self.counts.get(session).and_then(|counts| counts.iter().max().copied()).unwrap_or(0)
    }
}

impl Runners {
    /// Nobody yet.
    pub fn none() -> Runners {
        Runners { book: Arc::default(), tasks: Vec::new() }
    }

    /// One client for each of the sessions, which may be named more than once.
    pub fn start<S: Into<String>>(address: SocketAddr, sessions: impl IntoIterator<Item = S>) -> Runners {
        let mut runners = Runners::none();
        runners.go(address, sessions);
        runners
    }

    /// More of them, in the same book.
    pub fn go<S: Into<String>>(&mut self, address: SocketAddr, sessions: impl IntoIterator<Item = S>) {
        for session in sessions {
            let index = self.book().answers.len();
            self.book().answers.push(0);
            let runner = Runner { address, session: session.into(), index, last: 0, book: self.book.clone() };
            self.tasks.push(tokio::spawn(runner.run()));
        }
    }

    /// The book, locked; whatever went wrong so far is a panic.
    #[track_caller]
    pub fn book(&self) -> MutexGuard<'_, Book> {
        let book = self.book.lock().expect("no client has panicked");
        if let Some(failure) = &book.failure {
            panic!("{failure}");
        }
        book
    }

    /// Waits until every client that is running has got `more` counts from now on.
    pub async fn everyone_gets(&self, more: u64) {
        // Those that were stopped came before.
        let running = |book: &Book| book.answers[book.answers.len() - self.tasks.len()..].to_vec();
        let goals: Vec<u64> = running(&self.book()).iter().map(|answers| answers + more).collect();
        eventually_async("counts for everyone", async || {
            running(&self.book()).iter().zip(&goals).all(|(now, goal)| now >= goal).then_some(())
        })
        .await;
    }

    /// Waits until all together have got `more` counts from now on.
    pub async fn all_get(&self, more: u64) {
        let goal = self.book().total() + more;
        eventually_async("counts", async || (self.book().total() >= goal).then_some(())).await;
    }

    /// Stops them all, wherever they are: none takes another step.
    pub async fn stop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks.drain(..) {
            assert!(!task.await.is_err_and(|error| error.is_panic()), "a client panicked");
        }
    }
}

struct Runner {
    address: SocketAddr,
    session: String,
    index: usize,
    last: u64,
    book: Arc<Mutex<Book>>,
}

/// How a connection ended.
enum End {
    Lost,
    Bye,
    Wrong(String),
}

impl Runner {
    async fn run(mut self) {
        let path = format!("/ws/chat/?session_uuid={}", self.session);
        loop {
            let end = match Raw::try_connect(self.address, &path, b"").await {
                Ok(raw) => self.send_without_pause(raw).await,
                Err(Refused::Lost(_)) => {
                    self.note(|book| book.unanswered += 1);
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(refused) => End::Wrong(refused.to_string()),
            };
            match end {
                End::Lost => self.note(|book| book.lost += 1),
                End::Bye => self.note(|book| book.byes += 1),
                End::Wrong(what) => {
                    let what = format!("client {} of session {}: {what}", self.index, self.session);
                    return self.note(|book| book.failure = Some(what));
                }
            }
        }
    }

    async fn send_without_pause(&mut self, raw: Raw) -> End {
        let mut stream = BufReader::new(raw.stream);
        let message = frame(0x81, b"on and on");
        let mut owed = WINDOW;
        loop {
            self.note(|book| *book.sent.entry(self.session.clone()).or_default() += owed as u64);
            if stream.write_all(&message.repeat(owed)).await.is_err() {
                // What was answered before the end is still to be read.
                owed = 0;
            }
            let text = match soon(read_frame(&mut stream)).await {
                Some((0x81, text)) => text,
                Some((0x88, close)) => {
                    let code = close.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    let _ = stream.write_all(&frame(0x88, &close[..close.len().min(2)])).await;
                    return if code == 1001 { End::Bye } else { End::Wrong(format!("closed with {code}")) };
                }
                Some((first, _)) => return End::Wrong(format!("a frame that begins with {first:#x}")),
                None => return End::Lost,
            };
            if let Err(wrong) = self.take(&text) {
                return End::Wrong(wrong);
            }
            owed = owed.min(1);
        }
    }

    fn take(&mut self, text: &[u8]) -> Result<(), String> {
        let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if json["bye"] == true {
            let total = json["total"].as_u64().unwrap_or(0);
            return if total >= self.last { Ok(()) } else { Err(format!("bye with {total} after {}", self.last)) };
        }
        let count = json["count"].as_u64().ok_or_else(|| format!("neither count nor bye: {json}"))?;
        if count <= self.last {
            return Err(format!("{count} after {}", self.last));
        }
        self.last = count;
        let mut book = self.book.lock().expect("no client has panicked");
        book.answers[self.index] += 1;
        match book.counts.entry(self.session.clone()).or_default().insert(count) {
            true => Ok(()),
            false => Err(format!("{count} was given twice")),
        }
    }

    fn note(&self, note: impl FnOnce(&mut Book)) {
        note(&mut self.book.lock().expect("no client has panicked"));
    }
}
