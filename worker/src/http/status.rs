//! `/status`: the generation in JSON, read off the scoreboard by whichever worker is asked.

use baton_ipc::Scoreboard;
use baton_ipc::scoreboard::{COUNTER_MESSAGES, Cause, GAUGE_CONNECTIONS, Row, State, monotonic_ms};
use hyper::StatusCode;
use serde_json::{Value, json};

use super::{Response, json as answer};
use crate::app::App;
use crate::heartbeat::rfc3339;
use crate::metrics::Gauge;
use crate::redis::Reason;
use crate::worker::Shared;

pub(super) fn status<A: App>(shared: &Shared<A>) -> Response {
    answer(StatusCode::OK, &value(shared))
}

pub(super) fn value<A: App>(shared: &Shared<A>) -> Value {
    // The others tell it every second.
    shared.hub.borrow_mut().tell_health();
    let hub = shared.hub.borrow();
    let (board, now) = (hub.metrics.board(), monotonic_ms());
    let seconds_since = |ms: u64| if ms == 0 { 0.0 } else { now.saturating_sub(ms) as f64 / 1000.0 };
    let (mut connections, mut messages) = (0, 0);
    let workers: Vec<_> = board
        .views()
        .map(|(slot, view)| {
            let row = view.current();
            connections += view.gauge(GAUGE_CONNECTIONS);
            messages += view.counter(COUNTER_MESSAGES);
            let ended = |cause: &Cause| *cause != Cause::Requested;
            json!({
                "slot": slot,
                "state": row.state(),
                "pid": row.pid(),
                "uptime_seconds": if row.pid().is_some() { seconds_since(row.started().get()) } else { 0.0 },
                "connections": view.gauge(GAUGE_CONNECTIONS),
                "messages": view.counter(COUNTER_MESSAGES),
                "restarts": Cause::ALL.iter().filter(|c| ended(c)).map(|c| view.restarts(*c)).sum::<u64>(),
                "last_cause": row.last_cause(),
            })
        })
        .collect();
    let backplane = backplane(board, hub.backplane.is_alone());
    json!({
        "color": hub.settings.color,
        "version": hub.settings.version,
        "answered_by": shared.slot,
        // Of this very process: of two generations that share a port it tells which one has answered.
        "supervisor_pid": std::os::unix::process::parent_id(),
        "uptime_seconds": seconds_since(board.started_ms()),
        "connections": connections,
        "messages": messages,
        "heartbeat_interval_seconds": hub.settings.heartbeat_interval.as_secs_f64(),
        "backplane": backplane,
        "workers": workers,
    })
}

/// The backplane of the generation, as those who stand for its slots see it.
fn backplane(board: &Scoreboard, embedded: bool) -> Value {
    let serving = || board.views().map(|(_, slot)| slot.current()).filter(|row| row.state() == State::Serving);
    let gauge = |row: &Row<'_>, gauge: Gauge| row.gauge(gauge as usize).get();
    let store_ok = serving().all(|row| gauge(&row, Gauge::StoreOk) == 1);
    let away =
        serving().filter(|row| gauge(row, Gauge::Degraded) > 0).min_by_key(|row| gauge(row, Gauge::DegradedSince));
    let reason = away.and_then(|row| Reason::from_code(gauge(&row, Gauge::DegradedWhy)));
    let (ok, reason) = (store_ok && away.is_none(), reason.map(Reason::label));
    let since = away.map(|row| rfc3339(gauge(&row, Gauge::DegradedSince)));
    if embedded {
        return json!({ "kind": "embedded", "ok": ok, "degraded_since": since, "reason": reason });
    }
    json!({
        "kind": "redis",
        "ok": ok,
        "degraded_since": since,
        "reason": reason,
        "pending": serving().map(|row| gauge(&row, Gauge::Pending)).max().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use baton_ipc::Side;

    use super::*;

    #[test]
    fn the_backplane_is_as_the_current_side_sees_it() {
        let board = Scoreboard::create(1).unwrap();
        for (side, store_ok, why) in [(Side::A, 1, None), (Side::B, 0, Some(Reason::Timeout))] {
            let row = board.row(0, side);
            row.set_state(State::Serving, 1);
            row.gauge(Gauge::StoreOk as usize).set(store_ok);
            row.gauge(Gauge::Degraded as usize).set(why.is_some().into());
            row.gauge(Gauge::DegradedWhy as usize).set(why.map_or(0, Reason::code));
        }
        let well = backplane(&board, false);
        assert_eq!((&well["ok"], &well["reason"]), (&json!(true), &json!(null)));
        board.set_current(Some(0), Side::B);
        let away = backplane(&board, false);
        assert_eq!((&away["ok"], &away["reason"]), (&json!(false), &json!("timeout")));
    }
}
