//! Charts, latency, errors, and what the workers share and hand over.

use baton_ipc::control::{BackplaneRow, Link, PastTakeover, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::{Scene, block, frame_of};
use crate::ctl::page::{age, printable};
use crate::monitor::model::{Latency, Series};
use crate::monitor::sample::{Service, connections};
use crate::monitor::ui::Pane;
use crate::monitor::words;

/// Three sparklines, side by side; the newest point is at the right.
pub(super) fn charts(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let model = scene.model;
    let now = |value: String| if model.is_up() { value } else { "-".to_owned() };
    let open = model.service.as_ref().map_or(0, Service::connections);
    let charts = [
        (format!("connections {}", now(words::whole(open as f64))), &model.connections_chart, scene.palette.chart()),
        (
            format!("messages/s {}", now(words::rate(model.rates.received))),
            &model.messages_chart,
            scene.palette.chart(),
        ),
        (format!("errors/s {}", now(words::rate(model.rates.errors))), &model.errors_chart, scene.palette.error()),
    ];
    let places: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).spacing(1).areas(area);
    for ((title, series, style), place) in charts.into_iter().zip(places) {
        let block = frame_of(&title, scene.ui.focused() == Pane::Charts, scene.palette);
        let bars = Sparkline::default().data(points(series, place.width)).bar_set(scene.palette.bars());
        frame.render_widget(bars.style(style).block(block), place);
    }
}

/// As many as there is room for, in thousandths, since a chart wants whole numbers: a tenth of an error is something.
fn points(series: &Series, width: u16) -> Vec<Option<u64>> {
    let width = usize::from(width);
    let missing = width.saturating_sub(series.len());
    let newest = series.iter().skip(series.len().saturating_sub(width));
    let newest = newest.map(|point| point.map(|value| (value * 1000.0) as u64));
    std::iter::repeat_n(None, missing).chain(newest).collect()
}

/// From a message to its reply, and how long commits take.
pub(super) fn latency(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let model = scene.model;
    let over = model.latency.as_ref().map(|latency| latency.over);
    let title = match over {
        Some(Some(over)) => format!("latency, {:.0} s", over.as_secs_f64()),
        Some(None) | None => "latency".to_owned(),
    };
    let lines = match (&model.latency, &model.commits) {
        (Some(latency), commits) => quantiles(latency, commits.as_ref()),
        (None, _) => unknown(scene),
    };
    frame.render_widget(Paragraph::new(lines).block(block(Pane::Latency, &title, scene)), area);
}

fn quantiles<'a>(latency: &Latency, commits: Option<&Latency>) -> Vec<Line<'a>> {
    let shares = Latency::SHARES.iter().zip(latency.quantiles);
    let mut lines: Vec<Line<'_>> =
        shares.map(|((name, _), quantile)| Line::from(format!("{name} {:>9}", words::quantile(quantile)))).collect();
    lines.push(Line::from(format!("{} messages", words::whole(latency.count))));
    if let Some(commits) = commits {
        lines.push(Line::from(format!("commit p99 {}", words::quantile(commits.quantiles[2]))));
    }
    lines
}

/// Errors and refusals by kind: of the last minute, and in all.
pub(super) fn errors(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let model = scene.model;
    let block = block(Pane::Errors, "errors: last minute, all", scene);
    let width = usize::from(area.width);
    let lines = match (&model.latency, model.errors.is_empty()) {
        (None, _) => unknown(scene),
        (Some(_), true) => vec![Line::styled("none", scene.palette.good())],
        (Some(_), false) => {
            let numbers = |recent: f64, total: f64| format!("{:>5} {:>8}", words::whole(recent), words::whole(total));
            let line = |kind: &crate::monitor::model::ErrorKind| {
                let numbers = numbers(kind.recent, kind.total);
                let room = width.saturating_sub(numbers.len());
                let name: String = printable(&kind.name).chars().take(room).collect();
                let style = if kind.recent > 0.0 { scene.palette.error() } else { scene.palette.dim() };
                Line::styled(format!("{name:room$}{numbers}"), style)
            };
            model.errors.iter().map(line).collect()
        }
    };
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Why there are no numbers.
fn unknown<'a>(scene: &Scene<'_>) -> Vec<Line<'a>> {
    match scene.model.service.as_ref().map(|service| &service.metrics) {
        Some(Err(reason)) => vec![
            Line::styled("no /metrics:", scene.palette.warning()),
            Line::styled(printable(reason), scene.palette.warning()),
        ],
        Some(Ok(_)) | None => vec![],
    }
}

/// The backplane, a takeover that is under way, and the last one that is done.
pub(super) fn takeover(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let block = block(Pane::Takeover, "backplane, takeover", scene);
    let mut lines = Vec::new();
    if let Some(service) = &scene.model.service {
        lines.push(backplane(service, scene));
        match generations(service) {
            Standing::Under { from, to } => lines.extend(progress(from, to, area.width, scene)),
            Standing::Beside { color, words } => {
                lines.push(Line::from(format!("{} {}", printable(color), printable(words))));
                lines.extend(past(service, scene));
            }
            Standing::Alone => lines.extend(past(service, scene)),
        }
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// How the generations stand to each other.
enum Standing<'a> {
    Alone,
    /// One waits, or is kept.
    Beside {
        color: &'a str,
        words: &'a str,
    },
    /// Connections go from one to the other.
    Under {
        from: &'a Status,
        to: &'a Status,
    },
}

fn generations(service: &Service) -> Standing<'_> {
    let Some(serving) = service.serving() else { return Standing::Alone };
    match (&serving.peer, service.generations.get(1)) {
        (Some(_), Some(other)) if serving.phase == "handing-over" => Standing::Under { from: serving, to: other },
        (Some(peer), _) => Standing::Beside { color: &peer.generation.color, words: &peer.role },
        (None, _) => Standing::Alone,
    }
}

fn progress<'a>(from: &Status, to: &Status, width: u16, scene: &Scene<'_>) -> Vec<Line<'a>> {
    let (moved, left) = (connections(to), connections(from));
    let total = moved + left;
    let cells = usize::from(width).min(40);
    let full = (moved as usize * cells).checked_div(total as usize).unwrap_or(0);
    vec![
        Line::styled(
            format!("{} {} {}", printable(&from.color), scene.palette.arrow(), printable(&to.color)),
            scene.palette.warning(),
        ),
        Line::from(scene.palette.gauge(full, cells)),
        Line::from(format!("{} of {} connections", words::whole(moved as f64), words::whole(total as f64))),
    ]
}

fn past<'a>(service: &Service, scene: &Scene<'_>) -> Vec<Line<'a>> {
    let Some(PastTakeover { seconds_ago, receipt }) = service.serving().and_then(|it| it.last_takeover.as_ref()) else {
        return vec![Line::styled("no takeover yet", scene.palette.dim())];
    };
    let (took, drained) = (receipt.took_ms(), receipt.all_drained());
    let [from, to] = [&receipt.from, &receipt.to].map(|generation| printable(&generation.color));
    let losses = format!("{} drained, {} dropped", words::whole(drained as f64), words::whole(receipt.dropped as f64));
    let style = match (receipt.dropped, drained) {
        (0, 0) => scene.palette.good(),
        (0, _) => scene.palette.warning(),
        (_, _) => scene.palette.error(),
    };
    vec![
        Line::from(format!("{from} {} {to} {} ago", scene.palette.arrow(), age(*seconds_ago))),
        Line::from(format!("{} handed over in {took}ms", words::whole(receipt.handed as f64))),
        Line::styled(losses, style),
        Line::from(format!("longest pause {}", words::seconds(receipt.longest_pause_us as f64 * 1e-6))),
    ]
}

fn backplane<'a>(service: &Service, scene: &Scene<'_>) -> Line<'a> {
    if let Some(degraded) = service.serving().and_then(|status| status.backplane_degraded.as_ref()) {
        let text = format!("DEGRADED for {}: {}", age(degraded.since_seconds), printable(&degraded.reason));
        return Line::styled(text, scene.palette.error());
    }
    match &service.backplane {
        Err(reason) => Line::styled(printable(reason), scene.palette.warning()),
        Ok(rows) => links(rows, scene),
    }
}

fn links<'a>(rows: &[BackplaneRow], scene: &Scene<'_>) -> Line<'a> {
    let Some(first) = rows.first() else {
        return Line::styled("no worker tells of the backplane", scene.palette.warning());
    };
    let down = rows.iter().filter(|row| row.state == Link::Down).count();
    let pending = rows.iter().map(|row| row.pending).max().unwrap_or(0);
    let pending = if pending > 0 { format!(", {} pending", words::whole(pending as f64)) } else { String::new() };
    let state = match down {
        0 => Span::styled("up", scene.palette.good()),
        down => Span::styled(format!("DOWN for {down} of {}", rows.len()), scene.palette.error()),
    };
    Line::from(vec![Span::raw(format!("{} ", printable(&first.kind))), state, Span::raw(pending)])
}
