//! The table of workers.

use baton_ipc::control::{SlotStatus, Status};
use baton_ipc::scoreboard::State;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::{Scene, block};
use crate::ctl::page::{age, printable, state_name, story};
use crate::monitor::sample::connections;
use crate::monitor::ui::Pane;
use crate::monitor::words;

const COLUMNS: [(&str, Constraint); 9] = [
    ("SLOT", Constraint::Length(4)),
    ("STATE", Constraint::Length(8)),
    ("PID", Constraint::Length(7)),
    ("UPTIME", Constraint::Length(6)),
    ("CONNS", Constraint::Length(7)),
    ("MSG/S", Constraint::Length(8)),
    ("MESSAGES", Constraint::Length(11)),
    ("RESTARTS", Constraint::Length(8)),
    ("LAST CAUSE", Constraint::Fill(1)),
];

/// Columns of text; numbers keep to the right.
const LEFT: [usize; 2] = [1, 8];

/// Rows of the table without its header.
pub(in crate::monitor) fn rows(scene: &Scene<'_>) -> usize {
    let generations = scene.model.service.as_ref().map_or(&[][..], |service| &service.generations);
    let slots: usize = generations.iter().map(|status| status.slots.len()).sum();
    // The sum, and a line for each generation beside the one that serves.
    slots + 1 + generations.len().saturating_sub(1)
}

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let block = block(Pane::Workers, &title(scene), scene);
    let Some(service) = &scene.model.service else {
        frame.render_widget(block, area);
        return;
    };
    let mut lines = Vec::new();
    for (n, status) in service.generations.iter().enumerate() {
        if n > 0 {
            lines.push(other(status, scene));
        }
        lines.extend(status.slots.iter().map(|slot| row(slot, scene)));
    }
    // The title and the header are always there, and so is the sum.
    let room = usize::from(area.height).saturating_sub(3).max(1);
    let above = scene.ui.rows_above.min(lines.len().saturating_sub(room));
    let mut shown: Vec<Row<'_>> = lines.into_iter().skip(above).take(room).collect();
    if area.height > 3 {
        shown.push(sum(&service.generations, scene));
    }
    let header = COLUMNS.iter().enumerate().map(|(n, (name, _))| cell(n, Span::styled(*name, scene.palette.strong())));
    let table = Table::new(shown, COLUMNS.map(|(_, width)| width)).header(Row::new(header)).block(block);
    let style = if scene.model.is_up() { ratatui::style::Style::new() } else { scene.palette.dim() };
    frame.render_widget(table.style(style), area);
}

fn title(scene: &Scene<'_>) -> String {
    let Some(service) = &scene.model.service else { return "workers".to_owned() };
    let slots = || service.generations.iter().flat_map(|status| &status.slots);
    let serving = slots().filter(|slot| slot.state == State::Serving).count();
    format!("workers: {serving} of {} serve", slots().count())
}

/// The line between the generation that serves and the other one.
fn other<'a>(status: &Status, scene: &Scene<'_>) -> Row<'a> {
    let name = Span::styled(printable(&status.color), scene.palette.color(&status.color));
    let cells = [
        Cell::new(Line::from(name).alignment(Alignment::Right)),
        Cell::new(printable(&status.phase)),
        Cell::new(Line::from(status.pid.to_string()).alignment(Alignment::Right)),
        Cell::new(Line::from(age(status.uptime_seconds)).alignment(Alignment::Right)),
        Cell::new(Line::from(words::whole(connections(status) as f64)).alignment(Alignment::Right)),
    ];
    Row::new(cells).style(scene.palette.strong())
}

fn row<'a>(slot: &SlotStatus, scene: &Scene<'_>) -> Row<'a> {
    let uptime = slot.pid.map_or_else(|| "-".to_owned(), |_| age(slot.uptime_seconds));
    let pid = slot.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let restarts = Span::raw(slot.restarts.to_string());
    let cells = [
        Span::raw(slot.slot.to_string()),
        Span::styled(state_name(slot.state), scene.palette.state(slot.state)),
        Span::raw(pid),
        Span::raw(uptime),
        Span::raw(words::whole(slot.connections as f64)),
        Span::raw(words::rate(Some(slot.messages_per_second))),
        Span::raw(words::whole(slot.messages as f64)),
        if slot.restarts > 0 { restarts.style(scene.palette.warning()) } else { restarts },
        Span::raw(printable(&story(slot))),
    ];
    Row::new(cells.into_iter().enumerate().map(|(n, span)| cell(n, span)))
}

/// Of all workers together. Both generations count messages on the same scoreboard: those of who serves are all.
fn sum<'a>(generations: &[Status], scene: &Scene<'_>) -> Row<'a> {
    let all = || generations.iter().flat_map(|status| &status.slots);
    let serving = generations.first().map_or(&[][..], |status| &status.slots);
    let rate = scene.model.rates.received.unwrap_or_else(|| all().map(|slot| slot.messages_per_second).sum());
    let cells = [
        "all".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        words::whole(all().map(|slot| slot.connections).sum::<u64>() as f64),
        words::rate(Some(rate)),
        words::whole(serving.iter().map(|slot| slot.messages).sum::<u64>() as f64),
        all().map(|slot| slot.restarts).sum::<u64>().to_string(),
    ];
    Row::new(cells.into_iter().enumerate().map(|(n, text)| cell(n, Span::raw(text)))).style(scene.palette.strong())
}

fn cell<'a>(column: usize, span: Span<'a>) -> Cell<'a> {
    let side = if LEFT.contains(&column) { Alignment::Left } else { Alignment::Right };
    Cell::new(Line::from(span).alignment(side))
}
