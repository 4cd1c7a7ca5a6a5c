//! Connections to real servers: that answer, refuse, hang, die, move and fail over.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Cmd, Value, cmd};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::testing::{Server, free_address, settings};
use super::*;

/// Bytes of the largest publication that is heard whole.
const MOST: usize = 4 << 20;

fn command(line: &str) -> Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command
}

fn connector(settings: &Settings) -> Connector {
    Connector::new(settings).unwrap()
}

async fn connect(settings: &Settings) -> Connection {
    connector(settings).connect().await.unwrap()
}

/// Why connecting fails.
async fn refused(settings: &Settings) -> Failure {
    connector(settings).connect().await.err().expect("no connection")
}

async fn one(connection: &mut Connection, line: &str) -> Result<Value, Failure> {
    let mut answers = connection.execute(vec![command(line)]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn text(value: &str) -> Value {
    Value::BulkString(value.as_bytes().to_vec())
}

fn reason(result: Result<Value, Failure>) -> Reason {
    result.expect_err("a failure").reason
}

/// Asks again until it is so: for what happens in servers without telling anybody.
async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "never {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_command_that_fails_does_not_hide_the_others() {
    let server = Server::start(&[]);
    let mut connection = connect(&server.settings()).await;
    let lines = [
        "SET a 1",
        "LPUSH a x",
        "INCR a",
        "EVALSHA 0000000000000000000000000000000000000000 0",
        "NO-SUCH-COMMAND hunter2",
        "GET a",
    ];
    let mut nested = cmd("EVAL");
    nested.arg("return {1, redis.error_reply('OOM it is full'), 3}").arg(0);
    let mut commands: Vec<Cmd> = lines.map(command).into();
    commands.insert(5, nested);
    let answers = connection.execute(commands).await;
    assert_eq!(answers.len(), lines.len() + 1);
    assert_eq!((answers[0].clone(), answers[2].clone()), (Ok(Value::Okay), Ok(Value::Int(2))));
    assert_eq!(answers[6], Ok(text("2")));
    let failures: Vec<&Failure> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(failures[0].detail.starts_with("WRONGTYPE "), "{}", failures[0]);
    assert_eq!(failures.iter().map(|f| f.is_no_script()).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(failures[2].detail, "ERR unknown command 'NO-SUCH-COMMAND'");
    assert_eq!(failures[3].reason, Reason::OutOfMemory, "an error within an array is one");
    assert_eq!(connection.execute(Vec::new()).await, []);
}

#[tokio::test]
async fn all_of_it_goes_in_one_write_and_is_not_held_back() {
    let server = Server::start(&[]);
    let mut connection = connect(&server.settings()).await;
    let reads = || {
        let info = server.cli(&["INFO", "stats"]);
        let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let before = reads();
    let answers = connection.execute((0..200).map(|n| command(&format!("INCR {n}"))).collect()).await;
    assert!(answers.iter().all(|answer| *answer == Ok(Value::Int(1))));
    // The second counting is one, and the end of the first connection of redis-cli may be another.
    let reads = reads() - before;
    assert!(reads <= 5, "{reads} reads");
    assert!(server.cli(&["CLIENT", "LIST"]).contains(" resp=3"));
}

#[tokio::test]
async fn a_server_that_hangs_fails_every_command_in_time_and_may_come_back() {
    let server = Server::start(&[]);
    let mut settings = server.settings();
    settings.timeout = Duration::from_millis(200);
    let mut connection = connect(&settings).await;
    server.stop();
    let begin = Instant::now();
    let answers = connection.execute(vec![command("INCR a"), command("INCR a")]).await;
    let took = begin.elapsed();
    assert_eq!(answers.into_iter().map(reason).collect::<Vec<_>>(), [Reason::Timeout; 2]);
    assert!(took >= settings.timeout && took < Duration::from_millis(700), "{took:?}");
    let failure = refused(&settings).await;
    assert_eq!(failure.to_string(), "Redis does not answer in time: not connected after 1000 ms");
    server.resume();
    // What was given up is done all the same, and its answers are not taken for others.
    assert_eq!(one(&mut connection, "INCR a").await, Ok(Value::Int(3)));
}

#[tokio::test]
async fn a_server_that_dies_fails_every_command_and_ends_the_subscription() {
    let mut server = Server::start(&[]);
    let settings = server.settings();
    let mut connection = connect(&settings).await;
    let mut subscription = connector(&settings).subscribe("test", MOST).await.unwrap();
    server.stop();
    let mut asking = connection.clone();
    let asked = tokio::spawn(async move { asking.execute(vec![command("INCR a"), command("INCR a")]).await });
    tokio::task::yield_now().await;
    server.kill();
    let answers = asked.await.unwrap();
    assert_eq!(answers.into_iter().map(reason).collect::<Vec<_>>(), [Reason::Unreachable; 2]);
    assert_eq!(subscription.next().await, None);
    assert_eq!(reason(one(&mut connection, "INCR a").await), Reason::Unreachable);
    let failure = refused(&settings).await;
    assert_eq!(failure.reason, Reason::Unreachable);
    assert!(failure.detail.contains("Connection refused"), "{failure}");
    server.restart();
    assert_eq!(one(&mut connect(&settings).await, "INCR a").await, Ok(Value::Int(1)));
}

#[tokio::test]
async fn what_is_published_is_heard_in_order() {
    let server = Server::start(&[]);
    let settings = server.settings();
    let mut connection = connect(&settings).await;
    let mut subscription = connector(&settings).subscribe("test:all", MOST).await.unwrap();
    assert_eq!(connection.publish_command(), "PUBLISH");
    let lines = (0..100).map(|n| command(&format!("PUBLISH test:all {n}")));
    let answers = connection.execute(lines.chain([command("PUBLISH test:other x")]).collect()).await;
    assert_eq!((answers[99].clone(), answers[100].clone()), (Ok(Value::Int(1)), Ok(Value::Int(0))));
    for n in 0..100 {
        assert_eq!(subscription.next().await, Some(Payload::Whole(n.to_string().into_bytes())));
    }
    drop(subscription);
    eventually("unsubscribed", async || {
        (one(&mut connection, "PUBLISH test:all x").await == Ok(Value::Int(0))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_subscription_that_nobody_hears_is_bounded_and_ends() {
    let server = Server::start(&[]);
    let settings = Settings { timeout: Duration::from_millis(900), ..server.settings() };
    let mut connection = connect(&settings).await;
    let mut subscription = connector(&settings).subscribe("test", MOST).await.unwrap();
    let mut publish = cmd("PUBLISH");
    publish.arg("test").arg(vec![b'x'; 4 << 20]);
    for _ in 0..12 {
        connection.execute(vec![publish.clone()]).await.remove(0).unwrap();
    }
    let mut heard = 0;
    while subscription.next().await.is_some() {
        heard += 1;
    }
    assert_eq!(heard, 8, "as many as 32 MiB have room for");
}

#[tokio::test]
async fn of_what_is_too_large_only_the_beginning_is_heard() {
    let server = Server::start(&[]);
    let settings = Settings { timeout: Duration::from_millis(900), ..server.settings() };
    let mut connection = connect(&settings).await;
    let mut subscription = connector(&settings).subscribe("test", 100).await.unwrap();
    // More than a subscription may hold, in parts below the bound of Redis' own.
    let sizes = [[100, 101].as_slice(), &[4 << 20; 9], &[0]].concat();
    for size in sizes.clone() {
        let mut publish = cmd("PUBLISH");
        publish.arg("test").arg(vec![b'x'; size]);
        connection.execute(vec![publish]).await.remove(0).unwrap();
    }
    for size in sizes {
        let expected = match size {
            ..=100 => Payload::Whole(vec![b'x'; size]),
            bytes => Payload::Cut { beginning: vec![b'x'; 64], bytes },
        };
        assert_eq!(subscription.next().await, Some(expected), "{size}");
    }
}

#[tokio::test]
async fn passwords_are_needed_checked_and_not_told() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let url = |user_info: &str| settings(&format!("redis://{user_info}{}", server.address()));
    let absent = refused(&url("")).await;
    assert_eq!(absent.reason, Reason::NoAuth, "{absent}");
    let wrong = refused(&url(":sesame-sesame@")).await;
    assert_eq!(wrong.reason, Reason::NoAuth);
    assert!(wrong.detail.starts_with("WRONGPASS ") && !wrong.detail.contains("sesame"), "{wrong}");
    let mut connection = connect(&url(":hunter2@")).await;
    assert_eq!(one(&mut connection, "ACL WHOAMI").await, Ok(text("default")));

    server.cli(&["-a", "hunter2", "ACL", "SETUSER", "ann", "on", ">p@ss", "~test:*", "+get", "+hello", "+client"]);
    let ann = url("ann:p%40ss@");
    let mut connection = connect(&ann).await;
    assert_eq!(one(&mut connection, "GET test:a").await, Ok(Value::Nil));
    assert_eq!(reason(one(&mut connection, "SET test:a 1").await), Reason::NoPermission);
    let Err(failure) = connector(&ann).subscribe("test:a", MOST).await else { panic!("not permitted") };
    assert_eq!(failure.reason, Reason::NoPermission);
    // A server that repeats what it does not know.
    let server = Server::start(&["--rename-command", "HELLO", ""]);
    let failure = refused(&settings(&format!("redis://:hunter2@{}", server.address()))).await;
    assert_eq!(failure.detail, "ERR unknown command 'HELLO'");
}

#[tokio::test]
async fn databases_and_sockets() {
    let server = Server::start(&["--databases", "4"]);
    let unix = settings(&format!("unix://{}?db=3", server.socket().display()));
    let mut connection = connect(&unix).await;
    one(&mut connection, "SET a 1").await.unwrap();
    let same = settings(&format!("redis://{}/3", server.address()));
    assert_eq!(one(&mut connect(&same).await, "GET a").await, Ok(text("1")));
    assert_eq!(one(&mut connect(&server.settings()).await, "GET a").await, Ok(Value::Nil));
    let failure = refused(&settings(&format!("redis://{}/4", server.address()))).await;
    assert_eq!((failure.reason, failure.detail.as_str()), (Reason::Other, "ERR DB index is out of range"));
    let failure = refused(&settings("unix:///nowhere/redis.sock")).await;
    assert_eq!(failure.reason, Reason::Unreachable, "{failure}");
}

#[tokio::test]
async fn what_keeps_servers_from_writing() {
    let master = Server::start(&[]);
    let (host, port) = host_and_port(&master);
    let replica = Server::start(&["--replicaof", &host, &port]);
    assert_eq!(reason(one(&mut connect(&replica.settings()).await, "SET a 1").await), Reason::ReadOnly);
    let full = Server::start(&["--maxmemory", "1"]);
    assert_eq!(reason(one(&mut connect(&full.settings()).await, "SET a 1").await), Reason::OutOfMemory);
    // A file that cannot be written is where a directory is.
    let unsaved = Server::start(&["--save", "3600 1"]);
    std::fs::create_dir(unsaved.dir().join("dump.rdb")).unwrap();
    let mut connection = connect(&unsaved.settings()).await;
    eventually("misconfigured", async || {
        one(&mut connection, "BGSAVE").await.ok();
        let answer = one(&mut connection, "SET a 1").await;
        (answer.is_err() && reason(answer) == Reason::Misconfigured).then_some(())
    })
    .await;
}

/// A CA and a certificate of it for the name `localhost` and any of `127.0.0.1`, in `dir`.
fn certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(dir).args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "openssl {arguments}");
    };
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost").unwrap();
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"
        ));
    }
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out request -subj /CN=server",
    );
    openssl("x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem");
}

#[tokio::test]
async fn tls_is_checked_against_the_ca_file() {
    let tls = free_address().port().to_string();
    let arguments = ["--tls-port", &tls, "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"];
    let arguments = [&arguments[..], &["--tls-ca-cert-file", "ca.pem", "--tls-auth-clients", "no"]].concat();
    // The name localhost is 127.0.0.1.
    let bind = ["--bind", "127.0.0.1"];
    let server = Server::start_with(&[&arguments[..], &bind[..]].concat(), certificates);
    let trusting = |host: &str, ca: Option<&str>| Settings {
        ca_file: ca.map(|name| server.dir().join(name)),
        ..settings(&format!("rediss://{host}:{tls}"))
    };
    let good = trusting("localhost", Some("ca.pem"));
    assert_eq!(one(&mut connect(&good).await, "PING").await, Ok(Value::SimpleString("PONG".into())));
    let mut subscription = connector(&good).subscribe("test", MOST).await.unwrap();
    assert_eq!(server.cli(&["PUBLISH", "test", "x"]), "1\n");
    assert_eq!(subscription.next().await, Some(Payload::Whole(b"x".to_vec())));
    // Another CA, no CA, and another name.
    let other = trusting("localhost", Some("other.pem"));
    for wrong in [other, trusting("localhost", None), trusting("127.0.0.1", Some("ca.pem"))] {
        let failure = refused(&wrong).await;
        assert_eq!(failure.reason, Reason::Tls, "{failure}");
        assert!(failure.detail.contains("certificate"), "{failure}");
    }
    // A server without TLS waits for the end of a line.
    let plain = format!("rediss://localhost:{}", server.address().port());
    let failure = refused(&Settings { ca_file: good.ca_file.clone(), ..settings(&plain) }).await;
    assert_eq!(failure.reason, Reason::Timeout);
    assert!(failure.detail.ends_with("; so does a server without TLS"), "{failure}");
    let failure = refused(&settings(&format!("redis://localhost:{tls}"))).await;
    assert_eq!(failure.reason, Reason::Unreachable, "{failure}");
    // It was there when the configuration was read.
    let missing = Connector::new(&trusting("localhost", Some("missing.pem"))).err().unwrap();
    assert!(missing.reason == Reason::Tls && missing.detail.contains("missing.pem: No such file"), "{missing}");
}

/// Two nodes that have half of the slots each.
async fn cluster() -> [Server; 2] {
    let start = || {
        let bus = free_address().port().to_string();
        Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    };
    let nodes = [start(), start()];
    for (node, slots) in nodes.iter().zip([["0", "8191"], ["8192", "16383"]]) {
        assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]), "OK\n");
    }
    let bus = nodes[1].cli(&["CONFIG", "GET", "cluster-port"]);
    let (host, port) = host_and_port(&nodes[1]);
    let met = nodes[0].cli(&["CLUSTER", "MEET", &host, &port, bus.lines().nth(1).unwrap()]);
    assert_eq!(met, "OK\n");
    eventually("a cluster", async || {
        let whole = |node: &Server| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        };
        nodes.iter().all(whole).then_some(())
    })
    .await;
    nodes
}

fn host_and_port(server: &Server) -> (String, String) {
    (server.address().ip().to_string(), server.address().port().to_string())
}

#[tokio::test]
async fn a_cluster_routes_each_command_and_follows_slots_that_move() {
    let nodes = cluster().await;
    let settings = settings(&format!("redis+cluster://{}", nodes[0].address()));
    assert!(connector(&settings).is_cluster());
    let mut connection = connect(&settings).await;
    let lines = (0..100).map(|n| command(&format!("INCR {{{n}}}")));
    let answers = connection.execute(lines.chain([command("LPUSH {0} x"), command("GET {0}")]).collect()).await;
    assert!(answers[..100].iter().all(|answer| *answer == Ok(Value::Int(1))), "{answers:?}");
    assert!(answers[100].as_ref().is_err_and(|failure| failure.detail.starts_with("WRONGTYPE")), "{answers:?}");
    assert_eq!(answers[101], Ok(text("1")));
    for node in &nodes {
        assert_ne!(node.cli(&["DBSIZE"]), "0\n");
    }

    // Slot 5061 is of the first node, 12182 of the second: one channel is found by referral, whichever node is asked.
    assert_eq!(connection.publish_command(), "SPUBLISH");
    for channel in ["bar", "foo"] {
        let mut subscription = connector(&settings).subscribe(channel, MOST).await.unwrap();
        let mut publish = cmd("EVAL");
        publish.arg("return redis.call(ARGV[1], KEYS[1], 'x')").arg(1).arg(channel).arg("SPUBLISH");
        assert_eq!(connection.execute(vec![publish]).await, [Ok(Value::Int(1))]);
        assert_eq!(subscription.next().await, Some(Payload::Whole(b"x".to_vec())));
        let slot = nodes[0].cli(&["CLUSTER", "KEYSLOT", channel]);
        let (old, new) = if channel == "bar" { (&nodes[0], &nodes[1]) } else { (&nodes[1], &nodes[0]) };
        let id = new.cli(&["CLUSTER", "MYID"]);
        for node in [new, old] {
            assert_eq!(node.cli(&["CLUSTER", "SETSLOT", slot.trim(), "NODE", id.trim()]), "OK\n");
        }
        assert_eq!(subscription.next().await, None, "who no longer has the slot ends it");
        assert_eq!(one(&mut connection, &format!("INCR {channel}")).await, Ok(Value::Int(1)));
        connector(&settings).subscribe(channel, MOST).await.unwrap();
    }
}

#[tokio::test]
async fn a_cluster_that_misses_a_node_fails_what_that_had() {
    let mut nodes = cluster().await;
    let both = format!("{},{}", nodes[0].address(), nodes[1].address());
    let settings = settings(&format!("redis+cluster://{both}"));
    let mut connection = connect(&settings).await;
    nodes[1].kill();
    let begin = Instant::now();
    let answers = connection.execute(vec![command("INCR bar"), command("INCR foo")]).await;
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(answers[0], Ok(Value::Int(1)));
    assert!(answers[1].is_err(), "{answers:?}");
    // One of the two nodes that were named suffices.
    connect(&settings).await;
    nodes[0].kill();
    let failure = refused(&settings).await;
    assert_eq!(failure.reason, Reason::Unreachable, "{failure}");
    assert!(failure.detail.contains("Connection refused"), "{failure}");
    let alone = Server::start(&[]);
    let failure = refused(&testing::settings(&format!("redis+cluster://{}", alone.address()))).await;
    assert_eq!(failure.detail, "ERR This instance has cluster support disabled");
    let locked = Server::start(&["--requirepass", "hunter2"]);
    let failure = refused(&testing::settings(&format!("redis+cluster://:sesame@{}", locked.address()))).await;
    assert_eq!(failure.reason, Reason::NoAuth, "{failure}");
}

#[tokio::test]
async fn sentinels_name_the_master_also_after_a_failover() {
    let password = ["--requirepass", "hunter2", "--masterauth", "hunter2", "--repl-diskless-sync-delay", "0"];
    let master = Server::start(&password);
    let (host, port) = host_and_port(&master);
    let replica = Server::start(&[&["--replicaof", &host, &port], &password[..]].concat());
    let configuration = format!(
        "sentinel monitor main {host} {port} 2\nsentinel auth-pass main hunter2\nsentinel down-after-milliseconds main 1000\n\
         sentinel failover-timeout main 5000\n"
    );
    let start = || {
        Server::start_with(&["sentinel.conf", "--sentinel"], |dir| {
            std::fs::write(dir.join("sentinel.conf"), &configuration).unwrap();
        })
    };
    let sentinels = [start(), start(), start()];
    let list = sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect::<Vec<_>>().join(",");
    let settings = settings(&format!("redis+sentinel://:hunter2@{},{list}/main", free_address()));
    let mut connection = connect(&settings).await;
    one(&mut connection, "SET a 1").await.unwrap();
    let copied = async || (one(&mut connection, "WAIT 1 100").await == Ok(Value::Int(1))).then_some(());
    eventually("copied", copied).await;
    eventually("known by all", async || {
        let knows = |sentinel: &Server| {
            let info = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
            let value = |name: &str| info.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
            value("num-slaves").as_deref() == Some("1") && value("num-other-sentinels").as_deref() == Some("2")
        };
        sentinels.iter().all(knows).then_some(())
    })
    .await;
    let begun = async || (sentinels[0].cli(&["SENTINEL", "FAILOVER", "main"]) == "OK\n").then_some(());
    eventually("a failover", begun).await;
    let mut connection = eventually("the new master", async || {
        let mut connection = connector(&settings).connect().await.ok()?;
        let port = one(&mut connection, "CONFIG GET port").await.ok()?;
        format!("{port:?}").contains(&replica.address().port().to_string()).then_some(connection)
    })
    .await;
    assert_eq!(one(&mut connection, "GET a").await, Ok(text("1")));

    let unknown = testing::settings(&format!("redis+sentinel://{list}/other"));
    let failure = refused(&unknown).await;
    assert!(failure.detail.ends_with("knows no master of this name"), "{failure}");
    for sentinel in sentinels {
        drop(sentinel);
    }
    assert_eq!(refused(&settings).await.reason, Reason::Unreachable);
}

#[tokio::test]
async fn a_server_that_does_not_want_us_says_why() {
    let server = Server::start(&[]);
    server.cli(&["CONFIG", "SET", "maxclients", "1"]);
    let only = eventually("the only one", async || connector(&server.settings()).connect().await.ok()).await;
    let failure = refused(&server.settings()).await;
    assert_eq!((failure.reason, failure.detail.as_str()), (Reason::Other, "ERR max number of clients reached"));
    drop(only);

    // As Redis does without a password to whoever comes from another machine.
    let listener = TcpListener::bind(free_address()).await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let strict = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // It may have gone already.
            let _ = stream.write_all(b"-DENIED Redis is running in protected mode\r\n").await;
        }
    });
    let failure = refused(&settings(&url)).await;
    assert_eq!(
        (failure.reason, failure.detail.as_str()),
        (Reason::NoAuth, "DENIED Redis is running in protected mode")
    );
    strict.abort();
}
