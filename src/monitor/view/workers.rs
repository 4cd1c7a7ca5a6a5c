//! The table of workers.

use baton_ipc::control::{SlotStatus, Status};
use baton_ipc::scoreboard::State;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::{Scene, block};
use crate::ctl::page::{age, printable, state_name, story};
use crate::monitor::sample::connections;
use crate::monitor::ui::Pane;
use crate::monitor::words;

/// Title, width, and whether it is text: numbers keep to the right.
const COLUMNS: [(&str, u16, bool); 9] = [
    ("SLOT", 5, false),
    ("STATE", 8, true),
    ("PID", 7, false),
    ("UPTIME", 6, false),
    ("CONNS", 6, false),
    ("MSG/S", 7, false),
    ("MESSAGES", 10, false),
    ("RESTARTS", 8, false),
    ("LAST CAUSE", 10, true),
];

/// Columns in the order in which they go where there is no room for all: the cause, messages, uptime, pid, restarts.
const LEAST_WANTED: [usize; 5] = [8, 6, 3, 2, 7];

/// The columns for which there is room.
fn columns(width: u16) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..COLUMNS.len()).collect();
    let needed = |columns: &[usize]| columns.iter().map(|column| COLUMNS[*column].1 + 1).sum::<u16>() - 1;
    for unwanted in LEAST_WANTED {
        if needed(&columns) > width {
            columns.retain(|column| *column != unwanted);
        }
    }
    columns
}

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
    let columns = columns(area.width);
    let of = |cells: Vec<Span<'static>>, style: Style| row(cells, style, &columns);
    let (plain, strong) = (Style::new(), scene.palette.strong());
    let mut lines = Vec::new();
    for (n, status) in service.generations.iter().enumerate() {
        if n > 0 {
            lines.push(of(other(status, scene), strong));
        }
        lines.extend(status.slots.iter().map(|slot| of(worker(slot, scene), plain)));
    }
    // The title and the header are always there, and so is the sum.
    let room = usize::from(area.height).saturating_sub(3).max(1);
    let above = scene.ui.rows_above.min(lines.len().saturating_sub(room));
    let mut shown: Vec<Row<'_>> = lines.into_iter().skip(above).take(room).collect();
    if area.height > 3 {
        shown.push(of(sum(&service.generations, scene), strong));
    }
    let titles = COLUMNS.iter().map(|(title, ..)| Span::raw(*title)).collect();
    // What is left is for the last column.
    let mut widths: Vec<Constraint> = columns.iter().map(|column| Constraint::Length(COLUMNS[*column].1)).collect();
    if columns.contains(&(COLUMNS.len() - 1)) {
        widths.pop();
        widths.push(Constraint::Fill(1));
    }
    let table = Table::new(shown, widths).header(of(titles, strong)).block(block);
    frame.render_widget(table.style(if scene.model.is_up() { plain } else { scene.palette.dim() }), area);
}

fn title(scene: &Scene<'_>) -> String {
    let Some(service) = &scene.model.service else { return "workers".to_owned() };
    let slots = || service.generations.iter().flat_map(|status| &status.slots);
    let serving = slots().filter(|slot| slot.state == State::Serving).count();
    format!("workers: {serving} of {} serve", slots().count())
}

/// The line between the generation that serves and the other one.
fn other(status: &Status, scene: &Scene<'_>) -> Vec<Span<'static>> {
    vec![
        Span::styled(printable(&status.color), scene.palette.color(&status.color)),
        Span::raw(printable(&status.phase)),
        Span::raw(status.pid.to_string()),
        Span::raw(age(status.uptime_seconds)),
        Span::raw(words::whole(connections(status) as f64)),
    ]
}

fn worker(slot: &SlotStatus, scene: &Scene<'_>) -> Vec<Span<'static>> {
    let of_worker = |text: String| if slot.pid.is_some() { text } else { "-".to_owned() };
    let restarts = Span::raw(slot.restarts.to_string());
    vec![
        Span::raw(slot.slot.to_string()),
        Span::styled(state_name(slot.state), scene.palette.state(slot.state)),
        Span::raw(of_worker(slot.pid.unwrap_or_default().to_string())),
        Span::raw(of_worker(age(slot.uptime_seconds))),
        Span::raw(words::whole(slot.connections as f64)),
        Span::raw(words::rate(Some(slot.messages_per_second))),
        Span::raw(words::whole(slot.messages as f64)),
        if slot.restarts > 0 { restarts.style(scene.palette.warning()) } else { restarts },
        Span::raw(printable(&story(slot))),
    ]
}

/// Of all workers together. Both generations count messages on the same scoreboard: those of who serves are all.
fn sum(generations: &[Status], scene: &Scene<'_>) -> Vec<Span<'static>> {
    let all = || generations.iter().flat_map(|status| &status.slots);
    let serving = generations.first().map_or(&[][..], |status| &status.slots);
    let cells = [
        "all".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        words::whole(all().map(|slot| slot.connections).sum::<u64>() as f64),
        words::rate(scene.model.rates.received),
        words::whole(serving.iter().map(|slot| slot.messages).sum::<u64>() as f64),
        all().map(|slot| slot.restarts).sum::<u64>().to_string(),
    ];
    cells.into_iter().map(Span::raw).collect()
}

/// The cells of these columns, as far as there are so many.
fn row(cells: Vec<Span<'static>>, style: Style, columns: &[usize]) -> Row<'static> {
    let cell = |column: &usize| {
        let side = if COLUMNS[*column].2 { Alignment::Left } else { Alignment::Right };
        cells.get(*column).map_or_else(Cell::default, |span| Cell::new(Line::from(span.clone()).alignment(side)))
    };
    Row::new(columns.iter().map(cell)).style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_table_has_fewer_columns() {
        let titles = |width| columns(width).into_iter().map(|column| COLUMNS[column].0).collect::<Vec<_>>();
        assert_eq!(titles(80).len(), 9);
        assert_eq!(titles(68).last(), Some(&"RESTARTS"));
        assert_eq!(titles(30), ["SLOT", "STATE", "CONNS", "MSG/S"]);
        assert_eq!(titles(1), titles(30));
    }
}
