//! Workers and supervisors that die, stop, fail to start or are replaced: what the rest notices of it, which is nothing.

use std::fs;
use std::time::{Duration, Instant};

use baton_ipc::scoreboard::{Cause, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::client::{Raw, frame, handshake, soon};
use crate::harness::runners::check_totals;
use crate::harness::service::Builder;
use crate::harness::{Client, Runners, Service, eventually, eventually_async, private_address, procfs, within};

mod panics;

/// A service for clients that send without pause.
fn unlimited() -> Builder {
    Builder::new().with("--max-message-rate", "none")
}

/// Names of sessions with one client each.
fn clients(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("client-{n}"))
}

/// Waits until another worker than `old` serves in the slot.
async fn replacement(service: &Service, slot: u16, old: Pid) -> Pid {
    eventually_async("a fresh worker", async || service.worker_in(slot).filter(|pid| *pid != old)).await
}

/// Connects `count` times, each time with a message.
async fn connect_often(service: &Service, count: usize) {
    for _ in 0..count {
        let mut raw = Raw::connect(service.address, "/ws/chat/", &frame(0x81, b"hello")).await;
        assert_eq!(raw.frame().await.expect("an answer").1, br#"{"count":1}"#);
    }
}

#[tokio::test]
async fn a_killed_worker_is_replaced_and_only_its_own_clients_notice() {
    let service = unlimited().start();
    let runners = Runners::start(service.address, clients(24));
    runners.everyone_gets(10).await;
    for slot in 0..4 {
        let theirs = service.connections().iter().filter(|row| row.slot == slot).count() as u64;
        let before = runners.book().lost;
        let old = service.worker_in(slot).expect("all serve");
        let begun = Instant::now();
        kill(old, Signal::SIGKILL).expect("a worker");
        replacement(&service, slot, old).await;
        let took = begun.elapsed();
        eprintln!("slot {slot} with {theirs} clients: replaced after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        runners.everyone_gets(10).await;
        assert_eq!(runners.book().lost - before, theirs, "clients of other workers have noticed");
    }
    let row = &service.status().slots[0];
    assert_eq!((row.restarts, row.last_cause_kind), (1, Some(Cause::Signal)));
    assert_eq!(row.last_cause.as_deref(), Some("killed by SIGKILL"));
    assert_eq!(service.metric("worker_restarts_total{cause=\"signal\"}"), 4.0);
}

#[tokio::test]
async fn clients_in_the_accept_queue_of_a_killed_worker_are_served() {
    let service = Service::start(&[("--hang-timeout", "1m")]);
    let pid = service.worker_in(2).expect("all serve");
    kill(pid, Signal::SIGSTOP).expect("a worker");
    // So many that some are in the queue of the one that does not accept.
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut stream = soon(TcpStream::connect(service.address)).await.expect("the queue has room");
        stream.write_all(handshake("/ws/chat/").as_bytes()).await.expect("connected");
        waiting.push(tokio::spawn(async move { Raw { stream }.head().await }));
    }
    eventually_async("answers from the others", async || {
        (waiting.iter().filter(|client| client.is_finished()).count() >= 100).then_some(())
    })
    .await;
    assert!(waiting.iter().any(|client| !client.is_finished()), "nobody waits for the stopped worker");
    kill(pid, Signal::SIGKILL).expect("a worker");
    for client in waiting {
        let head = soon(client).await.expect("no panic").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
}

#[tokio::test]
async fn a_stopped_worker_is_replaced_and_its_siblings_go_on() {
    let service = unlimited().with("--hang-timeout", "2s").start();
    let mut theirs = Client::connect(&service.session_url("theirs")).await;
    theirs.send("hello").await;
    assert_eq!(theirs.count().await, 1);
    let slot = service.slot_of("theirs");
    let mut others = Vec::new();
    while others.len() < 10 {
        let name = format!("other-{}", others.len());
        let client = Client::connect(&service.session_url(&name)).await;
        if service.slot_of(&name) != slot {
            others.push((client, 0));
        }
    }
    let old = service.worker_in(slot).expect("it serves");
    let begun = Instant::now();
    kill(old, Signal::SIGSTOP).expect("a worker");
    while service.worker_in(slot).is_none_or(|pid| pid == old) {
        assert!(begun.elapsed() < Duration::from_secs(20), "not replaced");
        for (client, count) in &mut others {
            client.send("meanwhile").await;
            *count += 1;
            assert_eq!(client.count().await, *count);
        }
    }
    eprintln!("replaced after {:?}", begun.elapsed());
    assert!(!procfs::is_alive(old));
    assert!(theirs.next().await.is_err(), "its connections end with it");
    let mut theirs = Client::connect(&service.session_url("theirs")).await;
    theirs.send("again").await;
    assert_eq!(theirs.count().await, 2);
    let row = &service.status().slots[usize::from(slot)];
    assert_eq!(row.last_cause_kind, Some(Cause::Hang));
    assert!(row.last_cause.as_deref().is_some_and(|cause| cause.contains("event loop hung")), "{row:?}");
}

#[tokio::test]
async fn a_worker_that_is_stopped_with_the_lock_of_the_store_is_the_one_to_go() {
    let builder = unlimited().with("--hang-timeout", "2s");
    let trigger = builder.dir().join("stop");
    let service = builder.env("FAULT_POINT", format!("store locked:SIGSTOP:{}", trigger.display())).start();
    let mut runners = Runners::start(service.address, clients(16));
    runners.everyone_gets(10).await;
    for holders in 1..=2 {
        fs::write(&trigger, "").expect("a directory of ours");
        eventually("somebody has the lock and stops", || (!trigger.exists()).then_some(()));
        // With the lock in the hands of a stopped process nobody gets an answer, until it is killed.
        eventually_async("the holder is replaced", async || {
            let deaths: u64 = service.status().slots.iter().map(|row| row.restarts).sum();
            (deaths == holders).then_some(())
        })
        .await;
        service.wait_all_serve();
        runners.everyone_gets(10).await;
    }
    runners.stop().await;
    let status = service.status();
    let deaths: u64 = status.slots.iter().map(|row| row.restarts).sum();
    assert_eq!(deaths, 2, "a worker that only waited was killed: {:?}", status.slots);
    let hung = status.slots.iter().filter(|row| row.last_cause_kind == Some(Cause::Hang)).count();
    assert!(hung >= 1, "{:?}", status.slots);
}

#[tokio::test]
async fn a_slot_whose_workers_cannot_start_becomes_fatal_and_the_others_serve() {
    let service = Service::start(&[]);
    let (state, away) = (service.dir().join("state"), service.dir().join("away"));
    let row = || service.status().slots.swap_remove(1);
    let mut client = Client::connect(&service.session_url("stays")).await;
    while service.slot_of("stays") == 1 {
        client.leave().await;
        client = Client::connect(&service.session_url("stays")).await;
    }

    // Those that run have their files open. Who starts finds none.
    fs::rename(&state, &away).expect("a directory of ours");
    kill(service.worker_in(1).expect("all serve"), Signal::SIGKILL).expect("a worker");
    eventually("backoff", || (row().state == State::Backoff && row().retry_in_seconds.is_some()).then_some(()));
    within(Duration::from_secs(60), "FATAL", || (row().state == State::Fatal).then_some(()));
    assert!(row().lent_to.is_some(), "nobody accepts for it");
    let cause = row().last_cause.expect("a cause");
    assert!(cause.contains("exited with 1") && cause.contains(state.to_str().expect("UTF-8")), "{cause}");
    assert!(service.log().contains("slot is FATAL"));
    let page = String::from_utf8(service.ctl(&["status"]).stdout).expect("UTF-8");
    assert!(page.contains("FATAL") && page.contains(&cause[..40]), "{page}");
    connect_often(&service, 200).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);

    // `start` says why it fails, and works once the reason is gone.
    let failed = service.ctl(&["start", "1"]);
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains(&cause[..40]), "{failed:?}");
    fs::rename(&away, &state).expect("a directory of ours");
    let started = service.ctl(&["start", "1"]);
    assert!(started.status.success(), "{started:?}");
    assert_eq!(row().state, State::Serving);
    assert_eq!(row().lent_to, None);
    connect_often(&service, 50).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 2);
}

#[test]
fn a_service_whose_workers_all_cannot_start_ends_with_the_cause() {
    let mut service = Service::start(&[("--workers", "1")]);
    fs::rename(service.dir().join("state"), service.dir().join("away")).expect("a directory of ours");
    kill(service.worker_in(0).expect("it serves"), Signal::SIGKILL).expect("a worker");
    let status = service.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1));
    let last = service.log().lines().rfind(|line| !line.starts_with('{')).map(str::to_owned);
    let last = last.expect("a sentence for the operator");
    assert!(last.contains("every worker died again and again") && last.contains("state"), "{last}");
    assert!(!service.dir().join("run/blue.sock").exists(), "the control socket is left behind");
}

#[tokio::test]
async fn workers_that_lose_their_supervisor_say_bye_and_a_new_one_starts_at_once() {
    let builder = Builder::new();
    let mut service = builder.clone().listen(private_address()).start();
    let mut polite = Vec::new();
    for n in 0..20 {
        let mut client = Client::connect(&service.session_url(&format!("client-{n}"))).await;
        client.send("hello").await;
        assert_eq!(client.count().await, 1);
        polite.push(client);
    }
    let mut silent = Raw::connect(service.address, "/ws/chat/", b"").await;
    let orphans = service.worker_pids();
    assert_eq!(orphans.len(), 4);
    kill(service.pid(), Signal::SIGKILL).expect("it lives");
    service.wait(Duration::from_secs(20));

    let begun = Instant::now();
    let again = builder.listen(service.address).start();
    eprintln!("a new service after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for (n, mut client) in polite.into_iter().enumerate() {
        assert_eq!(client.json().await, serde_json::json!({"bye": true, "total": 1}));
        assert_eq!(client.close().await.map(|close| close.code.into()), Some(1001));
        let mut client = Client::connect(&again.session_url(&format!("client-{n}"))).await;
        client.send("again").await;
        assert_eq!(client.count().await, 2);
    }
    // The one that never answers is left behind.
    assert_eq!(silent.close().await.0, 1001);
    within(Duration::from_secs(20), "the end of the orphans", || {
        orphans.iter().all(|pid| !procfs::is_alive(*pid)).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

/// Clients that connect one after the other, each with a message, until they are told to stop; all must succeed.
fn keep_connecting(service: &Service, count: usize) -> Vec<JoinHandle<()>> {
    let address = service.address;
    let connect = move || async move {
        loop {
            let mut raw = Raw::connect(address, "/ws/chat/", &frame(0x81, b"hello")).await;
            let answer = raw.frame().await.expect("an answer").1;
            assert!(answer == br#"{"count":1}"# || answer.starts_with(br#"{"bye":true"#));
        }
    };
    (0..count).map(|_| tokio::spawn(connect())).collect()
}

async fn stop_connecting(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.abort();
        let outcome = task.await;
        assert!(outcome.is_err_and(|error| error.is_cancelled()), "a client was refused");
    }
}

#[tokio::test]
async fn hup_replaces_every_worker_and_refuses_nobody() {
    let service = unlimited().start();
    let connecting = keep_connecting(&service, 4);
    let mut runners = Runners::start(service.address, clients(16));
    runners.everyone_gets(10).await;
    let old: Vec<Pid> = service.worker_pids();
    service.signal(Signal::SIGHUP);
    eventually_async("fresh workers", async || {
        let now = service.worker_pids();
        (now.len() == 4 && now.iter().all(|pid| !old.contains(pid))).then_some(())
    })
    .await;
    service.wait_log("reload is done");
    runners.everyone_gets(10).await;
    runners.finish().await;
    stop_connecting(connecting).await;
    {
        let book = runners.book();
        assert_eq!((book.lost, book.unanswered, book.byes), (0, 0, 0), "connections have ended");
        assert_eq!(book.answered, book.sent);
    }
    check_totals(&service, &[&runners]).await;
    assert_eq!(service.metric("worker_restarts_total{cause=\"requested\"}"), 4.0);
    assert!(service.status().slots.iter().all(|row| row.restarts == 0));
}

#[tokio::test]
async fn ttin_and_ttou_add_and_remove_a_worker_and_refuse_nobody() {
    let service = unlimited().with("--workers", "2").start();
    let connecting = keep_connecting(&service, 4);
    let mut runners = Runners::start(service.address, clients(12));
    runners.everyone_gets(10).await;
    let serving = |count: usize| {
        let states: Vec<State> = service.status().slots.iter().map(|row| row.state).collect();
        (states.len() == count && states.iter().all(|state| *state == State::Serving)).then_some(())
    };
    for (signal, count) in [
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTIN, 4),
        (Signal::SIGTTOU, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTOU, 1),
        (Signal::SIGTTIN, 2),
    ] {
        service.signal(signal);
        eventually_async(&format!("{count} workers after {signal}"), async || serving(count)).await;
        runners.everyone_gets(10).await;
    }
    service.signal(Signal::SIGTTOU);
    eventually_async("one worker", async || serving(1)).await;
    service.signal(Signal::SIGTTOU);
    service.wait_log("0 workers are impossible");
    runners.everyone_gets(10).await;
    runners.stop().await;
    stop_connecting(connecting).await;
    let book = runners.book();
    assert_eq!((book.lost, book.unanswered), (0, 0), "connections ended without a goodbye");
    drop(book);
    assert_eq!(service.worker_pids().len(), 1);
}

#[test]
fn usr1_opens_the_log_files_anew() {
    let builder = Builder::new();
    let logs = builder.dir().join("logs");
    fs::create_dir(&logs).expect("a directory of ours");
    let address = private_address();
    let child = builder.clone().listen(address).with("--log-dir", logs.display());
    let mut child = child.command().spawn().expect("baton starts");
    let files = || -> Vec<_> {
        let entries = fs::read_dir(&logs).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
    };
    let text = |part: &str| {
        let files = files().into_iter().filter(|path| path.to_string_lossy().contains(part));
        files.map(|path| fs::read_to_string(path).unwrap_or_default()).collect::<String>()
    };
    eventually("all are ready", || (text("-supervisor").contains("\"running\"")).then_some(()));
    let old = files();
    assert_eq!(old.len(), 5, "{old:?}");
    for file in &old {
        fs::rename(file, file.with_extension("old")).expect("a file of ours");
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGUSR1).expect("it runs");
    eventually("new files", || (files().len() == 5).then_some(()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    let status = within(Duration::from_secs(20), "the end", || child.try_wait().expect("a child of ours"));
    assert!(status.success());
    for slot in 0..4 {
        let new = text(&format!("-w{slot:02}"));
        assert!(new.contains("\"draining\"") && !new.contains("\"ready\""), "{new}");
    }
    assert!(text("-supervisor").contains("\"draining\""));
}

/// Ends a service with a client that never answers, so that a drain would take seconds.
async fn ends_at_once(end: impl FnOnce(&Service)) {
    let mut service = Service::start(&[]);
    let _silent = Raw::connect(service.address, "/ws/chat/", b"").await;
    let workers = service.worker_pids();
    let begun = Instant::now();
    end(&service);
    let status = service.wait(Duration::from_secs(20));
    eprintln!("gone after {:?}", begun.elapsed());
    // A drain would have waited five seconds for the client.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(workers.iter().all(|pid| !procfs::is_alive(*pid)));
    assert!(!service.dir().join("run/blue.sock").exists());
}

#[tokio::test]
async fn quit_ends_at_once() {
    ends_at_once(|service| service.signal(Signal::SIGQUIT)).await;
}

#[tokio::test]
async fn a_second_term_ends_at_once() {
    ends_at_once(|service| {
        service.signal(Signal::SIGTERM);
        service.wait_log("worker drains");
        service.signal(Signal::SIGTERM);
    })
    .await;
}
