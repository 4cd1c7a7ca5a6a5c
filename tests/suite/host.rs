//! What hosts do to a service: limits of a shell, signals a moment too early, a clock that is set.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::client::{Raw, heartbeat};
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually, private_address, procfs, within};

/// Makes the wall clock of a process another one (Debian: faketime).
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_start_from_a_shell_has_as_many_descriptors_as_the_machine_allows() {
    let service = Builder::new().descriptors_of_shell(1024, 4000).start();
    for pid in service.worker_pids().into_iter().chain([service.pid()]) {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a running process");
        let limit = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
        assert_eq!(limit.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4000", "4000"]);
    }
}

#[test]
fn requests_that_come_during_the_start_wait_until_it_is_ready() {
    let builder = Builder::new();
    let path = builder.dir().join("baton.toml");
    // The start stands still until the file has an end.
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    let builder = builder.with("--config", path.display());
    let mut child = builder.command().spawn().expect("baton starts");
    // It is open once it is read.
    let mut pipe = fs::OpenOptions::new().write(true).open(&path).expect("somebody reads");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("a running process");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("its blocked signals");
    let blocked = u64::from_str_radix(blocked.trim(), 16).expect("a mask");
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTTIN, Signal::SIGTTOU] {
        assert_ne!(blocked & 1 << (signal as u32 - 1), 0, "{signal} would end it: {blocked:x}");
    }
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        kill(Pid::from_raw(child.id() as i32), signal).expect("it is there");
    }
    let settings = "workers = 1\n";
    fs::remove_file(&path).expect("ours");
    fs::write(&path, settings).expect("for the reload");
    pipe.write_all(settings.as_bytes()).expect("it is read");
    drop(pipe);
    let log = builder.dir().join("log");
    for wanted in ["SIGHUP", "SIGUSR1", "running", "reload is done"] {
        eventually(wanted, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("baton ended with {status}");
            }
            fs::read_to_string(&log).ok()?.contains(wanted).then_some(())
        });
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it is there");
    let status = within(20 * SECOND, "the end", || child.try_wait().expect("a child of ours"));
    assert!(status.success(), "{status}");
}

/// The next heartbeat that satisfies.
async fn beat(client: &mut Client, is_it: impl Fn(SystemTime) -> bool) -> SystemTime {
    let deadline = tokio::time::Instant::now() + 30 * SECOND;
    loop {
        let json = tokio::time::timeout_at(deadline, client.json()).await.expect("heartbeats go on");
        if let Some(time) = heartbeat(&json).filter(|time| is_it(*time)) {
            return time;
        }
    }
}

#[tokio::test]
async fn heartbeats_go_on_when_the_clock_is_set_back() {
    assert!(Path::new(FAKETIME).exists(), "apt-get install faketime");
    let builder =
        Builder::new().with("--workers", 1).without("--heartbeat-interval").with("--heartbeat-interval", "1s");
    let clock = builder.dir().join("clock");
    // Replaced as a whole: it is read at any time.
    let set = |text: &str| {
        fs::write(clock.with_extension("new"), text).expect("a file of ours");
        fs::rename(clock.with_extension("new"), &clock).expect("a file of ours");
    };
    set("+0");
    let service = builder
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_TIMESTAMP_FILE", clock.display())
        .env("FAKETIME_NO_CACHE", 1)
        .env("FAKETIME_DISABLE_SHM", 1)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
        .env("DONT_FAKE_MONOTONIC", 1)
        .start();
    let mut client = Client::connect(&service.url()).await;
    let mut last = beat(&mut client, |_| true).await;
    for (back, by) in [("-10", 10), ("-3610", 3600)] {
        set(back);
        let begun = last - Duration::from_secs(by / 2);
        last = beat(&mut client, |time| time < begun).await;
        // Each once, again.
        let next = beat(&mut client, |_| true).await;
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
    // Set back and handed over at once: whoever notices first.
    set("-7300");
    assert!(service.ctl(&["restart", "all"]).status.success());
    let begun = last - Duration::from_secs(1800);
    last = beat(&mut client, |time| time < begun).await;
    for _ in 0..2 {
        let next = beat(&mut client, |_| true).await;
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
    assert_eq!(service.log_lines().filter(|line| line["level"] == "ERROR").count(), 0, "{}", service.log());
}

#[tokio::test]
async fn the_addresses_of_a_supervisor_that_is_killed_are_free_at_once() {
    let builder = Builder::new().with("--drain-timeout", "9s").with("--workers", 2);
    let mut first = builder.clone().listen(private_address()).start();
    let orphans = first.worker_pids();
    // It never answers the close, so that its worker stays for as long as it may.
    let silent = Raw::connect(first.address, "/ws/chat/", b"").await;
    kill(first.pid(), Signal::SIGKILL).expect("it lives");
    first.wait(20 * SECOND);
    let refused = || match TcpStream::connect(first.address) {
        Err(error) => (error.kind() == ErrorKind::ConnectionRefused).then_some(()),
        Ok(_) => None,
    };
    eventually("refused rather than kept waiting", refused);
    assert!(orphans.iter().any(|pid| procfs::is_alive(*pid)), "the worker of the silent client is on its way out");
    let second = builder.listen(first.address).start();
    assert!(second.try_status().is_some());
    drop(silent);
}

#[test]
fn control_sockets_that_are_deleted_come_back() {
    let mut service = Service::start(&[("--workers", "1")]);
    let run = service.dir().join("run");
    fs::remove_dir_all(&run).expect("ours");
    eventually("its status", || service.try_status());
    // Also the one that a takeover comes by, which the next color finds.
    eventually("the door", || run.join("blue.takeover").exists().then_some(()));
    assert!(service.log_lines().any(|line| line["event"] == "control_socket_restored"), "{}", service.log());
    let _green = Builder::new().dir_of(&service).with("--color", "green").with("--takeover", "now").start();
    assert!(service.wait(60 * SECOND).success(), "green has taken over");
}
