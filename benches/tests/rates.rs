//! The load client with a rate: what it sees of servers that pause, and of servers that lose connections on purpose.

mod servers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use baton_benches::child::Running;
use baton_benches::client::arrivals::ArrivalReport;
use baton_benches::client::paced::PacedReport;
use baton_benches::frame;
use socket2::SockRef;

use servers::{PATIENCE, bare, read_frame, scripted, started};

fn client(mode: &str, server: SocketAddr, arguments: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench_client"));
    command.args([mode, &server.to_string()]).args(arguments);
    let mut client = Running::start(command, None).unwrap();
    assert_eq!(client.line(PATIENCE).unwrap(), "ready");
    client
}

fn reply(stream: &mut TcpStream, count: u64) {
    let mut reply = Vec::new();
    frame::push_count(&mut reply, count);
    stream.write_all(&reply).unwrap();
}

/// Reads what still comes, so that its end is no reset.
fn linger(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn messages_that_come_due_during_a_pause_are_all_late() {
    let (sender, counted) = mpsc::channel();
    let dial = scripted(move |stream| {
        for count in 1..=100 {
            read_frame(stream);
            if count == 1 {
                // The pause that is to be seen.
                thread::sleep(Duration::from_millis(500));
            }
            reply(stream, count);
        }
        sender.send(()).unwrap();
        // As many more as come before the client is told.
        for count in 101..=2_000 {
            read_frame(stream);
            reply(stream, count);
        }
    });
    let mut client = client("load", dial.server, &["--connections", "1", "--rate", "200"]);
    counted.recv_timeout(PATIENCE).unwrap();
    client.tell("stop").unwrap();
    let report: PacedReport = serde_json::from_str(&client.line(PATIENCE).unwrap()).unwrap();
    assert!(report.marked.is_empty() && report.rest.number == report.messages && report.messages >= 100, "{report:?}");
    // 100 were due within it. A client that had waited for the first reply would tell of one.
    assert!(report.rest.longest_us >= 500_000 && report.rest.p50_us >= 30_000, "{report:?}");
}

#[test]
fn what_is_marked_has_figures_of_its_own() {
    let (_server, server) = started(env!("CARGO_BIN_EXE_floor"), &[]);
    let mut client = client("load", server, &["--connections", "10", "--rate", "1000"]);
    for order in ["mark", "unmark", "mark", "stop"] {
        // Some are due meanwhile.
        thread::sleep(Duration::from_millis(100));
        client.tell(order).unwrap();
    }
    let report: PacedReport = serde_json::from_str(&client.line(PATIENCE).unwrap()).unwrap();
    assert_eq!(report.marked.len(), 2);
    let marked: u64 = report.marked.iter().map(|latencies| latencies.number).sum();
    assert_eq!(marked + report.rest.number, report.messages);
    assert!(marked > 0 && report.rest.number > 0, "{report:?}");
}

/// What a client at a rate says of a server that does this on its connection.
fn refusal(script: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> String {
    let dial = scripted(script);
    client("load", dial.server, &["--connections", "1", "--rate", "10"]).line(PATIENCE).unwrap_err().to_string()
}

#[test]
fn wrong_answers_and_ends_fail_the_run() {
    let wrong = |count| {
        refusal(move |stream| {
            read_frame(stream);
            reply(stream, count);
            linger(stream);
        })
    };
    assert!(wrong(2).contains(r#"expected count 1, got opcode 1: {"count":2}"#));
    assert!(wrong(0).contains(r#"expected count 1, got opcode 1: {"count":0}"#));

    let unasked = refusal(|stream| {
        read_frame(stream);
        (1..=100).for_each(|count| reply(stream, count));
        linger(stream);
    });
    assert!(unasked.contains("expected count"), "{unasked}");

    let ended = refusal(|stream| {
        read_frame(stream);
        reply(stream, 1);
    });
    assert!(ended.contains("closed a connection after count 1"), "{ended}");
}

#[test]
fn an_order_that_is_none_fails_the_run() {
    let (_server, server) = started(env!("CARGO_BIN_EXE_floor"), &[]);
    let mut client = client("load", server, &["--rate", "10"]);
    client.tell("halt").unwrap();
    assert!(client.line(PATIENCE).unwrap_err().to_string().contains(r#"no order: "halt""#));
}

/// What becomes of clients that connect to this server, of which there are three at least.
fn arrivals(script: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> ArrivalReport {
    let (sender, came) = mpsc::channel();
    let dial = scripted(move |stream| {
        let _ = sender.send(());
        script(stream);
    });
    let mut client = client("connect", dial.server, &["--rate", "100"]);
    (0..3).for_each(|_| came.recv_timeout(PATIENCE).unwrap());
    client.tell("stop").unwrap();
    let report: ArrivalReport = serde_json::from_str(&client.line(PATIENCE).unwrap()).unwrap();
    assert!(report.attempts >= 3, "{report:?}");
    report
}

#[test]
fn who_is_served_to_the_end_is_not_lost() {
    let report = arrivals(|stream| {
        read_frame(stream);
        reply(stream, 1);
        assert_eq!(read_frame(stream).opcode, frame::CLOSE);
        stream.write_all(&bare(frame::CLOSE, &1000u16.to_be_bytes())).unwrap();
    });
    assert_eq!((report.served, report.rest.number), (report.attempts, report.attempts), "{report:?}");
    assert_eq!(report.first_failure, None);
}

#[test]
fn every_way_to_lose_a_connection_is_told_apart() {
    let reset = arrivals(|stream| {
        read_frame(stream);
        reply(stream, 1);
        read_frame(stream);
        SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    assert_eq!((reset.reset, reset.served), (reset.attempts, 0), "{reset:?}");

    let ended = arrivals(|stream| {
        read_frame(stream);
    });
    assert_eq!((ended.ended, ended.served), (ended.attempts, 0), "{ended:?}");

    let wrong = arrivals(|stream| {
        read_frame(stream);
        reply(stream, 2);
        linger(stream);
    });
    assert_eq!((wrong.wrong, wrong.served), (wrong.attempts, 0), "{wrong:?}");
    assert_eq!(wrong.first_failure.unwrap(), r#"expected count 1, got opcode 1: {"count":2}"#);

    let silent = arrivals(linger);
    assert_eq!((silent.unanswered, silent.served), (silent.attempts, 0), "{silent:?}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut client = client("connect", nobody, &["--rate", "100"]);
    client.tell("stop").unwrap();
    let refused: ArrivalReport = serde_json::from_str(&client.line(PATIENCE).unwrap()).unwrap();
    assert!(refused.attempts > 0 && refused.refused == refused.attempts, "{refused:?}");
}
