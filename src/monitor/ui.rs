//! What the keys do to the screen: which pane has the focus, how far it is scrolled, what is paused. Pure.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::watcher::Wanted;

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Workers,
    Charts,
    Latency,
    Errors,
    Takeover,
    Log,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Suspend,
    Redraw,
    NextPane,
    PreviousPane,
    /// So many lines back, or on if it is negative.
    Scroll(isize),
    First,
    Last,
    Zoom,
    Pause,
    Faster,
    Slower,
    Help,
}

/// A line for each key, for the help.
pub(super) const HELP: [(&str, &str); 9] = [
    ("q, Esc, Ctrl-C", "quit"),
    ("Tab, Shift-Tab, ← →", "next pane, previous pane"),
    ("↑ ↓, PgUp PgDn", "scroll the pane"),
    ("Home, End", "its beginning, its end"),
    ("Enter, z", "the pane alone, or all of them"),
    ("p, Space", "pause, go on"),
    ("+ -", "look more often, less often"),
    ("Ctrl-L, Ctrl-Z", "draw anew, suspend"),
    ("?, h", "this help"),
];

/// What one can choose with plus and minus, in milliseconds.
const INTERVALS: [u64; 8] = [500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000];

/// Lines of a page up or down.
const PAGE: isize = 10;

/// The action of a key, if it has one.
pub(super) fn action(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if control => Action::Quit,
        KeyCode::Char('z') if control => Action::Suspend,
        KeyCode::Char('l') if control => Action::Redraw,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Action::Quit,
        KeyCode::Tab | KeyCode::Right => Action::NextPane,
        KeyCode::BackTab | KeyCode::Left => Action::PreviousPane,
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(1),
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(-1),
        KeyCode::PageUp => Action::Scroll(PAGE),
        KeyCode::PageDown => Action::Scroll(-PAGE),
        KeyCode::Home | KeyCode::Char('g') => Action::First,
        KeyCode::End | KeyCode::Char('G') => Action::Last,
        KeyCode::Enter | KeyCode::Char('z') => Action::Zoom,
        KeyCode::Char('p' | ' ') => Action::Pause,
        KeyCode::Char('+' | '=') => Action::Faster,
        KeyCode::Char('-' | '_') => Action::Slower,
        KeyCode::Char('?' | 'h') => Action::Help,
        _ => return None,
    })
}

/// The state of the screen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ui {
    pub(super) panes: Vec<Pane>,
    focus: usize,
    pub(super) zoomed: bool,
    pub(super) help: bool,
    pub(super) paused: bool,
    pub(super) interval: Duration,
    /// Rows of the table above the screen.
    pub(super) rows_above: usize,
    /// Lines of the log below the screen; 0: its end is shown, and followed.
    pub(super) lines_below: usize,
}

impl Ui {
    pub(super) fn new(wanted: Wanted, interval: Duration) -> Ui {
        let metrics = [Pane::Workers, Pane::Charts, Pane::Latency, Pane::Errors, Pane::Takeover];
        let mut panes = if wanted.metrics { metrics.to_vec() } else { vec![] };
        panes.extend(wanted.log.then_some(Pane::Log));
        let (zoomed, help, paused) = (false, false, false);
        Ui { panes, focus: 0, zoomed, help, paused, interval, rows_above: 0, lines_below: 0 }
    }

    /// The pane that has the focus.
    pub(super) fn focused(&self) -> Pane {
        self.panes[self.focus]
    }

    /// Does what concerns the screen alone; quitting, suspending and drawing are for who owns it.
    pub(super) fn act(&mut self, action: Action, log_lines: usize, rows: usize) {
        // Whatever is pressed, the help has been read.
        self.help = action == Action::Help && !self.help;
        let count = self.panes.len();
        match action {
            Action::NextPane => self.focus = (self.focus + 1) % count,
            Action::PreviousPane => self.focus = (self.focus + count - 1) % count,
            Action::Zoom => self.zoomed = !self.zoomed,
            Action::Pause => self.paused = !self.paused,
            Action::Faster => self.interval = self.faster(),
            Action::Slower => self.interval = self.slower(),
            Action::Scroll(lines) => self.scroll(lines, log_lines, rows),
            Action::First => self.scroll(isize::MAX, log_lines, rows),
            Action::Last => self.scroll(isize::MIN, log_lines, rows),
            Action::Help | Action::Quit | Action::Suspend | Action::Redraw => {}
        }
    }

    /// The log has grown: who looks back at it goes on seeing the same lines.
    pub(super) fn log_grew(&mut self, lines: usize, log_lines: usize) {
        if self.lines_below > 0 {
            self.lines_below = (self.lines_below + lines).min(log_lines.saturating_sub(1));
        }
    }

    fn scroll(&mut self, back: isize, log_lines: usize, rows: usize) {
        let moved = |from: usize, by: isize, most: usize| from.saturating_add_signed(by).min(most);
        match self.focused() {
            Pane::Log => self.lines_below = moved(self.lines_below, back, log_lines.saturating_sub(1)),
            Pane::Workers => self.rows_above = moved(self.rows_above, back.saturating_neg(), rows.saturating_sub(1)),
            Pane::Charts | Pane::Latency | Pane::Errors | Pane::Takeover => {}
        }
    }

    fn faster(&self) -> Duration {
        let steps = INTERVALS.into_iter().rev().map(Duration::from_millis);
        steps.into_iter().find(|step| *step < self.interval).unwrap_or(self.interval)
    }

    fn slower(&self) -> Duration {
        let steps = INTERVALS.into_iter().map(Duration::from_millis);
        steps.into_iter().find(|step| *step > self.interval).unwrap_or(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ui() -> Ui {
        Ui::new(Wanted { metrics: true, log: true }, Duration::from_secs(2))
    }

    fn press(code: KeyCode) -> Option<Action> {
        action(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn control(c: char) -> Option<Action> {
        action(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
    }

    #[test]
    fn keys_have_actions() {
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(code), Some(Action::Quit));
        }
        assert_eq!([control('c'), control('z'), control('q')], [Some(Action::Quit), Some(Action::Suspend), None]);
        assert_eq!((press(KeyCode::Tab), press(KeyCode::Char('x'))), (Some(Action::NextPane), None));
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::from(KeyCode::Esc) };
        assert_eq!(action(released), None);
    }

    #[test]
    fn the_focus_goes_round() {
        let mut ui = ui();
        ui.act(Action::PreviousPane, 0, 0);
        assert_eq!(ui.focused(), Pane::Log);
        ui.act(Action::NextPane, 0, 0);
        assert_eq!(ui.focused(), Pane::Workers);
        let mut logs = Ui::new(Wanted { metrics: false, log: true }, Duration::from_secs(2));
        logs.act(Action::NextPane, 0, 0);
        assert_eq!(logs.focused(), Pane::Log);
    }

    #[test]
    fn scrolling_stays_within_bounds_and_holds_on_to_what_is_read() {
        let mut ui = ui();
        ui.act(Action::Scroll(-3), 100, 6);
        assert_eq!(ui.rows_above, 3);
        ui.act(Action::Last, 100, 6);
        assert_eq!(ui.rows_above, 5);
        ui.act(Action::First, 100, 6);
        assert_eq!(ui.rows_above, 0);
        ui.act(Action::PreviousPane, 100, 6);
        ui.log_grew(5, 105);
        assert_eq!(ui.lines_below, 0);
        ui.act(Action::Scroll(PAGE), 105, 6);
        ui.log_grew(5, 110);
        assert_eq!(ui.lines_below, 15);
        ui.act(Action::First, 110, 6);
        assert_eq!(ui.lines_below, 109);
        ui.act(Action::Last, 110, 6);
        assert_eq!(ui.lines_below, 0);
    }

    #[test]
    fn the_interval_goes_by_steps() {
        let mut ui = Ui { interval: Duration::from_secs(3), ..ui() };
        ui.act(Action::Faster, 0, 0);
        assert_eq!(ui.interval, Duration::from_secs(2));
        (0..20).for_each(|_| ui.act(Action::Slower, 0, 0));
        assert_eq!(ui.interval, Duration::from_secs(60));
        (0..20).for_each(|_| ui.act(Action::Faster, 0, 0));
        assert_eq!(ui.interval, Duration::from_millis(500));
    }

    #[test]
    fn any_key_ends_the_help() {
        let mut ui = ui();
        ui.act(Action::Help, 0, 0);
        assert!(ui.help);
        ui.act(Action::NextPane, 0, 0);
        assert!(!ui.help);
    }
}
