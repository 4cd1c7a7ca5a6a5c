//! Log lines: what each says, and all of them in the order of their times.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::ctl::page::printable;

/// Lines that are kept to look back at.
const KEPT: usize = 2000;

const DAY_MS: i64 = 86_400_000;

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    const ALL: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    fn named(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }

    /// As the log spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// As it was written.
    pub(super) raw: String,
    /// Since the epoch, in milliseconds.
    pub(super) time: i64,
    /// None: the line is of no format of ours.
    pub(super) level: Option<Level>,
    /// Who wrote it: `blue supervisor`, `blue worker 2`.
    pub(super) who: String,
    /// The message, and the fields behind it.
    pub(super) text: String,
}

impl Line {
    /// Understands a line of either format. One that is of neither came now, and says what it says.
    pub(super) fn parse(raw: &str, now: SystemTime) -> Line {
        let now = milliseconds(now);
        json(raw).or_else(|| pretty(raw, now)).unwrap_or_else(|| Line {
            raw: raw.to_owned(),
            time: now,
            level: None,
            who: String::new(),
            text: printable(raw),
        })
    }

    /// As the log writes it (RFC 3339).
    pub(super) fn timestamp(&self) -> String {
        let since = Duration::from_millis(self.time.unsigned_abs());
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
    }

    /// The time of day, in UTC: `12:00:03.120`.
    pub(super) fn time_of_day(&self) -> String {
        let ms = self.time.rem_euclid(DAY_MS);
        format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
    }
}

fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64
}

fn json(raw: &str) -> Option<Line> {
    let fields: Map<String, Value> = serde_json::from_str(raw).ok()?;
    let text_of = |name: &str| fields.get(name).and_then(Value::as_str);
    let time = milliseconds(humantime::parse_rfc3339(text_of("timestamp")?).ok()?);
    let level = Some(Level::named(text_of("level")?)?);
    let color = text_of("color").unwrap_or_default();
    // A line of the supervisor may name the worker that it is about; its logger tells the two apart.
    let supervisor = text_of("logger").is_some_and(|logger| logger.starts_with("baton_supervisor"));
    let worker = fields.get("worker").filter(|_| !supervisor);
    let who = worker.map_or_else(|| format!("{color} supervisor"), |slot| format!("{color} worker {slot}"));
    let mut text = text_of("message").unwrap_or_default().to_owned();
    let shown = ["timestamp", "level", "logger", "message", "color", "pid"];
    for (name, value) in fields.iter().filter(|(name, _)| !shown.contains(&name.as_str())) {
        if name == "worker" && worker.is_some() {
            continue;
        }
        match value {
            Value::String(value) if !value.contains([' ', '"', '=']) => text.push_str(&format!(" {name}={value}")),
            other => text.push_str(&format!(" {name}={other}")),
        }
    }
    Some(Line { raw: raw.to_owned(), time, level, who: printable(&who), text: printable(&text) })
}

/// `12:00:03.120 INFO  blue supervisor: ready`, which says nothing of the day: it is the one that is nearest.
fn pretty(raw: &str, now: i64) -> Option<Line> {
    let (clock, rest) = raw.split_at_checked(12)?;
    let mut parts = clock.splitn(3, ':');
    let mut next = || parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    let (hours, minutes, seconds): (i64, i64, f64) =
        (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    let of_day = (hours * 60 + minutes) * 60_000 + (seconds * 1000.0).round() as i64;
    let ago = (now.rem_euclid(DAY_MS) - of_day + DAY_MS / 2).rem_euclid(DAY_MS) - DAY_MS / 2;
    let (level, rest) = rest.strip_prefix(' ')?.split_once(' ')?;
    // The supervisor's may be painted, if it wrote to a terminal.
    let level = level.trim_start_matches(|c: char| !c.is_ascii_uppercase()).split('\x1b').next()?;
    let (who, text) = rest.trim_start().split_once(": ")?;
    let level = Some(Level::named(level)?);
    let who = who.trim_start_matches("\x1b[0m").trim_start();
    Some(Line { raw: raw.to_owned(), time: now - ago, level, who: printable(who), text: printable(text) })
}

/// The latest lines of all processes, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    lines: VecDeque<Line>,
}

impl Book {
    /// Puts lines where their times say, and returns how many are new. One that is there already comes again when a ring
    /// is read anew from its beginning.
    pub(super) fn add(&mut self, lines: Vec<Line>) -> Vec<Line> {
        let mut new = Vec::new();
        for line in lines {
            let at = self.lines.partition_point(|have| have.time <= line.time);
            let same_time = self.lines.range(..at).rev().take_while(|have| have.time == line.time);
            let known = { same_time }.any(|have| have.raw == line.raw);
            // What is older than all of a full book was in it before.
            if known || (at == 0 && self.lines.len() >= KEPT) {
                continue;
            }
            self.lines.insert(at, line.clone());
            new.push(line);
            if self.lines.len() > KEPT {
                self.lines.pop_front();
            }
        }
        new
    }

    /// How many lines there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Those before the last `back`, at most `most`, oldest first.
    pub(super) fn window(&self, back: usize, most: usize) -> impl Iterator<Item = &Line> {
        let end = self.lines.len().saturating_sub(back);
        self.lines.range(end.saturating_sub(most)..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-03-04T12:00:00.000Z";

    fn now() -> SystemTime {
        humantime::parse_rfc3339(NOON).unwrap()
    }

    fn parse(raw: &str) -> Line {
        Line::parse(raw, now())
    }

    #[test]
    fn a_line_of_json() {
        let line = parse(
            r#"{"timestamp":"2026-03-04T11:59:58.120Z","level":"WARN","logger":"baton_worker::accept","message":"too many","limit":7,"why":"a b","color":"blue","worker":2,"pid":1}"#,
        );
        assert_eq!((line.level, line.who.as_str()), (Some(Level::Warn), "blue worker 2"));
        assert_eq!(line.text, r#"too many limit=7 why="a b""#);
        assert_eq!(line.time_of_day(), "11:59:58.120");
    }

    #[test]
    fn the_supervisor_may_speak_of_a_worker() {
        let line = parse(
            r#"{"timestamp":"2026-03-04T11:59:58.120Z","level":"INFO","logger":"baton_supervisor::workers","message":"serves","worker":3,"color":"green","pid":1}"#,
        );
        assert_eq!((line.who.as_str(), line.text.as_str()), ("green supervisor", "serves worker=3"));
    }

    #[test]
    fn a_pretty_line_is_of_the_nearest_day() {
        let line = parse("11:59:58.120 ERROR blue worker 2: it failed: why=x");
        assert_eq!((line.level, line.who.as_str()), (Some(Level::Error), "blue worker 2"));
        assert_eq!((line.text.as_str(), line.time), ("it failed: why=x", milliseconds(now()) - 1880));
        let painted = parse("11:59:58.120 \x1b[32mINFO \x1b[0m blue supervisor: ready");
        assert_eq!((painted.level, painted.who.as_str()), (Some(Level::Info), "blue supervisor"));
        let midnight = humantime::parse_rfc3339("2026-03-05T00:00:01Z").unwrap();
        let line = Line::parse("23:59:59.000 INFO  blue supervisor: late", midnight);
        assert_eq!(line.time, milliseconds(midnight) - 2000);
    }

    #[test]
    fn what_is_no_log_line_is_shown_and_moves_no_cursor() {
        for raw in ["panic!\x1b[2J", "{}", "", "é", "12:00:00.0000"] {
            let line = parse(raw);
            assert_eq!((line.level, line.time), (None, milliseconds(now())));
            assert!(!line.text.contains('\x1b'));
        }
    }

    #[test]
    fn lines_of_several_processes_are_in_the_order_of_their_times_and_none_comes_twice() {
        let line = |second: u32, what: &str| parse(&format!("11:59:{second:02}.000 INFO  blue supervisor: {what}"));
        let mut book = Book::default();
        assert_eq!(book.add(vec![line(1, "a"), line(3, "c")]).len(), 2);
        let new = book.add(vec![line(2, "b"), line(3, "c"), line(3, "d")]);
        assert_eq!(new.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["b", "d"]);
        let texts = |back, most| book.window(back, most).map(|line| line.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(0, 10), ["a", "b", "c", "d"]);
        assert_eq!(texts(1, 2), ["b", "c"]);
        assert!(texts(9, 2).is_empty());
    }

    #[test]
    fn a_full_book_forgets_its_oldest_lines_for_good() {
        let line =
            |ms: usize| parse(&format!("11:{:02}:{:02}.{:03} INFO  w: x", ms / 60_000, ms / 1000 % 60, ms % 1000));
        let mut book = Book::default();
        book.add((0..KEPT + 10).map(line).collect());
        assert_eq!(book.len(), KEPT);
        assert!(book.add((0..20).map(line).collect()).is_empty());
    }
}
