//! Redis dies, stands still or cannot be reached, while clients of two hosts send without pause.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Crowd, host, two, wait_degraded, wait_whole};
use crate::harness::redis::{Cut, Link, Setup};
use crate::harness::{Redis, Service, eventually_async, seed};

/// How long something lasts that lasts for a while.
const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn redis_is_killed_and_started_again_and_nobody_notices() {
    const TIMES: usize = 3;
    let mut redis = Setup::new().durable().start();
    let mut crowd = Crowd::on(two(host, &redis)).await;
    for _ in 0..TIMES {
        redis.kill();
        crowd.wait_degraded("unreachable").await;
        crowd.everyone_gets(20).await;
        let pending: f64 = crowd.hosts.iter().map(|host| host.metric("backplane_pending")).sum();
        assert!(pending >= 20.0 * 32.0, "{pending} messages for Redis to hear of");
        redis.restart();
        for host in &crowd.hosts {
            wait_whole(host).await;
        }
        crowd.everyone_gets(20).await;
    }
    crowd.finish().await;
    crowd.assert_unnoticed(TIMES);
    for host in &crowd.hosts {
        assert!(host.metric("backplane_merged_total") > 0.0);
        assert!(host.metric("backplane_degraded_seconds_total") > 0.0);
        assert!(host.metric("backplane_reconnects_total") > 0.0);
    }
    crowd.check_totals(host().with_redis(&redis)).await;
}

/// Redis stands still for so long.
async fn stopped_for(time: Duration) {
    let redis = Redis::start();
    let mut crowd = Crowd::on(two(host, &redis)).await;
    redis.stop();
    crowd.wait_degraded("timeout").await;
    let over = tokio::time::sleep(time);
    crowd.everyone_gets(20).await;
    over.await;
    redis.cont();
    crowd.finish().await;
    crowd.assert_unnoticed(1);
    crowd.check_totals(host().with_redis(&redis)).await;
}

#[tokio::test]
async fn redis_stands_still_for_three_seconds_and_nobody_notices() {
    stopped_for(A_WHILE).await;
}

#[tokio::test]
async fn redis_stands_still_for_ten_seconds_and_nobody_notices() {
    stopped_for(Duration::from_secs(10)).await;
}

/// One host cannot reach Redis for a while; the other can all the time.
async fn cut_off(how: Cut, reason: &str) {
    let redis = Redis::start();
    let link = Link::to(redis.address);
    let near = host().with_redis(&redis).start();
    let far = host().with("--redis-url", link.url()).start();
    let mut crowd = Crowd::on(vec![near, far]).await;
    link.cut(how);
    wait_degraded(&crowd.hosts[1], reason).await;
    let over = tokio::time::sleep(A_WHILE);
    crowd.everyone_gets(20).await;
    assert_eq!(crowd.hosts[0].metric("backplane_degraded"), 0.0, "the other host is well");
    over.await;
    link.heal();
    crowd.finish().await;
    assert_eq!(crowd.runners[0].book().refused + crowd.runners[1].book().refused, 0);
    crowd.check_totals(host().with_redis(&redis)).await;
    // Of a host that has not been away there is nothing to tell.
    crowd.hosts.remove(0);
    crowd.runners.remove(0);
    crowd.assert_unnoticed(1);
}

#[tokio::test]
async fn a_host_is_cut_off_by_resets_and_nobody_notices() {
    cut_off(Cut::Reset, "unreachable").await;
}

#[tokio::test]
async fn a_host_is_cut_off_without_a_word_and_nobody_notices() {
    cut_off(Cut::Silent, "timeout").await;
}

#[tokio::test]
async fn connections_fall_silent_for_good_and_nobody_notices() {
    let redis = Redis::start();
    let link = Link::to(redis.address);
    let mut crowd = Crowd::on(vec![host().with("--redis-url", link.url()).start()]).await;
    for _ in 0..3 {
        let before = crowd.hosts[0].metric("backplane_reconnects_total");
        link.forget_connections();
        eventually_async("new connections", async || {
            (crowd.hosts[0].metric("backplane_reconnects_total") > before).then_some(())
        })
        .await;
        wait_whole(&crowd.hosts[0]).await;
        crowd.everyone_gets(20).await;
    }
    crowd.finish().await;
    crowd.assert_unnoticed(3);
    crowd.check_totals(host().with_redis(&redis)).await;
}

/// SIGKILL to a worker of this service, which has noticed the death of the one before.
async fn kill_one(service: &Service, slot: u16, killed: &mut HashSet<Pid>) {
    let alive = async || service.worker_in(slot).filter(|pid| !killed.contains(pid));
    let pid = eventually_async("the slot serves", alive).await;
    kill(pid, Signal::SIGKILL).expect("a worker");
    killed.insert(pid);
}

#[tokio::test]
async fn workers_are_killed_while_redis_is_away_and_when_it_comes_back() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut redis = Setup::new().durable().start();
    let mut crowd = Crowd::on(two(host, &redis)).await;
    let mut killed = HashSet::new();
    for _ in 0..2 {
        redis.kill();
        crowd.wait_degraded("unreachable").await;
        crowd.everyone_gets(10).await;
        for host in &crowd.hosts {
            kill_one(host, random.u16(0..4), &mut killed).await;
        }
        // Those who were lost come back when it is known where they were: now, or with Redis.
        let total = crowd.runners[0].book().total();
        eventually_async("the others go on", async || (crowd.runners[0].book().total() > total + 500).then_some(()))
            .await;
        redis.restart();
        // At any point of what they have to do now.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(random.u64(0..500))).await;
            for host in &crowd.hosts {
                kill_one(host, random.u16(0..4), &mut killed).await;
            }
        }
        for host in &crowd.hosts {
            wait_whole(host).await;
        }
        crowd.everyone_gets(10).await;
    }
    crowd.finish().await;
    let lost: u64 = crowd.runners.iter().map(|runners| runners.book().lost).sum();
    assert!(lost > 0, "the kills were not felt");
    crowd.check_totals(host().with_redis(&redis)).await;
}

#[tokio::test]
async fn whatever_happens_in_whatever_order_no_count_is_lost_or_doubled() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut redis = Setup::new().durable().start();
    let links = [Link::to(redis.address), Link::to(redis.address)];
    let hosts = links.iter().map(|link| host().with("--redis-url", link.url()).start()).collect();
    let mut crowd = Crowd::on(hosts).await;
    let mut killed = HashSet::new();
    for _ in 0..20 {
        let at = random.usize(0..2);
        match random.u8(0..7) {
            0 => redis.restart(),
            1 => redis.stop(),
            2 => links[at].cut(Cut::Silent),
            3 => links[at].cut(Cut::Reset),
            4 => links[at].forget_connections(),
            _ if killed.len() < 8 => kill_one(&crowd.hosts[at], random.u16(0..4), &mut killed).await,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..1500))).await;
        if random.bool() {
            redis.cont();
            links.iter().for_each(Link::heal);
        }
    }
    redis.cont();
    links.iter().for_each(Link::heal);
    crowd.finish().await;
    crowd.check_totals(host().with_redis(&redis)).await;
}
