//! The same with Redis, and with several hosts.

use std::path::Path;

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::sessions::{act, are_deleted, are_found, are_reset, number};
use crate::harness::admin::{ADA, SECRET_KEY, Visitor, create_superuser};
use crate::harness::redis::Cluster;
use crate::harness::service::Builder;
use crate::harness::{Client, Redis, Service, eventually};

/// Somebody may log in at all hosts with this Redis.
#[track_caller]
fn make_ada(url: &str) {
    let (args, input) = (["--username", ADA.0, "--redis-url", url], format!("{}\n", ADA.1));
    let output = create_superuser(Path::new("/nowhere"), &args, &input);
    assert!(output.status.success(), "{output:?}");
}

fn host(url: &str) -> Service {
    // Patient, so that a busy machine is no outage.
    let builder = Builder::new().with("--workers", "2").with("--redis-timeout", "5s").with("--redis-url", url);
    let service = builder.env("SECRET_KEY", SECRET_KEY).start();
    service.wait_all_serve();
    eventually("redis is there", || (service.metric("backplane_degraded") == 0.0).then_some(()));
    service
}

#[tokio::test]
async fn sessions_in_redis_are_found_reset_and_deleted() {
    let redis = Redis::start();
    make_ada(&redis.url());
    let service = host(&redis.url());
    are_found(&service).await;
    are_reset(&service).await;
    are_deleted(&service).await;
}

#[tokio::test]
async fn sessions_in_a_cluster_are_found_reset_and_deleted() {
    let cluster = Cluster::start();
    make_ada(&cluster.url());
    let service = host(&cluster.url());
    are_found(&service).await;
    are_reset(&service).await;
    are_deleted(&service).await;
}

#[tokio::test]
async fn what_is_done_at_one_host_is_done_for_all() {
    let redis = Redis::start();
    make_ada(&redis.url());
    let (here, there) = (host(&redis.url()), host(&redis.url()));
    let mut visitor = Visitor::logged_in(here.address);
    // A cookie is as good at the other one.
    assert_eq!(visitor.get(there.address, "/admin/").status, 200);
    let mut client = Client::connect(&there.session_url("abc")).await;
    for n in 1..=7 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    assert_eq!(act(&mut visitor, &here, "abc", "reset"), "Its count begins anew, it was 7.");
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    visitor.get(here.address, "/admin/");
    let answer = visitor.post(here.address, "/admin/broadcast", &[("message", "hello all")]);
    assert_eq!(answer.header("location"), Some("/admin/?done=sent&n=0&hosts=told"), "{answer:?}");
    assert_eq!(client.json().await, serde_json::json!({"notice": "hello all"}));
    let said = act(&mut visitor, &here, "abc", "disconnect");
    assert_eq!(said, "Disconnected 0 connections here; other hosts were told.");
    assert_eq!(client.close().await.expect("a close").code, CloseCode::Normal);
    // Whoever is deleted there is logged out everywhere.
    let output =
        create_superuser(Path::new("/nowhere"), &["--username", ADA.0, "--delete", "--redis-url", &redis.url()], "");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(visitor.get(there.address, "/admin/").status, 303);
}

#[tokio::test]
async fn without_redis_nothing_is_done_and_that_is_said() {
    let mut redis = Redis::start();
    make_ada(&redis.url());
    let service =
        Builder::new().with("--workers", "1").with("--redis-url", redis.url()).env("SECRET_KEY", SECRET_KEY).start();
    eventually("redis is there", || (service.metric("backplane_degraded") == 0.0).then_some(()));
    let mut visitor = Visitor::logged_in(service.address);
    let mut client = Client::connect(&service.url()).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    redis.kill();
    let answer = visitor.get(service.address, "/admin/");
    assert!(answer.status == 503 && answer.body.contains("the log says why"), "{answer:?}");
    let told =
        |line: serde_json::Value| line["error"].as_str().is_some_and(|error| error.contains("superusers are in redis"));
    eventually("a line of the log", || service.log_lines().any(told).then_some(()));
    assert!(answer.header("retry-after").is_some());
    let session = client.session();
    assert_eq!(visitor.post(service.address, &format!("/admin/sessions/{session}/reset"), &[]).status, 503);
    client.send("hello").await;
    assert_eq!(client.count().await, 2);
    let output = create_superuser(Path::new("/nowhere"), &["--list", "--redis-url", &redis.url()], "");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("superusers are in redis"));
}

/// The count of a host that had lost Redis and its memory of it begins anew with the reset, too.
#[tokio::test]
async fn a_reset_holds_for_what_a_host_remembers_better_than_redis() {
    let mut redis = Redis::start();
    make_ada(&redis.url());
    let service = host(&redis.url());
    let mut client = Client::connect(&service.session_url("abc")).await;
    for n in 1..=5 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    redis.restart_empty();
    make_ada(&redis.url());
    eventually("redis is back", || (service.metric("backplane_degraded") == 0.0).then_some(()));
    let mut visitor = Visitor::logged_in(service.address);
    let said = act(&mut visitor, &service, "abc", "reset");
    assert_eq!(said, "Its count begins anew, it was 5.");
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    assert_eq!(number(&mut visitor, &service, "abc", "count"), Some(1));
}

#[test]
fn a_login_that_is_ended_at_one_host_is_ended_at_all() {
    let redis = Redis::start();
    make_ada(&redis.url());
    let (here, there) = (host(&redis.url()), host(&redis.url()));
    let mut visitor = Visitor::logged_in(here.address);
    let copy = Visitor { cookie: visitor.cookie.clone(), ..Visitor::default() };
    let status = |at: &Service| copy.clone().get(at.address, "/admin/live").status;
    assert_eq!((status(&here), status(&there)), (200, 200));
    assert_eq!(visitor.post(here.address, "/admin/logout", &[]).status, 303);
    assert_eq!((status(&here), status(&there)), (403, 403));
    let keys = redis.ask(&["KEYS", "*:{admin}:logout:*"]);
    let key = keys.split_whitespace().find(|word| word.contains("logout")).expect("a key").trim_matches('"');
    let ttl = redis.ask(&["TTL", key]);
    assert!(ttl.split_whitespace().any(|word| word.parse().is_ok_and(|ttl: u64| ttl <= 36_000)), "{ttl}");
}

#[test]
fn without_redis_a_login_ends_at_its_host_and_that_is_said() {
    let redis = Redis::start();
    make_ada(&redis.url());
    let builder = Builder::new().with("--workers", "2").with("--redis-timeout", "1s");
    let here = builder.with("--redis-url", redis.url()).env("SECRET_KEY", SECRET_KEY).start();
    eventually("redis is there", || (here.metric("backplane_degraded") == 0.0).then_some(()));
    let mut visitor = Visitor::logged_in(here.address);
    let copy = Visitor { cookie: visitor.cookie.clone(), ..Visitor::default() };
    redis.stop();
    let answer = visitor.post(here.address, "/admin/logout", &[]);
    assert_eq!((answer.status, visitor.cookie.as_ref()), (503, None), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let line = |line: serde_json::Value| line["action"] == "logout" && line["outcome"] == "on this host only";
    eventually("a line of the log", || here.log_lines().any(line).then_some(()));
    // Without asking Redis, and when it is back: by then it may have heard of it.
    let status = || copy.clone().get(here.address, "/admin/live").status;
    assert_eq!(status(), 403);
    redis.cont();
    eventually("redis is there", || (here.metric("backplane_degraded") == 0.0).then_some(()));
    assert_eq!(status(), 403);
}
