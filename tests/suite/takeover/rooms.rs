//! Who is in a room hears everything that is said there, once and in order, wherever its connection is meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::runtime;

use super::{Succession, assert_complete};
use crate::examples::{guest_at, names};
use crate::harness::example::example;
use crate::harness::service::Builder;
use crate::harness::{Client, eventually};

/// Beside the one who speaks.
const LISTENERS: usize = 8;

/// The one who speaks is so many lines ahead of what it hears: more would be output that nobody takes.
const AHEAD: usize = 64;

/// So many lines are said before the next thing is done.
const LINES: usize = 200;

/// Different numbers of workers.
const WORKERS: [u32; 4] = [3, 1, 4, 2];

/// What the test and the room tell each other.
#[derive(Default)]
struct Talk {
    /// Lines that the one who speaks has heard itself.
    heard: AtomicUsize,
    members: AtomicUsize,
    over: AtomicBool,
}

const NICK: &str = "speaker";

/// What is said when all is said.
const LAST: &str = "that is all";

fn said(text: &str) -> Value {
    json!({ "room": "tea", "from": NICK, "text": text })
}

fn line(n: usize) -> Value {
    said(&format!("line {n}"))
}

/// Says one line after the other without pause, until the talk is over; how many that were.
async fn speak(mut client: Client, talk: &Talk) -> usize {
    let (mut sent, mut heard) = (0, 0);
    loop {
        let over = talk.over.load(Ordering::Relaxed);
        while !over && sent < heard + AHEAD {
            client.send(&format!("line {sent}")).await;
            sent += 1;
        }
        if over && heard == sent {
            break;
        }
        assert_eq!(client.json().await, line(heard));
        heard += 1;
        talk.heard.store(heard, Ordering::Relaxed);
    }
    client.send(LAST).await;
    assert_eq!(client.json().await, said(LAST));
    client.leave().await;
    sent
}

/// Hears everything; how many lines that were.
async fn listen(mut client: Client) -> usize {
    let mut heard = 0;
    loop {
        let next = client.json().await;
        if next == said(LAST) {
            break;
        }
        assert_eq!(next, line(heard));
        heard += 1;
    }
    client.leave().await;
    heard
}

/// All who are in the room, until the talk is over.
async fn room(url: String, talk: &Talk) {
    let enter = async |nick: &str| {
        let client = guest_at(&format!("{url}?session_uuid={nick}"), nick, "tea").await;
        talk.members.fetch_add(1, Ordering::Relaxed);
        client
    };
    let nicks = names("listener", LISTENERS);
    let listeners = join_all(nicks.iter().map(|nick| enter(nick))).await;
    let speaker = enter(NICK).await;
    let listen = join_all(listeners.into_iter().map(listen));
    let (said, heard) = tokio::join!(speak(speaker, talk), listen);
    assert!(said >= LINES && heard.iter().all(|heard| *heard == said), "{said} lines: {heard:?}");
}

#[test]
fn everyone_in_a_room_hears_everything_once_and_in_order() {
    let program = Builder::new().program(example("chat_room"));
    let mut generations = Succession::begin(program.with("--workers", 3).with("--max-message-rate", "none"));
    let talk = Arc::<Talk>::default();
    // What is done to the service is waited for, and they must not wait meanwhile.
    let (url, shared) = (generations.serving.url(), Arc::clone(&talk));
    let members = std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(room(url, &shared));
    });
    eventually("all are there", || (talk.members.load(Ordering::Relaxed) == LISTENERS + 1).then_some(()));
    let go_on = || {
        let goal = talk.heard.load(Ordering::Relaxed) + LINES;
        eventually("more is said", || {
            (talk.heard.load(Ordering::Relaxed) >= goal || members.is_finished()).then_some(())
        });
    };
    // On all workers.
    assert!(generations.serving.ctl(&["rebalance"]).status.success());
    assert!(generations.serving.status().slots.iter().all(|slot| slot.connections == 3));
    for workers in WORKERS {
        go_on();
        let restarted = generations.serving.ctl(&["restart", "all"]);
        assert!(restarted.status.success(), "{restarted:?}");
        go_on();
        let receipt = generations.advance(|builder| builder.with("--workers", workers));
        assert_complete(&receipt);
        assert_eq!(receipt.handed as usize, LISTENERS + 1);
    }
    go_on();
    talk.over.store(true, Ordering::Relaxed);
    members.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
