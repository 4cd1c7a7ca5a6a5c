//! The page about the backplane: how it is on the whole, and as each worker sees it.

use std::collections::BTreeSet;

use baton_ipc::control::{BackplaneRow, Degraded, Link};

use super::super::table::{Align, Cell, Paint, age, printable, table};
use super::{degraded, plural};

/// A head line, and a row of each worker that has answered.
pub(super) fn page(rows: &[BackplaneRow], colors: bool) -> String {
    if rows.is_empty() {
        return "no worker has answered\n".to_owned();
    }
    let columns = [
        ("SLOT", Align::Right),
        ("LINK", Align::Left),
        ("SINCE", Align::Right),
        ("LATENCY", Align::Right),
        ("LAG", Align::Right),
        ("LEASE", Align::Left),
        ("PENDING", Align::Right),
        ("GAPS", Align::Right),
        ("RECONNECTS", Align::Right),
        ("REASON", Align::Left),
    ];
    let cells: Vec<Vec<Cell>> = rows.iter().map(cells).collect();
    format!("{}\n\n{}", head(rows, colors), table(&columns, &cells, colors))
}

fn head(rows: &[BackplaneRow], colors: bool) -> String {
    // More than one while a reload goes on.
    let what: BTreeSet<String> = rows.iter().map(|row| format!("{} ({})", row.kind, row.target)).collect();
    let what = what.into_iter().collect::<Vec<_>>().join(", ");
    let state = whole(rows).map_or_else(|| Paint::Green.on("up", colors), |whole| degraded(&whole, colors));
    // All workers of a host tell the same number, at slightly different times.
    let pending = rows.iter().map(|row| row.pending).max().unwrap_or(0);
    let lease = rows.iter().find_map(|row| row.lease_holder.as_ref());
    let lease = lease.map_or_else(String::new, |holder| format!("  lease held by {}", printable(holder)));
    format!("{}  {state}  {pending} message{} pending{lease}", printable(&what), plural(pending))
}

/// All links that are down, as one; none if there are none.
fn whole(rows: &[BackplaneRow]) -> Option<Degraded> {
    let down: Vec<&BackplaneRow> = rows.iter().filter(|row| row.state == Link::Down).collect();
    let reason = down.first()?.reason.clone().unwrap_or_else(|| "no reason is known".to_owned());
    Some(Degraded {
        since_seconds: down.iter().map(|row| row.since_seconds).fold(0.0, f64::max),
        reason,
        slots: down.iter().map(|row| row.slot).collect(),
    })
}

fn cells(row: &BackplaneRow) -> Vec<Cell> {
    let link = match row.state {
        Link::Up => Cell("up".to_owned(), Paint::Green),
        Link::Down => Cell("DOWN".to_owned(), Paint::Red),
    };
    let nonzero = |n: u64| Cell(n.to_string(), if n > 0 { Paint::Yellow } else { Paint::Plain });
    vec![
        row.slot.into(),
        link,
        age(row.since_seconds).into(),
        milliseconds(row.latency_seconds).into(),
        milliseconds(row.heartbeat_lag_seconds).into(),
        if row.holds_lease { "held" } else { "-" }.into(),
        nonzero(row.pending),
        nonzero(row.gaps),
        nonzero(row.reconnects),
        row.reason.as_deref().unwrap_or("-").into(),
    ]
}

fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.2}ms", seconds * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: u16) -> BackplaneRow {
        BackplaneRow {
            slot,
            kind: "redis".into(),
            target: "redis://cache:6379/0".into(),
            state: Link::Up,
            since_seconds: 7260.0,
            reason: None,
            latency_seconds: Some(0.000_417),
            heartbeat_lag_seconds: Some(0.0021),
            lease_holder: Some("web-1/0".into()),
            holds_lease: slot == 0,
            pending: 0,
            gaps: 0,
            reconnects: 0,
        }
    }

    #[test]
    fn all_is_well() {
        assert_eq!(
            page(&[row(0), row(1)], false),
            "\
redis (redis://cache:6379/0)  up  0 messages pending  lease held by web-1/0

SLOT  LINK  SINCE  LATENCY     LAG  LEASE  PENDING  GAPS  RECONNECTS  REASON
   0  up     2h1m   0.42ms  2.10ms  held         0     0           0  -
   1  up     2h1m   0.42ms  2.10ms  -            0     0           0  -
"
        );
    }

    #[test]
    fn some_links_are_down() {
        let down = |slot, since_seconds| BackplaneRow {
            state: Link::Down,
            since_seconds,
            reason: Some("redis is unreachable".into()),
            latency_seconds: None,
            lease_holder: None,
            holds_lease: false,
            pending: 120,
            ..row(slot)
        };
        let rows = [down(0, 12.0), row(1), down(2, 11.0)];
        let page = |colors| page(&rows, colors);
        let alarm = "DEGRADED for 12s: redis is unreachable (slots 0, 2)";
        let head = format!("redis (redis://cache:6379/0)  {alarm}  120 messages pending  lease held by web-1/0\n");
        assert!(page(false).starts_with(&head), "{}", page(false));
        assert!(page(false).contains("   0  DOWN    12s        -  2.10ms  -          120     0           0  redis is"));
        assert!(page(true).contains("\x1b[31mDOWN\x1b[0m") && page(true).contains(&format!("\x1b[31m{alarm}\x1b[0m")));
    }

    #[test]
    fn embedded_has_no_lease_and_nobody_no_table() {
        let (latency_seconds, lease_holder) = (None, None);
        let row =
            BackplaneRow { kind: "embedded".into(), target: "/state".into(), lease_holder, latency_seconds, ..row(1) };
        assert!(page(&[row], false).starts_with("embedded (/state)  up  0 messages pending\n\n"));
        assert_eq!(page(&[], false), "no worker has answered\n");
    }
}
