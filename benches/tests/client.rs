//! The load client against the floor, and against servers that are wrong on purpose: a bench that does not notice a wrong
//! answer measures nothing.

mod servers;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use baton_benches::child::Running;
use baton_benches::client::load::{Load, Until};
use baton_benches::client::{Dial, heartbeat, shutdown};
use baton_benches::frame;

use servers::{PATIENCE, bare, read_frame, scripted, started};

fn refusal(dial: Dial, depth: u32) -> String {
    let mut load = Load::new(dial.open(1).unwrap(), depth, b"hello").unwrap();
    load.run(Until::Messages(100)).unwrap_err().to_string()
}

#[test]
fn every_reference_server_counts() {
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_floor"), &[][..]),
        (env!("CARGO_BIN_EXE_floor"), &["--burst"][..]),
        (env!("CARGO_BIN_EXE_fastwebsockets_server"), &[][..]),
        (env!("CARGO_BIN_EXE_tungstenite_server"), &[][..]),
    ] {
        let (_server, server) = started(program, arguments);
        for depth in [1, 16] {
            let links = Dial { server, source: None }.open(10).unwrap();
            let mut load = Load::new(links, depth, b"hello").unwrap();
            let report = load.run(Until::Messages(1_600)).unwrap();
            assert_eq!(report.messages, 1_600, "{program} {arguments:?} with {depth} in flight");
            assert_eq!(load.run(Until::Messages(160)).unwrap().messages, 160, "counts go on");
            let mut load = load.busy_polling();
            assert_eq!(load.run(Until::Messages(160)).unwrap().messages, 160, "counts go on without sleep");
        }
    }
}

#[test]
fn a_reply_in_single_bytes_and_a_heartbeat_between_are_no_errors() {
    let dial = scripted(|stream| {
        stream.set_nodelay(true).unwrap();
        for count in 1..=3 {
            read_frame(stream);
            let mut reply = bare(frame::TEXT, br#"{"ts":"2026-01-01T12:00:00.000Z"}"#);
            frame::push_count(&mut reply, count);
            for byte in reply {
                stream.write_all(&[byte]).unwrap();
            }
        }
    });
    let mut load = Load::new(dial.open(1).unwrap(), 1, b"hello").unwrap();
    assert_eq!(load.run(Until::Messages(3)).unwrap().messages, 3);
}

#[test]
fn wrong_answers_fail_the_run() {
    let dial = scripted(|stream| {
        read_frame(stream);
        stream.write_all(&bare(frame::TEXT, br#"{"count":2}"#)).unwrap();
        let _ = stream.read(&mut [0]);
    });
    assert_eq!(refusal(dial, 1), r#"expected count 1 of 1, got opcode 1: {"count":2}"#);

    let dial = scripted(|stream| {
        read_frame(stream);
        let mut replies = Vec::new();
        frame::push_count(&mut replies, 1);
        frame::push_count(&mut replies, 2);
        stream.write_all(&replies).unwrap();
        let _ = stream.read(&mut [0]);
    });
    assert_eq!(refusal(dial, 1), r#"expected count 2 of 0, got opcode 1: {"count":2}"#, "one reply too many");

    let dial = scripted(|stream| {
        read_frame(stream);
        stream.write_all(&bare(frame::BINARY, br#"{"count":1}"#)).unwrap();
        let _ = stream.read(&mut [0]);
    });
    assert!(refusal(dial, 1).contains("got opcode 2"));
}

#[test]
fn a_server_that_ends_or_stalls_fails_the_run() {
    let dial = scripted(|stream| {
        read_frame(stream);
    });
    assert!(refusal(dial, 1).contains("closed a connection"));

    let dial = scripted(|stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert!(refusal(dial, 4).contains("4 replies have not come"));
}

#[test]
fn a_refused_handshake_is_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = Dial { server, source: None }.open(1).err().unwrap().to_string();
    assert_eq!(error, "the handshake was answered: HTTP/1.1 503 Service Unavailable");
}

/// What a `shutdown` client reports of a server that answers its message and then, once the client waits, sends `end`;
/// `closes` tells whether it awaits the client's close before its own end.
fn seen_of(end: Vec<u8>, closes: bool) -> shutdown::ShutdownReport {
    let told = Arc::new(Barrier::new(2));
    let there = told.clone();
    let dial = scripted(move |stream| {
        read_frame(stream);
        stream.write_all(&bare(frame::TEXT, br#"{"count":1}"#)).unwrap();
        there.wait();
        stream.write_all(&end).unwrap();
        assert!(!closes || read_frame(stream).opcode == frame::CLOSE);
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench_client"));
    command.args(["shutdown", &dial.server.to_string(), "--connections", "1"]);
    let mut client = Running::start(command, None).unwrap();
    assert_eq!(client.line(PATIENCE).unwrap(), "ready");
    client.tell("go").unwrap();
    told.wait();
    serde_json::from_str(&client.line(PATIENCE).unwrap()).unwrap()
}

#[test]
fn a_good_bye_is_seen_in_full_and_a_bad_one_is_not() {
    let close = bare(frame::CLOSE, &[&1001u16.to_be_bytes()[..], b"retry_ms=12"].concat());
    let bye = bare(frame::TEXT, br#"{"bye":true,"total":1}"#);
    let whole = shutdown::ShutdownReport { connections: 1, bye: 1, going_away: 1, retry_hint: 1, ended: 1, broken: 0 };
    assert_eq!(seen_of([bye, close].concat(), true), whole);

    let wrong_total = bare(frame::TEXT, br#"{"bye":true,"total":0}"#);
    let nothing = shutdown::ShutdownReport { connections: 1, broken: 1, ..Default::default() };
    assert_eq!(seen_of(wrong_total, false), nothing);
}

#[test]
fn a_heartbeat_that_comes_twice_is_told() {
    let dial = scripted(|stream| {
        let beat = bare(frame::TEXT, br#"{"ts":"2026-01-01T12:00:00.000Z"}"#);
        // After the client's pause for beats that were under way; it has none of its own to await.
        thread::sleep(Duration::from_millis(600));
        stream.write_all(&[&beat[..], &beat[..]].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench_client"));
    command.args(["heartbeat", &dial.server.to_string(), "--connections", "1"]);
    let mut client = Running::start(command, None).unwrap();
    client.line(PATIENCE).unwrap();
    client.tell("go").unwrap();
    let report: heartbeat::HeartbeatReport = serde_json::from_str(&client.line(PATIENCE).unwrap()).unwrap();
    assert_eq!((report.beats.len(), report.beats[0].received, report.beats[0].doubled), (1, 1, 1));
}
