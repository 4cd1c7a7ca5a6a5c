//! Redis as several: Sentinel and Cluster, whose parts die and move.

use super::{Crowd, backplane, host, wait_backplane, wait_whole};
use crate::harness::redis::{Cluster, Sentinel};
use crate::harness::{Client, Service, eventually_async};

#[tokio::test]
async fn a_failover_by_sentinels_is_not_noticed() {
    let mut lab = Sentinel::start();
    let service = || host().with("--redis-url", lab.url());
    // Alone in their sessions: what the dead master had not told its replica yet, only these connections know.
    let mut crowd = Crowd::alone_on(vec![service().start(), service().start()]).await;
    let new = service();
    lab.fail_over();
    crowd.everyone_gets(20).await;
    for host in &crowd.hosts {
        wait_whole(host).await;
    }
    // Written by the new one, and not kept for the old one.
    let successor = &lab.servers[1];
    let before: u64 = successor.info("total_commands_processed").parse().expect("a number");
    crowd.everyone_gets(100).await;
    let after: u64 = successor.info("total_commands_processed").parse().expect("a number");
    assert!(after > before + 20, "{before}, then {after} commands by the new master");
    lab.bring_back();
    crowd.everyone_gets(20).await;
    crowd.finish().await;
    crowd.assert_unnoticed(2);
    crowd.check_totals(new).await;
}

#[tokio::test]
async fn a_master_that_is_stopped_is_replaced_and_does_not_get_the_service_back() {
    let lab = Sentinel::start();
    let service = || host().with("--redis-url", lab.url());
    let mut crowd = Crowd::alone_on(vec![service().start()]).await;
    let new = service();
    // To those who are connected to it, it is still there: no connection ends.
    lab.servers[0].stop();
    lab.wait_successor();
    crowd.everyone_gets(20).await;
    wait_whole(&crowd.hosts[0]).await;
    // It wakes up, believes that it is the master, and is told better.
    lab.servers[0].cont();
    lab.wait_demoted();
    crowd.everyone_gets(20).await;
    crowd.finish().await;
    crowd.assert_unnoticed(2);
    crowd.check_totals(new).await;
}

#[tokio::test]
async fn a_planned_failover_loses_no_count_though_the_old_master_serves_on() {
    let lab = Sentinel::start();
    // One worker each: what a host logs is what the worker of the client has noticed.
    let service = || host().with("--redis-url", lab.url()).with("--workers", 1);
    let (one, other) = (service().start(), service().start());
    let mut client = Client::connect(&one.url()).await;
    for n in 1..=20 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    let begun =
        || (lab.sentinels[0].try_ask(&["SENTINEL", "FAILOVER", "runners"]).as_deref() == Ok("OK")).then_some(());
    eventually_async("a failover", async || begun()).await;
    // All the while, and as long as the old one takes writes.
    let mut n = 20;
    let mut go_on = async || {
        n += 1;
        client.send("hello").await;
        assert_eq!(client.count().await, n);
        n
    };
    while lab.named() != lab.servers[1].address {
        go_on().await;
    }
    for _ in 0..50 {
        go_on().await;
    }
    let has_left = |service: &Service| {
        let mut lost = service.log_lines().filter(|line| line["reason"] == "read_only");
        lost.any(|line| line.to_string().contains("the sentinels name"))
    };
    eventually_async("both hosts have left the old master", async || {
        go_on().await;
        (has_left(&one) && has_left(&other)).then_some(())
    })
    .await;
    wait_whole(&one).await;
    wait_whole(&other).await;
    let last = go_on().await;
    // The other host knows only what the new master has.
    assert_eq!(other.count_one(&client.session()).await, last + 1);
}

#[tokio::test]
async fn a_slot_of_a_cluster_that_moves_is_not_noticed() {
    let cluster = Cluster::start();
    let service = || host().with("--redis-url", cluster.url());
    let mut crowd = Crowd::on(vec![service().start(), service().start()]).await;
    for session in ["shared", "own-0-of-0", "own-1-of-1", "shared", "own-2-of-0", "shared"] {
        let to = cluster.move_slot_of(&format!("*{session}*"));
        eprintln!("the slot of {session} is at {to} now");
        crowd.everyone_gets(20).await;
        assert_eq!(cluster.find(&format!("*{session}*")).0, to);
    }
    crowd.finish().await;
    for (host, runners) in crowd.hosts.iter().zip(&crowd.runners) {
        let book = runners.book();
        assert_eq!((book.lost, book.byes, book.refused, book.unanswered), (0, 0, 0, 0));
        assert_eq!(book.answered, book.sent);
        eprintln!("{} s without Redis", host.metric("backplane_degraded_seconds_total"));
    }
    crowd.check_totals(service()).await;
}

#[tokio::test]
async fn a_node_of_a_cluster_dies_and_comes_back_and_nobody_notices() {
    let mut cluster = Cluster::start();
    let url = cluster.url();
    let service = || host().with("--redis-url", &url);
    let mut crowd = Crowd::on(vec![service().start(), service().start()]).await;
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].kill();
        for host in &crowd.hosts {
            // Of the node at first, and soon of the others, who do not serve without it.
            let is_away = |reason: &str| ["unreachable", "timeout", "cluster_down"].contains(&reason);
            wait_backplane(host, "away", |now| now["reason"].as_str().is_some_and(is_away)).await;
        }
        crowd.everyone_gets(20).await;
        cluster.nodes[node].restart();
        for host in &crowd.hosts {
            wait_whole(host).await;
        }
        crowd.everyone_gets(20).await;
    }
    crowd.finish().await;
    // A worker may find the one that is back, and then another that does not know it yet.
    crowd.assert_unnoticed(6);
    crowd.check_totals(service()).await;
}

#[tokio::test]
async fn a_cluster_of_which_only_one_named_node_is_left_is_found_by_it() {
    let cluster = Cluster::start();
    // The others are not where they are said to be.
    let there = cluster.nodes[1].address;
    let url = format!("redis+cluster://127.0.0.1:1,{there},127.0.0.1:2");
    let service = host().with("--redis-url", &url).start();
    eventually_async("it is found", async || (backplane(&service)["ok"] == true).then_some(())).await;
    for n in 1..=5 {
        assert_eq!(service.count_one("abc").await, n);
        assert_eq!(service.count_one("def").await, n);
    }
    assert_eq!(service.metric("backplane_degraded"), 0.0);
    let at = ["abc", "def"].map(|session| cluster.find(&format!("*{session}*")).0);
    eprintln!("they are at {at:?}");
}
