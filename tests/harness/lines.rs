//! A command whose standard output is read line by line, as it comes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::SOON;

/// Such a command. Dropping it kills it.
pub struct Lines {
    pub child: Child,
    lines: Receiver<String>,
}

impl Lines {
    #[track_caller]
    pub fn start(mut command: Command) -> Lines {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        // It ends with its command, or when nobody listens any more.
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Lines { child, lines }
    }

    /// The next line of which this holds; each may take [`SOON`] to come.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(SOON).unwrap_or_else(|error| panic!("no {what}: {error}"));
            if holds(&line) {
                return line;
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
