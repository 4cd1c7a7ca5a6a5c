//! `baton monitor`: a live view of a running service, on a terminal, as lines of text, or as JSON.
//!
//! A thread ([`watcher`]) asks the supervisors over their control sockets, and `/metrics` for what only workers know. From
//! what it finds the [`model`] is made, and from that a screen ([`view`]) or a line ([`plain`]).

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;

use crate::config::{Environment, runtime_directories, seconds};
use crate::ctl::client::COLORS;

mod exposition;
mod follower;
mod histogram;
mod lines;
mod model;
mod plain;
mod sample;
mod screen;
#[cfg(test)]
mod testing;
mod ui;
mod view;
mod watcher;
mod words;

use lines::Book;
use model::Model;
use sample::Place;
use screen::{End, Happening, Show};
use ui::Ui;
use view::Palette;
use watcher::{News, Wanted, Watcher};

/// Panicked, or could not write: a failure (`EXIT_FAILURE`).
const FAILED: u8 = 1;

/// What may wait to be shown. Whoever brings more waits: a terminal or a reader may stand still for long.
const QUEUED: usize = 16;

/// Lines of the log to begin with, where it is not shown on a screen.
const FIRST_LINES: usize = 20;

/// How to watch.
#[derive(Args, Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// How often to look: seconds, or a duration such as 500ms
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Without the log
    #[arg(long)]
    metrics_only: bool,
    /// The log alone
    #[arg(long, conflicts_with = "metrics_only")]
    logs_only: bool,
    /// One JSON object a line: each interval, or with --logs-only each line of the log
    #[arg(long)]
    json: bool,
    /// Look once, print what there is, and end: with 1 if nobody answers
    #[arg(long)]
    once: bool,
    /// Keep to this generation: blue or green; without it: whichever serves, also after a takeover
    #[arg(long, value_parser = COLORS)]
    color: Option<String>,
    /// Where the control sockets are [default: as configured for baton]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

fn interval(text: &str) -> Result<Duration, String> {
    seconds(text, Duration::from_millis(100)..=Duration::from_secs(3600))
}

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Screen,
    Text,
    Json,
}

/// Watches until it is told to end.
pub(crate) fn monitor(options: &Options, environment: Environment) -> ExitCode {
    let form = match (options.json, options.once) {
        (true, _) => Form::Json,
        (false, true) => Form::Text,
        (false, false) => {
            let able = environment.get("TERM").is_some_and(|term| term != "dumb");
            if able && io::stdout().is_terminal() { Form::Screen } else { Form::Text }
        }
    };
    let palette = Palette::of(&environment);
    let directories = runtime_directories(options.runtime_dir.clone(), &environment);
    let place = Place { directories, color: options.color.clone() };
    let wanted = match form {
        // Objects of one kind.
        Form::Json => Wanted { metrics: !options.logs_only, log: options.logs_only },
        Form::Screen | Form::Text => Wanted { metrics: !options.logs_only, log: !options.metrics_only },
    };
    let began = Instant::now();
    let watcher = Watcher::new(place, wanted, options.interval, began);
    let ended = match (options.once, form) {
        (true, form) => once(watcher, form, wanted),
        (false, Form::Screen) => on_screen(watcher, Show::new(Ui::new(wanted, options.interval), palette, began)),
        (false, form) => in_lines(watcher, form, wanted),
    };
    ended.unwrap_or_else(|error| match error.kind() {
        // `baton monitor | head` is no failure.
        ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        _ => {
            // Standard error may be the terminal that is gone.
            let _ = writeln!(io::stderr(), "baton: the monitor has failed: {error}");
            ExitCode::from(FAILED)
        }
    })
}

fn on_screen(watcher: Watcher, show: Show) -> io::Result<ExitCode> {
    let (sender, happenings) = sync_channel(QUEUED);
    screen::catch_signals(sender.clone())?;
    let (wishes, orders) = channel();
    screen::spawn("watcher", sender.clone(), move |sender| watcher.run(sender, &orders, Happening::News))?;
    Ok(match show.run(&happenings, sender, &wishes)? {
        End::Quit => ExitCode::SUCCESS,
        End::Signalled(signal) => ExitCode::from((screen::SIGNALLED + signal as i32) as u8),
    })
}

fn in_lines(watcher: Watcher, form: Form, wanted: Wanted) -> io::Result<ExitCode> {
    let (sender, news) = sync_channel(QUEUED);
    // Nobody wishes anything; while the sender is there the watcher goes on.
    let (_wishes, orders): (Sender<_>, _) = channel();
    let watching = thread::Builder::new().name("watcher".to_owned());
    watching.spawn(move || watcher.run(&sender, &orders, |news| news))?;
    let mut printer = Printer::new(form, wanted);
    news.iter().try_for_each(|news| printer.print(news))?;
    // It ends only if it has panicked.
    Ok(ExitCode::from(FAILED))
}

fn once(mut watcher: Watcher, form: Form, wanted: Wanted) -> io::Result<ExitCode> {
    let mut printer = Printer::new(form, wanted);
    for news in watcher.once() {
        printer.print(news)?;
    }
    match printer.model.outage {
        None => Ok(ExitCode::SUCCESS),
        Some(reason) => {
            eprintln!("baton: {}", crate::ctl::page::printable(&reason));
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// Writes lines to standard output.
struct Printer {
    form: Form,
    wanted: Wanted,
    model: Model,
    book: Book,
}

impl Printer {
    fn new(form: Form, wanted: Wanted) -> Printer {
        Printer { form, wanted, model: Model::default(), book: Book::default() }
    }

    fn print(&mut self, news: News) -> io::Result<()> {
        let text = match news {
            News::Sample(sample) => {
                let regular = sample.regular;
                let before = self.model.outage.clone();
                self.model.observe(*sample);
                // Among log lines it is worth a word only that nobody answers, once.
                let news = self.wanted.metrics || (self.model.outage.is_some() && self.model.outage != before);
                match (regular && news, self.form) {
                    (false, _) => String::new(),
                    (true, Form::Json) => plain::json(&self.model, SystemTime::now()),
                    (true, Form::Text | Form::Screen) => plain::text(&self.model, SystemTime::now()),
                }
            }
            News::Log(lines, missed) => {
                if missed > 0 {
                    eprintln!("baton: {missed} bytes of log were overwritten before they could be read");
                }
                let first = self.book.len() == 0;
                let new = self.book.add(lines);
                let new = &new[if first { new.len().saturating_sub(FIRST_LINES) } else { 0 }..];
                match self.form {
                    Form::Json => new.iter().map(plain::log_json).collect(),
                    Form::Text | Form::Screen => new.iter().map(plain::log_text).collect(),
                }
            }
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_seconds_or_a_duration() {
        assert_eq!(interval("5"), Ok(Duration::from_secs(5)));
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "5x", "2h", "1.5"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
