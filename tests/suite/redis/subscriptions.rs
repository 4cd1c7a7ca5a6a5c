//! A subscription is lost, and nobody tells: it is noticed, and made again.

use serde_json::{Value, json};

use super::heartbeat::{Listener, hear, listeners};
use super::{host, two, wait_whole};
use crate::harness::client::soon;
use crate::harness::redis::Link;
use crate::harness::{Redis, Service, eventually};

/// Publishes by one host until the clients of all of them have heard the same: what is published while nobody is
/// subscribed is lost, which is why it is said again.
async fn publish_until_heard(from: &Service, listeners: &mut [Listener]) {
    for n in 0.. {
        let notice = json!({ "notice": n, "for": "all" });
        from.ctl(&["broadcast", &notice.to_string()]);
        // One interval of heartbeats later it has come or is lost.
        soon(hear(listeners, 1)).await;
        let heard = |listener: &Listener| listener.notices.contains(&notice);
        if listeners.iter().all(heard) {
            return;
        }
        let missing = listeners.iter().filter(|listener| !heard(listener)).count();
        eprintln!("{notice} is missed by {missing}");
        assert!(n < 20, "subscriptions are not made again");
    }
}

/// After that nothing is lost any more, and nothing comes twice.
async fn assert_all_hear_all(hosts: &[Service], listeners: &mut [Listener]) {
    let notices: Vec<Value> = (0..20).map(|n| json!({ "after": n })).collect();
    for (n, notice) in notices.iter().enumerate() {
        assert!(hosts[n % hosts.len()].ctl(&["broadcast", &notice.to_string()]).status.success());
        for listener in &mut *listeners {
            listener.listen_for(notice).await;
        }
    }
    hear(listeners, 1).await;
    for listener in listeners {
        listener.notices.retain(|notice| notice["after"].is_u64());
        assert_eq!(listener.notices, notices);
    }
}

fn subscribers(redis: &Redis) -> usize {
    redis.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count()
}

#[tokio::test]
async fn subscriptions_that_redis_has_ended_are_made_again() {
    let redis = Redis::start();
    let hosts = two(|| host().with("--heartbeat-interval", "1s"), &redis);
    let mut all = listeners(&hosts, 8).await;
    let before = subscribers(&redis);
    assert!(before >= 8, "{before} subscribers for eight workers");
    for _ in 0..3 {
        redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        publish_until_heard(&hosts[0], &mut all).await;
        eventually("as many subscribers as before", || (subscribers(&redis) == before).then_some(()));
    }
    assert_all_hear_all(&hosts, &mut all).await;
    let again: f64 = hosts.iter().map(|host| host.metric("backplane_resubscriptions_total")).sum();
    assert!(again >= 3.0, "{again}");
}

#[tokio::test]
async fn subscriptions_that_have_fallen_silent_are_made_again() {
    let redis = Redis::start();
    let link = Link::to(redis.address);
    let near = host().with("--heartbeat-interval", "1s").with_redis(&redis).start();
    let far = host().with("--heartbeat-interval", "1s").with("--redis-url", link.url()).start();
    let hosts = [near, far];
    let mut all = listeners(&hosts, 8).await;
    hear(&mut all, 1).await;
    let open = eventually("the far host is connected", || Some(link.open()).filter(|open| *open >= 8));
    // As by a firewall that has forgotten them: no end is told, and what is sent goes nowhere.
    link.forget_connections();
    publish_until_heard(&hosts[0], &mut all).await;
    publish_until_heard(&hosts[1], &mut all).await;
    assert_all_hear_all(&hosts, &mut all).await;
    for host in &hosts {
        wait_whole(host).await;
    }
    eventually("what is silent is given up", || (link.open() <= open).then_some(()));
}
