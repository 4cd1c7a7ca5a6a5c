//! The way out: everybody is told, what has arrived is answered first, and nobody can hold it up.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::client::{Raw, Refused, frame, read_frame, soon};
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually, eventually_async, private_address, raise_descriptor_limit};

/// What is promised.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Counts up to a bye and its close.
#[derive(Debug, Default)]
struct Farewell {
    counts: Vec<u64>,
    total: u64,
    retry_ms: u64,
}

/// Reads on to the end: counts, bye, close 1001, which is answered, and then nothing more.
async fn farewell(raw: Raw) -> Farewell {
    let mut stream = BufReader::with_capacity(512, raw.stream);
    let mut farewell = Farewell::default();
    loop {
        let (first, payload) = soon(read_frame(&mut stream)).await.expect("a bye before the end");
        let json: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!(first, 0x81, "{json}");
        match json["count"].as_u64() {
            Some(count) => farewell.counts.push(count),
            None => {
                assert_eq!(json["bye"], true, "{json}");
                farewell.total = json["total"].as_u64().expect("a number");
                break;
            }
        }
    }
    let (first, payload) = soon(read_frame(&mut stream)).await.expect("a close before the end");
    assert_eq!((first, &payload[..2]), (0x88, &1001_u16.to_be_bytes()[..]));
    let reason = std::str::from_utf8(&payload[2..]).expect("UTF-8");
    farewell.retry_ms = reason.strip_prefix("retry_ms=").expect("a hint").parse().expect("a number");
    stream.write_all(&frame(0x88, &payload[..2])).await.expect("it waits for the answer");
    assert_eq!(soon(read_frame(&mut stream)).await, None);
    farewell
}

async fn connect(address: SocketAddr, session: &str) -> Raw {
    Raw::connect(address, &format!("/ws/chat/?session_uuid={session}"), b"").await
}

/// SIGTERM; while the service ends, something else goes on. How long it took.
async fn term<T>(service: &mut Service, meanwhile: impl Future<Output = T>) -> (ExitStatus, Duration, T) {
    let begun = Instant::now();
    service.signal(Signal::SIGTERM);
    let done = meanwhile.await;
    let status = service.wait(GONE_WITHIN.saturating_sub(begun.elapsed()));
    let took = begun.elapsed();
    eprintln!("gone after {took:?}");
    (status, took, done)
}

#[tokio::test]
async fn five_thousand_clients_are_told_and_all_they_have_sent_is_answered() {
    const CLIENTS: usize = 5000;
    raise_descriptor_limit();
    let mut service = Service::start(&[]);
    let address = service.address;
    let message = frame(0x81, b"hello");
    let mut clients = Vec::with_capacity(CLIENTS);
    while clients.len() < CLIENTS {
        let several = clients.len()..clients.len() + 100;
        let several = several.map(async |n| {
            let mut raw = connect(address, &format!("client-{n}")).await;
            for count in 1..=n % 5 {
                raw.send(&message).await;
                assert_eq!(raw.frame().await.expect("an answer").1, format!("{{\"count\":{count}}}").into_bytes());
            }
            raw
        });
        clients.extend(join_all(several).await);
    }
    // Some have messages under way.
    for raw in clients.iter_mut().step_by(3) {
        raw.send(&message.repeat(4)).await;
    }
    let (status, took, farewells) = term(&mut service, join_all(clients.into_iter().map(farewell))).await;
    assert_eq!(status.code(), Some(0));
    assert!(took < GONE_WITHIN, "{took:?}");
    for (n, farewell) in farewells.iter().enumerate() {
        let seen = (n % 5) as u64;
        let sent = if n % 3 == 0 { seen + 4 } else { seen };
        assert!(farewell.counts.iter().copied().eq(seen + 1..=sent) || n % 3 == 0, "client {n}: {farewell:?}");
        assert_eq!(farewell.counts.last().copied().unwrap_or(seen), sent, "client {n}");
        assert_eq!(farewell.total, sent, "client {n}");
    }
    // They shall not all come back at once.
    let hints: Vec<u64> = farewells.iter().map(|farewell| farewell.retry_ms).collect();
    assert!(hints.iter().all(|hint| (100..=5100).contains(hint)));
    assert!(hints.iter().collect::<HashSet<_>>().len() > 1000);
    for second in 0..5 {
        let within = 100 + second * 1000..1100 + second * 1000;
        let share = hints.iter().filter(|hint| within.contains(*hint)).count();
        assert!((700..1300).contains(&share), "{share} of {CLIENTS} in {within:?} ms");
    }
    assert!(service.log_lines().any(|line| line["message"] == "ended"));
}

#[tokio::test]
async fn messages_that_have_arrived_are_answered_before_bye() {
    const MESSAGES: usize = 9000;
    let mut service = Service::start(&[("--workers", "1")]);
    let worker = service.worker_in(0).expect("it serves");
    let mut raw = connect(service.address, "many").await;
    // All of them are there when it hears of the end.
    kill(worker, Signal::SIGSTOP).expect("a worker");
    raw.send(&frame(0x81, b"hello, hello").repeat(MESSAGES)).await;
    let resume = async {
        service.wait_log("worker drains");
        kill(worker, Signal::SIGCONT).expect("a worker");
    };
    service.signal(Signal::SIGTERM);
    resume.await;
    let farewell = farewell(raw).await;
    assert_eq!(farewell.counts, (1..=MESSAGES as u64).collect::<Vec<_>>());
    assert_eq!(farewell.total, MESSAGES as u64);
    assert_eq!(service.wait(GONE_WITHIN).code(), Some(0));
}

#[tokio::test]
async fn who_does_not_answer_or_read_holds_nobody_up() {
    let mut service = Service::start(&[("--max-message-rate", "none")]);
    let address = service.address;
    let mut polite = Vec::new();
    let mut silent = Vec::new();
    let mut stuck = Vec::new();
    let mut half_open = Vec::new();
    for n in 0..20 {
        polite.push(connect(address, &format!("polite-{n}")).await);
        silent.push(connect(address, &format!("silent-{n}")).await);
        let mut raw = connect(address, &format!("stuck-{n}")).await;
        let batch = frame(0x81, b"").repeat(8192);
        stuck.push(tokio::spawn(async move { while raw.stream.write_all(&batch).await.is_ok() {} }));
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        if n % 2 == 0 {
            stream.write_all(b"GET /ws/chat/ HTTP/1.1\r\nHost: te").await.expect("connected");
        }
        half_open.push(stream);
    }
    eventually_async("some to be stuck", async || (service.metric("websocket_buffered_bytes") > 0.0).then_some(()))
        .await;
    let (status, took, farewells) = term(&mut service, join_all(polite.into_iter().map(farewell))).await;
    assert_eq!(status.code(), Some(0));
    assert!(took < GONE_WITHIN, "{took:?}");
    assert_eq!(farewells.len(), 20);
    // The silent ones were told as well.
    for mut raw in silent {
        assert_eq!(raw.frame().await.expect("bye").1, br#"{"bye":true,"total":0}"#);
        assert_eq!(raw.close().await.0, 1001);
    }
}

#[tokio::test]
async fn requests_that_have_arrived_are_answered() {
    let mut service = Service::start(&[]);
    let address = service.address;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(get("/healthz").as_bytes()).await.expect("connected");
        let mut raw = Raw { stream };
        let head = soon(raw.head()).await.expect("an answer");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        raw.stream.read_exact(&mut vec![0; length.parse().expect("a number")]).await.expect("a body");
        connections.push(raw.stream);
    }
    // On ten connections there is a request; the other ten are idle.
    for stream in &mut connections[..10] {
        stream.write_all(get("/metrics").as_bytes()).await.expect("connected");
    }
    let read = connections.into_iter().map(async |mut stream| {
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.expect("an end, and no reset");
        answer
    });
    let (status, took, answers) = term(&mut service, join_all(read)).await;
    for (n, answer) in answers.iter().enumerate() {
        match n {
            0..10 => assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("# EOF\n"), "{answer:?}"),
            _ => assert_eq!(answer, ""),
        }
    }
    assert_eq!(status.code(), Some(0));
    // Nobody was left to wait for.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn who_gets_in_at_the_last_moment_is_told_too() {
    let mut service = Service::start(&[]);
    let address = service.address;
    let clients: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move {
                let mut told = 0;
                loop {
                    match Raw::try_connect(address, "/ws/chat/", &frame(0x81, b"hello")).await {
                        Ok(mut raw) => {
                            let mut texts = Vec::new();
                            // It stays until it is told to go, or the next one comes.
                            while let Some((0x81, text)) = raw.frame().await {
                                let last = text.starts_with(b"{\"count\":") && fastrand::u8(..100) > 0;
                                texts.push(String::from_utf8(text).expect("UTF-8"));
                                if last {
                                    break;
                                }
                            }
                            match texts.last() {
                                Some(text) if text == r#"{"bye":true,"total":1}"# => told += 1,
                                Some(text) if text == r#"{"count":1}"# => {}
                                _ => panic!("{texts:?} and then the end"),
                            }
                        }
                        Err(Refused::Connect(_)) => return told,
                        // In the accept queue of a service that is gone.
                        Err(Refused::Lost(_)) => {}
                        Err(Refused::Http(head)) => assert!(head.starts_with("HTTP/1.1 503"), "{head}"),
                    }
                }
            })
        })
        .collect();
    eventually_async("a few connections", async || {
        (service.metric("websocket_connections_opened_total") > 200.0).then_some(())
    })
    .await;
    let (status, took, told) = term(&mut service, join_all(clients)).await;
    assert_eq!(status.code(), Some(0));
    assert!(took < GONE_WITHIN, "{took:?}");
    let told: Vec<u64> = told.into_iter().map(|told| told.expect("no client was left without a word")).collect();
    eprintln!("told: {told:?}");
}

#[tokio::test]
async fn a_stopped_worker_does_not_hold_up_the_end() {
    let mut service = Service::start(&[("--drain-timeout", "2s")]);
    let address = service.address;
    let victim = service.worker_in(0).expect("it serves");
    let mut clients = Vec::new();
    for n in 0..20 {
        let name = format!("client-{n}");
        let raw = connect(address, &name).await;
        if service.slot_of(&name) != 0 {
            clients.push(raw);
        }
    }
    kill(victim, Signal::SIGSTOP).expect("a worker");
    let (status, took, _) = term(&mut service, join_all(clients.into_iter().map(farewell))).await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn after_a_clean_end_the_next_start_says_so_and_counts_go_on() {
    let builder = Builder::new();
    let service = builder.clone().listen(private_address()).start();
    let address = service.address;
    let mut client = Client::connect(&service.session_url("stays")).await;
    for n in 1..=3 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    let leaving = tokio::spawn(async move { client.close().await });
    let mut service = service;
    let (status, _, close) = term(&mut service, leaving).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(close.expect("no panic").map(|close| close.code.into()), Some(1001));
    assert!(!service.dir().join("run/blue.sock").exists());
    let before = service.log().len();

    let service = builder.clone().listen(address).start();
    let log = &service.log()[before..];
    assert!(log.contains("the store was left in good order"), "{log}");
    let mut client = Client::connect(&service.session_url("stays")).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 4);
}

#[test]
fn term_ends_a_service_that_has_only_just_begun() {
    for _ in 0..5 {
        let mut service = Builder::new().spawn();
        service.signal(Signal::SIGTERM);
        assert_eq!(service.wait(GONE_WITHIN).code(), Some(0), "{}", service.log());
    }
}

#[test]
fn term_ends_a_service_of_which_a_part_is_down() {
    let mut service = Service::start(&[]);
    assert!(service.ctl(&["stop", "1"]).status.success());
    // And one that has to wait for its next try.
    let mut killed = None;
    for _ in 0..3 {
        let pid = eventually("slot 2", || service.worker_in(2).filter(|pid| Some(*pid) != killed));
        kill(pid, Signal::SIGKILL).expect("a worker");
        killed = Some(pid);
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(GONE_WITHIN).code(), Some(0));
}
