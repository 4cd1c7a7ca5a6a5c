//! What `batonctl promote` and `baton promote` have in common: how it is asked for, and how it is told.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use baton_ipc::control::{Command, Output, Reply};
use clap::Args;

use super::client::{Client, Error};
use super::interrupt::Interrupts;
use crate::config::duration;

/// How long the first share is watched when nobody says.
const WATCH: Duration = Duration::from_secs(10);

/// How to take over.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// Hand over this share of the clients first and watch it before the rest follows; 5 means 5 %
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    canary: Option<f64>,
    /// How long to watch the first share [default: 10s]
    #[arg(long, value_name = "DURATION", requires = "canary", value_parser = watch)]
    watch: Option<Duration>,
    /// Keep the old generation, without clients, so that `batonctl rollback` can return to it
    #[arg(long)]
    keep_old: bool,
}

impl Options {
    /// What to ask of the generation that stands by.
    pub(crate) fn command(&self) -> Command {
        let watch = self.canary.map_or(Duration::ZERO, |_| self.watch.unwrap_or(WATCH));
        Command::Promote { canary: self.canary, watch_ms: watch.as_millis() as u64, keep_old: self.keep_old }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|share| *share > 0.0 && *share < 100.0).ok_or_else(|| "a number above 0 and below 100".to_owned())
}

fn watch(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100)..=Duration::from_secs(3600))
}

/// Whether Ctrl-C calls it off. A takeover without a canary is over before anybody could want to.
fn is_revocable(command: &Command) -> bool {
    matches!(command, Command::Upgrade | Command::Promote { canary: Some(_), .. })
}

/// Asks for a takeover or the like, until Ctrl-C at the latest; that calls it off if it can be, and then the supervisors
/// say what has become of it.
pub(crate) fn ask(
    client: &mut Client,
    directories: &[PathBuf],
    interrupts: Option<&Interrupts>,
    command: Command,
    mut each: impl FnMut(&str, &Reply) -> io::Result<()>,
) -> Result<Output, Error> {
    let revocable = is_revocable(&command);
    let outcome = client.ask_until(interrupts, command, &mut each);
    if !revocable || !matches!(outcome, Err(Error::Interrupted)) {
        return outcome;
    }
    let back = Client::connect(directories, Some(&client.color));
    match back.and_then(|mut back| back.ask_until(interrupts, Command::Rollback, |_, _| Ok(()))) {
        Ok(Output::Text { message }) => Err(Error::CalledOff(message)),
        // It may have come to its end just now, which the answer says.
        Ok(_) | Err(Error::Refused { .. } | Error::Unreachable(_) | Error::Lost(_)) => client.go_on(interrupts, each),
        Err(error) => Err(error),
    }
}

/// Which reports of progress are worth a line: one for each tenth of the way.
#[derive(Debug, Default)]
pub(crate) struct Tenths(u64);

impl Tenths {
    /// The line, if one is due.
    pub(crate) fn line(&mut self, done: u64, total: u64) -> Option<String> {
        let tenth = (done * 10).checked_div(total)?;
        // Less than before when connections go back.
        let news = std::mem::replace(&mut self.0, tenth) != tenth;
        news.then(|| format!("{done} of {total} connections are handed over ({} %)", tenth * 10))
    }
}

/// Whether every connection came through: it goes on, or its client was told to come back.
pub(crate) fn lossless(output: &Output) -> bool {
    match output {
        Output::Takeover(receipt) => receipt.dropped == 0,
        Output::Text { .. }
        | Output::Status(_)
        | Output::Pids { .. }
        | Output::Tail { .. }
        | Output::Connections { .. }
        | Output::Backplane { .. }
        | Output::Reached { .. }
        | Output::Version { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times() {
        assert_eq!((percent("5"), percent("0.5%")), (Ok(5.0), Ok(0.5)));
        for wrong in ["0", "100", "-1", "NaN", "inf", "some", ""] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
        assert!(watch("10").is_err() && watch("2h").is_err());
        assert_eq!(watch("2m"), Ok(Duration::from_secs(120)));
    }

    #[test]
    fn a_share_is_watched_and_all_are_not() {
        let ask = |canary| Options { canary, ..Options::default() }.command();
        assert_eq!(ask(None), Command::Promote { canary: None, watch_ms: 0, keep_old: false });
        assert_eq!(ask(Some(1.0)), Command::Promote { canary: Some(1.0), watch_ms: 10_000, keep_old: false });
    }

    #[test]
    fn a_line_for_each_tenth() {
        let mut tenths = Tenths::default();
        let said: Vec<String> = (0..=1000).filter_map(|done| tenths.line(done, 1000)).collect();
        assert_eq!(said.len(), 10);
        assert_eq!(said[2], "300 of 1000 connections are handed over (30 %)");
        assert_eq!(tenths.line(1000, 1000), None);
        assert_eq!(tenths.line(0, 0), None);
        // Back again, when it was undone.
        assert_eq!(tenths.line(450, 1000), Some("450 of 1000 connections are handed over (40 %)".into()));
    }
}
