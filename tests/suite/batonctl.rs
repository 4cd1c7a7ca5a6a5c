//! `batonctl` against a service that runs: every command, its words and its exit codes, the shell.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use baton_ipc::channel::PROTOCOL_VERSION;
use baton_ipc::control::{CONTROL_VERSION, ConnectionRow, Link, Output as Answer, Reply};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::client::{QUIET, Raw, soon};
use crate::harness::lines::Lines;
use crate::harness::service::Builder;
use crate::harness::terminal::Terminal;
use crate::harness::{Client, SOON, Service, eventually};

/// A command, what it printed, and the exit code that it must end with.
#[track_caller]
fn ctl(service: &Service, args: &[&str], code: i32) -> String {
    let output = service.ctl(args);
    assert_eq!(output.status.code(), Some(code), "batonctl {args:?}: {output:?}");
    let Output { stdout, stderr, .. } = output;
    assert_eq!(code != 0 && code != 3, !stderr.is_empty(), "a failure says why on standard error, a success nothing");
    let text = if stderr.is_empty() { stdout } else { stderr };
    String::from_utf8(text).expect("UTF-8")
}

/// The last answer of a command with `--json`.
#[track_caller]
fn answer(service: &Service, args: &[&str]) -> Reply {
    let args = [&["--json"], args].concat();
    let said = String::from_utf8(service.ctl(&args).stdout).expect("UTF-8");
    let last = said.lines().last().expect("an answer");
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[track_caller]
fn rows(service: &Service, args: &[&str]) -> (u64, Vec<ConnectionRow>) {
    match answer(service, &[&["connections"], args].concat()) {
        Reply::Done { output: Answer::Connections { total, rows } } => (total, rows),
        other => panic!("no connections: {other:?}"),
    }
}

fn pids(service: &Service) -> Vec<Option<u32>> {
    service.status().slots.iter().map(|slot| slot.pid).collect()
}

/// A command on its own, for what `Service::ctl` has no room for.
fn command(service: &Service, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batonctl"));
    command.arg("--runtime-dir").arg(service.dir().join("run")).args(args).env_remove("BATON_COLOR");
    command
}

fn workers(n: u16) -> Service {
    Builder::new().with("--workers", n).start()
}

#[test]
fn status_tells_all_and_its_exit_code_the_rest() {
    let service = workers(2);
    let page = ctl(&service, &["status"], 0);
    let pid = service.pid();
    assert!(page.starts_with(&format!("blue  running  baton {}  pid {pid}  up ", env!("CARGO_PKG_VERSION"))), "{page}");
    assert!(page.contains(&format!("listen     {}\n", service.address)), "{page}");
    assert!(page.contains(&format!("backplane  embedded ({})\n", service.dir().join("state").display())), "{page}");
    assert!(page.contains("all  2 of 2") && !page.contains('\x1b'), "{page}");
    assert_eq!(page.matches("SERVING").count(), 2);

    assert_eq!(ctl(&service, &["stop", "1"], 0), "slot 1: stopped\nstop is done\n");
    let page = ctl(&service, &["status"], 3);
    assert!(page.contains("STOPPED") && page.contains("slot 0 accepts in its place"), "{page}");
    assert_eq!(ctl(&service, &["--json", "status"], 3).lines().count(), 1);
    let status = service.status();
    assert_eq!((status.slots[1].pid, status.slots[1].lent_to), (None, Some(0)));
    assert_eq!((status.slots[1].restarts, status.slots[1].last_cause_kind.is_some()), (0, true));
    ctl(&service, &["start", "1"], 0);
    ctl(&service, &["status"], 0);

    let dir = service.dir().to_owned();
    let nobody = command(&service, &["--color", "green", "status"]).output().expect("batonctl runs");
    assert_eq!(nobody.status.code(), Some(4));
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(said.contains(&format!("no supervisor answers in {}", dir.join("run").display())), "{said}");
}

#[test]
fn a_stopped_supervisor_does_not_hold_the_operator_up() {
    let service = workers(1);
    service.signal(Signal::SIGSTOP);
    let said = ctl(&service, &["status"], 4);
    service.signal(Signal::SIGCONT);
    assert!(said.contains("does not answer within 10 s"), "{said}");
    eventually("it answers again", || (service.ctl(&["status"]).status.code() == Some(0)).then_some(()));
}

#[test]
fn slots_stop_start_and_restart() {
    let service = workers(3);
    let before = pids(&service);
    assert_eq!(ctl(&service, &["pid", "1"], 0), format!("{}\n", before[1].expect("a worker")));
    let all = ctl(&service, &["pid"], 0);
    assert_eq!(all.lines().next(), Some(format!("supervisor {}", service.pid()).as_str()));
    assert_eq!(all.lines().count(), 4);

    let said = ctl(&service, &["restart", "2"], 0);
    let after = pids(&service);
    let (old, new) = (before[2].expect("a worker"), after[2].expect("a worker"));
    assert_eq!(
        said,
        format!("slot 2: pid {new} serves in place of {old}; 0 connections handed over\nrestart is done\n")
    );
    assert_eq!(before[..2], after[..2]);
    assert_ne!(old, new);

    ctl(&service, &["restart", "all"], 0);
    assert!(pids(&service).iter().zip(&after).all(|(new, old)| new.is_some() && new != old));
    ctl(&service, &["stop", "0", "2"], 0);
    assert_eq!(pids(&service).iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(ctl(&service, &["pid", "0"], 0), "-\n");
    // Clients of stopped slots are served by the neighbour.
    for _ in 0..20 {
        assert_eq!(crate::harness::http::get(service.address, "/readyz").expect("an answer").status, 200);
    }
    ctl(&service, &["stop", "all"], 0);
    assert_eq!(ctl(&service, &["status"], 3).matches("STOPPED").count(), 3);
    ctl(&service, &["start", "all"], 0);
    ctl(&service, &["status"], 0);
    assert!(ctl(&service, &["stop", "3"], 1).contains("there is no slot 3: 0 to 2 are"));
}

#[test]
fn wrong_usage_is_2_and_says_what_is_right() {
    let service = workers(1);
    let before = pids(&service);
    for (args, word) in [
        (&["fly"][..], "unrecognized subcommand 'fly'"),
        (&["stauts"], "status"),
        (&["stop"], "<SLOT>"),
        (&["stop", "x"], "a slot is a number from 0 to 63, or all"),
        (&["scale", "0"], "1..=64"),
        (&["scale", "many"], "'many'"),
        (&["connections", "--order", "nicest"], "oldest, slowest or biggest"),
        (&["broadcast"], "<JSON>"),
        (&["broadcast", "{\"a\":}"], "not valid JSON: expected value at line 1 column 6"),
        (&["status", "--fast"], "--fast"),
        (&["backplane", "redis"], "unexpected argument 'redis'"),
        (&["--color", "red", "status"], "green"),
    ] {
        let said = ctl(&service, args, 2);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert!(ctl(&service, &["help"], 0).contains("reopen-logs"));
    assert!(ctl(&service, &["--help"], 0).contains("3 not all: (status) slots are serving,\n(backplane) links are up"));
    assert!(ctl(&service, &["help", "stop"], 0).contains("Drain slots and leave them down"));
    let version = ctl(&service, &["version"], 0);
    assert!(version.contains(&format!("supervisor  {}", env!("CARGO_PKG_VERSION"))), "{version}");
    assert_eq!(pids(&service), before);
}

/// A service whose settings are in a file.
fn configured(text: &str) -> (Service, impl Fn(&str)) {
    let builder = Builder::new().without("--heartbeat-interval");
    let path = builder.dir().join("baton.toml");
    fs::write(&path, text).expect("a file");
    let service = builder.with("--config", path.display()).start();
    (service, move |text: &str| fs::write(&path, text).expect("a file"))
}

#[tokio::test]
async fn reload_takes_the_new_configuration_or_leaves_all_as_it_is() {
    let (service, write) = configured("workers = 2\nheartbeat-interval = \"1h\"\n");
    let before = pids(&service);

    write("workers = 2\nheartbeat-interval = \"1 parsec\"\n");
    let said = ctl(&service, &["reload"], 1);
    assert!(
        said.contains("heartbeat-interval") && said.contains("1 parsec") && said.contains("baton.toml:2"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    for (fixed, name) in [
        ("store-max-size = \"2GiB\"", "store-max-size"),
        ("color = \"green\"", "color"),
        ("redis-url = \"redis://127.0.0.1:1\"", "redis-url"),
    ] {
        write(&format!("workers = 2\n{fixed}\n"));
        let said = ctl(&service, &["reload"], 1);
        assert!(said.contains(&format!("{name} cannot change while the service runs")), "{said}");
    }
    assert_eq!(pids(&service), before);
    let mut client = Client::connect(&service.session_url("abc")).await;
    client.send("one").await;
    assert_eq!(client.count().await, 1);

    write("workers = 3\nheartbeat-interval = \"100ms\"\n");
    let reload = tokio::task::spawn_blocking(move || {
        let said = ctl(&service, &["reload"], 0);
        (service, said)
    });
    // It stays, and gets what the new configuration says.
    assert!(client.json().await["ts"].is_string(), "a heartbeat");
    let (service, said) = reload.await.expect("no panic");
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.contains("slot 2: pid ") && said.ends_with("reload is done\n"), "{said}");
    let after = pids(&service);
    assert!(after.len() == 3 && before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    client.send("two").await;
    assert_eq!(client.answer().await, json!({ "count": 2 }));
    assert_eq!(service.status().phase, "running");
}

#[tokio::test]
async fn scaling_refuses_no_client() {
    let service = workers(2);
    let url = service.url();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (url, stopped) = (url.clone(), stopped.clone());
            tokio::spawn(async move {
                let (mut served, mut sent_away) = (0, 0);
                while !*stopped.borrow() {
                    let mut client = Client::try_connect(&url).await.expect("every client is let in");
                    // Its worker may be on its way out: then it says so.
                    let _ = futures_util::SinkExt::send(&mut client.socket, Message::text("x")).await;
                    match client.json().await {
                        json if json["count"] == 1 => served += 1,
                        json if json["bye"] == true => sent_away += 1,
                        other => panic!("{other}"),
                    }
                }
                (served, sent_away)
            })
        })
        .collect();
    let service = tokio::task::spawn_blocking(move || {
        for n in [5, 1, 3, 2, 4, 1, 2] {
            let said = ctl(&service, &["scale", &n.to_string()], 0);
            assert!(said.ends_with("scale is done\n"), "{said}");
            let status = service.status();
            assert_eq!(status.slots.len(), n, "{status:?}");
            ctl(&service, &["status"], 0);
        }
        service
    });
    let service = service.await.expect("no panic");
    stop.send_replace(true);
    let mut all = 0;
    for client in clients {
        let (served, _) = client.await.expect("no client is refused");
        all += served;
    }
    assert!(all > 0);
    assert_eq!(service.worker_pids().len(), 2);
    assert_eq!(ctl(&service, &["scale", "2"], 0), "scale is done\n");
}

#[tokio::test]
async fn connections_are_listed_in_the_order_asked_for() {
    let service = Builder::new().with("--workers", 2).with("--max-output", "64MiB").start();
    assert_eq!(ctl(&service, &["connections"], 0), "0 of 0 connections, oldest first\n");
    let mut clients = Vec::new();
    for (session, messages) in [("first", 2), ("second", 3), ("third", 1)] {
        let mut client = Client::connect(&service.session_url(session)).await;
        for _ in 0..messages {
            client.send("x").await;
            client.count().await;
        }
        // The next one is younger by more than a millisecond.
        let age = || rows(&service, &[]).1.iter().find(|row| row.session_uuid == session).map(|row| row.age_seconds);
        eventually("some age", || age().filter(|age| *age > 0.002));
        clients.push(client);
    }
    let sessions = |args: &[&str]| -> Vec<String> {
        let (total, rows) = rows(&service, args);
        assert_eq!(total, 3);
        rows.into_iter().map(|row| row.session_uuid).collect()
    };
    assert_eq!(sessions(&[]), ["first", "second", "third"]);
    assert_eq!(sessions(&["--order", "biggest"]), ["second", "first", "third"]);
    assert_eq!(sessions(&["--order", "biggest", "--limit", "2"]), ["second", "first"]);
    assert_eq!(sessions(&["-n", "0"]), [""; 0]);
    let (_, listed) = rows(&service, &[]);
    for (row, client) in listed.iter().zip(&clients) {
        let MaybeTlsStream::Plain(stream) = client.socket.get_ref() else { panic!("TLS") };
        assert_eq!(row.client, stream.local_addr().expect("an address").to_string());
        let is_its = |line: &Value| line["connection_id"] == row.connection_id.as_str();
        assert_eq!(service.wait_log_line("connection opened", is_its)["worker"], json!(row.slot));
        assert!(row.age_seconds > 0.0 && row.queued_bytes == 0, "{row:?}");
    }
    let page = ctl(&service, &["connections", "--order", "biggest", "-n", "1"], 0);
    assert!(page.contains("second") && page.ends_with("1 of 3 connections, biggest first\n"), "{page}");

    // One who does not read comes to the top of the slowest.
    let deaf = Raw::connect(service.address, "/ws/chat/?session_uuid=deaf", b"").await;
    for mut client in clients {
        tokio::spawn(async move { while client.next().await.is_ok() {} });
    }
    let much = json!("x".repeat(50_000)).to_string();
    let service = tokio::task::spawn_blocking(move || {
        eventually("output that waits", || {
            ctl(&service, &["broadcast", &much], 0);
            let (_, rows) = rows(&service, &["--order", "slowest"]);
            (rows[0].queued_bytes > 0).then(|| assert_eq!(rows[0].session_uuid, "deaf"))
        });
        service
    });
    let _service = service.await.expect("no panic");
    drop(deaf);
}

#[test]
fn the_backplane_as_each_worker_sees_it() {
    let service = workers(2);
    let state_dir = service.dir().join("state").display().to_string();
    let page = ctl(&service, &["backplane"], 0);
    assert!(page.starts_with(&format!("embedded ({state_dir})  up  0 messages pending\n\nSLOT  LINK ")), "{page}");
    assert_eq!((page.lines().count(), page.matches("  up  ").count()), (5, 3), "{page}");
    let rows = || match answer(&service, &["backplane"]) {
        Reply::Done { output: Answer::Backplane { rows } } => rows,
        other => panic!("no backplane: {other:?}"),
    };
    let told = rows();
    assert_eq!(told.iter().map(|row| row.slot).collect::<Vec<_>>(), [0, 1]);
    for row in told {
        assert_eq!((row.kind.as_str(), row.target.as_str(), row.state), ("embedded", state_dir.as_str(), Link::Up));
        assert_eq!((row.lease_holder, row.holds_lease, row.pending, row.reason), (None, false, 0, None));
        assert!((0.0..60.0).contains(&row.since_seconds), "{}", row.since_seconds);
    }
    let line = ctl(&service, &["--json", "backplane"], 0);
    let json: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&json["output"]["kind"], &json["output"]["rows"][1]["state"]), (&json!("backplane"), &json!("up")));
    // Who is not there has nothing to say.
    ctl(&service, &["stop", "0"], 0);
    assert_eq!(rows().iter().map(|row| row.slot).collect::<Vec<_>>(), [1]);
    ctl(&service, &["stop", "1"], 0);
    assert_eq!(ctl(&service, &["backplane"], 3), "no worker has answered\n");
}

#[tokio::test]
async fn disconnect_closes_every_connection_of_a_session_and_no_other() {
    let service = workers(4);
    let url = service.session_url("abc");
    let mut theirs = Vec::new();
    for _ in 0..8 {
        theirs.push(Client::connect(&url).await);
    }
    let mut other = Client::connect(&service.session_url("other")).await;
    assert_eq!(ctl(&service, &["disconnect", "abc"], 0), "reached 8 connections on 4 workers\n");
    for client in &mut theirs {
        let frame = client.close().await.expect("a close frame");
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Normal, "disconnected by the operator"));
    }
    other.send("x").await;
    assert_eq!(other.count().await, 1);
    eventually("they are gone", || (rows(&service, &[]).0 == 1).then_some(()));
    assert!(ctl(&service, &["disconnect", "abc"], 1).contains("no connection has the session abc"));
}

#[tokio::test]
async fn a_broadcast_reaches_everyone_exactly_once() {
    let service = workers(4);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(&service.url()).await);
    }
    let (_, rows) = rows(&service, &["--limit", "100"]);
    let slots: std::collections::BTreeSet<u16> = rows.iter().map(|row| row.slot).collect();
    assert_eq!(slots.len(), 4, "every worker has some");
    let notices = [json!({ "notice": "naïve — ≥ 1", "n": [1, 2.5, null] }), json!("just a text"), json!(-1)];
    for notice in &notices {
        let said = ctl(&service, &["broadcast", &notice.to_string()], 0);
        assert_eq!(said, "reached 100 connections on 4 workers\n");
    }
    for client in &mut clients {
        for notice in &notices {
            assert_eq!(client.json().await, *notice);
        }
        client.send("x").await;
        assert_eq!(client.count().await, 1, "nothing came in between");
    }
    assert_eq!(service.metric("websocket_messages_total{type=\"broadcast\"}"), 300.0);
    // Refused here, before anyone is asked.
    ctl(&service, &["broadcast", "{oops"], 2);
    let too_long = json!("x".repeat(64 * 1024)).to_string();
    assert!(ctl(&service, &["broadcast", &too_long], 2).contains("65536"));
    let quiet = tokio::time::timeout(QUIET, clients[0].next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[test]
fn a_signal_reaches_the_workers_named() {
    let service = workers(2);
    let before = pids(&service);
    assert_eq!(ctl(&service, &["signal", "kill", "0"], 0), "SIGKILL was sent to 1 worker\n");
    let status = eventually("another worker", || {
        let status = service.status();
        (status.slots[0].pid.is_some() && status.slots[0].pid != before[0]).then_some(status)
    });
    assert_eq!(status.slots[1].pid, before[1]);
    assert_eq!((status.slots[0].restarts, status.slots[0].last_cause.as_deref()), (1, Some("killed by SIGKILL")));
    assert!(ctl(&service, &["signal", "USR1", "all"], 1).contains("workers take ABRT, CONT, KILL, STOP"));
    eventually("both serve", || (service.ctl(&["status"]).status.code() == Some(0)).then_some(()));
    assert_eq!(ctl(&service, &["signal", "SIGSTOP", "all"], 0), "SIGSTOP was sent to 2 workers\n");
    assert_eq!(ctl(&service, &["signal", "CONT", "all"], 0), "SIGCONT was sent to 2 workers\n");
}

/// `tail --follow`, line by line.
struct Follower(Lines);

impl Follower {
    fn start(service: &Service, args: &[&str]) -> Follower {
        Follower(Lines::start(command(service, args)))
    }

    /// The next line with this message.
    #[track_caller]
    fn wait_for(&mut self, message: &str) -> Value {
        let parse = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        parse(&self.0.wait_for(message, |line| parse(line)["message"] == message))
    }
}

#[test]
fn the_log_of_a_slot_outlives_its_workers() {
    let service = workers(2);
    let pid = pids(&service)[1].expect("a worker");
    let supervisor = ctl(&service, &["tail"], 0);
    assert!(supervisor.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{supervisor}");
    assert!(supervisor.contains("\"running\"") && !supervisor.contains("\"worker\":"), "{supervisor}");
    assert_eq!(ctl(&service, &["tail", "-n", "1"], 0).lines().count(), 1);

    let mut events = Follower::start(&service, &["tail", "--follow"]);
    let mut slot = Follower::start(&service, &["tail", "-f", "1"]);
    slot.wait_for("ready");
    ctl(&service, &["signal", "KILL", "1"], 0);
    assert_eq!(events.wait_for("worker died")["cause"], "killed by SIGKILL");
    let born = events.wait_for("worker started");
    assert_eq!(slot.wait_for("ready")["pid"], born["pid"]);
    assert_ne!(born["pid"], pid);
    let both = ctl(&service, &["tail", "1"], 0);
    assert!(both.contains(&format!("\"pid\":{pid}")) && both.contains(&format!("\"pid\":{}", born["pid"])), "{both}");
    ctl(&service, &["stop", "1"], 0);
    assert_eq!(slot.wait_for("drained")["worker"], 1);
    assert!(ctl(&service, &["tail", "1"], 0).contains("drained"), "also of a slot that is down");
    assert!(ctl(&service, &["tail", "9"], 1).contains("there is no slot 9"));
}

#[test]
fn the_log_is_followed_over_restarts_and_takeovers() {
    let builder = Builder::new().with("--workers", 2);
    let mut blue = builder.clone().with("--color", "blue").start();
    // Whoever is there, as an operator types it.
    let mut all = Follower::start(&blue, &["tail", "-f", "all"]);
    let mut slot = Follower::start(&blue, &["tail", "-f", "1"]);
    // They have begun: what happens from now on they see.
    all.wait_for("running");
    slot.wait_for("ready");
    ctl(&blue, &["restart", "1"], 0);
    // Both sides of the slot: the new worker, and the last words of the old one.
    let fresh = slot.wait_for("ready");
    assert_eq!(slot.wait_for("drained")["worker"], 1);
    let relief = all.wait_for("worker started to relieve the one that serves");
    assert_eq!(relief["pid"], fresh["pid"]);

    let green = builder.with("--color", "green").with("--takeover", "now").spawn();
    assert!(blue.wait(SOON).success());
    let ready = slot.wait_for("ready");
    assert_eq!((&ready["color"], &ready["worker"]), (&json!("green"), &json!(1)), "{ready}");
    ctl(&green, &["signal", "KILL", "0"], 0);
    let died = all.wait_for("worker died");
    assert_eq!((&died["color"], &died["slot"]), (&json!("green"), &json!(0)), "{died}");
    ctl(&green, &["shutdown"], 0);
    let text = ctl(&green, &["tail", "-n", "1000", "all"], 4);
    assert!(text.contains("no supervisor answers"), "{text}");
}

#[test]
fn the_log_of_all_is_in_order() {
    let service = workers(3);
    ctl(&service, &["restart", "0", "2"], 0);
    let text = ctl(&service, &["tail", "-n", "1000", "all"], 0);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.is_sorted_by_key(|line| line["timestamp"].as_str().expect("text").to_owned()), "{text}");
    let ready = lines.iter().filter(|line| line["message"] == "ready").count();
    assert_eq!(ready, 5, "{text}");
    assert_eq!(ctl(&service, &["tail", "-n", "2", "all"], 0).lines().count(), 2);
}

#[test]
fn rotated_log_files_are_opened_anew() {
    let builder = Builder::new().with("--workers", 2);
    let logs = builder.dir().join("logs");
    fs::create_dir(&logs).expect("a directory");
    let service = builder.with("--log-dir", logs.display()).start();
    let files = || -> Vec<_> {
        let files = fs::read_dir(&logs).expect("a directory").map(|file| file.expect("a file").path());
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "log")).collect()
    };
    let before = files();
    assert_eq!(before.len(), 3, "{before:?}");
    for path in &before {
        fs::rename(path, path.with_extension("old")).expect("rotated");
    }
    assert_eq!(ctl(&service, &["reopen-logs"], 0), "log files are opened anew\n");
    eventually("new files", || (files().len() == 3).then_some(()));
    ctl(&service, &["restart", "all"], 0);
    for path in files() {
        let written = || fs::read_to_string(&path).is_ok_and(|text| text.contains("\"message\""));
        eventually("what happens since is in the new files", || written().then_some(()));
    }
}

#[tokio::test]
async fn shutdown_says_bye_and_ends_the_service() {
    let mut service = workers(2);
    let mut client = Client::connect(&service.url()).await;
    client.send("x").await;
    assert_eq!(client.count().await, 1);
    let shutdown = command(&service, &["shutdown"]).stdout(Stdio::piped()).spawn().expect("batonctl runs");
    assert_eq!(client.json().await, json!({ "bye": true, "total": 1 }));
    assert_eq!(client.close().await.expect("a close frame").code, CloseCode::Away);
    let output = tokio::task::spawn_blocking(|| shutdown.wait_with_output());
    let output = soon(output).await.expect("no panic").expect("batonctl ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(service.wait(SOON).code(), Some(0));
    assert!(!service.dir().join("run/blue.sock").exists());
    let said = ctl(&service, &["status"], 4);
    assert!(said.contains("is it running?"), "{said}");
}

#[test]
fn commands_from_standard_input_run_line_by_line() {
    let service = workers(2);
    let run = |script: &str| {
        let mut command = command(&service, &[]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("batonctl runs");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("sent");
        let output = child.wait_with_output().expect("batonctl ends");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), out.into_owned(), err.into_owned())
    };
    let pid = pids(&service)[0].expect("a worker");
    assert_eq!(run("# a remark\n\n  pid   0\n"), (Some(0), format!("{pid}\n"), String::new()));
    let (code, out, _) = run("stop 1\nstatus\nbroadcast {\"with\": \"spaces\"}\nexit\nshutdown\n");
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("reached 0 connections on 1 worker"), "{out}");
    // All lines are run; the first failure is the one that counts.
    let (code, out, err) = run("start 9\nfly\nstart 1\nstatus");
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("2 of 2") && err.contains("there is no slot 9") && err.contains("fly"), "{out}{err}");
    assert_eq!(run("help\n").0, Some(0));
    assert_eq!(service.ctl(&["status"]).status.code(), Some(0));
}

#[test]
fn the_shell_completes_remembers_and_leaves() {
    let service = workers(2);
    let state = service.dir().join("operator");
    let shell = || {
        let mut command = command(&service, &[]);
        command.env("XDG_STATE_HOME", &state).env_remove("NO_COLOR");
        let mut terminal = Terminal::start(command);
        terminal.wait_for("help lists the commands; Tab completes; exit leaves.");
        terminal.wait_for("baton blue> ");
        terminal
    };
    let mut terminal = shell();
    terminal.type_in("versi\t");
    terminal.wait_for("version ");
    terminal.type_in("\r");
    terminal.wait_for(&format!("(control {CONTROL_VERSION}, protocol {PROTOCOL_VERSION})"));
    terminal.wait_for("baton blue> ");
    terminal.type_in("re\t\t");
    let candidates = terminal.wait_for("reopen-logs");
    assert!(candidates.contains("restart") && candidates.contains("reload"), "{candidates:?}");
    // Ctrl-C throws the line away.
    terminal.type_in("\x03");
    terminal.wait_for("baton blue> \r");
    terminal.type_in("fly\r");
    terminal.wait_for("unrecognized subcommand");
    terminal.wait_for("baton blue> ");
    // And ends the following of a log, not the shell.
    terminal.type_in("tail -f\r");
    terminal.wait_for("\"running\"");
    terminal.type_in("\x03");
    terminal.wait_for("baton blue> ");
    terminal.type_in("stop 1\r");
    terminal.wait_for("stop is done");
    terminal.wait_for("baton blue> ");
    terminal.type_in("exit\r");
    assert_eq!(terminal.wait().code(), Some(0));

    let history = fs::read_to_string(state.join("baton/history")).expect("a history");
    assert!(history.contains("tail -f\nstop 1\nexit\n"), "{history}");
    let mut terminal = shell();
    // Up, up: the line before exit.
    terminal.type_in("\x1b[A\x1b[A");
    terminal.wait_for("stop 1");
    terminal.type_in("\x03");
    terminal.wait_for("baton blue> \r");
    // Ctrl-D.
    terminal.type_in("\x04");
    assert_eq!(terminal.wait().code(), Some(0));
}

#[test]
fn the_shell_outlives_the_supervisor() {
    let builder = Builder::new().with("--workers", 1);
    let service = builder.clone().start();
    let mut command = command(&service, &[]);
    command.env("XDG_STATE_HOME", service.dir().join("operator"));
    let mut terminal = Terminal::start(command);
    terminal.wait_for("baton blue> ");
    assert_eq!(service.stop().code(), Some(0));
    terminal.type_in("status\r");
    terminal.wait_for("is it running?");
    terminal.wait_for("baton> ");
    let _service = builder.start();
    terminal.type_in("status\r");
    terminal.wait_for("1 of 1");
    terminal.type_in("\x04");
    assert_eq!(terminal.wait().code(), Some(0));
}
