//! Real processes: this program runs itself as a supervisor whose workers answer each TCP connection with their slot and
//! pid, and drives it over the control socket, by signals and by killing.
//!
//! It has no test harness, because a supervisor forks and must have one thread. Arguments filter scenarios by name.

mod driver;
mod stub;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use baton_ipc::control::{ErrorCode, Output, Relayed, Reply};
use baton_ipc::scoreboard::{Cause, State};
use nix::sys::signal::Signal;

use crate::driver::Generation;

type Scenario = (&'static str, fn());

const SCENARIOS: &[Scenario] = &[
    ("serves_and_drains", serves_and_drains),
    ("a_killed_worker_is_replaced_and_its_queue_served", a_killed_worker_is_replaced_and_its_queue_served),
    ("a_stopped_worker_is_replaced", a_stopped_worker_is_replaced),
    ("a_stopped_slot_lends_its_listener", a_stopped_slot_lends_its_listener),
    ("workers_that_cannot_start_end_the_service", workers_that_cannot_start_end_the_service),
    ("a_rolling_reload_loses_no_connection", a_rolling_reload_loses_no_connection),
    (
        "a_failing_reload_stops_at_the_first_slot_and_takes_nothing",
        a_failing_reload_stops_at_the_first_slot_and_takes_nothing,
    ),
    ("scaling_up_and_down_loses_no_connection", scaling_up_and_down_loses_no_connection),
    ("signals_scale_and_end", signals_scale_and_end),
    ("a_second_supervisor_is_refused", a_second_supervisor_is_refused),
    ("a_killed_supervisor_is_replaced_at_once", a_killed_supervisor_is_replaced_at_once),
    ("questions_are_gathered", questions_are_gathered),
    ("a_degraded_backplane_is_told_of_until_it_is_well", a_degraded_backplane_is_told_of_until_it_is_well),
    ("a_worker_holds_only_what_is_its_own", a_worker_holds_only_what_is_its_own),
    ("nonsense_on_the_control_socket_hurts_nothing", nonsense_on_the_control_socket_hurts_nothing),
    ("a_worker_that_does_not_drain_is_killed", a_worker_that_does_not_drain_is_killed),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == stub::SERVE) {
        std::process::exit(stub::serve(&arguments[1..]));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        SCENARIOS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let filter: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for (name, scenario) in SCENARIOS {
        if filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str())) {
            let began = Instant::now();
            scenario();
            println!("test {name} ... ok ({:.1} s)", began.elapsed().as_secs_f64());
        }
    }
}

fn serves_and_drains() {
    let mut generation = Generation::start(3, &[]);
    let status = generation.status();
    assert_eq!((status.phase.as_str(), status.color.as_str(), status.slots.len()), ("running", "blue", 3));
    let slots: BTreeSet<u16> = (0..200).map(|_| generation.visit().0).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2]), "the kernel spreads connections over all slots");
    let Reply::Done { output: Output::Text { .. } } = generation.ask(r#""command":"shutdown""#) else { panic!() };
    assert_eq!(generation.exit_code(), 0);
    assert!(!generation.socket().exists(), "the control socket is removed");
}

fn a_killed_worker_is_replaced_and_its_queue_served() {
    let generation = Generation::start(2, &[]);
    let before = generation.pids();
    let began = Instant::now();
    generation.ask(r#""command":"signal","signal":"KILL","slots":[1]"#);
    // Connections go on all the while; those of the dead worker's queue are answered by the new one.
    while generation.visit().1 != generation.pids()[1] || generation.pids()[1] == before[1] {}
    assert!(began.elapsed() < Duration::from_secs(1), "replaced within a second");
    let slot = &generation.status().slots[1];
    assert_eq!((slot.restarts, slot.last_cause_kind), (1, Some(Cause::Signal)));
    assert!(slot.last_cause.as_ref().unwrap().contains("SIGKILL"));
    assert_eq!(generation.pids()[0], before[0], "nothing else notices");
}

fn a_stopped_worker_is_replaced() {
    let generation = Generation::start(2, &[("HANG_MS", "1500")]);
    let before = generation.pids();
    generation.ask(r#""command":"signal","signal":"STOP","slots":[0]"#);
    let status = generation.wait_for("a fresh worker in slot 0", |status| {
        status.slots[0].state == State::Serving && status.slots[0].pid != Some(before[0])
    });
    assert_eq!(status.slots[0].last_cause_kind, Some(Cause::Hang));
    assert_eq!(status.slots[1].pid, Some(before[1]));
}

fn a_stopped_slot_lends_its_listener() {
    let generation = Generation::start(2, &[]);
    generation.ask(r#""command":"stop","slots":[0]"#);
    let slot = &generation.status().slots[0];
    assert_eq!((slot.state, slot.lent_to), (State::Stopped, Some(1)));
    (0..100).for_each(|_| assert_eq!(generation.visit().0, 1));
    generation.ask(r#""command":"start","slots":[0]"#);
    generation.wait_for("the listener to be returned", |status| status.slots[0].lent_to.is_none());
    while generation.visit().0 != 0 {}
}

fn workers_that_cannot_start_end_the_service() {
    // The breaker takes about 20 s of backoff: one generation where all slots fail, one where the others go on.
    let mut hopeless = Generation::launch(1, &[("FAIL", "1")]);
    let generation = Generation::launch(2, &[("FAIL", "1")]);
    generation.wait_for("the cause to show", |status| {
        status.slots[0].last_cause.as_deref().is_some_and(|cause| cause.contains("told to fail"))
    });
    generation.allow_starts();
    generation.ask(r#""command":"start","slots":[]"#);
    generation.wait_for("all to serve", |status| status.slots.iter().all(|slot| slot.state == State::Serving));
    generation.forbid_starts();
    generation.ask(r#""command":"signal","signal":"KILL","slots":[0]"#);
    let status = generation.wait_for("slot 0 to give up", |status| status.slots[0].state == State::Fatal);
    assert_eq!(status.slots[1].state, State::Serving, "the others go on");
    assert_eq!(status.slots[0].lent_to, Some(1));
    assert_eq!(hopeless.exit_code(), 1, "all slots are fatal");
    generation.allow_starts();
    assert!(matches!(generation.ask(r#""command":"start","slots":[0]"#), Reply::Done { .. }), "start clears it");
}

fn a_rolling_reload_loses_no_connection() {
    let generation = Generation::start(2, &[]);
    let before = generation.pids();
    let mut reload = generation.connect();
    driver::send(&mut reload, r#""command":"reload""#);
    let busy = generation.ask(r#""command":"restart","slots":[]"#);
    assert!(matches!(busy, Reply::Error { code: ErrorCode::Busy, .. }), "one long operation at a time: {busy:?}");
    let visits = (0..500).filter(|_| generation.visit().1 != 0).count();
    assert_eq!(visits, 500);
    assert!(matches!(driver::answer(&mut reload), Reply::Done { .. }));
    assert!(generation.pids().iter().all(|pid| !before.contains(pid)));
}

fn a_failing_reload_stops_at_the_first_slot_and_takes_nothing() {
    let generation = Generation::start(2, &[]);
    let before = generation.pids();
    generation.forbid_starts();
    let answer = generation.ask(r#""command":"reload""#);
    let Reply::Error { code: ErrorCode::Failed, message } = answer else { panic!("{answer:?}") };
    assert!(message.contains("slot 0") && message.contains("told to fail"), "{message}");
    assert_eq!(generation.pids(), before, "those who served serve on");
    (0..50).for_each(|_| assert_ne!(generation.visit().1, 0));
}

fn scaling_up_and_down_loses_no_connection() {
    let generation = Generation::start(1, &[]);
    assert!(matches!(generation.ask(r#""command":"scale","workers":3"#), Reply::Done { .. }));
    while generation.visit().0 != 2 {}
    assert!(matches!(generation.ask(r#""command":"scale","workers":1"#), Reply::Done { .. }));
    (0..100).for_each(|_| assert_eq!(generation.visit().0, 0));
    let status = generation.status();
    let states: Vec<State> = status.slots.iter().map(|slot| slot.state).collect();
    assert_eq!(states, [State::Serving], "a slot that was scaled away is not told of");
    let refused = generation.ask(r#""command":"start","slots":[2]"#);
    assert!(matches!(refused, Reply::Error { code: ErrorCode::NotFound, .. }), "{refused:?}");
    assert!(matches!(generation.ask(r#""command":"scale","workers":2"#), Reply::Done { .. }));
    while generation.visit().0 != 1 {}
}

fn signals_scale_and_end() {
    let mut generation = Generation::start(1, &[]);
    generation.signal(Signal::SIGTTIN);
    generation.wait_for("a second worker", |status| status.slots.get(1).is_some_and(|s| s.state == State::Serving));
    generation.signal(Signal::SIGTTOU);
    generation.wait_for("one worker", |status| status.slots.len() == 1);
    let before = generation.pids();
    generation.signal(Signal::SIGHUP);
    generation.wait_for("a fresh worker", |status| {
        status.slots[0].state == State::Serving && status.slots[0].pid != Some(before[0])
    });
    generation.signal(Signal::SIGUSR1);
    generation.signal(Signal::SIGUSR2);
    generation.signal(Signal::SIGTERM);
    assert_eq!(generation.exit_code(), 0);
}

fn a_second_supervisor_is_refused() {
    let generation = Generation::start(1, &[]);
    let (code, text) = generation.start_another("blue", "127.0.0.1:0");
    assert_eq!(code, 1);
    assert!(text.contains(&format!("blue already runs with pid {}", generation.pid())), "{text}");
    let (code, text) = generation.start_another("green", &generation.address().to_string());
    assert_eq!(code, 1);
    assert!(text.contains("address already in use"), "{text}");
    generation.visit();
    generation.status();
}

fn a_killed_supervisor_is_replaced_at_once() {
    let mut generation = Generation::start(2, &[]);
    let address = generation.address();
    generation.signal(Signal::SIGKILL);
    generation.exit_code();
    let generation = generation.restart_on(address);
    assert_eq!(generation.address(), address);
    generation.visit();
}

fn questions_are_gathered() {
    let generation = Generation::start(3, &[]);
    let reached = |connections, workers| {
        let output = Output::Reached { connections, workers, relayed: Some(Relayed::Sent) };
        Reply::Done { output }
    };
    let broadcast = r#""command":"broadcast","message":{"hello":1}"#;
    assert_eq!(generation.ask(broadcast), reached(102, 3), "exactly one passes it on");
    assert_eq!(generation.ask(r#""command":"disconnect","session":"s""#), reached(102, 3));
    let answer = generation.ask(r#""command":"connections","order":"biggest","limit":2"#);
    let Reply::Done { output: Output::Connections { total, rows } } = answer else { panic!("{answer:?}") };
    assert_eq!((total, rows.iter().map(|row| row.slot).collect::<Vec<_>>()), (3, vec![2, 1]));
    let answer = generation.ask(r#""command":"backplane""#);
    let Reply::Done { output: Output::Backplane { rows } } = answer else { panic!("{answer:?}") };
    assert_eq!(rows.iter().map(|row| row.slot).collect::<Vec<_>>(), [0, 1, 2]);
    let answer = generation.ask(r#""command":"signal","signal":"TERM","slots":[]"#);
    assert!(matches!(answer, Reply::Error { code: ErrorCode::NotFound, .. }));
    generation.ask(r#""command":"stop","slots":[0]"#);
    assert_eq!(generation.ask(broadcast), reached(101, 2), "whoever is there");
}

fn a_degraded_backplane_is_told_of_until_it_is_well() {
    let generation = Generation::start(3, &[]);
    assert_eq!(generation.status().backplane_degraded, None);
    let slots_are = |wanted: &[u16]| {
        let status = generation.wait_for("the slots that complain", |status| {
            status.backplane_degraded.as_ref().map_or(&[][..], |degraded| &degraded.slots) == wanted
        });
        status.backplane_degraded
    };
    generation.degrade(2, Some("unreachable"));
    slots_are(&[2]);
    std::thread::sleep(Duration::from_millis(300));
    generation.degrade(0, Some("loading"));
    assert_eq!(slots_are(&[0, 2]).unwrap().reason, "loading", "the first one's");
    generation.degrade(2, None);
    let since = slots_are(&[0]).unwrap().since_seconds;
    assert!(since >= 0.3, "without interruption: {since}");
    // What a worker said goes with it.
    generation.ask(r#""command":"stop","slots":[0]"#);
    slots_are(&[]);
    generation.ask(r#""command":"start","slots":[0]"#);
    assert_eq!(slots_are(&[0]).unwrap().reason, "loading");
    generation.degrade(0, None);
    slots_are(&[]);
}

fn a_worker_holds_only_what_is_its_own() {
    let generation = Generation::start(3, &[]);
    let mut client = generation.connect();
    driver::send(&mut client, r#""command":"version""#);
    driver::answer(&mut client);
    // Forked while a client is connected.
    generation.ask(r#""command":"restart","slots":[1]"#);
    let pid = generation.pids()[1];
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "baton-w1");
    let mut open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    open.sort();
    let sockets = open.iter().filter(|target| target.starts_with("socket:")).count();
    assert_eq!(sockets, 2, "the channel and one listener: {open:?}");
    assert!(!open.iter().any(|target| target.contains("signalfd") || target.contains("pidfd")), "{open:?}");
}

fn a_worker_that_does_not_drain_is_killed() {
    let mut generation = Generation::start(2, &[("DEAF", "1"), ("DRAIN_MS", "300")]);
    let began = Instant::now();
    generation.signal(Signal::SIGTERM);
    assert_eq!(generation.exit_code(), 0);
    assert!(began.elapsed() < Duration::from_secs(3));
    let mut generation = Generation::start(2, &[("DEAF", "1")]);
    let began = Instant::now();
    generation.signal(Signal::SIGINT);
    generation.wait_for("the drain", |status| status.phase == "draining");
    generation.signal(Signal::SIGINT);
    assert_eq!(generation.exit_code(), 0, "a second signal ends at once");
    assert!(began.elapsed() < Duration::from_secs(3));
}

fn nonsense_on_the_control_socket_hurts_nothing() {
    let generation = Generation::start(1, &[]);
    let mut half = generation.connect();
    half.get_mut().write_all(b"{\"version\":1,\"comm").unwrap();
    let mut client = generation.connect();
    client.get_mut().write_all(b"\xff\0garbage\n").unwrap();
    assert!(matches!(driver::answer(&mut client), Reply::Error { code: ErrorCode::BadRequest, .. }));
    driver::send(&mut client, r#""command":"version""#);
    assert!(matches!(driver::answer(&mut client), Reply::Done { .. }), "usable after garbage");
    let mut huge = generation.connect();
    // The refusal may come before all is written.
    let _ = huge.get_mut().write_all(&vec![b'x'; 1 << 20]);
    assert!(matches!(driver::answer(&mut huge), Reply::Error { code: ErrorCode::BadRequest, .. }));
    let mut deaf: Vec<_> = (0..3).map(|_| generation.connect()).collect();
    deaf.iter_mut().for_each(|client| driver::send(client, r#""command":"status""#));
    drop(deaf);
    generation.status();
    assert!(matches!(driver::answer(&mut half), Reply::Error { code: ErrorCode::BadRequest, .. }), "timed out");
}
