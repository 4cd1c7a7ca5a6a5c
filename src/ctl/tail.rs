//! `batonctl tail`: the last log lines of processes, out of the rings in shared memory.
//!
//! So it is the same whether the log goes to files, to standard error or to the journal, and it works for a worker that hangs
//! or has died. Each place (a slot, or the supervisor) has two rings, one for each side, and processes take turns in them:
//! both are read, and their lines put in order.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Error, Ring, Tail, rings, rings_of};
use super::interrupt::{Interrupts, Wait};
use super::verbs::{Slots, Verb};
use super::{Session, print};

/// How often `--follow` looks for new lines.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long to look for another generation when the one that was followed is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// As many bytes of a line as tell when it was written: `{"timestamp":"2026-01-01T12:00:00.000Z"`.
const STAMP: usize = 39;

/// How far a ring was read.
#[derive(Debug, Default)]
struct Mark {
    /// Where to read on; none: its supervisor is another one now.
    next: Option<u64>,
    /// The last line, newline included.
    last: String,
}

/// Shows lines, and goes on until interrupted if told to `follow`.
pub(super) fn tail(session: &mut Session, follow: bool, lines: usize, whose: Option<Slots>) -> Result<(), Error> {
    let verb = Verb::Tail { follow, lines, slot: whose };
    let mut client = session.connect(&verb)?.remove(0);
    let interrupts = if follow && session.interactive { Interrupts::catch().ok() } else { None };
    let mut marks = HashMap::new();
    let text = read(session, &mut client, whose, &mut marks)?;
    if !session.json {
        print(last_lines(&text, lines)).map_err(Error::Output)?;
    }
    if !follow {
        return Ok(());
    }
    while pause(interrupts.as_ref()) {
        match read(session, &mut client, whose, &mut marks) {
            Ok(text) if session.json || text.is_empty() => {}
            Ok(text) => print(&text).map_err(Error::Output)?,
            Err(Error::Lost(_) | Error::Unreachable(_)) => {
                let Some(next) = another(session, &verb, interrupts.as_ref())? else { break };
                eprintln!(
                    "batonctl: the supervisor of {} has ended; that of {} is followed now",
                    client.color, next.color
                );
                client = next;
                marks.values_mut().for_each(|mark: &mut Mark| mark.next = None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whoever runs after a supervisor has ended: after a deploy, the next generation. None: interrupted.
fn another(session: &mut Session, verb: &Verb, interrupts: Option<&Interrupts>) -> Result<Option<Client>, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        match session.connect(verb) {
            Ok(mut clients) => return Ok(Some(clients.remove(0))),
            // For a moment the one that ends may still be there beside the other.
            Err(Error::Unreachable(_) | Error::Several(_)) if Instant::now() < end => {}
            Err(error) => return Err(error),
        }
        if !pause(interrupts) {
            return Ok(None);
        }
    }
}

/// Whether to go on after it.
fn pause(interrupts: Option<&Interrupts>) -> bool {
    match interrupts {
        None => {
            thread::sleep(INTERVAL);
            true
        }
        Some(interrupts) => matches!(interrupts.pause(INTERVAL), Ok(Wait::Over)),
    }
}

/// What has come since the marks, in order.
fn read(
    session: &Session,
    client: &mut Client,
    whose: Option<Slots>,
    marks: &mut HashMap<Ring, Mark>,
) -> Result<String, Error> {
    let rings: Vec<Ring> = match whose {
        None => rings_of(None).collect(),
        Some(Slots::One(slot)) => rings_of(Some(slot)).collect(),
        Some(Slots::All) => rings(client.status(None)?.slots.into_iter().map(|row| row.slot)).collect(),
    };
    let mut lines = Vec::new();
    for ring in rings {
        let mark = marks.entry(ring).or_default();
        let mut reply = String::new();
        let Tail { text, next, missed } = client.tail(ring, mark.next, |line| line.clone_into(&mut reply))?;
        if session.json && (mark.next.is_none() || !text.is_empty()) {
            print(&reply).map_err(Error::Output)?;
        }
        if missed > 0 {
            eprintln!("batonctl: {missed} bytes of log were overwritten before they could be read");
        }
        let new = unseen(&text, mark);
        if let Some(last) = new.split_inclusive('\n').next_back() {
            mark.last = last.to_owned();
        }
        mark.next = Some(next);
        lines.extend(new.split_inclusive('\n').map(str::to_owned));
    }
    Ok(in_order(lines))
}

/// A ring that is read from its beginning again may be the one that was read before: what is new then comes after the last
/// line that was seen.
fn unseen<'a>(text: &'a str, mark: &Mark) -> &'a str {
    match text.rfind(&mark.last) {
        Some(at) if mark.next.is_none() && !mark.last.is_empty() => &text[at + mark.last.len()..],
        Some(_) | None => text,
    }
}

/// Each ring is in order; together they are not.
fn in_order(mut lines: Vec<String>) -> String {
    lines.sort_by(|a, b| stamp(a).cmp(stamp(b)));
    lines.concat()
}

fn stamp(line: &str) -> &[u8] {
    &line.as_bytes()[..line.len().min(STAMP)]
}

/// The end of a text of whole lines.
fn last_lines(text: &str, lines: usize) -> &str {
    let ends = text.rmatch_indices('\n').map(|(at, _)| at + 1);
    ends.chain([0]).nth(lines).map_or(text, |start| &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\n", 2), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", 20), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", 0), "");
        assert_eq!(last_lines("", 5), "");
    }

    #[test]
    fn lines_are_in_the_order_of_their_times_and_otherwise_as_they_came() {
        let line =
            |second: u8, text| format!("{{\"timestamp\":\"2026-01-01T12:00:{second:02}.000Z\",\"x\":\"{text}\"}}\n");
        let lines = [line(1, "b"), line(3, "d"), line(1, "a"), line(2, "c")];
        let ordered = in_order(lines.to_vec());
        assert_eq!(ordered, [&lines[0], &lines[2], &lines[3], &lines[1]].map(String::as_str).concat());
        // Shorter than a time.
        assert_eq!(in_order(vec!["b\n".to_owned(), "\n".to_owned(), "a\n".to_owned()]), "\na\nb\n");
    }

    #[test]
    fn after_a_takeover_a_ring_goes_on_and_after_a_start_it_is_another() {
        let mark = |next, last: &str| Mark { next, last: last.to_owned() };
        assert_eq!(unseen("a\nb\nc\n", &mark(None, "b\n")), "c\n");
        assert_eq!(unseen("c\nd\n", &mark(None, "b\n")), "c\nd\n");
        assert_eq!(unseen("a\n", &mark(None, "")), "a\n");
        // It is read on from there, and the same may be said twice.
        assert_eq!(unseen("b\n", &mark(Some(7), "b\n")), "b\n");
    }
}
