//! Every state against every event, and random lives.

use proptest::prelude::*;

use super::*;
use crate::backoff::BREAKER;

const TERMS: Terms = Terms { start_timeout: Duration::from_secs(30), drain_timeout: Duration::from_secs(8) };

fn pid() -> Pid {
    Pid::from_raw(7)
}

fn exited() -> Event {
    Event::Exited { cause: Cause::Exit, words: "exited with 3".into() }
}

fn every_event() -> Vec<Event> {
    vec![
        Event::Due,
        Event::Forked { pid: pid() },
        Event::ForkFailed,
        Event::Ready,
        exited(),
        Event::Lost,
        Event::Hung,
        Event::Start,
        Event::Stop,
        Event::Restart,
        Event::Kill,
    ]
}

/// The table: one row a state, one cell an event, in the order of [`every_event`]. Deadlines lie in the past for
/// the capital letters of `Due`, so every `Due` here is one that matters.
#[test]
fn every_state_meets_every_event() {
    use State::{Backoff as B, Draining as D, Fatal as F, Killed as K, Serving as R, Starting as S, Stopped as X};
    let now = Instant::now();
    let states = [
        Slot::Vacant { retry_at: now },
        Slot::Starting { pid: pid(), deadline: now },
        Slot::Serving { pid: pid(), since: now },
        Slot::Draining { pid: pid(), deadline: now, next: Next::Restart },
        Slot::Killed { pid: pid(), deadline: now, why: Some(Cause::Hang), next: Next::Stop },
        Slot::Stopped,
        Slot::Fatal { cause: "why".into() },
    ];
    #[rustfmt::skip]
    let table = [
        //        Due Forked Failed Ready Exited Lost Hung Start Stop Restart Kill
        /* B */ [ B,  S,     B,     B,    B,     B,   B,   B,    X,   B,      X ],
        /* S */ [ K,  S,     S,     R,    B,     K,   K,   S,    D,   D,      K ],
        /* R */ [ R,  R,     R,     R,    B,     K,   K,   R,    D,   D,      K ],
        /* D */ [ K,  D,     D,     D,    B,     D,   K,   D,    D,   D,      K ],
        /* K */ [ K,  K,     K,     K,    X,     K,   K,   K,    K,   K,      K ],
        /* X */ [ X,  X,     X,     X,    X,     X,   X,   B,    X,   B,      X ],
        /* F */ [ F,  F,     F,     F,    F,     F,   F,   B,    X,   B,      X ],
    ];
    for (state, row) in states.iter().zip(table) {
        for (event, expected) in every_event().into_iter().zip(row) {
            let (next, _) = step(state.clone(), &mut Deaths::none(1), event.clone(), now, &TERMS);
            assert_eq!(next.state(), expected, "{state:?} × {event:?}");
        }
    }
}

fn actions(slot: Slot, event: Event, now: Instant) -> Vec<Action> {
    step(slot, &mut Deaths::none(1), event, now, &TERMS).1
}

#[test]
fn what_has_to_be_done() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let serving = Slot::Serving { pid: pid(), since: now };
    assert_eq!(actions(Slot::Vacant { retry_at: later }, Event::Due, now), []);
    assert_eq!(actions(Slot::Vacant { retry_at: now }, Event::Due, now), [Action::Fork]);
    assert_eq!(actions(serving.clone(), Event::Hung, now), [Action::Signal(Signal::SIGABRT)]);
    assert_eq!(actions(serving.clone(), Event::Kill, now), [Action::Signal(Signal::SIGKILL)]);
    assert_eq!(actions(serving.clone(), Event::Stop, now), [Action::Drain { within: TERMS.drain_timeout }]);
    let died = Action::Ended { cause: Cause::Exit, words: "exited with 3".into() };
    assert_eq!(actions(serving, exited(), now), [died]);
    let late = Slot::Starting { pid: pid(), deadline: now };
    assert_eq!(actions(late, Event::Due, now), [Action::Signal(Signal::SIGKILL)]);
}

#[test]
fn a_hung_worker_is_aborted_then_killed_and_counted_as_hung() {
    let (mut now, mut deaths) = (Instant::now(), Deaths::none(1));
    let (slot, _) = step(Slot::Serving { pid: pid(), since: now }, &mut deaths, Event::Hung, now, &TERMS);
    now += ABORT_GRACE;
    let (slot, actions) = step(slot, &mut deaths, Event::Due, now, &TERMS);
    assert_eq!(actions, [Action::Signal(Signal::SIGKILL)]);
    let killed = Event::Exited { cause: Cause::Signal, words: "killed by SIGKILL".into() };
    let (slot, actions) = step(slot, &mut deaths, killed, now, &TERMS);
    assert!(matches!(&actions[..], [Action::Ended { cause: Cause::Hang, .. }]));
    assert_eq!(slot, Slot::Vacant { retry_at: now }, "the first death is answered at once");
}

#[test]
fn a_crash_seen_first_on_the_channel_is_still_told_by_its_exit_status() {
    let (now, mut deaths) = (Instant::now(), Deaths::none(1));
    let (slot, actions) = step(Slot::Serving { pid: pid(), since: now }, &mut deaths, Event::Lost, now, &TERMS);
    assert_eq!(actions, []);
    let killed = Event::Exited { cause: Cause::Signal, words: "killed by SIGSEGV".into() };
    let (slot, actions) = step(slot, &mut deaths, killed, now, &TERMS);
    assert_eq!(actions, [Action::Ended { cause: Cause::Signal, words: "killed by SIGSEGV".into() }]);
    assert_eq!(slot, Slot::Vacant { retry_at: now });
}

#[test]
fn an_operator_may_change_their_mind_during_a_drain() {
    let (now, mut deaths) = (Instant::now(), Deaths::none(1));
    let draining = Slot::Draining { pid: pid(), deadline: now + TERMS.drain_timeout, next: Next::Restart };
    let (slot, _) = step(draining, &mut deaths, Event::Stop, now, &TERMS);
    let (slot, _) = step(slot, &mut deaths, exited(), now, &TERMS);
    assert_eq!(slot, Slot::Stopped);
}

#[test]
fn fatal_names_the_last_cause_and_start_clears_it() {
    let (mut now, mut deaths) = (Instant::now(), Deaths::none(1));
    let mut slot = Slot::Vacant { retry_at: now };
    for death in 1..=BREAKER {
        now = slot.deadline().unwrap();
        slot = step(slot, &mut deaths, Event::Forked { pid: pid() }, now, &TERMS).0;
        slot = step(slot, &mut deaths, exited(), now, &TERMS).0;
        assert_eq!(matches!(slot, Slot::Fatal { .. }), death == BREAKER);
    }
    assert_eq!(slot, Slot::Fatal { cause: "exited with 3".into() });
    slot = step(slot, &mut deaths, Event::Start, now, &TERMS).0;
    slot = step(slot, &mut deaths, Event::Forked { pid: pid() }, now, &TERMS).0;
    assert_eq!(step(slot, &mut deaths, exited(), now, &TERMS).0, Slot::Vacant { retry_at: now });
}

/// What the world may do to a slot; forks and exits come only where there can be some.
#[derive(Clone, Copy, Debug)]
enum Chance {
    Time(u64),
    Exit,
    News(usize),
}

fn chance() -> impl Strategy<Value = Chance> {
    let news = vec![3, 5, 6, 7, 8, 9, 10]; // neither Due, nor Forked, ForkFailed, Exited
    prop_oneof![
        4 => (0u64..40_000).prop_map(Chance::Time),
        3 => Just(Chance::Exit),
        4 => proptest::sample::select(news).prop_map(Chance::News),
    ]
}

proptest! {
    #[test]
    fn random_lives_keep_the_rules(chances in proptest::collection::vec(chance(), 1..300)) {
        let (mut now, mut deaths) = (Instant::now(), Deaths::none(1));
        let mut slot = Slot::Vacant { retry_at: now };
        let mut alive: Option<Pid> = None;
        let mut next_pid = 1;
        let mut unasked = 0;
        for chance in chances {
            let event = match chance {
                Chance::Time(ms) => { now += Duration::from_millis(ms); Event::Due }
                Chance::Exit if alive.is_some() => { alive = None; exited() }
                Chance::Exit => Event::ForkFailed,
                Chance::News(index) => every_event().swap_remove(index),
            };
            let before = slot.clone();
            let mut events = vec![event];
            while let Some(event) = events.pop() {
                if matches!(event, Event::Start | Event::Restart) && alive.is_none() { unasked = 0; }
                let (next, actions) = step(slot, &mut deaths, event.clone(), now, &TERMS);
                slot = next;
                for action in actions {
                    match action {
                        Action::Fork => {
                            prop_assert!(alive.is_none(), "a second worker in one slot");
                            alive = Some(Pid::from_raw(next_pid));
                            next_pid += 1;
                            events.push(Event::Forked { pid: Pid::from_raw(next_pid - 1) });
                        }
                        Action::Drain { .. } | Action::Signal(_) => prop_assert!(alive.is_some(), "nobody is there"),
                        Action::Ended { cause, .. } => {
                            let exited = matches!(event, Event::Exited { .. });
                            prop_assert!(exited, "an end without an exit");
                            unasked += usize::from(cause != Cause::Requested);
                        }
                    }
                }
            }
            prop_assert_eq!(slot.pid(), alive, "the slot knows its process, and only that");
            if matches!(slot, Slot::Fatal { .. }) && !matches!(before, Slot::Fatal { .. }) {
                prop_assert!(unasked >= BREAKER, "given up after {} deaths", unasked);
            }
            if matches!(before, Slot::Killed { .. }) && !matches!(slot, Slot::Killed { .. }) {
                prop_assert_eq!(before.pid().is_some(), true);
                prop_assert!(matches!(chance, Chance::Exit), "only an exit ends Killed");
            }
            let waits = !matches!(slot, Slot::Serving { .. } | Slot::Stopped | Slot::Fatal { .. });
            prop_assert_eq!(slot.deadline().is_some(), waits);
        }
    }
}
