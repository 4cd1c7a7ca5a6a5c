//! Redis answers, and what it says is no.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{AWAY, Crowd, assert_put_off, assert_told_once, host, wait_backplane, wait_degraded, wait_whole};
use crate::harness::redis::{Cluster, Setup};
use crate::harness::{Client, Redis, eventually};

/// While clients send without pause, Redis refuses for this reason, and then does not any more: nobody notices.
async fn refused(redis: &Redis, reason: &str, refuse: impl FnOnce(&Redis), relent: &[&str]) {
    let mut crowd = Crowd::on(vec![host().with_redis(redis).start()]).await;
    refuse(redis);
    crowd.wait_degraded(reason).await;
    crowd.everyone_gets(20).await;
    assert!(crowd.hosts[0].metric("backplane_pending") > 0.0);
    redis.ask(relent);
    crowd.finish().await;
    crowd.assert_unnoticed(1);
    crowd.check_totals(host().with_redis(redis)).await;
}

/// Wants a password from now on, also of those who are in already.
fn ask_for_password(redis: &Redis) {
    redis.ask(&["CONFIG", "SET", "requirepass", "open-sesame"]);
    redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
}

/// Cannot save to disk, and takes no write therefore.
pub(super) fn fail_to_save(redis: &Redis) {
    fs::remove_dir_all(redis.data_dir()).expect("a directory of ours");
    // Refused, or begun and then failed.
    let _ = redis.try_ask(&["BGSAVE"]);
    eventually("a save that fails", || (redis.info("rdb_last_bgsave_status") == "err").then_some(()));
}

/// One that saves now and then, as it must to be able to fail at it.
pub(super) fn that_saves() -> Setup {
    Setup::new().with("save", "3600 1")
}

/// One that has much to load, and takes a tenth of a millisecond for each bit of it.
pub(super) fn slow_to_load() -> Redis {
    let setup = Setup::new().durable().with("key-load-delay", 100).with("aof-use-rdb-preamble", "no");
    let redis = setup.start();
    redis.ask(&["EVAL", "for n = 1, 20000 do redis.call('SET', 'filler-' .. n, n) end", "0"]);
    redis
}

#[tokio::test]
async fn redis_that_asks_for_a_password_all_at_once() {
    let relent = ["CONFIG", "SET", "requirepass", ""];
    refused(&Redis::start(), "no_auth", ask_for_password, &relent).await;
}

#[tokio::test]
async fn redis_that_has_no_memory_left_counts_whom_it_knows() {
    let redis = Redis::start();
    let mut crowd = Crowd::on(vec![host().with_redis(&redis).start()]).await;
    for count in 1..=2 {
        assert_eq!(crowd.hosts[0].count_one("left").await, count);
    }
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    crowd.wait_degraded("out_of_memory").await;
    crowd.everyone_gets(20).await;
    for count in 3..=6 {
        assert_eq!(crowd.hosts[0].count_one("left").await, count, "a resume is served");
        assert_put_off(&crowd.hosts[0], "new").await;
    }
    assert_eq!(crowd.hosts[0].metric("backplane_pending"), 0.0, "all of it is in Redis");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    crowd.finish().await;
    let service = &crowd.hosts[0];
    {
        let book = crowd.runners[0].book();
        assert_eq!((book.lost, book.byes, book.refused, book.unanswered), (0, 0, 0, 0));
    }
    assert!(!service.log_lines().any(|line| line["message"].as_str().is_some_and(|text| text.starts_with(AWAY))));
    assert_eq!(service.count_one("new").await, 1);
    crowd.check_totals(host().with_redis(&redis)).await;
}

#[tokio::test]
async fn redis_that_cannot_save_to_disk() {
    let relent = ["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"];
    refused(&that_saves().start(), "misconfigured", fail_to_save, &relent).await;
}

#[tokio::test]
async fn redis_that_is_made_a_replica() {
    // Of a master that is not there, so that it keeps what it has.
    let refuse = |redis: &Redis| drop(redis.ask(&["REPLICAOF", "127.0.0.1", "1"]));
    refused(&Redis::start(), "read_only", refuse, &["REPLICAOF", "NO", "ONE"]).await;
}

#[tokio::test]
async fn redis_whose_user_may_not_any_more() {
    let refuse = |redis: &Redis| drop(redis.ask(&["ACL", "SETUSER", "default", "resetkeys"]));
    refused(&Redis::start(), "no_permission", refuse, &["ACL", "SETUSER", "default", "allkeys"]).await;
}

#[tokio::test]
async fn redis_that_takes_its_time_to_load_what_it_has() {
    let mut redis = slow_to_load();
    let mut crowd = Crowd::on(vec![host().with_redis(&redis).start()]).await;
    redis.restart_slowly();
    crowd.wait_degraded("loading").await;
    crowd.everyone_gets(20).await;
    redis.wait_ready();
    crowd.finish().await;
    crowd.assert_unnoticed(1);
    crowd.check_totals(host().with_redis(&redis)).await;
}

#[tokio::test]
async fn a_wrong_password_at_the_start_is_an_outage_that_ends_when_it_is_right() {
    let redis = Setup::new().password("right").start();
    let url = redis.url().replace("right", "wrong");
    let service = host().with("--redis-url", url).start();
    wait_degraded(&service, "no_auth").await;
    let mut client = Client::connect(&service.url()).await;
    for n in 1..=10 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    redis.ask(&["CONFIG", "SET", "requirepass", "wrong"]);
    wait_whole(&service).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 11);
    assert_told_once(&service, 1);
    redis.ask(&["CONFIG", "SET", "requirepass", "right"]);
    let other = host().with_redis(&redis).start();
    assert_eq!(other.count_one(&client.session()).await, 12);
}

#[tokio::test]
async fn the_reason_follows_what_redis_says() {
    let mut redis = Setup::new().durable().start();
    let service = host().with_redis(&redis).start();
    let mut client = Client::connect(&service.url()).await;
    let mut n = 0;
    let mut go_on = async || {
        for _ in 0..20 {
            n += 1;
            client.send("hello").await;
            assert_eq!(client.count().await, n);
        }
    };
    go_on().await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    go_on().await;
    wait_degraded(&service, "out_of_memory").await;
    let since = wait_backplane(&service, "since when", |now| now["ok"] == false).await["degraded_since"].take();
    redis.kill();
    wait_degraded(&service, "unreachable").await;
    go_on().await;
    let now = wait_backplane(&service, "since when", |now| now["ok"] == false).await;
    assert_eq!(now["degraded_since"], since, "it has been away all the time");
    // It has forgotten its limit with the configuration that it was told.
    redis.restart();
    wait_whole(&service).await;
    go_on().await;
    let seconds = service.metric("backplane_degraded_seconds_total");
    assert!(seconds > 0.0);
}

#[tokio::test]
async fn a_user_without_the_channel_counts_in_redis_and_that_is_logged_once() {
    let redis = Redis::start();
    redis.ask(&["ACL", "SETUSER", "default", "resetchannels"]);
    let service = host().with_redis(&redis).start();
    wait_degraded(&service, "no_permission").await;
    let mut client = Client::connect(&service.url()).await;
    for n in 1..=20 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    // It is Redis that has counted, and never was away.
    assert_eq!(redis.ask(&["EVAL", COUNTS, "0"]), "20");
    assert_eq!([service.metric("backplane_pending"), service.metric("backplane_reconnects_total")], [0.0, 0.0]);
    redis.ask(&["ACL", "SETUSER", "default", "allchannels"]);
    wait_whole(&service).await;
    for pid in service.log_lines().filter_map(|line| line["pid"].as_u64()).collect::<BTreeSet<u64>>() {
        let of_worker = |line: &Value| line["pid"] == pid && line["logger"] != "baton_supervisor::status";
        let complaints = service.log_lines().filter(|line| of_worker(line) && line["level"] == "WARN");
        let told: Vec<Value> = complaints.filter(|line| line.to_string().contains("redis")).collect();
        assert!(told.len() <= 1 && told.iter().all(|line| line["reason"] == "no_permission"), "{told:?}");
    }
    assert!(service.log_lines().any(|line| line["event"] == "redis_mute"));
}

/// All counts that Redis has, together.
const COUNTS: &str = "local sum = 0 for _, key in ipairs(redis.call('KEYS', '*:s:*')) do \
                      sum = sum + redis.call('GET', key) end return sum";

#[tokio::test]
async fn a_cluster_is_not_taken_for_a_server() {
    let cluster = Cluster::start();
    let url = format!("redis://{}", cluster.nodes[0].address);
    let service = host().with("--redis-url", url).start();
    wait_degraded(&service, "is_cluster").await;
    let mut client = Client::connect(&service.url()).await;
    for n in 1..=20 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    assert!(service.log_lines().any(|line| line["detail"].as_str().is_some_and(|d| d.contains("redis+cluster://"))));
    for node in &cluster.nodes {
        assert_eq!(node.ask(&["DBSIZE"]), "0", "it has nothing of half of the sessions");
    }
}

#[tokio::test]
async fn redis_that_forgets_the_scripts_is_no_outage() {
    let redis = Redis::start();
    let mut crowd = Crowd::on(vec![host().with_redis(&redis).start()]).await;
    for _ in 0..10 {
        redis.ask(&["SCRIPT", "FLUSH"]);
        crowd.everyone_gets(5).await;
    }
    crowd.finish().await;
    assert_eq!(crowd.hosts[0].metric("backplane_reconnects_total"), 0.0);
    crowd.check_totals(host().with_redis(&redis)).await;
}
