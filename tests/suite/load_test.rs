//! `baton load-test`: what it finds, of a service that does well and of servers that misbehave, and how it ends.

mod server;

use std::fs;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::example::example;
use crate::harness::nginx::Site;
use crate::harness::procfs::is_alive;
use crate::harness::service::{Builder, baton, die_with_us, forget_settings};
use crate::harness::terminal::Terminal;
use crate::harness::{Service, eventually, raise_descriptor_limit};
use server::{Flaw, STALL};

fn load_test(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(baton());
    forget_settings(&mut command);
    command.args(["load-test", "--url", url]).args(args).stdin(Stdio::null());
    die_with_us(&mut command);
    command
}

/// The report as text and as JSON, of a run that must end with this code.
#[track_caller]
fn report(url: &str, args: &[&str], code: i32) -> (String, Value) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("report.json");
    let mut command = load_test(url, args);
    let Output { status, stdout, stderr } = command.arg("--json").arg(&file).output().expect("it runs");
    let text = String::from_utf8(stdout).expect("UTF-8");
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{command:?}\n{text}\n{said}");
    let json = fs::read_to_string(&file).expect("a report");
    (text, serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")))
}

#[track_caller]
fn passed(service: &Service, args: &[&str]) -> Value {
    let before = service.metric("backplane_increments_total");
    let (text, json) = report(&service.url(), args, 0);
    assert!(text.ends_with("PASSED\n"), "{text}");
    assert_eq!((&json["errors"], &json["success_rate"], &json["passed"]), (&0.into(), &100.0.into(), &true.into()));
    // What it says is what the service says.
    let counted = service.metric("backplane_increments_total") - before;
    let abandoned = json["messages_abandoned"].as_f64().expect("a number");
    let replies = json["replies"].as_f64().expect("a number");
    assert!((replies..=replies + abandoned).contains(&counted), "{counted} were counted\n{text}");
    json
}

/// A run that goes on until it is told otherwise.
struct Running(Child);

impl Running {
    fn start(url: &str, args: &[&str]) -> Running {
        Running(load_test(url, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts"))
    }

    /// Its client processes, once there are so many.
    #[track_caller]
    fn clients(&self, number: usize) -> Vec<Pid> {
        let id = self.0.id();
        eventually("client processes", || {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
            let pids: Vec<Pid> =
                children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect();
            (pids.len() == number).then_some(pids)
        })
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("it runs");
    }

    /// How it ended, and its report.
    fn end(self) -> (Option<i32>, String) {
        let output = self.0.wait_with_output().expect("a child of ours");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[test]
fn every_way_to_load_a_good_service_passes() {
    let service = Service::start(&[("--workers", "2")]);
    let json = passed(&service, &["-c", "50", "-n", "20"]);
    assert_eq!((&json["connections_successful"], &json["replies"]), (&50.into(), &1000.into()));
    assert_eq!((&json["open_loop"], &json["closes_answered"]["1000"]), (&false.into(), &50.into()));
    let latency = &json["latency"];
    let at = |name: &str| latency[name].as_f64().expect("a number");
    assert!(at("median") > 0.0 && at("median") <= at("p95") && at("p99") <= at("p999") && at("p999") <= at("max"));
    assert!(json["client_cpu_per_message"].as_f64() > Some(0.0));

    let json = passed(&service, &["-c", "50", "-n", "10", "--rate", "1000/s", "--ramp", "500/s", "--payload", "5000"]);
    assert_eq!((&json["open_loop"], &json["replies"]), (&true.into(), &500.into()));
    // Not as fast as it is answered: 500 messages at 1,000 a second.
    assert!(json["messages_per_second"].as_f64() < Some(1100.0), "{json}");

    let json = passed(&service, &["-c", "10", "-n", "100000", "--duration", "1", "--session"]);
    assert!(json["replies"].as_u64() > Some(100) && json["test_duration"].as_f64() > Some(1.0), "{json}");

    let json = passed(&service, &["-c", "31", "-n", "10", "--processes", "3", "--rate", "2000/s", "--payload", "0"]);
    assert_eq!((&json["replies"], &json["processes"]), (&310.into(), &3.into()));

    let json = passed(&service, &["-c", "20", "-n", "30", "--reconnect=7"]);
    // After 7, 14 and 21 replies; nobody is dropped after the last message.
    assert_eq!((&json["connections_dropped"], &json["sessions_resumed"]), (&60.into(), &60.into()));
    // Every other time there was one under way.
    assert_eq!(json["messages_abandoned"], 20);

    let source = ["--source", "127.0.0.5", "--source", "127.0.0.6", "-c", "10"];
    passed(&service, &source);
    // The URL is in the environment, and the report for programs on standard output.
    let mut command = Command::new(baton());
    forget_settings(&mut command);
    command.env("WS_BASE_URL", format!("ws://{}", service.address)).args(["load-test", "-c", "5", "--json", "-"]);
    let output = command.output().expect("it runs");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!((output.status.code(), &json["replies"]), (Some(0), &50.into()));
}

#[test]
fn more_connections_than_a_process_may_have_descriptors() {
    raise_descriptor_limit();
    let service = Service::start(&[]);
    let mut command = Command::new("sh");
    forget_settings(&mut command);
    command.args(["-c", "ulimit -n 150; exec \"$@\"", "sh"]).arg(baton());
    command.args(["load-test", "-c", "500", "--json", "-", "--url", &service.url()]);
    let output = command.output().expect("it runs");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((&json["connections_successful"], &json["replies"]), (&500.into(), &5000.into()));
    assert_eq!(json["processes"], 5);
    // And told that it may not.
    let output = command.args(["--processes", "2"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("it takes --processes 5") && output.status.code() == Some(2), "{said}");
}

#[test]
fn heartbeats_are_compared() {
    let service = Service::start(&[("--heartbeat-interval", "1s")]);
    let json = passed(&service, &["-c", "100", "--hold", "2500ms", "--processes", "2"]);
    let beats = json["heartbeats"].as_array().expect("a list");
    assert!(beats.iter().filter(|beat| beat["connections"] == 100).count() >= 2, "{json}");
    assert!(beats.iter().all(|beat| beat["spread"].as_f64() < Some(1.0)), "{json}");
}

#[test]
fn sessions_are_resumed_through_restarts_and_stops() {
    let service = Service::start(&[("--workers", "2"), ("--retry-spread", "1s")]);
    let run = Running::start(&service.url(), &["-c", "50", "-d", "6s", "--rate", "2000/s", "--reconnect=20"]);
    let busy = |more: f64| {
        let before = service.metric("backplane_increments_total");
        eventually("messages", || (service.metric("backplane_increments_total") > before + more).then_some(()));
    };
    busy(500.0);
    assert!(service.ctl(&["restart", "all"]).status.success());
    busy(500.0);
    // Its clients are told goodbye, and to come back.
    assert!(service.ctl(&["stop", "1"]).status.success());
    busy(500.0);
    let (code, text) = run.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("by the server 1001 × "), "{text}");
}

#[test]
fn any_server_can_be_loaded() {
    let echo = Builder::new().program(example("echo")).start();
    let (_, json) = report(&echo.url(), &["--expect", "echo", "-c", "20", "--rate", "500/s"], 0);
    assert_eq!((&json["replies"], &json["errors"]), (&200.into(), &0.into()));
    let url = server::start(Flaw::Echo);
    report(&url, &["--expect", "echo", "--payload", "3", "-c", "5"], 0);
    report(&url, &["--expect", "any", "-c", "5"], 0);
    // None of them counts.
    let (text, _) = report(&url, &["-c", "5"], 1);
    assert!(text.contains("is no JSON object"), "{text}");
}

#[test]
fn a_server_with_tls_must_be_trusted() {
    let service = Service::start(&[]);
    let nginx = Site::of(service.address).without_limits().start();
    let url = format!("wss://{}/ws/chat/", nginx.tls);
    let ca_file = nginx.ca_file();
    let (_, json) = report(&url, &["-c", "20", "--ca-file", ca_file.to_str().expect("UTF-8")], 0);
    assert_eq!((&json["replies"], &json["errors"]), (&200.into(), &0.into()));
    // Nobody vouches for it but its own authority.
    let (text, _) = report(&url, &["-c", "2"], 1);
    assert!(text.contains("not connected: connection 0: invalid peer certificate"), "{text}");
}

/// Each flaw, how it is run, the kind of the error and what the example says.
const CASES: &[(Flaw, &[&str], &str, &str)] = &[
    (Flaw::Refusal, &[], "not connected", "refused"),
    (Flaw::Deaf, &["--timeout", "500ms"], "not connected", "not upgraded within 500ms"),
    (Flaw::Status500, &[], "not upgraded", "answered with 500 Internal Server Error"),
    (Flaw::WrongCount, &[], "wrong answer", "expected 5, got 7"),
    (Flaw::CountBack, &[], "wrong answer", "the count went back: expected 5, got 4"),
    (Flaw::LostReply, &["--timeout", "500ms"], "no reply", "to message 5 within 500ms"),
    (Flaw::LostReply, &["--rate", "200/s"], "no reply", "to message 5, and a later one was answered"),
    (Flaw::DoubledReply, &[], "wrong answer", ""),
    (Flaw::DoubledReply, &["--rate", "20/s", "-n", "7"], "wrong answer", "answers no message, after 5"),
    (Flaw::Silence, &["--timeout", "500ms"], "no reply", "to message 5 within 500ms"),
    (Flaw::Garbage, &["--timeout", "500ms"], "wrong answer", "\"garbage\" is no JSON object"),
    (Flaw::GarbageFrame, &[], "protocol violation", "connection "),
    (Flaw::Reset, &[], "connection lost", "connection "),
    (Flaw::Eof, &[], "connection lost", "without a close"),
    (Flaw::Close1011, &[], "connection lost", "closed by the server: 1011 tired"),
    (Flaw::HeartbeatTwice, &[], "wrong heartbeat", "2026-01-01T12:00:00.000Z after 2026-01-01T12:00:00.000Z"),
    (Flaw::HeartbeatMissed, &["--hold", "4s"], "heartbeat missed", "3 of 6 connections did not hear"),
    (Flaw::WrongEcho, &["--expect", "echo"], "wrong answer", "got \"garbage\""),
];

#[test]
fn every_flaw_of_a_server_is_found_with_an_example() {
    for (flaw, args, kind, example) in CASES {
        let url = server::start(*flaw);
        let (text, json) = report(&url, &[&["-c", "6"], *args].concat(), 1);
        assert!(json["errors_by_kind"][kind].as_u64() > Some(0), "{flaw:?} {args:?}: {text}");
        let found = |shown: &Value| {
            shown.as_str().is_some_and(|shown| shown.starts_with(&format!("{kind}: ")) && shown.contains(example))
        };
        assert!(json["examples"].as_array().expect("a list").iter().any(found), "{flaw:?} {args:?}: {text}");
        assert!(text.contains("FAILED: ") && !text.contains("PASSED"), "{flaw:?}: {text}");
        // A time of nothing is none.
        let silent = json["replies"] == 0;
        assert_eq!(text.contains(&format!("{:<26}-\n", "Average Latency")), silent, "{flaw:?}: {text}");
    }
    // And none where none is.
    report(&server::start(Flaw::None), &["-c", "6", "--rate", "200/s"], 0);
}

#[test]
fn wrong_answers_fail_whatever_the_rate_of_success() {
    let url = server::start(Flaw::WrongCount);
    let (text, _) = report(&url, &["-c", "1", "-n", "1000", "--min-success", "50"], 1);
    assert!(text.contains("FAILED: the server has answered wrongly 3 times"), "{text}");
    // A reply that is lost is not: there it decides.
    let args = ["-c", "1", "-n", "1000", "--rate", "2000/s"];
    let lost = server::start(Flaw::LostReply);
    report(&lost, &[&args[..], &["--min-success", "99.9"]].concat(), 0);
    let (text, _) = report(&lost, &[&args[..], &["--min-success", "99.95"]].concat(), 1);
    assert!(text.contains("FAILED: the success rate is 99.900 %"), "{text}");
}

/// With a rate, a stall shows in all messages that were due meanwhile; in a closed loop, in one of each connection.
#[test]
fn a_stall_is_not_omitted() {
    let stall = STALL.as_secs_f64();
    // 400 a second: in 600 ms 240 of 1,000 messages are due, and wait for 300 ms in the mean.
    let args = ["-c", "1", "-n", "1000", "--rate", "400/s", "--max-p95", "200ms"];
    let (text, json) = report(&server::start(Flaw::Stall), &args, 1);
    let at = |json: &Value, name: &str| json["latency"][name].as_f64().expect("a number");
    assert!(at(&json, "max") >= 0.95 * stall && at(&json, "p99") >= 0.8 * stall, "{text}");
    assert!(at(&json, "p95") >= 0.5 * stall, "{text}");
    assert!(text.contains("FAILED: the 95th percentile of the latency is"), "{text}");
    assert!(text.contains("from when a message should have been sent"), "{text}");
    let (text, json) = report(&server::start(Flaw::Stall), &["-c", "1", "-n", "1000"], 0);
    assert!(at(&json, "max") >= 0.95 * stall && at(&json, "p95") < 0.5 * stall, "{text}");
    assert!(text.contains("closed loop"), "{text}");
}

#[test]
fn a_close_that_is_not_answered_is_told() {
    let (text, json) = report(&server::start(Flaw::NoClose), &["-c", "3", "--timeout", "500ms"], 0);
    assert_eq!(json["errors_by_kind"]["close not answered"], 3, "{text}");
}

#[test]
fn a_client_process_that_is_killed_fails_the_run() {
    let service = Service::start(&[]);
    let run = Running::start(&service.url(), &["-c", "20", "--processes", "2", "-d", "2s", "--rate", "500/s"]);
    let clients = run.clients(2);
    kill(clients[0], Signal::SIGKILL).expect("it runs");
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    let said = format!("FAILED: client process {} has no report: killed by SIGKILL", clients[0]);
    assert!(text.contains(&said) && text.contains("Connections Successful    10\n"), "{text}");
}

#[test]
fn what_a_client_process_was_kept_from_sending_is_sent_late_and_told() {
    let service = Service::start(&[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("report.json");
    let args = ["-c", "20", "--processes", "2", "-d", "3s", "--rate", "200/s", "--json", file.to_str().expect("text")];
    let run = Running::start(&service.url(), &args);
    let clients = run.clients(2);
    eventually("messages", || (service.metric("backplane_increments_total") > 20.0).then_some(()));
    kill(clients[0], Signal::SIGSTOP).expect("it runs");
    // The other one is through: the time is over.
    eventually("half of the closes", || (service.metric("websocket_connections_active") == 10.0).then_some(()));
    kill(clients[0], Signal::SIGCONT).expect("it is there");
    let (code, text) = run.end();
    assert_eq!(code, Some(0), "{text}");
    let json = fs::read_to_string(&file).expect("a report");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    // All that were due in three seconds.
    assert_eq!((&json["messages_sent"], &json["replies"]), (&600.into(), &600.into()), "{text}");
    for name in ["latency", "send_delay"] {
        assert!(json[name]["max"].as_f64().expect("a number") > 0.5, "{text}");
    }
}

#[test]
fn client_processes_end_with_the_one_who_started_them() {
    let service = Service::start(&[]);
    let run = Running::start(&service.url(), &["-c", "20", "--processes", "3", "-d", "1h", "--rate", "100/s"]);
    let clients = run.clients(3);
    eventually("connections", || (service.metric("websocket_connections_active") == 20.0).then_some(()));
    run.signal(Signal::SIGKILL);
    eventually("the end of the clients", || clients.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

#[test]
fn ctrl_c_ends_it_early_with_the_report_so_far() {
    let service = Service::start(&[]);
    let mut terminal = Terminal::start(load_test(&service.url(), &["-c", "20", "-d", "1h", "--rate", "500/s"]));
    terminal.wait_for("sending");
    eventually("messages", || (service.metric("backplane_increments_total") > 200.0).then_some(()));
    terminal.type_in("\x03");
    let came = terminal.wait_for("Interrupted: ");
    assert!(came.contains("Total Messages Sent") && came.contains("answered 1000 × 20"), "{came}");
    assert_eq!(terminal.wait().code(), Some(130));
    // Without a terminal, by the signal that ends services.
    let run = Running::start(&service.url(), &["-c", "20", "-d", "1h", "--rate", "500/s"]);
    let before = service.metric("backplane_increments_total");
    eventually("messages", || (service.metric("backplane_increments_total") > before + 200.0).then_some(()));
    run.signal(Signal::SIGTERM);
    let (code, text) = run.end();
    assert!(code == Some(143) && text.contains("Success Rate              100.000 %"), "{text}");
    // While it still connects, to a server that does not answer.
    let url = server::start(Flaw::Deaf);
    let mut terminal = Terminal::start(load_test(&url, &["-c", "20", "--ramp", "1/s"]));
    terminal.wait_for("connecting");
    terminal.type_in("\x03");
    terminal.wait_for("Connections Successful    0");
    assert_eq!(terminal.wait().code(), Some(130));
}

#[test]
fn wrong_usage_is_refused_with_what_is_allowed() {
    for (args, said) in [
        (&["--url", "http://a"][..], "a URL such as ws://localhost:8000"),
        (&["--connections", "0"], "--connections"),
        (&["--rate", "fast"], "such as 1000/s"),
        (&["--ramp", "0/s"], "such as 1000/s"),
        (&["--duration", "1d1s5"], "such as 500ms"),
        (&["--payload", "1GB"], "--payload"),
        (&["--min-success", "101"], "a number from 0 to 100"),
        (&["--max-p95", "0s"], "above 0"),
        (&["--processes", "many"], "auto, or a number from 1 to 256"),
        (&["--expect", "something"], "count, echo, any"),
        (&["--header", "Origin"], "a header such as"),
        (&["--header", "Host: x"], "belongs to the handshake"),
        (&["--source", "::1", "--url", "ws://127.0.0.1:1"], "another family"),
        (&["--ca-file", "/nowhere.pem", "--url", "wss://127.0.0.1:1"], "readable file of PEM certificates"),
        (&["--reconnect=0"], "--reconnect"),
    ] {
        let mut command = Command::new(baton());
        forget_settings(&mut command);
        let output = command.arg("load-test").args(args).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(said), "{args:?}: {text}");
    }
    let mut command = load_test("ws://nowhere.invalid", &[]);
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("cannot find nowhere.invalid"), "{text}");
    let output = load_test("ws://127.0.0.1:1", &["--json", "/nowhere/report.json"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("--json /nowhere/report.json"), "{text}");
}
