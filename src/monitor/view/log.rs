//! The log.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::{Scene, block};
use crate::monitor::lines;
use crate::monitor::ui::Pane;
use crate::monitor::words;

/// Narrower, and lines begin with their message.
const WIDE: u16 = 60;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let mut title = "log".to_owned();
    if scene.ui.lines_below > 0 {
        title.push_str(&format!(": {} lines below, End goes there", scene.ui.lines_below));
    }
    if scene.missed > 0 {
        title.push_str(&format!(" ({} bytes missed)", words::whole(scene.missed as f64)));
    }
    let room = usize::from(area.height).saturating_sub(1);
    let lines: Vec<Line<'_>> =
        scene.book.window(scene.ui.lines_below, room).map(|line| self::line(line, area.width, scene)).collect();
    frame.render_widget(Paragraph::new(lines).block(block(Pane::Log, &title, scene)), area);
}

fn line<'a>(line: &'a lines::Line, width: u16, scene: &Scene<'_>) -> Line<'a> {
    let Some(level) = line.level else { return Line::from(line.text.as_str()) };
    let style = scene.palette.level(level);
    let time = line.time_of_day();
    let mut spans = Vec::new();
    if width >= WIDE {
        spans.push(Span::styled(format!("{} ", &time[..8]), scene.palette.dim()));
    }
    spans.push(Span::styled(format!("{:5} ", level.name()), style));
    if width >= WIDE {
        spans.push(Span::styled(format!("{} ", line.who), scene.palette.dim()));
    }
    spans.push(Span::raw(line.text.as_str()));
    Line::from(spans)
}
