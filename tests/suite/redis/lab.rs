//! What the other tests stand on does what it says.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::refusals::{fail_to_save, slow_to_load, that_saves};
use crate::harness::redis::{Cluster, Cut, Link, Sentinel, Setup};
use crate::harness::{Redis, SOON, eventually};

/// A connection over which Redis is asked by the plainest of its protocols.
fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    stream
}

/// What comes back for `PING`; nothing at an end in order.
fn ping(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"PING\r\n")?;
    let mut bytes = [0; 64];
    let n = stream.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
}

#[test]
fn a_durable_redis_has_everything_after_a_kill_and_an_emptied_one_nothing() {
    let mut redis = Setup::new().durable().start();
    let address = redis.address;
    redis.ask(&["SET", "count", "17"]);
    redis.restart();
    assert_eq!((redis.ask(&["GET", "count"]).as_str(), redis.address), ("17", address));
    redis.restart_empty();
    assert_eq!(redis.ask(&["GET", "count"]), "");
    assert_eq!(ping(&mut dial(address)).expect("an answer"), "+PONG\r\n");
    redis.kill();
    assert_eq!(TcpStream::connect(address).expect_err("it is gone").kind(), ErrorKind::ConnectionRefused);
    assert!(redis.try_ask(&["PING"]).is_err());

    let mut forgetful = Redis::start();
    forgetful.ask(&["SET", "count", "17"]);
    forgetful.restart();
    assert_eq!(forgetful.ask(&["GET", "count"]), "");
}

#[test]
fn a_redis_that_is_stopped_is_silent_until_it_goes_on() {
    let redis = Redis::start();
    let mut stream = dial(redis.address);
    redis.stop();
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    assert_eq!(ping(&mut stream).expect_err("no answer").kind(), ErrorKind::WouldBlock);
    redis.cont();
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    // The answer to the one from before may come alone.
    assert!(ping(&mut stream).expect("an answer").starts_with("+PONG"));
}

#[test]
fn a_redis_with_a_password_asks_for_it_and_lets_the_tests_in() {
    let redis = Setup::new().password("open-sesame").start();
    assert!(redis.url().starts_with("redis://:open-sesame@127."), "{}", redis.url());
    assert!(ping(&mut dial(redis.address)).expect("an answer").starts_with("-NOAUTH"));
    assert_eq!(redis.ask(&["ECHO", "a\nb"]), "a\nb");
    assert!(std::path::Path::new(redis.unix_url().strip_prefix("redis+unix://").expect("a scheme")).exists());
    assert!(redis.try_ask(&["NONSENSE"]).is_err_and(|error| error.starts_with("ERR unknown command")));
}

#[test]
fn a_redis_with_tls_is_what_its_authority_says() {
    let redis = Setup::new().tls().start();
    let ca = redis.ca_file().expect("it has TLS");
    let address = redis.address.to_string();
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "s_client",
        "-verify_return_error",
        "-connect",
        &address,
        "-verify_ip",
        &redis.address.ip().to_string(),
    ]);
    let output =
        openssl.arg("-CAfile").arg(ca).stdin(std::process::Stdio::null()).output().expect("openssl is installed");
    assert!(output.status.success(), "{output:?}");
    assert_ne!(ping(&mut dial(redis.address)).ok().as_deref(), Some("+PONG\r\n"), "without TLS");
    assert!(redis.url().starts_with("rediss://127."));
}

#[test]
fn a_redis_that_refuses_does_so_with_the_words_that_are_meant() {
    let said = |redis: &Redis| redis.try_ask(&["INCR", "count"]).expect_err("refused");
    let redis = Redis::start();
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(said(&redis).starts_with("OOM "), "{}", said(&redis));
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    assert!(said(&redis).starts_with("READONLY "), "{}", said(&redis));

    let redis = that_saves().start();
    fail_to_save(&redis);
    assert!(said(&redis).starts_with("MISCONF "), "{}", said(&redis));
    redis.ask(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    assert_eq!(redis.ask(&["INCR", "count"]), "1");

    let mut redis = slow_to_load();
    redis.restart_slowly();
    let mut answers = 0;
    eventually("it has loaded", || match redis.try_ask(&["INCR", "count"]) {
        Ok(_) => Some(()),
        Err(error) => {
            answers += u32::from(error.starts_with("LOADING "));
            None
        }
    });
    assert!(answers >= 3, "{answers} answers while it loaded");
    assert_eq!(redis.ask(&["GET", "filler-20000"]), "20000");
}

#[test]
fn a_link_that_is_cut_is_silent_or_resets_and_is_healed() {
    let mut redis = Redis::start();
    let link = Link::to(redis.address);
    assert_ne!(link.url(), redis.url());
    let mut stream = dial(link.address);
    assert_eq!(ping(&mut stream).expect("an answer"), "+PONG\r\n");

    link.cut(Cut::Silent);
    let mut second = dial(link.address);
    for stream in [&mut stream, &mut second] {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
        assert_eq!(ping(stream).expect_err("no answer").kind(), ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(SOON)).expect("a socket");
    }
    link.heal();
    for stream in [&mut stream, &mut second] {
        assert!(ping(stream).expect("what was held up").starts_with("+PONG"));
    }

    link.cut(Cut::Reset);
    assert_eq!(link.open(), 0);
    // What had come before the cut may be read still.
    let end = eventually("the end", || ping(&mut stream).err());
    assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
    assert_eq!(TcpStream::connect(link.address).expect_err("cut").kind(), ErrorKind::ConnectionRefused);
    link.heal();

    let mut stream = dial(link.address);
    assert_eq!(ping(&mut stream).expect("an answer"), "+PONG\r\n");
    link.forget_connections();
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    assert_eq!(ping(&mut stream).expect_err("no answer").kind(), ErrorKind::WouldBlock);
    assert_eq!(ping(&mut dial(link.address)).expect("an answer"), "+PONG\r\n");

    redis.kill();
    assert!(ping(&mut dial(link.address)).is_ok_and(|end| end.is_empty()) || ping(&mut dial(link.address)).is_err());
}

#[test]
fn a_cluster_moves_a_slot_with_all_its_keys() {
    let cluster = Cluster::start();
    let (count, other) = ("count:{abc}", "name:{abc}");
    let at =
        cluster.nodes.iter().position(|node| node.try_ask(&["SET", count, "17"]).is_ok()).expect("it is somewhere");
    cluster.nodes[at].ask(&["SET", other, "abc"]);
    assert_eq!(cluster.find("*{abc}"), (at, cluster.find("*{abc}").1));
    let to = cluster.move_slot_of("*{abc}");
    assert_ne!(to, at);
    assert_eq!(cluster.nodes[to].ask(&["MGET", count, other]), "17\nabc");
    let moved = cluster.nodes[at].try_ask(&["GET", count]).expect_err("it is elsewhere");
    assert!(moved.starts_with("MOVED") && moved.ends_with(&cluster.nodes[to].address.to_string()), "{moved}");
    assert_eq!(cluster.url().matches("127.").count(), 3);
}

#[test]
fn a_sentinel_makes_the_replica_the_master() {
    let mut lab = Sentinel::start();
    lab.servers[0].ask(&["SET", "count", "17"]);
    lab.servers[0].ask(&["WAIT", "1", "0"]);
    let begun = std::time::Instant::now();
    lab.fail_over();
    eprintln!("failed over after {:?}", begun.elapsed());
    assert_eq!(lab.servers[1].ask(&["GET", "count"]), "17");
    lab.bring_back();
    assert!(lab.servers[0].try_ask(&["SET", "count", "1"]).is_err_and(|error| error.starts_with("READONLY")));
    assert!(lab.url().ends_with("/runners"));
}
