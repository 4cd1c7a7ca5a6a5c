//! The ways to Redis: TLS, a Unix socket, a database, a prefix, a password; and what is never told of them.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{AWAY, BACK, assert_put_off, host, patient, wait_degraded, wait_whole};
use crate::harness::redis::Setup;
use crate::harness::service::{Builder, baton, forget_settings};
use crate::harness::{Client, Redis, SOON, Service, free_address, http};

const PASSWORD: &str = "open-s3same";

/// Two hosts that reach Redis in this way are one service.
async fn is_a_way(way: impl Fn() -> Builder) {
    let hosts = [way().start(), way().start()];
    for n in 1..=10 {
        assert_eq!(hosts[n as usize % 2].count_one("abc").await, n);
    }
    let mut clients = Vec::new();
    for host in &hosts {
        clients.extend(Client::connect_several(8, &host.url()).await);
    }
    assert!(hosts[0].ctl(&["broadcast", "\"hello\""]).status.success());
    for client in &mut clients {
        assert_eq!(client.json().await, "hello");
    }
    for host in &hosts {
        wait_whole(host).await;
        assert_eq!(host.metric("backplane_degraded_seconds_total"), 0.0);
    }
}

#[tokio::test]
async fn tls_with_an_authority_of_our_own() {
    let redis = Setup::new().tls().password(PASSWORD).start();
    is_a_way(|| patient().with_redis(&redis)).await;
}

#[tokio::test]
async fn tls_of_somebody_else_is_an_outage() {
    let (redis, other) = (Setup::new().tls().start(), Setup::new().tls().start());
    let theirs = other.ca_file().expect("it has TLS");
    let service = host().with_redis(&redis).with("--redis-ca-file", theirs.display()).start();
    wait_degraded(&service, "tls").await;
    assert_put_off(&service, "abc").await;
    let mut client = Client::connect(&service.url()).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    assert_eq!(redis.ask(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn a_unix_socket() {
    let redis = Setup::new().with("port", 0).start();
    is_a_way(|| patient().with("--redis-url", redis.unix_url())).await;
    assert_ne!(redis.ask(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn a_user_a_password_and_a_database() {
    let redis = Redis::start();
    redis.ask(&["ACL", "SETUSER", "runner", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"]);
    redis.ask(&["ACL", "SETUSER", "default", "off"]);
    is_a_way(|| patient().with("--redis-url", format!("redis://runner:{PASSWORD}@{}/7", redis.address))).await;
    let keyspace = redis.ask(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db7:keys=") && !keyspace.contains("db0:"), "{keyspace}");
}

#[tokio::test]
async fn the_environment_names_redis_too() {
    let redis = Redis::start();
    is_a_way(|| patient().env("REDIS_URL", redis.url())).await;
    assert_ne!(redis.ask(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn two_prefixes_are_two_services_in_one_redis() {
    let redis = Redis::start();
    let start = |prefix: &str| patient().with_redis(&redis).with("--redis-prefix", prefix).start();
    let (tea, coffee) = (start("tea"), start("coffee"));
    for n in 1..=5 {
        assert_eq!(tea.count_one("abc").await, n);
    }
    assert_eq!(coffee.count_one("abc").await, 1);
    let mut in_tea = Client::connect_several(8, &tea.url()).await;
    let mut in_coffee = Client::connect_several(8, &coffee.session_url("same")).await;
    tea.ctl(&["disconnect", "same"]);
    assert!(tea.ctl(&["broadcast", "\"for tea\""]).status.success());
    assert!(coffee.ctl(&["broadcast", "\"for coffee\""]).status.success());
    for client in &mut in_tea {
        assert_eq!(client.json().await, "for tea");
    }
    for client in &mut in_coffee {
        assert_eq!(client.json().await, "for coffee");
    }
    for key in redis.ask(&["KEYS", "*"]).lines() {
        let key = key.trim_start_matches('{');
        assert!(key.starts_with("tea") || key.starts_with("coffee"), "{key} has no prefix");
    }
}

/// What a program says on both its streams.
fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}

/// Everything that a service says of itself.
fn everything(service: &Service) -> String {
    let mut all = service.log();
    for path in ["/status", "/readyz", "/metrics", "/healthz", "/test/"] {
        let answer = http::get(service.address, path).expect("an answer");
        all.push_str(&answer.head);
        all.push_str(&answer.body);
    }
    for command in
        [&["status"][..], &["--json", "status"], &["backplane"], &["--json", "backplane"], &["tail"], &["tail", "0"]]
    {
        let output = service.ctl(command);
        // 3: not all is well.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{command:?}: {output:?}");
        all.push_str(&String::from_utf8_lossy(&output.stdout));
        all.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    all
}

#[tokio::test]
async fn the_password_is_told_nowhere() {
    let mut redis = Setup::new().password(PASSWORD).durable().start();
    // In the environment, as it should be: any user of the machine may list the flags of a process.
    let builder = host().env("REDIS_URL", redis.url()).with("--log-level", "debug");
    let service = builder.start();
    assert_eq!(service.count_one("abc").await, 1);
    let mut told = everything(&service);
    redis.kill();
    wait_degraded(&service, "unreachable").await;
    told.push_str(&everything(&service));
    redis.restart();
    wait_whole(&service).await;
    // Refused, which may be told with what was refused.
    redis.ask(&["CONFIG", "SET", "requirepass", "another"]);
    redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    wait_degraded(&service, "no_auth").await;
    told.push_str(&everything(&service));
    assert!(told.contains(AWAY) && told.contains(BACK) && told.contains("no_auth"), "it has told all else");
    assert!(!told.contains(PASSWORD), "{}", told.lines().find(|line| line.contains(PASSWORD)).unwrap_or_default());
}

#[test]
fn no_command_shows_the_password() {
    let redis = Setup::new().password(PASSWORD).start();
    let url = redis.url();
    let run = |args: &[&str], url: &str| {
        let mut command = Command::new(baton());
        forget_settings(&mut command);
        let (code, text) = said(command.args(args).env("REDIS_URL", url));
        assert!(!text.contains(PASSWORD), "baton {args:?}: {text}");
        (code, text)
    };
    let (code, text) = run(&["run", "--print-config"], &url);
    assert!(code == Some(0) && text.contains("redis-url"), "{text}");
    assert_eq!(run(&["check-config"], &url).0, Some(0));
    let (code, text) = run(&["check-config", "--connect"], &url);
    assert_eq!(code, Some(0), "{text}");
    // A password that it does not take, an address where it is not, and what is no URL: each says what is wrong.
    let mistaken = url.replace(PASSWORD, &format!("{PASSWORD}-not"));
    let (code, text) = run(&["check-config", "--connect"], &mistaken);
    assert!(code != Some(0) && text.contains("WRONGPASS"), "{text}");
    let nowhere = format!("redis://:{PASSWORD}@127.0.0.1:1");
    let (code, text) = run(&["check-config", "--connect"], &nowhere);
    assert!(code != Some(0) && text.contains("127.0.0.1:1"), "{text}");
    for wrong in ["redis:/x", "http://:P@host", "redis://:P@host:port", "redis://:P@host/db", "redis+sentinel://:P@h:1"]
    {
        let (code, text) = run(&["check-config"], &wrong.replace('P', PASSWORD));
        assert!(code == Some(64) && text.contains("redis-url"), "{wrong}: {text}");
    }
}

#[tokio::test]
async fn batonctl_tells_of_the_backplane() {
    let mut redis = Setup::new().durable().start();
    let service = host().with_redis(&redis).start();
    assert_eq!(service.count_one("abc").await, 1);
    let ask = |code| {
        let (page, json) = (service.ctl(&["backplane"]), service.ctl(&["--json", "backplane"]));
        assert_eq!([page.status.code(), json.status.code()], [Some(code); 2], "{page:?} {json:?}");
        let reply: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!((&reply["reply"], &reply["output"]["kind"]), (&"done".into(), &"backplane".into()), "{reply}");
        (String::from_utf8(page.stdout).expect("UTF-8"), reply.to_string())
    };
    let address = redis.address.to_string();
    let (page, json) = ask(0);
    assert!(page.contains(&address) && json.contains(&address), "{page} {json}");
    assert!(service.status().backplane.contains(&address), "{}", service.status().backplane);
    redis.kill();
    wait_degraded(&service, "unreachable").await;
    let (page, json) = ask(3);
    assert!(page.contains("cannot be reached") && json.contains("cannot be reached"), "{page} {json}");
    let status = String::from_utf8(service.ctl(&["status"]).stdout).expect("UTF-8");
    assert!(status.contains("DEGRADED") && status.contains("cannot be reached"), "{status}");
}

/// A command that finds this in place of the machine's `/etc/resolv.conf`, before the words of another.
fn with_resolver(file: &Path) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]).arg(file);
    outer
}

#[test]
fn a_resolver_that_does_not_answer_holds_no_exit_up() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: only root may mount");
        return;
    }
    // Port 53 is the only one that a resolver can have; of the addresses there are plenty.
    let resolver = UdpSocket::bind((free_address().ip(), 53)).expect("root may");
    resolver.set_read_timeout(Some(SOON)).expect("a socket");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("resolv.conf");
    let ip = resolver.local_addr().expect("bound").ip();
    std::fs::write(&file, format!("nameserver {ip}\noptions timeout:30 attempts:5\n")).expect("a file of ours");
    let url = "redis://redis.invalid:6379";
    let service = host().with("--redis-url", url).within(with_resolver(&file)).start();
    resolver.recv_from(&mut [0; 512]).expect("it is asked");
    assert_eq!(service.stop().code(), Some(0));
    let begun = Instant::now();
    let mut check = with_resolver(&file);
    forget_settings(&mut check);
    let (code, text) = said(check.arg(baton()).args(["check-config", "--connect"]).env("REDIS_URL", url));
    assert!(code == Some(1) && text.contains("not connected after"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_user_and_password_of_redis_change_while_the_service_runs() {
    let redis = Redis::start();
    let right = |password: &str| format!("redis://ann:{password}@{}/0", redis.address);
    redis.ask(&["ACL", "SETUSER", "ann", "on", ">first", "~*", "&*", "+@all"]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("baton.toml");
    let write = |url: &str| std::fs::write(&file, format!("redis-url = {url:?}\n")).expect("a file of ours");
    write(&right("first"));
    let service = host().with("--config", file.display()).start();
    let mut client = Client::connect(&service.url()).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    redis.ask(&["ACL", "SETUSER", "ann", "resetpass", ">second"]);
    write(&right("second").replace("/0", ""));
    let output = service.ctl(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    client.send("hello").await;
    assert_eq!(client.count().await, 2);
    wait_whole(&service).await;
    // It is with the new one that it is there: nobody has the old one any more.
    assert!(redis.ask(&["CLIENT", "LIST"]).contains("user=ann"));
    let output = service.ctl(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    write(&right("second").replace("/0", "/1"));
    let output = service.ctl(&["reload"]);
    assert!(!output.status.success(), "other data: {output:?}");
}
