//! Somebody who connects again and again and wants an answer each time.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::harness::machine::ADDRESS;
use crate::harness::{eventually, http};

/// A thread that does it.
pub(super) struct Knocking {
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<Answers>>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Answers {
    supervisors: Vec<u64>,
    failures: Vec<String>,
}

impl Knocking {
    /// Begins, and waits for the first answer.
    #[track_caller]
    pub(super) fn begin() -> Knocking {
        let (over, answers) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Answers>>::default());
        let thread = std::thread::spawn({
            let (over, answers) = (Arc::clone(&over), Arc::clone(&answers));
            move || {
                while !over.load(Ordering::Relaxed) {
                    let outcome = http::get(ADDRESS, "/status");
                    let mut answers = answers.lock().expect("nobody panics with it");
                    match outcome.map(|answer| (answer.status, serde_json::from_str::<Value>(&answer.body))) {
                        Ok((200, Ok(status))) => {
                            let pid = status["supervisor_pid"].as_u64().expect("a pid");
                            if answers.supervisors.last() != Some(&pid) {
                                answers.supervisors.push(pid);
                            }
                        }
                        other => answers.failures.push(format!("{other:?}")),
                    }
                    drop(answers);
                    // Every queue gets some.
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
        });
        let knocking = Knocking { over, answers, thread };
        eventually("an answer", || knocking.supervisors().first().map(drop));
        knocking
    }

    /// Whose generation has answered, one after the other.
    fn supervisors(&self) -> Vec<u64> {
        self.answers.lock().expect("nobody panics with it").supervisors.clone()
    }

    /// Waits until another generation than the first one answers.
    #[track_caller]
    pub(super) fn served_by_another(&self) {
        eventually("another generation answers", || (self.supervisors().len() > 1).then_some(()));
    }

    /// What went wrong.
    pub(super) fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        std::mem::take(&mut self.answers.lock().expect("nobody panics with it").failures)
    }
}

/// That no socket is open from which nobody accepts: of so many connections each gets an answer.
#[track_caller]
pub(super) fn everybody_is_served() {
    for _ in 0..100 {
        // All at once, so that they do not all come to the worker that is awake.
        let waiting: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(ADDRESS).expect("somebody listens")).collect();
        for mut stream in waiting {
            use std::io::{Read, Write};
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it is open");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}
