//! Clients that send without pause and resume their sessions whenever their connections end, and the book of all counts
//! that they were given.

mod runner;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::soon;
use super::{Service, eventually_async};
use runner::Runner;

/// A crowd of such clients. Every count is checked as it comes: to one client none goes backward, and none is given
/// twice in one session.
///
/// They are on a thread of their own: a test may wait for something without holding them up.
pub struct Runners {
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
    through_outages: bool,
    track: runtime::Handle,
    /// Dropped with the rest, which ends the thread and whoever is on it.
    _end: oneshot::Sender<()>,
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
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (track, (end, ended)) = (runtime.handle().clone(), oneshot::channel());
        thread::spawn(move || runtime.block_on(ended));
        Runners { book: Arc::default(), tasks: Vec::new(), through_outages: false, track, _end: end }
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
            self.tasks.push(self.track.spawn(runner.run()));
        }
    }

    /// The book, locked; whatever went wrong so far is a panic.
    #[track_caller]
    pub fn book(&self) -> MutexGuard<'_, Book> {
        let book = open(&self.book);
        match book.failure.clone() {
            Some(failure) => {
                drop(book);
                panic!("{failure}");
            }
            None => book,
        }
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

    /// As [`Runners::stop`], while something happens that they would not survive: none sees anything of it.
    pub async fn stop_and(&mut self, act: impl FnOnce()) {
        let (tell, told) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        // As long as this does not go on, nothing on their thread does.
        self.track.spawn(async move {
            let _ = tell.send(());
            let _ = released.recv();
        });
        told.recv().expect("their thread lives");
        act();
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(release);
        self.stop().await;
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

/// The book, also when a test has panicked over it: its clients go on until they are dropped.
fn open(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
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
