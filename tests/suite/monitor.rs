//! `baton monitor` on a terminal, in a pipe, and while the service comes and goes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::harness::lines::Lines;
use crate::harness::procfs::cpu_time;
use crate::harness::service::{Builder, baton, die_with_us, forget_settings};
use crate::harness::terminal::Terminal;
use crate::harness::{Client, Service, eventually, free_address};

/// `baton monitor` of the service in this directory, which looks twice a second.
fn monitor(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(baton());
    forget_settings(&mut command);
    command.args(["monitor", "--interval", "500ms", "--runtime-dir"]).arg(dir.join("run")).args(args);
    command.env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
    die_with_us(&mut command);
    command
}

fn two_workers() -> Builder {
    Builder::new().with("--workers", 2)
}

fn on_terminal(service: &Service, args: &[&str]) -> Terminal {
    Terminal::of_size(monitor(service.dir(), args), 100, 30)
}

/// It has ended with this code, and the terminal is as it was.
#[track_caller]
fn assert_over(mut terminal: Terminal, code: i32) {
    assert_eq!(terminal.wait().code(), Some(code));
    // The last bytes may still be on their way to the picture.
    eventually("the terminal is restored", || terminal.is_restored().then_some(()));
}

#[tokio::test]
async fn the_screen_shows_the_service_and_gives_the_terminal_back() {
    let service = two_workers().start();
    let mut terminal = on_terminal(&service, &[]);
    for text in ["blue  running", "workers: 2 of 2 serve", "connections 0", "embedded up", "no takeover yet"] {
        terminal.wait_shown(text);
    }
    terminal.wait_shown("INFO  blue supervisor running");
    assert!(!terminal.is_restored());
    let mut client = Client::connect(&service.url()).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    client.send("{").await;
    for text in ["connections 1", "invalid_json", "connection opened"] {
        terminal.wait_shown(text);
    }
    terminal.type_in("q");
    assert_over(terminal, 0);
}

#[test]
fn keys_move_about_pause_help_and_quit() {
    let service = two_workers().start();
    let mut terminal = on_terminal(&service, &[]);
    terminal.wait_shown("workers: 2 of 2 serve");
    terminal.type_in("?");
    terminal.wait_shown("this help");
    terminal.type_in("p");
    terminal.wait_shown("PAUSED");
    assert!(!terminal.contents().contains("this help"));
    terminal.type_in("p");
    terminal.type_in("-");
    terminal.wait_shown("every 1s");
    // The pane before the first is the last one, the log; alone, it has a title and everything else of the screen.
    terminal.type_in("\x1b[Z\r");
    let alone = || {
        let screen = terminal.contents();
        (screen.contains(" log ") && !screen.contains("workers:") && !screen.contains("PAUSED")).then_some(())
    };
    eventually("the log alone", alone);
    terminal.type_in("\x1b");
    assert_over(terminal, 0);
    let mut terminal = on_terminal(&service, &["--metrics-only"]);
    terminal.wait_shown("workers: 2 of 2 serve");
    assert!(!terminal.contents().contains(" log "));
    // Ctrl-C
    terminal.type_in("\x03");
    assert_over(terminal, 0);
}

#[test]
fn it_is_suspended_and_goes_on_and_is_drawn_anew() {
    let service = two_workers().start();
    let wanted = monitor(service.dir(), &[]);
    // A shell with job control, which does what a user does.
    let mut shell = Command::new("bash");
    shell.args(["-c", "set -m; \"$@\"; echo 'it is suspended'; fg; echo 'it is over'", "bash"]);
    shell.arg(wanted.get_program()).args(wanted.get_args());
    forget_settings(&mut shell);
    shell.env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
    let mut terminal = Terminal::of_size(shell, 100, 30);
    terminal.wait_shown("workers: 2 of 2 serve");
    terminal.type_in("\x1a");
    terminal.wait_for("it is suspended");
    terminal.wait_shown("workers: 2 of 2 serve");
    terminal.type_in("\x0c-");
    terminal.wait_shown("every 1s");
    terminal.wait_shown("workers: 2 of 2 serve");
    terminal.type_in("q");
    terminal.wait_for("it is over");
}

#[test]
fn it_follows_the_size_of_the_terminal() {
    let service = two_workers().start();
    let mut terminal = on_terminal(&service, &[]);
    terminal.wait_shown("backplane, takeover");
    terminal.resize(40, 9);
    let one_pane = || {
        let screen = terminal.contents();
        (screen.contains("workers: 2 of 2") && !screen.contains("takeover") && screen.lines().count() <= 9)
            .then_some(())
    };
    eventually("one pane on a small terminal", one_pane);
    terminal.resize(5, 2);
    terminal.resize(160, 50);
    terminal.wait_shown("backplane, takeover");
    terminal.type_in("q");
    assert_over(terminal, 0);
}

#[tokio::test]
async fn it_follows_a_takeover_to_the_new_generation() {
    let builder = two_workers();
    let blue = builder.clone().with("--color", "blue").start();
    let _clients = blue.connect_to_all_workers("watched").await;
    let mut terminal = on_terminal(&blue, &[]);
    terminal.wait_shown("blue  running");
    let green = builder.with("--color", "green").with("--takeover", "wait").spawn();
    terminal.wait_shown("green stands by");
    let canary = ["promote", "--canary", "50", "--watch", "3s"];
    std::thread::scope(|scope| {
        let promotion = scope.spawn(|| green.ctl(&canary));
        for text in ["handing-over", "blue → green", " of ", "green standby"] {
            terminal.wait_shown(text);
        }
        let Output { status, stderr, .. } = promotion.join().expect("no panic");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    });
    for text in ["green  running", "handed over in", "0 drained, 0 dropped", "blue supervisor ended"] {
        terminal.wait_shown(text);
    }
    terminal.type_in("q");
    assert_over(terminal, 0);
}

#[test]
fn a_service_that_goes_and_comes_back_is_found_again() {
    let builder = two_workers().listen(free_address());
    let service = builder.clone().start();
    let mut terminal = on_terminal(&service, &[]);
    terminal.wait_shown("blue  running");
    assert!(service.stop().success());
    terminal.wait_shown("ago: no supervisor answers in");
    // What was known last stays.
    terminal.wait_shown("INFO  blue supervisor running");
    let service = builder.start();
    terminal.wait_shown("blue  running");
    terminal.wait_shown(&format!("pid {}", service.pid()));
    terminal.type_in("q");
    assert_over(terminal, 0);
}

#[test]
fn signals_end_it_and_the_terminal_is_given_back() {
    let service = two_workers().start();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let terminal = on_terminal(&service, &[]);
        terminal.wait_shown("workers: 2 of 2 serve");
        kill(terminal.pid(), signal).expect("it runs");
        assert_over(terminal, 128 + signal as i32);
    }
}

#[test]
fn without_a_service_it_says_so_and_can_be_quit() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut terminal = Terminal::of_size(monitor(dir.path(), &[]), 100, 30);
    terminal.wait_shown("no supervisor answers in");
    terminal.type_in("q");
    assert_over(terminal, 0);
}

#[test]
fn a_stopped_supervisor_does_not_keep_it_from_ending() {
    let service = two_workers().start();
    let mut terminal = on_terminal(&service, &[]);
    terminal.wait_shown("blue  running");
    service.signal(Signal::SIGSTOP);
    terminal.wait_shown("no answer for");
    terminal.type_in("q");
    assert_over(terminal, 0);
    service.signal(Signal::SIGCONT);
}

#[test]
fn no_color_is_honoured() {
    let service = two_workers().start();
    let shown = |no_color: bool| {
        let mut command = monitor(service.dir(), &[]);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let mut terminal = Terminal::of_size(command, 100, 30);
        terminal.wait_shown("workers: 2 of 2 serve");
        terminal.type_in("q");
        assert!(terminal.wait().success());
        terminal.written()
    };
    // SGR 38: a colour of the foreground.
    assert!(shown(false).contains("\x1b[38;"));
    assert!(!shown(true).contains("\x1b[38;"));
}

#[test]
fn a_dumb_terminal_gets_lines() {
    let service = two_workers().start();
    let mut command = monitor(service.dir(), &["--metrics-only"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::of_size(command, 200, 30);
    terminal.wait_for("blue running  workers 2/2  connections 0");
    terminal.wait_for("blue running  workers 2/2  connections 0");
    assert!(!terminal.written().contains('\x1b'));
    terminal.type_in("\x03");
    assert!(!terminal.wait().success());
}

#[test]
fn at_rest_it_costs_next_to_nothing() {
    let service = two_workers().start();
    let mut terminal = on_terminal(&service, &[]);
    terminal.wait_shown("workers: 2 of 2 serve");
    let (before, begun) = (cpu_time(terminal.pid()), Instant::now());
    // Six looks at the service, each of which moves the uptime and the clock.
    for _ in 0..6 {
        let was = terminal.contents();
        eventually("something new", || (terminal.contents() != was).then_some(()));
    }
    let (cost, time) = (cpu_time(terminal.pid()) - before, begun.elapsed());
    // A loop that spins would take all of a processor.
    assert!(cost < time / 4, "{cost:?} of processor time in {time:?}");
    terminal.type_in("q");
    assert_over(terminal, 0);
}

#[test]
fn in_a_pipe_there_are_lines_and_they_tell_when_the_service_is_gone() {
    let service = two_workers().start();
    let mut piped = Lines::start(monitor(service.dir(), &[]));
    let line = piped.wait_for("a line", |line| line.contains("blue running"));
    assert!(line.contains("  workers 2/2  connections 0  messages/s 0.0"), "{line}");
    piped.wait_for("the log", |line| line.contains("INFO  blue supervisor: running"));
    assert!(service.stop().success());
    piped.wait_for("bad news", |line| line.contains("no supervisor answers in"));
}

#[tokio::test]
async fn the_log_alone_follows_all_processes() {
    let service = two_workers().start();
    let mut piped = Lines::start(monitor(service.dir(), &["--logs-only"]));
    piped.wait_for("the supervisor", |line| line.contains("blue supervisor: running"));
    let mut client = Client::connect(&service.url()).await;
    client.send("x").await;
    assert_eq!(client.count().await, 1);
    piped.wait_for("a worker", |line| line.contains("blue worker") && line.contains("connection opened"));
    // Another process in each place, and another ring.
    assert!(service.ctl(&["restart", "all"]).status.success());
    let pid = service.worker_in(1).expect("a worker");
    piped.wait_for("a fresh worker", |line| {
        line.contains("blue supervisor") && line.contains(&format!("pid={pid}"))
            || line.contains("blue worker 1: ready")
    });
    assert!(piped.child.try_wait().expect("a child").is_none());
}

#[test]
fn json_is_one_object_a_line() {
    let service = two_workers().start();
    let mut piped = Lines::start(monitor(service.dir(), &["--json"]));
    for _ in 0..2 {
        let line = piped.wait_for("a line", |_| true);
        let object: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&object["up"], &object["connections"]), (&true.into(), &0.into()));
        assert_eq!(object["generations"][0]["slots"].as_array().map(Vec::len), Some(2));
    }
    let mut logs = Lines::start(monitor(service.dir(), &["--json", "--logs-only"]));
    let line = logs.wait_for("a line", |line| line.contains("\"running\""));
    let object: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&object["level"], &object["color"]), (&"INFO".into(), &"blue".into()));
}

#[test]
fn once_is_for_scripts() {
    let service = two_workers().start();
    let once = |args: &[&str]| monitor(service.dir(), &[&["--once"], args].concat()).output().expect("it runs");
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let metrics = once(&["--metrics-only"]);
    assert!(metrics.status.success() && text(&metrics).lines().count() == 1, "{metrics:?}");
    let object: Value = serde_json::from_str(&text(&once(&["--json"]))).expect("JSON");
    assert_eq!(object["generations"][0]["color"], "blue");
    let other = once(&["--color", "green", "--metrics-only"]);
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(1) && said.contains("no supervisor answers"), "{other:?}");
}

#[test]
fn who_stops_reading_ends_it_without_a_complaint() {
    let service = two_workers().start();
    let mut command = monitor(service.dir(), &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let status = eventually("the end", || child.try_wait().expect("a child"));
    let Output { stderr, .. } = child.wait_with_output().expect("a child");
    assert!(status.success() && stderr.is_empty(), "{status:?} {}", String::from_utf8_lossy(&stderr));
}
