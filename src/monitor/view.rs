//! The model as a screen: pure, drawn into whatever buffer there is. A terminal that is too small for all panes shows
//! the one that has the focus.

use std::time::{Duration, SystemTime};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::lines::Book;
use super::model::Model;
use super::ui::{HELP, Pane, Ui};
use crate::ctl::page::{age, printable};

mod details;
mod layout;
mod log;
mod palette;
mod workers;

pub(super) use palette::Palette;
pub(super) use workers::rows;

/// All that a screen is made from.
pub(super) struct Scene<'a> {
    pub(super) model: &'a Model,
    pub(super) book: &'a Book,
    /// Bytes of the log that nobody could read in time.
    pub(super) missed: u64,
    pub(super) ui: &'a Ui,
    pub(super) palette: Palette,
    /// The time of day.
    pub(super) now: SystemTime,
    /// Since the monitor began.
    pub(super) elapsed: Duration,
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let area = frame.area();
    let [head, body, foot] = layout::frame(area);
    if !head.is_empty() {
        frame.render_widget(Paragraph::new(headline(scene)), head);
    }
    for (pane, area) in layout::panes(body, scene) {
        match pane {
            Pane::Workers => workers::draw(frame, area, scene),
            Pane::Charts => details::charts(frame, area, scene),
            Pane::Latency => details::latency(frame, area, scene),
            Pane::Errors => details::errors(frame, area, scene),
            Pane::Takeover => details::takeover(frame, area, scene),
            Pane::Log => log::draw(frame, area, scene),
        }
    }
    if !foot.is_empty() {
        frame.render_widget(Paragraph::new(footline(scene, foot.width)), foot);
    }
    if scene.ui.help {
        help(frame, area, scene.palette);
    }
}

/// A pane's frame: its title, and whether it has the focus.
fn block<'a>(pane: Pane, title: &str, scene: &Scene<'_>) -> Block<'a> {
    frame_of(title, scene.ui.focused() == pane, scene.palette)
}

fn frame_of<'a>(title: &str, focused: bool, palette: Palette) -> Block<'a> {
    let style = if focused { palette.focused() } else { palette.strong() };
    let block = Block::new().borders(Borders::TOP).border_set(palette.borders());
    block.border_style(palette.dim()).title(Span::styled(format!(" {} ", printable(title)), style))
}

/// Who serves, since when, and where; or why nobody does.
fn headline<'a>(scene: &Scene<'a>) -> Line<'a> {
    let Scene { model, palette, .. } = scene;
    let clock = clock(scene.now);
    let mut spans = vec![Span::styled("baton ", palette.strong()), Span::raw(clock), Span::raw("  ")];
    if scene.ui.paused {
        spans.push(Span::styled("PAUSED  ", palette.warning()));
    }
    match (&model.service, &model.outage) {
        (None, None) => spans.push(Span::raw("looking for the service")),
        (last, Some(reason)) => {
            let since = last.as_ref().map(|_| age(scene.elapsed.saturating_sub(model.answered).as_secs_f64()));
            let since = since.map_or_else(String::new, |ago| format!("last seen {ago} ago: "));
            spans.push(Span::styled(format!("{since}{}", printable(reason)), palette.error()));
        }
        (Some(service), None) => {
            let late = scene.elapsed.saturating_sub(model.answered);
            if let Some(status) = service.serving() {
                spans.push(Span::styled(printable(&status.color), palette.color(&status.color)));
                let phase = if status.phase == "running" { palette.good() } else { palette.warning() };
                spans.push(Span::styled(format!("  {}", printable(&status.phase)), phase));
                let listen: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
                let up = age(status.uptime_seconds);
                let (version, pid, listen) = (printable(&status.version), status.pid, listen.join(", "));
                spans.push(Span::raw(format!("  {version}  pid {pid}  up {up}  {listen}")));
            }
            // Time that was meant to pass is not worth a word.
            if !scene.ui.paused && late > scene.ui.interval * 2 + Duration::from_secs(2) {
                let text = format!("  no answer for {}", age(late.as_secs_f64()));
                spans.insert(2, Span::styled(text, palette.error()));
            }
        }
    }
    Line::from(spans)
}

fn footline<'a>(scene: &Scene<'_>, width: u16) -> Line<'a> {
    let every = humantime::format_duration(scene.ui.interval).to_string().replace(' ', "");
    let mut parts = vec![format!("every {every}")];
    let keys = ["q quit", "? help", "p pause", "+/- interval", "Tab pane", "Enter zoom"];
    for key in keys {
        if parts.iter().map(|part| part.chars().count() + 2).sum::<usize>() + key.len() <= usize::from(width) {
            parts.push(key.to_owned());
        }
    }
    Line::styled(parts.join("  "), scene.palette.dim())
}

fn help(frame: &mut Frame<'_>, area: Rect, palette: Palette) {
    let wide = HELP.iter().map(|(keys, what)| 26 + what.len().max(keys.len())).max().unwrap_or(0) as u16;
    let (width, height) = (wide.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let [row] = Layout::vertical([Constraint::Length(height)]).flex(ratatui::layout::Flex::Center).areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width)]).flex(ratatui::layout::Flex::Center).areas(row);
    let line = |(keys, what): &(&str, &str)| Line::from(format!("{:23} {what}", palette.plain(keys)));
    let lines: Vec<Line<'_>> = HELP.iter().map(line).collect();
    let block = Block::bordered().border_set(palette.borders()).title(Span::styled(" keys ", palette.focused()));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// The time of day, in UTC as the log has it.
fn clock(now: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(now).to_string();
    text.get(11..19).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
