//! What one sees of a run while it goes on, on standard error: a bar for each phase on a terminal, lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plan::Progress;

/// Between two lines, where there is no terminal.
const PAUSE: Duration = Duration::from_secs(5);

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Sending,
    Draining,
}

/// The totals that bars lead to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) connections: u64,
    /// None: it ends with its time.
    pub(super) messages: Option<u64>,
    pub(super) duration: Duration,
}

pub(super) struct Display {
    bar: Option<ProgressBar>,
    totals: Totals,
    phase: Phase,
    begun: Instant,
    told: Instant,
    /// When rates were reckoned last, and from which number.
    before: (Instant, u64),
    rate: f64,
}

impl Display {
    pub(super) fn new(totals: Totals) -> Display {
        let now = Instant::now();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix:>10} {bar:40} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let mut display =
            Display { bar, totals, phase: Phase::Connecting, begun: now, told: now, before: (now, 0), rate: 0.0 };
        display.enter(Phase::Connecting);
        display
    }

    /// The next phase.
    pub(super) fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        (self.phase, self.begun, self.told, self.before, self.rate) = (phase, now, now, (now, 0), 0.0);
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_prefix(name(phase));
            }
            None => self.say(name(phase)),
        }
    }

    /// Numbers so far.
    pub(super) fn progress(&mut self, progress: &Progress) {
        let (number, (done, total)) = self.measure(progress);
        let (since, before) = self.before;
        let elapsed = since.elapsed().as_secs_f64();
        if elapsed > 0.5 {
            self.rate = number.saturating_sub(before) as f64 / elapsed;
            self.before = (Instant::now(), number);
        }
        let line = self.line(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_length(total.max(1));
                bar.set_position(done.min(total));
                bar.set_message(line);
            }
            None if self.told.elapsed() >= PAUSE => {
                self.told = Instant::now();
                self.say(&format!("{}: {line}", name(self.phase)));
            }
            None => {}
        }
    }

    /// A sentence between.
    pub(super) fn remark(&self, text: &str) {
        self.say(text);
    }

    /// Its line is free for others.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("baton: {text}")),
            None => eprintln!("baton: {text}"),
        }
    }

    /// What rates are made of, and how far it is on its way.
    fn measure(&self, progress: &Progress) -> (u64, (u64, u64)) {
        match (self.phase, self.totals.messages) {
            (Phase::Connecting, _) => (progress.settled, (progress.settled, self.totals.connections)),
            (Phase::Sending, Some(messages)) => (progress.answered, (progress.answered, messages)),
            (Phase::Sending, None) => {
                let (elapsed, all) = (self.begun.elapsed().as_millis(), self.totals.duration.as_millis());
                (progress.answered, (elapsed as u64, all as u64))
            }
            (Phase::Draining, _) => (progress.ended, (progress.ended, self.totals.connections)),
        }
    }

    fn line(&self, progress: &Progress) -> String {
        let (Totals { connections, .. }, rate) = (self.totals, self.rate);
        let errors = match progress.errors {
            0 => String::new(),
            errors => format!(", {errors} errors"),
        };
        match self.phase {
            Phase::Connecting => format!("{} of {connections} connections, {rate:.0}/s{errors}", progress.settled),
            Phase::Sending => {
                format!("{} messages sent, {} answered, {rate:.0}/s{errors}", progress.sent, progress.answered)
            }
            Phase::Draining => format!("{} of {connections} connections closed{errors}", progress.ended),
        }
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Sending => "sending",
        Phase::Draining => "draining",
    }
}
