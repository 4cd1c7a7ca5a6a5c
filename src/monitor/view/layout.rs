//! Which pane goes where.

use ratatui::layout::{Constraint, Layout, Rect};

use super::Scene;
use super::workers;
use crate::monitor::ui::Pane;

/// A body smaller than this shows one pane at a time.
const LEAST_WIDTH: u16 = 70;
const LEAST_HEIGHT: u16 = 17;

/// A title and three rows; a title and five rows; a title and three lines.
const CHARTS: u16 = 4;
const DETAILS: u16 = 6;
const LOG: u16 = 4;

/// Head, body and foot; where there is no room for all the body goes first.
pub(super) fn frame(area: Rect) -> [Rect; 3] {
    let (head, foot) = match area.height {
        0..4 => (0, 0),
        4..8 => (1, 0),
        _ => (1, 1),
    };
    Layout::vertical([Constraint::Length(head), Constraint::Fill(1), Constraint::Length(foot)]).areas(area)
}

/// The panes that are shown, and their places.
pub(super) fn panes(body: Rect, scene: &Scene<'_>) -> Vec<(Pane, Rect)> {
    let focused = scene.ui.focused();
    let has = |pane: Pane| scene.ui.panes.contains(&pane);
    if scene.ui.zoomed || body.width < LEAST_WIDTH || body.height < LEAST_HEIGHT || !has(Pane::Workers) {
        return vec![(focused, body)];
    }
    let log = if has(Pane::Log) { LOG } else { 0 };
    // Title, header and sum, and a row for each slot.
    let rows = workers::rows(scene) as u16 + 2;
    let workers = rows.min(body.height.saturating_sub(CHARTS + DETAILS + log)).max(4);
    let spare = body.height.saturating_sub(workers + CHARTS + DETAILS + log);
    // A log takes what is left; without one the charts do. Of a tall terminal charts get a little more.
    let charts = if has(Pane::Log) { CHARTS + (spare / 6).min(4) } else { CHARTS + spare };
    let details = DETAILS + if has(Pane::Log) { (spare / 8).min(5) } else { 0 };
    let [table, charts, details, log] = Layout::vertical([
        Constraint::Length(workers),
        Constraint::Length(charts),
        Constraint::Length(details),
        Constraint::Fill(1),
    ])
    .areas(body);
    let [latency, errors, takeover] =
        Layout::horizontal([Constraint::Length(19), Constraint::Fill(1), Constraint::Fill(1)])
            .spacing(1)
            .areas(details);
    let mut places = vec![
        (Pane::Workers, table),
        (Pane::Charts, charts),
        (Pane::Latency, latency),
        (Pane::Errors, errors),
        (Pane::Takeover, takeover),
    ];
    if has(Pane::Log) {
        places.push((Pane::Log, log));
    }
    places
}
