//! A service that must not leave: what was started stays in front of all generations (`foreground-parent`).

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::procfs::{children, is_alive};
use crate::harness::service::{Builder, batonctl, promotion};
use crate::harness::{Client, Service, eventually, executable, free_address, http, is_root};

const SOON: Duration = Duration::from_secs(20);

fn builder() -> Builder {
    Builder::new().with("--workers", 2).with("--foreground-parent", "always")
}

/// The supervisor that serves, as a client sees it: a control socket may be that of either color.
fn supervisor(service: &Service) -> Option<Pid> {
    let status = http::get(service.address, "/status").ok().filter(|answer| answer.status == 200)?;
    let pid = serde_json::from_str::<serde_json::Value>(&status.body).ok()?["supervisor_pid"].as_i64()?;
    Some(Pid::from_raw(pid as i32))
}

#[track_caller]
fn another(service: &Service, before: Pid) -> Pid {
    eventually("another supervisor serves", || supervisor(service).filter(|pid| *pid != before))
}

/// Waits until the parent has no other child, so that it knows of the takeover and its end.
#[track_caller]
fn wait_alone(service: &Service, supervisor: Pid) {
    eventually("one supervisor is left", || (children(service.pid()) == [supervisor]).then_some(()));
}

#[tokio::test]
async fn what_was_started_stays_over_upgrades_and_passes_signals_on() {
    let mut service = builder().start();
    service.wait_all_serve();
    let first = supervisor(&service).expect("it serves");
    assert_ne!(first, service.pid());
    let mut client = Client::connect(&service.url()).await;
    service.signal(Signal::SIGUSR2);
    let second = another(&service, first);
    wait_alone(&service, second);
    // It is not the child that was forked, and is passed signals on all the same.
    service.signal(Signal::SIGUSR2);
    let third = another(&service, second);
    wait_alone(&service, third);
    let before = children(third);
    service.signal(Signal::SIGTTIN);
    eventually("one worker more", || (children(third).len() == before.len() + 1).then_some(()));
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(SOON).code(), Some(0));
    assert!(!is_alive(third));
}

#[tokio::test]
async fn a_promoted_generation_is_adopted_and_its_end_is_that_of_the_service() {
    let mut service = builder().start();
    service.wait_all_serve();
    let first = supervisor(&service).expect("it serves");
    let mut client = Client::connect(&service.url()).await;
    let output = promotion(service.dir(), &["--foreground-parent=always"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = promotion(service.dir(), &["--listen", "127.0.0.1:0", "--workers", "2"]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let second = another(&service, first);
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    // It was not started below the parent, which learns of it by the line alone.
    eventually("blue is reaped", || children(service.pid()).is_empty().then_some(()));
    service.signal(Signal::SIGTTIN);
    eventually("one worker more", || (children(second).len() == 3).then_some(()));
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(SOON).code(), Some(0));
    eventually("green is gone", || (!is_alive(second)).then_some(()));
}

#[test]
fn a_supervisor_that_is_killed_ends_the_service_with_its_signal() {
    let mut service = builder().start();
    service.wait_all_serve();
    let first = supervisor(&service).expect("it serves");
    assert!(service.ctl(&["upgrade"]).status.success());
    let second = another(&service, first);
    wait_alone(&service, second);
    let workers = children(second);
    kill(second, Signal::SIGKILL).expect("it serves");
    assert_eq!(service.wait(SOON).code(), Some(137));
    assert!(workers.iter().all(|worker| !is_alive(*worker)), "they were waited for");
}

#[tokio::test]
async fn a_parent_that_is_killed_is_not_missed_and_the_next_one_takes_over() {
    let mut service = builder().start();
    service.wait_all_serve();
    let first = supervisor(&service).expect("it serves");
    let mut client = Client::connect(&service.url()).await;
    service.signal(Signal::SIGKILL);
    service.wait(SOON);
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    // Whoever restarts it with this setting gets the clients.
    let next = builder().dir_of(&service).with("--takeover", "now").spawn();
    let second = another(&service, first);
    wait_alone(&next, second);
    // Before that its takeover could still be undone.
    eventually("the first one has retired", || (!is_alive(first)).then_some(()));
    client.send("hello").await;
    assert_eq!(client.count().await, 2);
    let mut next = next;
    next.signal(Signal::SIGTERM);
    assert_eq!(next.wait(SOON).code(), Some(0));
}

#[test]
fn what_cannot_start_ends_with_its_own_code() {
    let taken = std::net::TcpListener::bind(free_address()).expect("a free address");
    let (status, said) = builder().listen(taken.local_addr().expect("a bound socket")).refused();
    assert_eq!(status.code(), Some(1), "{said}");
    let (status, said) = builder().with("--workers", 0).refused();
    assert_eq!(status.code(), Some(64), "{said}");
    let (status, said) = builder().with("--foreground-parent", "perhaps").refused();
    assert!(status.code() == Some(64) && said.contains("auto or always or never"), "{said}");
}

#[test]
fn a_termination_ends_the_generation_that_stands_by_too() {
    let mut service = builder().start();
    let green = builder().dir_of(&service).with("--foreground-parent", "never").with("--color", "green");
    let mut green = green.with("--takeover", "wait").spawn();
    eventually("green stands by", || green.try_status().filter(|status| status.phase == "standby"));
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(SOON).code(), Some(0));
    assert_eq!(green.wait(SOON).code(), Some(0));
}

/// In a container its first process is in front; another one comes in by exec.
#[tokio::test]
async fn the_first_process_of_a_container_stays() {
    if !is_root() {
        return;
    }
    let outside = Builder::new().with("--workers", 2).listen(free_address());
    let mut run = Command::new("unshare");
    run.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    let mut service = outside.within(run).start();
    let mut client = Client::connect(&service.url()).await;
    let [init] = children(service.pid())[..] else { panic!("no first process") };
    let inside = |command: &Command| {
        let mut enter = Command::new("nsenter");
        enter.args(["--pid", "--mount", "--target", &init.to_string()]).arg(command.get_program());
        enter.args(command.get_args()).stdin(Stdio::null()).env("BATON_CONFIG", "/dev/null");
        enter.output().expect("nsenter runs")
    };
    // The supervisor of a container does not see pids outside, nor do we those inside.
    let first = supervisor(&service).expect("it serves");
    assert_ne!(first.as_raw(), 1);
    let output = inside(&batonctl(service.dir(), &["upgrade"]));
    assert!(output.status.success(), "{output:?}");
    let second = another(&service, first);
    let address = service.address.to_string();
    let output = inside(&promotion(service.dir(), &["--listen", &address]));
    assert!(output.status.success(), "{output:?}");
    another(&service, second);
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    assert!(is_alive(init));
    eventually("one supervisor is left", || (children(init).len() == 1).then_some(()));
    kill(init, Signal::SIGTERM).expect("it stays");
    assert_eq!(service.wait(SOON).code(), Some(0));
}

/// Below a program whose name is that of a supervisor that ends with what it has started.
#[test]
fn a_known_supervisor_is_recognized() {
    let dir = tempfile::tempdir().expect("a directory");
    let tini = dir.path().join("tini");
    executable::script(&tini, "#!/bin/sh\n\"$@\" &\necho $! >\"$0.pid\"\nwait $!\n");
    let mut service = Builder::new().with("--workers", 1).within(Command::new(&tini)).start();
    service.wait_all_serve();
    let pid = fs::read_to_string(dir.path().join("tini.pid")).expect("a pid");
    let parent = Pid::from_raw(pid.trim().parse().expect("a pid"));
    let first = supervisor(&service).expect("it serves");
    assert_eq!(children(parent), [first]);
    assert!(service.ctl(&["upgrade"]).status.success());
    let second = another(&service, first);
    eventually("the successor is adopted", || (children(parent) == [second]).then_some(()));
    kill(parent, Signal::SIGTERM).expect("it stays");
    assert_eq!(service.wait(SOON).code(), Some(0));
}
