//! What is known without Redis, and what is not.

use serde_json::json;

use super::{Crowd, assert_put_off, host, two, wait_degraded, wait_whole};
use crate::harness::redis::Setup;
use crate::harness::{Client, Redis, Service};

#[tokio::test]
async fn who_is_connected_goes_on_and_a_resume_waits_for_redis() {
    let mut redis = Setup::new().durable().start();
    let hosts = two(host, &redis);
    assert_eq!(hosts[0].count_one("left").await, 1);
    let mut open = Client::connect(&hosts[0].session_url("open")).await;
    open.send("before").await;
    assert_eq!(open.count().await, 1);
    // Sends nothing that counts yet, but Redis was asked what it has: nothing is read before that is known.
    let mut silent = Client::connect(&hosts[0].session_url("left")).await;
    silent.ping().await;
    redis.kill();
    for host in &hosts {
        wait_degraded(host, "unreachable").await;
    }

    for n in 2..=50 {
        open.send("meanwhile").await;
        assert_eq!(open.count().await, n);
    }
    silent.send("meanwhile").await;
    assert_eq!(silent.count().await, 2);
    let mut nameless = Client::connect(&hosts[0].url()).await;
    for n in 1..=10 {
        nameless.send("hello").await;
        assert_eq!(nameless.count().await, n, "nobody else can have counted for it");
    }
    // Nobody here can know what these have: the other host may have counted on.
    assert_put_off(&hosts[1], "open").await;
    assert_put_off(&hosts[0], "never-seen-here").await;
    assert_eq!(hosts[0].metric("backplane_pending"), 60.0);

    redis.restart();
    for host in &hosts {
        wait_whole(host).await;
    }
    let session = nameless.session();
    assert_eq!(hosts[1].count_one(&session).await, 11);
    assert_eq!(hosts[1].count_one("open").await, 51);
    assert_eq!(hosts[1].count_one("left").await, 3);
    assert_eq!(hosts[1].count_one("never-seen-here").await, 1);
    for (client, n) in [(&mut open, 52), (&mut nameless, 12), (&mut silent, 4)] {
        client.send("after").await;
        assert_eq!(client.count().await, n);
    }
}

#[tokio::test]
async fn a_service_starts_without_redis_and_tells_it_everything_when_it_comes() {
    let mut redis = Redis::start();
    redis.kill();
    let service = host().with_redis(&redis).start();
    wait_degraded(&service, "unreachable").await;
    assert_put_off(&service, "named").await;
    let mut clients = Client::connect_several(12, &service.url()).await;
    for n in 1..=20 {
        for client in &mut clients {
            client.send("hello").await;
            assert_eq!(client.count().await, n);
        }
    }
    assert_eq!(service.metric("backplane_pending"), 240.0);
    redis.restart();
    wait_whole(&service).await;
    let other = host().with_redis(&redis).start();
    for client in &mut clients {
        client.send("again").await;
        assert_eq!(client.count().await, 21);
        assert_eq!(other.count_one(&client.session()).await, 22);
    }
    assert_eq!(service.count_one("named").await, 1);
}

#[tokio::test]
async fn redis_that_has_lost_its_memory_takes_no_count_back() {
    let mut redis = Redis::start();
    let service = host().with_redis(&redis).start();
    let mut left = Client::connect(&service.session_url("left")).await;
    for n in 1..=30 {
        left.send("before").await;
        assert_eq!(left.count().await, n);
    }
    left.leave().await;
    let mut silent = Client::connect(&service.session_url("silent")).await;
    silent.send("before").await;
    assert_eq!(silent.count().await, 1);
    // Alone in their sessions: what another worker has given in theirs, only Redis knew.
    let mut crowd = Crowd::alone_on(vec![service]).await;
    for _ in 0..2 {
        redis.restart_empty();
        wait_whole(&crowd.hosts[0]).await;
        crowd.everyone_gets(20).await;
    }
    crowd.finish().await;
    let service = &crowd.hosts[0];
    silent.send("after").await;
    assert_eq!(silent.count().await, 2);
    assert_eq!(service.count_one("left").await, 31, "this host had given 30");
    {
        let book = crowd.runners[0].book();
        assert_eq!((book.lost, book.byes, book.refused), (0, 0, 0));
        assert_eq!(book.answered, book.sent);
    }
    // Redis has learnt it anew.
    crowd.check_totals(host().with_redis(&redis)).await;
}

#[tokio::test]
async fn a_host_that_is_killed_as_a_whole_has_what_it_counted_without_redis_when_it_comes_back() {
    let mut redis = Setup::new().durable().start();
    let builder = host().with_redis(&redis);
    let mut service = builder.clone().start();
    let mut clients = Client::connect_several(8, &service.url()).await;
    let count = async |client: &mut Client| {
        client.send("hello").await;
        client.count().await
    };
    for client in &mut clients {
        assert_eq!(count(client).await, 1);
    }
    redis.kill();
    wait_degraded(&service, "unreachable").await;
    for n in 2..=10 {
        for client in &mut clients {
            assert_eq!(count(client).await, n);
        }
    }
    service.kill_all();
    // Redis is away still, and what is to be told to it is in the state directory.
    let service = builder.start();
    wait_degraded(&service, "unreachable").await;
    redis.restart();
    wait_whole(&service).await;
    let other: Service = host().with_redis(&redis).start();
    for client in &clients {
        assert_eq!(other.count_one(&client.session()).await, 11);
        assert_eq!(service.count_one(&client.session()).await, 12);
    }
}

#[tokio::test]
async fn a_goodbye_without_redis_has_the_total_that_is_known() {
    let mut redis = Setup::new().durable().start();
    let builder = host().with_redis(&redis);
    let mut service = builder.clone().start();
    let mut client = Client::connect(&service.session_url("abc")).await;
    client.send("before").await;
    assert_eq!(client.count().await, 1);
    redis.kill();
    wait_degraded(&service, "unreachable").await;
    client.send("meanwhile").await;
    assert_eq!(client.count().await, 2);
    service.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(client.json().await, json!({ "bye": true, "total": 2 }));
    client.close().await;
    assert_eq!(service.wait(std::time::Duration::from_secs(10)).code(), Some(0));
    // It has left something to be told, and its successor tells it.
    redis.restart();
    let service = builder.start();
    wait_whole(&service).await;
    let other = host().with_redis(&redis).start();
    assert_eq!(other.count_one("abc").await, 3);
}
