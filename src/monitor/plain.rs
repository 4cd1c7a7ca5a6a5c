//! The model as a line of text, or of JSON: for a pipe, a file, a terminal that cannot move its cursor.

use std::time::SystemTime;

use baton_ipc::control::Link;
use baton_ipc::scoreboard::State;
use serde_json::{Value, json};

use super::lines::Line;
use super::model::{Latency, Model};
use super::words;
use crate::ctl::page::printable;

/// How it is, in one line, newline included.
pub(super) fn text(model: &Model, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now);
    let Some((service, status)) = model.live().and_then(|it| Some((it, it.serving()?))) else {
        let reason = model.outage.as_deref().unwrap_or("nothing is known yet");
        return format!("{time}  {}\n", printable(reason));
    };
    let serving = status.slots.iter().filter(|slot| slot.state == State::Serving).count();
    let restarts: u64 = status.slots.iter().map(|slot| slot.restarts).sum();
    let mut text = format!(
        "{time}  {} {}  workers {serving}/{}  connections {}  messages/s {}  errors/s {}",
        printable(&status.color),
        printable(&status.phase),
        status.slots.len(),
        service.connections(),
        words::rate(model.rates.received),
        words::rate(model.rates.errors),
    );
    if let Some(latency) = &model.latency {
        for ((name, _), quantile) in Latency::SHARES.iter().zip(latency.quantiles) {
            text.push_str(&format!("  {name} {}", words::quantile(quantile)));
        }
    }
    text.push_str(&format!("  restarts {restarts}"));
    let trouble = status.backplane_degraded.as_ref().map(|degraded| &degraded.reason);
    let trouble = trouble.or(service.backplane.as_ref().err());
    match trouble {
        Some(reason) => text.push_str(&format!("  backplane degraded: {}", printable(reason))),
        None => {
            let rows = service.backplane.as_deref().unwrap_or_default();
            let down = rows.iter().any(|row| row.state == Link::Down);
            text.push_str(if down { "  backplane down" } else { "  backplane up" });
        }
    }
    if let Some(peer) = &status.peer {
        text.push_str(&format!("  {} {}", printable(&peer.generation.color), printable(&peer.role)));
    }
    if let Err(reason) = &service.metrics {
        text.push_str(&format!("  no /metrics: {}", printable(reason)));
    }
    text.push('\n');
    text
}

/// The same and more, as one JSON object a line.
pub(super) fn json(model: &Model, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_millis(now).to_string();
    let object = match model.live() {
        None => json!({ "timestamp": time, "up": false, "reason": model.outage }),
        Some(service) => json!({
            "timestamp": time,
            "up": true,
            "connections": service.connections(),
            "received_per_second": model.rates.received,
            "sent_per_second": model.rates.sent,
            "errors_per_second": model.rates.errors,
            "latency": model.latency.as_ref().map(latency),
            "commit": model.commits.as_ref().map(latency),
            "errors": errors(model),
            "generations": service.generations,
            "backplane": service.backplane.as_ref().ok(),
            "metrics_error": service.metrics.as_ref().err(),
        }),
    };
    format!("{object}\n")
}

fn latency(latency: &Latency) -> Value {
    let [p50, p95, p99] = latency.quantiles.map(words::quantile_seconds);
    json!({
        "p50_seconds": p50,
        "p95_seconds": p95,
        "p99_seconds": p99,
        "count": latency.count,
        "window_seconds": latency.over.map(|over| over.as_secs_f64()),
    })
}

fn errors(model: &Model) -> Value {
    let kinds =
        model.errors.iter().map(|kind| (kind.name.clone(), json!({ "last_minute": kind.recent, "total": kind.total })));
    kinds.collect::<serde_json::Map<_, _>>().into()
}

/// A log line, newline included.
pub(super) fn log_text(line: &Line) -> String {
    match line.level {
        None => format!("{}\n", line.text),
        Some(level) => format!("{} {:5} {}: {}\n", line.time_of_day(), level.name(), line.who, line.text),
    }
}

/// A log line as an object: as it was written, if it is one.
pub(super) fn log_json(line: &Line) -> String {
    if line.raw.starts_with('{') && line.level.is_some() {
        return format!("{}\n", line.raw);
    }
    let level = line.level.map(super::lines::Level::name);
    format!("{}\n", json!({ "timestamp": line.timestamp(), "level": level, "process": line.who, "message": line.text }))
}

#[cfg(test)]
mod tests {
    use baton_ipc::control::{Degraded, Generation, PeerStatus};

    use super::super::testing::{sample, service, status};
    use super::*;

    const METRICS: &str = "websocket_messages_total{type=\"received\"} 3000\nwebsocket_errors_total{type=\"store\"} 2\n\
                           websocket_message_duration_seconds_bucket{le=\"0.0001\"} 10\n\
                           websocket_message_duration_seconds_bucket{le=\"+Inf\"} 10\n";

    fn noon() -> SystemTime {
        humantime::parse_rfc3339("2026-03-04T12:00:00Z").unwrap()
    }

    #[test]
    fn a_line_says_it_all() {
        let mut model = Model::default();
        assert_eq!(text(&model, noon()), "2026-03-04T12:00:00Z  nothing is known yet\n");
        model.observe(sample(0, Ok(service(vec![status("blue", "running", &[10, 20])], METRICS))));
        assert_eq!(
            text(&model, noon()),
            "2026-03-04T12:00:00Z  blue running  workers 2/2  connections 30  messages/s 15.0  errors/s -  p50 50us  \
             p95 95us  p99 99us  restarts 0  backplane up\n"
        );
        model.observe(sample(2, Err("no supervisor answers\n".into())));
        assert_eq!(text(&model, noon()), "2026-03-04T12:00:00Z  no supervisor answers\u{fffd}\n");
    }

    #[test]
    fn trouble_is_told() {
        let mut status = status("blue", "handing-over", &[10]);
        let generation = Generation { color: "green".into(), pid: 7, version: "0.2.0".into() };
        status.peer = Some(PeerStatus { generation, role: "takes over".into() });
        status.backplane_degraded =
            Some(Degraded { since_seconds: 3.0, reason: "redis is unreachable".into(), slots: vec![0] });
        let mut service = service(vec![status], "");
        service.metrics = Err("0.0.0.0:8000 is not accepted".into());
        let mut model = Model::default();
        model.observe(sample(0, Ok(service)));
        let text = text(&model, noon());
        assert!(text.contains("  backplane degraded: redis is unreachable  green takes over"), "{text}");
        assert!(text.ends_with("  no /metrics: 0.0.0.0:8000 is not accepted\n"), "{text}");
    }

    #[test]
    fn an_object_says_more() {
        let mut model = Model::default();
        model.observe(sample(0, Ok(service(vec![status("blue", "running", &[10, 20])], METRICS))));
        let object: Value = serde_json::from_str(&json(&model, noon())).unwrap();
        assert_eq!((&object["up"], &object["connections"]), (&json!(true), &json!(30)));
        assert_eq!(object["errors"]["store"], json!({ "last_minute": 0.0, "total": 2.0 }));
        assert_eq!(object["latency"]["p50_seconds"], json!(0.00005));
        assert_eq!(object["generations"][0]["slots"][1]["pid"], json!(4244));
        model.observe(sample(2, Err("gone".into())));
        let object: Value = serde_json::from_str(&json(&model, noon())).unwrap();
        assert_eq!(object, json!({ "timestamp": "2026-03-04T12:00:00.000Z", "up": false, "reason": "gone" }));
    }

    #[test]
    fn log_lines_for_people_and_for_programs() {
        let raw = r#"{"timestamp":"2026-03-04T11:59:58.120Z","level":"WARN","message":"full","color":"blue"}"#;
        let line = Line::parse(raw, noon());
        assert_eq!(log_text(&line), "11:59:58.120 WARN  blue supervisor: full\n");
        assert_eq!(log_json(&line), format!("{raw}\n"));
        let other = Line::parse("a panic", noon());
        assert_eq!(log_text(&other), "a panic\n");
        let object: Value = serde_json::from_str(&log_json(&other)).unwrap();
        assert_eq!((&object["message"], &object["level"]), (&json!("a panic"), &Value::Null));
    }
}
