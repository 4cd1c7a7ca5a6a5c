//! Clients that send without pause and resume their sessions whenever their connections end, and the book of all counts
//! that they were given.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;

use super::client::{Raw, Refused, frame, read_frame, soon};
use super::{Service, eventually_async};

/// Messages that each client has in flight.
const WINDOW: usize = 8;

/// A crowd of such clients. Every count is checked as it comes: to one client none goes backward, and none is given
/// twice in one session.
pub struct Runners {
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
    through_outages: bool,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Book {
    /// Counts given, by session.
    pub counts: HashMap<String, HashSet<u64>>,
    /// Messages sent, by session; without those of which it was said, by 1001 or 1013, that they were not counted.
    pub sent: HashMap<String, u64>,
    /// Messages answered with a count, by session.
    pub answered: HashMap<String, u64>,
    /// Counts given to each client.
    pub answers: Vec<u64>,
    /// Ends of connections without a close.
    pub lost: u64,
    /// Ends of connections by bye and 1001.
    pub byes: u64,
    /// Handshakes that ended without an answer, as they do when their worker is killed.
    pub unanswered: u64,
    /// Ends of connections by 1013, before they were given a count: resumes that had to wait.
    pub refused: u64,
    /// Counts given to more than one client of a session.
    pub repeated: u64,
    /// The longest time for which a client whose messages were being answered waited for the next answer.
    pub longest_pause: Duration,
    /// Nobody sends any more.
    over: bool,
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
        Runners { book: Arc::default(), tasks: Vec::new(), through_outages: false }
    }

    /// What those who count may do while they cannot ask one another: put off a resume (1013, with a hint when to come
    /// back), and give two clients of a session the same count. Both are in the book.
    pub fn through_outages(mut self) -> Runners {
        self.through_outages = true;
        self
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
            let (session, book, through_outages) = (session.into(), self.book.clone(), self.through_outages);
            let runner = Runner { address, session, index, last: 0, book, through_outages };
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

    /// Lets each hear the answers to all that it has sent, and go. Unless connections were lost, all is answered then.
    pub async fn finish(&mut self) {
        self.book().over = true;
        for task in self.tasks.drain(..) {
            soon(task).await.expect("a client panicked");
        }
        drop(self.book());
    }
}

/// Names of sessions for runners: some of one client each, and one that many share.
pub fn sessions() -> impl Iterator<Item = String> {
    (0..8).map(|n| format!("own-{n}")).chain((0..8).map(|_| "shared".to_owned()))
}

/// What a service has of each session is at least what was answered, and at most what was sent, by all these clients.
pub async fn check_totals(service: &Service, all: &[&Runners]) {
    let sessions = |runners: &&Runners| runners.book().sent.keys().cloned().collect::<Vec<_>>();
    let sessions: HashSet<String> = all.iter().flat_map(sessions).collect();
    for session in sessions {
        let total = service.count_one(&session).await - 1;
        let (mut highest, mut answered, mut sent) = (0, 0, 0);
        for runners in all {
            let book = runners.book();
            highest = highest.max(book.highest(&session));
            answered += book.answered.get(&session).copied().unwrap_or(0);
            sent += book.sent.get(&session).copied().unwrap_or(0);
        }
        assert!(highest <= total, "{session}: {highest} was given, {total} are kept");
        assert!(answered <= total, "{session}: {answered} were answered, {total} counted");
        assert!(total <= sent, "{session}: {total} were counted, {sent} sent");
        // In the book too, so that another host can be asked.
        let mut book = all[0].book();
        *book.sent.entry(session.clone()).or_default() += 1;
        *book.answered.entry(session.clone()).or_default() += 1;
        book.counts.entry(session).or_default().insert(total + 1);
    }
}

struct Runner {
    address: SocketAddr,
    session: String,
    index: usize,
    last: u64,
    book: Arc<Mutex<Book>>,
    through_outages: bool,
}

/// How a connection ended.
enum End {
    Lost,
    Bye,
    /// Come back after this time.
    Refused(Duration),
    /// All is sent and answered.
    Done,
    Wrong(String),
}

impl Runner {
    async fn run(mut self) {
        let path = format!("/ws/chat/?session_uuid={}", self.session);
        while !self.is_over() {
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
                End::Refused(hint) => {
                    self.note(|book| book.refused += 1);
                    tokio::time::sleep(hint).await;
                }
                End::Done => return,
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
        let (mut owed, mut under_way, mut counts) = (WINDOW, 0, 0_u64);
        let mut heard = Instant::now();
        loop {
            self.note(|book| *book.sent.entry(self.session.clone()).or_default() += owed as u64);
            under_way += owed as u64;
            if stream.write_all(&message.repeat(owed)).await.is_err() {
                // What was answered before the end is still to be read.
                owed = 0;
            }
            let next = soon(read_frame(&mut stream)).await;
            if counts > 0 {
                self.note(|book| book.longest_pause = book.longest_pause.max(heard.elapsed()));
            }
            heard = Instant::now();
            let text = match next {
                Some((0x81, text)) => text,
                Some((0x88, close)) => {
                    let _ = stream.write_all(&frame(0x88, &close[..close.len().min(2)])).await;
                    return self.closed(&close, counts, under_way);
                }
                Some((first, _)) => return End::Wrong(format!("a frame that begins with {first:#x}")),
                None => return End::Lost,
            };
            match self.take(&text) {
                Ok(true) => (counts, under_way) = (counts + 1, under_way - 1),
                Ok(false) => {}
                Err(wrong) => return End::Wrong(wrong),
            }
            owed = owed.min(1);
            if self.is_over() {
                owed = 0;
                if under_way == 0 {
                    let _ = stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await;
                    while soon(read_frame(&mut stream)).await.is_some() {}
                    return End::Done;
                }
            }
        }
    }

    /// The end by a close, after so many counts on this connection, and with so many messages unanswered.
    fn closed(&self, close: &[u8], counts: u64, under_way: u64) -> End {
        let code = close.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        let reason = String::from_utf8_lossy(close.get(2..).unwrap_or_default());
        let hint = reason.strip_prefix("retry_ms=").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let end = match (code, hint) {
            (1001, Some(_)) => End::Bye,
            // Who is served already is not sent away.
            (1013, Some(hint)) if self.through_outages && counts == 0 => End::Refused(hint),
            _ => return End::Wrong(format!("closed with {code} {reason:?} after {counts} counts on this connection")),
        };
        // Both say that what they have not answered was not counted.
        self.note(|book| *book.sent.entry(self.session.clone()).or_default() -= under_way);
        end
    }

    /// Takes a message down; whether it was a count.
    fn take(&mut self, text: &[u8]) -> Result<bool, String> {
        let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if json["bye"] == true {
            let total = json["total"].as_u64().unwrap_or(0);
            return if total >= self.last { Ok(false) } else { Err(format!("bye with {total} after {}", self.last)) };
        }
        let count = json["count"].as_u64().ok_or_else(|| format!("neither count nor bye: {json}"))?;
        if count <= self.last {
            return Err(format!("{count} after {}", self.last));
        }
        self.last = count;
        let mut book = self.book.lock().expect("no client has panicked");
        book.answers[self.index] += 1;
        *book.answered.entry(self.session.clone()).or_default() += 1;
        let is_new = book.counts.entry(self.session.clone()).or_default().insert(count);
        book.repeated += u64::from(!is_new);
        if is_new || self.through_outages { Ok(true) } else { Err(format!("{count} was given twice")) }
    }

    fn is_over(&self) -> bool {
        self.book.lock().expect("no client has panicked").over
    }

    fn note(&self, note: impl FnOnce(&mut Book)) {
        note(&mut self.book.lock().expect("no client has panicked"));
    }
}
