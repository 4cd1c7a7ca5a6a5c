//! What an operator sees of a takeover while it goes on.

use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

use baton_ipc::control::{Reply, TakeoverReceipt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Environment;
use crate::ctl::page;
use crate::ctl::takeover::Tenths;

/// A standard output that nobody reads any more is no reason to leave a takeover alone: failures to write are ignored.
pub(super) struct Display {
    style: Style,
    colors: bool,
    begun: Instant,
}

enum Style {
    /// The supervisor's lines as they are.
    Json,
    /// For a log or a pipe.
    Lines(Tenths),
    /// With a bar, while there is progress.
    Terminal(Option<ProgressBar>),
}

impl Display {
    pub(super) fn new(json: bool, environment: &Environment) -> Display {
        let terminal = stdout().is_terminal();
        let style = match (json, terminal) {
            (true, _) => Style::Json,
            (false, true) => Style::Terminal(None),
            (false, false) => Style::Lines(Tenths::default()),
        };
        Display { style, colors: terminal && environment.get("NO_COLOR").is_none(), begun: Instant::now() }
    }

    /// A sentence of this side.
    pub(super) fn remark(&mut self, text: &str) {
        let line = format!("{}  {text}", self.time());
        match &self.style {
            // Not the supervisor's, and so not for who reads its lines.
            Style::Json => eprintln!("baton: {text}"),
            Style::Lines(_) | Style::Terminal(None) => say(&line),
            Style::Terminal(Some(bar)) => bar.suspend(|| say(&line)),
        }
    }

    /// A sentence that should not be missed, whoever reads the rest.
    pub(super) fn warn(&self, text: &str) {
        match &self.style {
            Style::Terminal(Some(bar)) => bar.suspend(|| eprintln!("baton: {text}")),
            Style::Json | Style::Lines(_) | Style::Terminal(None) => eprintln!("baton: {text}"),
        }
    }

    /// A line of the supervisor's answer.
    pub(super) fn reply(&mut self, line: &str, reply: &Reply) {
        match (&mut self.style, reply) {
            (Style::Json, _) => say(line.trim_end()),
            (_, Reply::Step { message }) => self.remark(&page::printable(message)),
            (Style::Lines(tenths), Reply::Progress { done, total }) => {
                if let Some(line) = tenths.line(*done, *total) {
                    self.remark(&line);
                }
            }
            (Style::Terminal(bar), Reply::Progress { done, total }) => {
                let bar = bar.get_or_insert_with(|| new_bar(*total));
                bar.set_length(*total);
                bar.set_position(*done);
            }
            // Told when all is over.
            (Style::Lines(_) | Style::Terminal(_), Reply::Done { .. } | Reply::Error { .. }) => {}
        }
    }

    /// No more progress: what comes next needs the bar's line.
    pub(super) fn end_bar(&mut self) {
        match &mut self.style {
            Style::Terminal(bar) => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            Style::Json | Style::Lines(_) => {}
        }
    }

    /// What became of everybody. Of the lines for programs it was the last one already.
    pub(super) fn receipt(&self, receipt: &TakeoverReceipt) {
        match &self.style {
            Style::Json => {}
            Style::Lines(_) | Style::Terminal(_) => say(&format!("\n{}", page::receipt(receipt, self.colors))),
        }
    }

    fn time(&self) -> String {
        format!("{:6.2}s", self.begun.elapsed().as_secs_f64())
    }
}

fn say(line: &str) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{}", line.trim_end_matches('\n')).and_then(|()| stdout.flush());
}

fn new_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout());
    let style = ProgressStyle::with_template("         {bar:40} {pos} of {len} connections");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
