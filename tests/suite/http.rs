//! The HTTP side (docs/API.md).

mod deadlines;
mod index;
mod refusals;

use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::harness::http::{Http, get};
use crate::harness::{Client, Service, eventually};

const PAGES: [&str; 7] = ["/healthz", "/readyz", "/status", "/metrics", "/test/", "/test/page.js", "/test/page.css"];

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

#[test]
fn every_page_answers_get_and_head_on_one_connection() {
    let service = Service::start(&[("--workers", "1")]);
    let mut http = Http::connect(service.address);
    for path in PAGES {
        let page = http.ask(request("GET", path));
        assert_eq!(page.status, 200, "{path}: {page:?}");
        assert!(!page.body.is_empty(), "{path}");
        assert!(page.header("content-type").is_some(), "{path}: {page:?}");
        assert_eq!(page.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(page.header("x-request-id").is_some(), "{path}");
        // A body would be taken for the next answer.
        http.send(request("HEAD", path));
        let head = http.head();
        assert_eq!((head.status, head.header("content-type")), (200, page.header("content-type")), "{path}");
        let length: usize = head.header("content-length").expect("a length").parse().expect("a number");
        // Numbers in the changing ones may have grown by a digit.
        assert!(length.abs_diff(page.body.len()) < 200, "{path}: {length} and {}", page.body.len());
    }
    let answer = http.ask("GET /healthz HTTP/1.1\r\nHost: test\r\nX-Request-ID: mine-1\r\n\r\n");
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
}

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let service = Service::start(&[("--workers", "1")]);
    let mut http = Http::connect(service.address);
    let paths = ["/healthz", "/nothing", "/readyz", "/status", "/healthz"];
    http.send(paths.map(|path| request("GET", path)).concat());
    for (path, status) in paths.into_iter().zip([200, 404, 200, 200, 200]) {
        assert_eq!(http.answer().status, status, "{path}");
    }
    // The last one says so.
    http.send("GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(http.answer().status, 200);
    assert_eq!(http.rest(), b"");
    // HTTP/1.0 closes unless asked not to.
    let mut http = Http::connect(service.address);
    assert_eq!(http.ask("GET /healthz HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(http.rest(), b"");
}

#[test]
fn health_and_readiness() {
    let service = Service::start(&[]);
    assert_eq!(get(service.address, "/healthz").expect("an answer").json(), json!({"status": "ok"}));
    assert_eq!(get(service.address, "/healthz?probe=1").expect("an answer").status, 200);
    let ready = get(service.address, "/readyz").expect("an answer");
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true, "reasons": [], "degraded": []})));
}

#[tokio::test]
async fn status_tells_of_the_whole_generation() {
    let service = Service::start(&[("--workers", "3"), ("--color", "green"), ("--heartbeat-interval", "45m")]);
    service.wait_all_serve();
    let mut clients = Client::connect_several(8, &service.url()).await;
    for client in &mut clients {
        client.send("hello").await;
        client.count().await;
    }
    let status = get(service.address, "/status").expect("an answer").json();
    let stable = json!({
        "color": status["color"], "version": status["version"], "connections": status["connections"],
        "messages": status["messages"], "backplane": status["backplane"],
        "heartbeat_interval_seconds": status["heartbeat_interval_seconds"],
    });
    let expected = json!({
        "color": "green", "version": env!("CARGO_PKG_VERSION"), "connections": 8, "messages": 8,
        "backplane": {"kind": "embedded", "ok": true, "degraded_since": null, "reason": null},
        "heartbeat_interval_seconds": 2700.0,
    });
    assert_eq!(stable, expected);
    assert!(status["uptime_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 600.0), "{status}");
    let workers = status["workers"].as_array().expect("workers");
    let pids: Vec<_> = service.worker_pids().iter().map(|pid| json!(pid.as_raw())).collect();
    let mut connections = 0;
    for (slot, worker) in workers.iter().enumerate() {
        assert_eq!(
            (&worker["slot"], &worker["state"], &worker["restarts"]),
            (&json!(slot), &json!("SERVING"), &json!(0))
        );
        assert_eq!(worker["last_cause"], Value::Null);
        assert!(pids.contains(&worker["pid"]), "{worker}, {pids:?}");
        assert!(worker["uptime_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{worker}");
        assert_eq!(worker["messages"], worker["connections"], "each client sent one message");
        connections += worker["connections"].as_u64().expect("a number");
    }
    assert_eq!((workers.len(), connections), (3, 8));
}

/// Waits for what a worker notes last of a message, a moment after its reply has left.
#[track_caller]
fn settled(service: &Service, messages: u32) {
    let noted = || service.metric("websocket_message_duration_seconds_count") == f64::from(messages);
    eventually("every message noted", || noted().then_some(()));
}

#[tokio::test]
async fn any_worker_answers_for_all() {
    let service = Service::start(&[]);
    service.wait_all_serve();
    let mut clients = Client::connect_several(12, &service.url()).await;
    for (client, sends) in clients.iter_mut().zip(1..) {
        for _ in 0..sends {
            client.send("hello").await;
            client.count().await;
        }
    }
    settled(&service, (1..=12).sum());
    // Each connection goes to any worker; what they tell beside their own number is the same.
    let mut told = BTreeMap::new();
    eventually("answers of all four workers", || {
        let mut status = get(service.address, "/status").ok()?.json();
        let metrics = get(service.address, "/metrics").ok()?.body;
        let by = status["answered_by"].as_u64().expect("a slot");
        status.as_object_mut()?.retain(|name, _| !["answered_by", "uptime_seconds"].contains(&name.as_str()));
        for worker in status["workers"].as_array_mut()? {
            worker.as_object_mut()?.remove("uptime_seconds");
        }
        let sums: Vec<String> = metrics.lines().filter(|line| line.starts_with("websocket_")).map(Into::into).collect();
        told.insert(by, (status, sums));
        (told.len() == 4).then_some(())
    });
    let (status, sums) = &told[&0];
    assert_eq!((&status["connections"], &status["messages"]), (&json!(12), &json!((1..=12).sum::<u64>())));
    assert!(sums.contains(&"websocket_connections_active 12.0".to_owned()), "{sums:#?}");
    assert!(told.values().all(|other| other == &told[&0]), "{told:#?}");
}

#[tokio::test]
async fn counters_go_on_when_a_worker_is_killed() {
    let service = Service::start(&[]);
    let mut clients = Client::connect_several(16, &service.url()).await;
    for client in &mut clients {
        for text in ["one", "two", "{three"] {
            client.send(text).await;
            client.json().await;
        }
    }
    let counters = || {
        [
            r#"websocket_messages_total{type="received"}"#,
            r#"websocket_messages_total{type="sent"}"#,
            r#"websocket_errors_total{type="invalid_json"}"#,
            "websocket_connections_opened_total",
            "websocket_message_duration_seconds_count",
            "backplane_increments_total",
        ]
        .map(|name| (name, service.metric(name)))
    };
    settled(&service, 48);
    let before = counters();
    assert_eq!(before.map(|(_, value)| value), [48.0, 48.0, 16.0, 16.0, 48.0, 32.0]);
    let victim = service.status().slots.into_iter().max_by_key(|slot| slot.connections).expect("four slots");
    let (slot, lost) = (victim.slot, victim.connections);
    let pid = service.worker_in(slot).expect("a pid");
    kill(pid, Signal::SIGKILL).expect("a worker");
    eventually("a new worker", || service.worker_in(slot).filter(|new| *new != pid));
    service.wait_ready();
    assert_eq!(counters(), before);
    // What was true of the dead worker only is not counted any more.
    assert_eq!(service.metric("websocket_connections_active"), (16 - lost) as f64);
    assert_eq!(service.metric(r#"worker_restarts_total{cause="signal"}"#), 1.0);
    let status = get(service.address, "/status").expect("an answer").json();
    let row = &status["workers"][usize::from(slot)];
    assert_eq!((&row["restarts"], &row["last_cause"], &row["connections"]), (&json!(1), &json!("signal"), &json!(0)));
    assert_eq!(row["messages"], json!(lost * 3), "the messages of its predecessor");
    assert_eq!(status["messages"], 48);
    let mut client = Client::connect(&service.url()).await;
    client.send("more").await;
    client.count().await;
    assert_eq!(service.metric(before[0].0), 49.0);
}

#[test]
fn metrics_are_open_metrics() {
    let service = Service::start(&[]);
    service.wait_all_serve();
    let answer = get(service.address, "/metrics").expect("an answer");
    let content_type = answer.header("content-type").expect("a type");
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.body.ends_with("\n# EOF\n"), "{}", answer.body);
    let mut families = BTreeMap::new();
    for line in answer.body.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            }
            (Some("#"), Some("HELP"), Some(_), Some(help)) => assert!(!help.is_empty()),
            (Some("#"), Some("EOF"), None, None) => {}
            _ => assert_sample(line, &families),
        }
    }
    let required = [
        ("websocket_connections_active", "gauge"),
        ("websocket_messages", "counter"),
        ("websocket_errors", "counter"),
        ("websocket_message_duration_seconds", "histogram"),
        ("app_startup_time_seconds", "gauge"),
    ];
    for (name, kind) in required {
        assert_eq!(families.get(name).map(String::as_str), Some(kind), "{name}");
    }
    assert!(answer.body.contains(r#"websocket_messages_total{type="received"} 0"#));
    assert_eq!(service.metric(r#"workers{state="serving"}"#), 4.0);
    assert!(service.metric("app_startup_time_seconds") > 0.0);
}

/// `name{labels} value`, of a family that was announced, with the ending that its type asks for (OpenMetrics 1.0).
#[track_caller]
fn assert_sample(line: &str, families: &BTreeMap<String, String>) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
    value.parse::<f64>().unwrap_or_else(|error| panic!("{error}: {line}"));
    let name = series.split('{').next().unwrap_or(series);
    let endings: &[(&str, &str)] = &[
        ("gauge", ""),
        ("counter", "_total"),
        ("histogram", "_bucket"),
        ("histogram", "_sum"),
        ("histogram", "_count"),
        ("info", "_info"),
    ];
    let known = endings.iter().any(|(kind, ending)| {
        name.strip_suffix(ending).is_some_and(|family| families.get(family).is_some_and(|have| have == kind))
    });
    assert!(known, "{line} belongs to no family");
}

#[test]
fn other_paths_and_methods_are_refused_as_json() {
    let service = Service::start(&[("--workers", "1")]);
    let mut http = Http::connect(service.address);
    for path in ["/ws/chat", "/ws/chat//", "/ws/", "/healthz/", "/HEALTHZ", "/../etc/passwd", "/%68ealthz", "/admins"] {
        http.ask(request("GET", path)).assert_error(404, "not_found");
    }
    let moved = http.ask(request("GET", "/test"));
    assert_eq!((moved.status, moved.header("location")), (308, Some("/test/")));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in PAGES {
            let answer = http.ask(request(method, path));
            answer.assert_error(405, "method_not_allowed");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
        let answer = http.ask(request(method, "/ws/chat/"));
        answer.assert_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("GET"), "{method}");
    }
    assert_eq!(service.metric(r#"http_requests_total{status="4xx"}"#), 8.0 + 7.0 * 8.0);
}

#[test]
fn a_request_names_one_host() {
    let service = Service::start(&[("--workers", "1")]);
    for host in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
        for path in ["/healthz", "/ws/chat/"] {
            let mut http = Http::connect(service.address);
            http.ask(format!("GET {path} HTTP/1.1\r\n{host}\r\n")).assert_error(400, "bad_request");
        }
    }
    // HTTP/1.0 had no such field.
    assert_eq!(Http::connect(service.address).ask("GET /healthz HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let service = Service::start(&[("--workers", "1")]);
    let hidden = request("GET", "/hidden");
    for head in [
        format!("POST /status HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!(
            "POST /status HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
            hidden.len()
        ),
        format!("GET /status HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
    ] {
        let mut http = Http::connect(service.address);
        http.send([head, "GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".into()].concat());
        let rest = String::from_utf8(http.rest()).expect("UTF-8");
        assert!(!rest.contains("HTTP/1.1 404"), "{rest}");
    }
}

#[test]
fn a_handshake_that_is_none_is_told_what_is_missing() {
    let service = Service::start(&[("--workers", "1")]);
    let ask = |version: &str, drop: &str, change: Option<(&str, &str)>| {
        let mut text = format!("GET /ws/chat/ HTTP/{version}\r\n");
        let fields = [
            ("Host", "test"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ];
        for (name, value) in fields.into_iter().filter(|(name, _)| *name != drop) {
            let value = change.filter(|(changed, _)| *changed == name).map_or(value, |(_, value)| value);
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        Http::connect(service.address).ask(text + "\r\n")
    };
    let required = [
        ask("1.1", "Upgrade", None),
        ask("1.1", "Connection", None),
        ask("1.1", "Sec-WebSocket-Version", None),
        ask("1.1", "", Some(("Upgrade", "h2c"))),
        ask("1.1", "", Some(("Connection", "keep-alive"))),
        ask("1.1", "", Some(("Sec-WebSocket-Version", "8"))),
        ask("1.0", "", None),
    ];
    for answer in &required {
        answer.assert_error(426, "upgrade_required");
        // RFC 6455 section 4.4: what it should have been.
        assert_eq!((answer.header("upgrade"), answer.header("sec-websocket-version")), (Some("websocket"), Some("13")));
        assert!(answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{answer:?}");
    }
    let short = ["", "short", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ===", "dGhlIHNhbXBsZSBub25j*Q=="];
    for key in short {
        ask("1.1", "", Some(("Sec-WebSocket-Key", key))).assert_error(400, "bad_request");
    }
    ask("1.1", "Sec-WebSocket-Key", None).assert_error(400, "bad_request");
    let refused = service.metric(r#"websocket_refused_total{reason="bad_upgrade"}"#);
    assert_eq!(refused, (required.len() + short.len() + 1) as f64);
}
