//! The examples, run like the real thing.

use std::collections::BTreeSet;

use futures_util::SinkExt;
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::example::example;
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually};

fn chat() -> Service {
    Builder::new().program(example("chat_room")).start()
}

/// A guest, named and in a room.
pub(crate) async fn guest(service: &Service, nick: &str, room: &str) -> Client {
    guest_at(&service.session_url(nick), nick, room).await
}

/// The same, without the service at hand.
pub(crate) async fn guest_at(url: &str, nick: &str, room: &str) -> Client {
    let mut client = Client::connect(url).await;
    assert_eq!(client.json().await["room"], "lobby", "the welcome");
    client.send(&format!("/nick {nick}")).await;
    assert_eq!(client.json().await, json!({ "nick": nick }));
    client.send(&format!("/join {room}")).await;
    assert_eq!(client.json().await, json!({ "room": room }));
    client
}

/// Each says so much at once; what each has heard, in order, when all has been said.
pub(crate) async fn talk(guests: &mut [Client], each: usize) -> Vec<Vec<Value>> {
    let total = guests.len() * each;
    let heard = guests.iter_mut().map(async |client| {
        for n in 0..each {
            client.send(&format!("line {n}")).await;
        }
        let mut heard = Vec::with_capacity(total);
        for _ in 0..total {
            heard.push(client.json().await);
        }
        heard
    });
    join_all(heard).await
}

fn line(room: &str, from: &str, n: usize) -> Value {
    json!({ "room": room, "from": from, "text": format!("line {n}") })
}

/// Everyone has heard every line once, in the same order, and nobody's lines out of order.
#[track_caller]
pub(crate) fn assert_all_heard(heard: &[Vec<Value>], room: &str, nicks: &[String], each: usize) {
    for (index, other) in heard.iter().enumerate() {
        assert!(other == &heard[0], "guest {index} has heard another order than the first");
    }
    for nick in nicks {
        let theirs: Vec<&Value> = heard[0].iter().filter(|line| line["from"] == **nick).collect();
        let said: Vec<Value> = (0..each).map(|n| line(room, nick, n)).collect();
        assert_eq!(theirs, said.iter().collect::<Vec<_>>());
    }
}

fn slots(service: &Service, nicks: &[String]) -> BTreeSet<u16> {
    let rows = service.connections();
    rows.iter().filter(|row| nicks.contains(&row.session_uuid)).map(|row| row.slot).collect()
}

pub(crate) fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{prefix}{n}")).collect()
}

#[tokio::test]
async fn what_is_said_in_a_room_reaches_everyone_in_it_in_the_same_order() {
    const EACH: usize = 50;
    let service = chat();
    let (tea, coffee) = (names("tea", 12), names("coffee", 4));
    let mut in_tea = join_all(tea.iter().map(|nick| guest(&service, nick, "tea"))).await;
    let mut in_coffee = join_all(coffee.iter().map(|nick| guest(&service, nick, "coffee"))).await;
    assert!(slots(&service, &tea).len() > 1, "all guests on one worker");

    // Both rooms at once, on all workers.
    let (heard_in_tea, heard_in_coffee) = tokio::join!(talk(&mut in_tea, EACH), talk(&mut in_coffee, EACH));
    assert_all_heard(&heard_in_tea, "tea", &tea, EACH);
    assert_all_heard(&heard_in_coffee, "coffee", &coffee, EACH);

    // Who has left a room hears no more of it, and the next thing said is the next thing heard.
    let mut left = in_tea.pop().expect("a guest");
    left.send("/join coffee").await;
    assert_eq!(left.json().await, json!({ "room": "coffee" }));
    in_tea[0].send("line 1000").await;
    for client in &mut in_tea {
        assert_eq!(client.json().await, line("tea", "tea0", 1000));
    }
    in_coffee[0].send("line 2000").await;
    for client in in_coffee.iter_mut().chain([&mut left]) {
        assert_eq!(client.json().await, line("coffee", "coffee0", 2000));
    }
}

#[tokio::test]
async fn what_is_too_long_for_a_client_is_refused_and_reaches_nobody() {
    let service = chat();
    let mut guests = join_all(names("guest", 4).iter().map(|nick| guest(&service, nick, "tea"))).await;
    guests[0].send(&"x".repeat(300 << 10)).await;
    let refusal = guests[0].json().await;
    assert_eq!(refusal["error"], "not_published", "{refusal}");
    let detail = refusal["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("262144"), "the limit: {refusal}");
    guests[0].send("line 1").await;
    for guest in &mut guests {
        assert_eq!(guest.json().await, line("tea", "guest0", 1));
    }
}

#[tokio::test]
async fn a_room_goes_on_when_a_worker_is_killed_and_its_replacement_joins_in() {
    const EACH: usize = 20;
    let service = chat();
    let nicks = names("guest", 12);
    let mut guests = join_all(nicks.iter().map(|nick| guest(&service, nick, "tea"))).await;
    let slot = service.slot_of(&nicks[0]);
    let victim = service.worker_in(slot).expect("a pid");
    let lost: Vec<String> = nicks.iter().filter(|nick| service.slot_of(nick) == slot).cloned().collect();
    assert!(lost.len() < nicks.len(), "all guests on one worker");
    kill(victim, Signal::SIGKILL).expect("a worker");
    for (client, nick) in guests.iter_mut().zip(&nicks) {
        if lost.contains(nick) {
            client.next().await.expect_err("the connection went with its worker");
        }
    }
    let mut kept = lost.iter().fold(guests, |mut guests, nick| {
        guests.retain(|client| client.session() != *nick);
        guests
    });
    // Without those who were lost the room goes on...
    let nicks: Vec<String> = kept.iter().map(Client::session).collect();
    assert_all_heard(&talk(&mut kept, EACH).await, "tea", &nicks, EACH);

    // ...and who comes to the new worker is as much in it as anyone.
    eventually("a new worker", || service.worker_in(slot).filter(|pid| *pid != victim));
    let mut nicks = nicks;
    let mut newcomers = 0;
    while newcomers < 2 {
        let nick = format!("new{}", nicks.len());
        kept.push(guest(&service, &nick, "tea").await);
        newcomers += usize::from(service.slot_of(&nick) == slot);
        nicks.push(nick);
        assert!(nicks.len() < 200, "nobody comes to the new worker");
    }
    assert_all_heard(&talk(&mut kept, EACH).await, "tea", &nicks, EACH);
}

#[tokio::test]
async fn echo_sends_back_what_came_and_nothing_else() {
    let service = Builder::new().program(example("echo")).with("--heartbeat-interval", "100ms").start();
    let mut client = Client::connect(&service.url()).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = every_byte.iter().copied().cycle().take(1 << 20).collect();
    let messages = [
        Message::text("hello"),
        Message::text("{no json"),
        Message::text(""),
        Message::text("né 💥"),
        Message::binary(every_byte),
        Message::binary(Vec::new()),
        Message::binary(large),
        Message::text("x".repeat(1 << 20)),
    ];
    for message in &messages {
        client.socket.send(message.clone()).await.expect("the connection is open");
        let echo = client.next().await.expect("an echo");
        assert!(echo == *message, "{} bytes came back for {}", echo.len(), message.len());
    }
    // All at once, text and binary, in order.
    for message in &messages[..6] {
        client.socket.feed(message.clone()).await.expect("the connection is open");
    }
    client.socket.flush().await.expect("the connection is open");
    for message in &messages[..6] {
        assert_eq!(client.next().await.expect("an echo"), *message);
    }
    // No heartbeats, though several have been due, and no bye.
    eventually("heartbeats", || (service.metric("heartbeats_total{source=\"local\"}") >= 8.0).then_some(()));
    client.send("after some heartbeats").await;
    assert_eq!(client.next().await.expect("an echo"), Message::text("after some heartbeats"));
    service.signal(Signal::SIGTERM);
    let Ok(Message::Close(Some(close))) = client.next().await else { panic!("no close") };
    assert_eq!(close.code, CloseCode::Away);
}
