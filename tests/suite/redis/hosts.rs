//! Two hosts and a Redis that does what it should.

use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{patient, two};
use crate::examples::{assert_all_heard, guest, names, talk};
use crate::harness::client::{QUIET, count_together};
use crate::harness::example::example;
use crate::harness::{Client, Redis, Service, eventually};

#[tokio::test]
async fn one_session_on_all_workers_of_two_hosts_gets_every_count_once() {
    const MESSAGES: usize = 10_000;
    let redis = Redis::start();
    let hosts = two(patient, &redis);
    let mut clients = Vec::new();
    for host in &hosts {
        clients.extend(host.connect_to_all_workers("shared").await);
    }
    assert_eq!(count_together(clients, MESSAGES).await, (1..=MESSAGES as u64).collect::<Vec<_>>());
    let increments: f64 = hosts.iter().map(|host| host.metric("backplane_increments_total")).sum();
    assert_eq!(increments, MESSAGES as f64);
    let commits: f64 = hosts.iter().map(|host| host.metric("backplane_commits_total")).sum();
    eprintln!("{commits} commits");
    assert!(commits > 0.0 && commits < increments, "{commits} commits: nothing was gathered");
}

#[tokio::test]
async fn a_session_that_moves_between_hosts_goes_on_where_it_was() {
    let redis = Redis::start();
    let hosts = two(patient, &redis);
    for n in 0..20 {
        let host = &hosts[n % 2];
        let mut client = Client::connect(&host.session_url("traveller")).await;
        for m in 1..=5 {
            client.send("from here").await;
            assert_eq!(client.count().await, n as u64 * 5 + m);
        }
        client.leave().await;
    }
    // Both ways at once: each message is one more, wherever it comes in.
    let mut both = join_all(hosts.iter().map(async |host| Client::connect(&host.session_url("traveller")).await)).await;
    for n in 101..=140 {
        let client = &mut both[n as usize % 2];
        client.send("from there").await;
        assert_eq!(client.count().await, n);
    }
}

#[tokio::test]
async fn the_bye_of_a_host_has_the_total_of_all_and_its_clients_go_on_with_the_others() {
    let redis = Redis::start();
    let [mut leaving, staying] = <[Service; 2]>::try_from(two(patient, &redis)).unwrap_or_else(|_| unreachable!());
    let mut clients = Vec::new();
    for n in 1..=10 {
        let session = format!("client-{n}");
        let mut here = Client::connect(&leaving.session_url(&session)).await;
        here.send("to whom I listen").await;
        assert_eq!(here.count().await, 1);
        let mut there = Client::connect(&staying.session_url(&session)).await;
        for m in 0..n {
            there.send("while I say nothing").await;
            assert_eq!(there.count().await, 2 + m);
        }
        clients.push((session, here, n + 1));
    }
    leaving.signal(Signal::SIGTERM);
    for (session, mut client, total) in clients {
        assert_eq!(client.json().await, json!({ "bye": true, "total": total }), "{session}");
        assert_eq!(client.close().await.map(|close| close.code), Some(CloseCode::Away));
        assert_eq!(staying.count_one(&session).await, total + 1);
    }
    assert_eq!(leaving.wait(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(staying.count_one("client-1").await, 4);
}

#[tokio::test]
async fn a_session_ends_with_its_time_to_live_but_not_while_it_is_connected_anywhere() {
    let redis = Redis::start();
    let hosts = two(|| patient().with("--session-ttl", "1s"), &redis);
    let count = async |client: &mut Client| {
        client.send("hello").await;
        client.count().await
    };
    assert_eq!(hosts[0].count_one("idle").await, 1);
    let mut silent = Client::connect(&hosts[0].session_url("connected")).await;
    assert_eq!(count(&mut silent).await, 1);
    assert_eq!(hosts[1].count_one("connected").await, 2);
    let keys = redis.ask(&["KEYS", "*idle*"]);
    assert!(!keys.is_empty(), "it is there under its name");
    for key in keys.lines() {
        assert!(redis.ask(&["PTTL", key]).parse::<i64>().expect("a number") > 0, "{key} stays for ever");
    }
    // Time is what this is about: twice the time to live, and the second that it may be rounded up to.
    tokio::time::sleep(Duration::from_secs(3)).await;
    eventually("the idle one is over", || redis.ask(&["KEYS", "*idle*"]).is_empty().then_some(()));
    assert_eq!(hosts[1].count_one("idle").await, 1, "nobody was there");
    assert_eq!(hosts[1].count_one("connected").await, 3, "it was connected to the other host all the time");
    assert_eq!(count(&mut silent).await, 4);
}

#[tokio::test]
async fn a_broadcast_reaches_the_clients_of_all_hosts_once() {
    let redis = Redis::start();
    let hosts = two(patient, &redis);
    let mut clients = Vec::new();
    for host in &hosts {
        clients.extend(Client::connect_several(20, &host.url()).await);
    }
    let notices = [json!({ "notice": "naïve — ≥ 1", "n": [1, 2.5, null] }), json!("just a text"), json!(-1)];
    for (n, notice) in notices.iter().enumerate() {
        let output = hosts[n % 2].ctl(&["broadcast", &notice.to_string()]);
        assert!(output.status.success(), "{output:?}");
        // One after the other, since two hosts may publish in any order.
        for client in &mut clients {
            assert_eq!(client.json().await, *notice);
        }
    }
    for client in &mut clients {
        client.send("x").await;
        assert_eq!(client.count().await, 1, "nothing came in between");
    }
    let quiet = tokio::time::timeout(QUIET, clients[0].next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn a_disconnect_closes_a_session_on_all_hosts_and_no_other() {
    let redis = Redis::start();
    let hosts = two(patient, &redis);
    let mut others = Vec::new();
    let (mut on_both, mut elsewhere) = (Vec::new(), Vec::new());
    for host in &hosts {
        others.push(Client::connect(&host.session_url("other")).await);
        on_both.extend(Client::connect_several(5, &host.session_url("on-both")).await);
    }
    elsewhere.extend(Client::connect_several(5, &hosts[1].session_url("elsewhere")).await);
    let output = hosts[0].ctl(&["disconnect", "on-both"]);
    assert!(output.status.success(), "{output:?}");
    // What this host says of it is its own affair: it has none of them.
    hosts[0].ctl(&["disconnect", "elsewhere"]);
    for client in on_both.iter_mut().chain(&mut elsewhere) {
        let frame = client.close().await.expect("a close frame");
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Normal, "disconnected by the operator"));
    }
    for (client, expected) in others.iter_mut().zip(1..) {
        client.send("x").await;
        assert_eq!(client.count().await, expected);
    }
}

#[tokio::test]
async fn what_is_said_in_a_room_reaches_the_guests_of_all_hosts_in_the_same_order() {
    const EACH: usize = 50;
    let redis = Redis::start();
    let hosts = two(|| patient().program(example("chat_room")), &redis);
    let (tea, coffee) = (names("tea", 12), names("coffee", 4));
    let come = async |nicks: &[String], room: &str| {
        let host = |n: usize| &hosts[n % hosts.len()];
        join_all(nicks.iter().enumerate().map(|(n, nick)| guest(host(n), nick, room))).await
    };
    let (mut in_tea, mut in_coffee) = (come(&tea, "tea").await, come(&coffee, "coffee").await);
    let (heard_in_tea, heard_in_coffee) = tokio::join!(talk(&mut in_tea, EACH), talk(&mut in_coffee, EACH));
    assert_all_heard(&heard_in_tea, "tea", &tea, EACH);
    assert_all_heard(&heard_in_coffee, "coffee", &coffee, EACH);
    for host in &hosts {
        assert_eq!(host.metric("backplane_gaps_total"), 0.0);
    }
}
