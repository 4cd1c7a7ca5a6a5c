//! Follows the log of every process of a generation, as `batonctl tail` reads it: out of the rings in shared memory, so
//! wherever the log goes, a file, the journal or standard error.

use std::collections::HashMap;
use std::time::SystemTime;

use baton_ipc::Slot;

use super::lines::Line;
use crate::ctl::client::{Client, Error, Ring, Tail, rings};

/// How far each ring was read. A service that begins anew has other rings: then the last line that was read there is not
/// where it was.
#[derive(Debug, Default)]
pub(super) struct Follower {
    marks: HashMap<Ring, Mark>,
}

#[derive(Debug)]
struct Mark {
    /// Where the last line begins.
    at: u64,
    /// The last line, newline included.
    last: String,
}

/// What has come.
#[derive(Debug, Default)]
pub(super) struct Come {
    pub(super) lines: Vec<Line>,
    /// Bytes that were overwritten before they could be read.
    pub(super) missed: u64,
}

impl Follower {
    /// New lines of the supervisor and of these slots.
    pub(super) fn follow(&mut self, client: &mut Client, slots: &[Slot]) -> Result<Come, Error> {
        let rings: Vec<Ring> = rings(slots.iter().copied()).collect();
        self.marks.retain(|ring, _| rings.contains(ring));
        let mut come = Come::default();
        let now = SystemTime::now();
        for ring in rings {
            let mut tail = |from| client.tail(ring, from, |_| ());
            let Tail { text, next, missed } = match self.marks.get(&ring) {
                None => tail(None)?,
                Some(mark) => {
                    let after = tail(Some(mark.at))?;
                    match after.text.strip_prefix(mark.last.as_str()) {
                        Some(rest) => Tail { text: rest.to_owned(), missed: 0, ..after },
                        // The mark itself was overwritten: the ring went round.
                        None if after.missed > 0 => after,
                        // Another ring. What of it was seen before is known by its text.
                        None => tail(None)?,
                    }
                }
            };
            come.missed += missed;
            come.lines.extend(text.lines().map(|line| Line::parse(line, now)));
            if let Some(last) = text.split_inclusive('\n').next_back() {
                let at = next.saturating_sub(last.len() as u64);
                self.marks.insert(ring, Mark { at, last: last.to_owned() });
            }
        }
        // Each ring is in order; together they are not.
        come.lines.sort_by_key(|line| line.time);
        Ok(come)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use baton_ipc::Side;
    use baton_ipc::control::{Command, Output, Reply, Request};

    use super::*;

    /// A supervisor whose rings say this, and which tells from where it was asked to read.
    struct Rings(Client, thread::JoinHandle<Vec<Option<u64>>>, tempfile::TempDir);

    fn rings(answers: Vec<(&'static str, u64, u64)>) -> Rings {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("blue.sock")).unwrap();
        let supervisor = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut requests = BufReader::new(&stream).lines();
            let mut asked = vec![];
            // The supervisor writes to the first of its two rings.
            let mut answers = answers.into_iter();
            while let Some(Ok(request)) = requests.next() {
                let request: Request = serde_json::from_str(&request).unwrap();
                let Command::Tail { side, from, .. } = request.command else { panic!("{request:?}") };
                let (text, next, missed) = if side == Some(Side::ALL[0]) {
                    asked.push(from);
                    answers.next().unwrap()
                } else {
                    ("", 0, 0)
                };
                let output = Output::Tail { text: text.into(), next, missed };
                let line = serde_json::to_string(&Reply::Done { output }).unwrap() + "\n";
                (&stream).write_all(line.as_bytes()).unwrap();
            }
            asked
        });
        let client = Client::connect(&[directory.path().to_owned()], None).unwrap();
        Rings(client, supervisor, directory)
    }

    fn texts(come: &Come) -> Vec<&str> {
        come.lines.iter().map(|line| line.raw.as_str()).collect()
    }

    #[test]
    fn reading_goes_on_after_the_last_line() {
        let answers = vec![("one\ntwo\n", 8, 0), ("two\n", 8, 0), ("two\nthree\n", 14, 0)];
        let Rings(mut client, supervisor, _directory) = rings(answers);
        let mut follower = Follower::default();
        assert_eq!(texts(&follower.follow(&mut client, &[]).unwrap()), ["one", "two"]);
        assert!(follower.follow(&mut client, &[]).unwrap().lines.is_empty());
        assert_eq!(texts(&follower.follow(&mut client, &[]).unwrap()), ["three"]);
        drop(client);
        assert_eq!(supervisor.join().unwrap(), [None, Some(4), Some(4)]);
    }

    #[test]
    fn another_ring_in_the_place_is_read_from_its_beginning() {
        let answers = vec![("one\ntwo\n", 8, 0), ("f a line\n", 40, 0), ("half of a line\nnew\n", 44, 0)];
        let Rings(mut client, supervisor, _directory) = rings(answers);
        let mut follower = Follower::default();
        follower.follow(&mut client, &[]).unwrap();
        assert_eq!(texts(&follower.follow(&mut client, &[]).unwrap()), ["half of a line", "new"]);
        drop(client);
        assert_eq!(supervisor.join().unwrap(), [None, Some(4), None]);
    }

    #[test]
    fn what_was_overwritten_is_told() {
        let Rings(mut client, _supervisor, _directory) = rings(vec![("one\n", 4, 0), ("later\n", 99_000, 90_000)]);
        let mut follower = Follower::default();
        follower.follow(&mut client, &[]).unwrap();
        let come = follower.follow(&mut client, &[]).unwrap();
        assert_eq!((texts(&come), come.missed), (vec!["later"], 90_000));
    }
}
