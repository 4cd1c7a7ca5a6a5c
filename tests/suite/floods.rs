//! Clients that take too much: of memory, of time, of descriptors. They are bounded and counted, the others notice
//! nothing, and the service recovers by itself.

mod descriptors;
mod unfinished;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::{QUIET, Raw, frame, handshake, soon};
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually_async, http, procfs, raise_descriptor_limit};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Beyond this no flood of these tests may take a worker. Wide: a single one without a bound would take far more.
const WIDE: u64 = 48 * MIB as u64;

/// One worker without a limit to the rate.
fn one_worker() -> Builder {
    Builder::new().with("--workers", "1").with("--max-message-rate", "none")
}

fn worker(service: &Service) -> Pid {
    service.worker_in(0).expect("it serves")
}

/// A WebSocket whose receive buffer is as small as can be.
async fn narrow(service: &Service, path: &str) -> Raw {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut stream = soon(socket.connect(service.address)).await.expect("a connection");
    stream.write_all(handshake(path).as_bytes()).await.expect("connected");
    let mut raw = Raw { stream };
    let head = soon(raw.head()).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    raw
}

/// Sends messages and reads nothing, until the server takes no more: how many went out whole.
async fn send_until_stuck(raw: &mut Raw) -> usize {
    let message = frame(0x81, b"");
    let batch = message.repeat(8 * KIB);
    let (mut sent, mut at) = (0, 0);
    while let Ok(written) = timeout(QUIET, raw.stream.write(&batch[at..])).await {
        let Ok(written) = written else { break };
        sent += written;
        at = (at + written) % batch.len();
        assert!(sent < 256 * MIB, "the server takes everything");
    }
    sent / message.len()
}

/// A client that wants to know whether it is served as ever.
struct Witness(Client, u64);

impl Witness {
    async fn of(service: &Service) -> Witness {
        Witness(Client::connect(&service.url()).await, 0)
    }

    async fn is_served(&mut self) {
        self.0.send("still there?").await;
        self.1 += 1;
        loop {
            match self.0.next().await.expect("a message") {
                Message::Ping(_) => {}
                answer => return assert_eq!(answer, Message::text(format!("{{\"count\":{}}}", self.1))),
            }
        }
    }
}

async fn wait_active(service: &Service, connections: f64) {
    eventually_async("connections to go", async || {
        (service.metric("websocket_connections_active") == connections).then_some(())
    })
    .await;
}

async fn wait_error(service: &Service, kind: &str, count: f64) {
    let name = format!("websocket_errors_total{{type=\"{kind}\"}}");
    eventually_async(&name, async || (service.metric(&name) >= count).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_sends_and_never_reads_is_closed() {
    let service = one_worker().with("--write-timeout", "1s").start();
    let mut witness = Witness::of(&service).await;
    let before = procfs::rss(worker(&service));
    let mut raw = narrow(&service, "/ws/chat/").await;
    let sent = send_until_stuck(&mut raw).await;
    let grown = procfs::rss(worker(&service)).saturating_sub(before);
    eprintln!("stuck after {sent} messages; the worker has grown by {} KiB", grown / 1024);
    assert!(grown < WIDE);
    witness.is_served().await;
    wait_error(&service, "slow_reader", 1.0).await;
    service.wait_log("a client does not read");
    // It was told, should it ever read on: each count in its order, and why it was closed.
    let mut counts = 0;
    let reason = loop {
        let (first, payload) = raw.frame().await.expect("a close before the end");
        if first == 0x88 {
            break payload;
        }
        counts += 1;
        assert_eq!(payload, format!("{{\"count\":{counts}}}").into_bytes());
    };
    assert_eq!(reason[..2], 1008_u16.to_be_bytes());
    assert!(counts <= sent);
    drop(raw);
    wait_active(&service, 1.0).await;
    assert_eq!(service.metric("websocket_buffered_bytes"), 0.0);
    witness.is_served().await;
}

#[tokio::test]
async fn a_client_that_leaves_its_pushes_unread_is_closed() {
    let service = one_worker().with("--max-output", "64KiB").with("--close-timeout", "1s").start();
    let mut reader = Client::connect(&service.url()).await;
    let _lazy = narrow(&service, "/ws/chat/").await;
    let text = format!("{:?}", "x".repeat(60 * KIB));
    let mut pushed = 0;
    while service.metric("websocket_errors_total{type=\"slow_reader\"}") == 0.0 {
        assert!(service.ctl(&["broadcast", &text]).status.success());
        pushed += text.len();
        assert_eq!(reader.next().await.expect("a message"), Message::text(text.as_str()));
        assert!(pushed < 64 * MIB, "it is never closed");
        assert!(service.metric("websocket_buffered_bytes") < 256.0 * KIB as f64);
    }
    eprintln!("closed after {} KiB", pushed / KIB);
    wait_active(&service, 1.0).await;
    assert_eq!(service.metric("websocket_buffered_bytes"), 0.0);
}

#[tokio::test]
async fn all_slow_readers_together_are_bounded() {
    const CLIENTS: usize = 100;
    let limits = [("--max-buffer-memory", "1MiB"), ("--max-message-size", "1MiB"), ("--write-timeout", "10m")];
    let service = limits.iter().fold(one_worker(), |builder, (flag, value)| builder.with(flag, value)).start();
    let mut witness = Witness::of(&service).await;
    let mut slow = Vec::new();
    for _ in 0..CLIENTS {
        slow.push(narrow(&service, "/ws/chat/").await);
    }
    let sent = Arc::new(AtomicUsize::new(0));
    let flood = |mut raw: Raw| {
        let (sent, batch) = (sent.clone(), frame(0x81, b"").repeat(8 * KIB));
        tokio::spawn(async move {
            while raw.stream.write_all(&batch).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let slow: Vec<_> = slow.into_iter().map(flood).collect();
    // Until nothing moves any more.
    let (mut before, mut most) = (usize::MAX, 0.0);
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        for _ in 0..10 {
            witness.is_served().await;
            most = service.metric("websocket_buffered_bytes").max(most);
            tokio::time::sleep(QUIET / 10).await;
        }
    }
    eprintln!("at most {} KiB have waited", most as usize / KIB);
    assert!(most < 2.0 * MIB as f64, "{most}");
    slow.iter().for_each(JoinHandle::abort);
    drop(slow);
    wait_active(&service, 1.0).await;
    assert_eq!(service.metric("websocket_buffered_bytes"), 0.0);
    assert!(service.metric("websocket_errors_total{type=\"memory\"}") > 0.0);
}

#[tokio::test]
async fn a_slow_reader_that_vanishes_gives_its_memory_back() {
    let service = one_worker().with("--ping-interval", "1s").start();
    for vanishes in [true, false, true, false] {
        let mut raw = narrow(&service, "/ws/chat/").await;
        send_until_stuck(&mut raw).await;
        if vanishes {
            // Unread replies make this a reset.
            drop(raw);
        } else {
            // Silent from one ping to the next.
            wait_active(&service, 0.0).await;
        }
    }
    wait_active(&service, 0.0).await;
    assert_eq!(service.metric("websocket_buffered_bytes"), 0.0);
}

#[tokio::test]
async fn an_end_behind_much_data_is_seen() {
    let service = one_worker().start();
    // More than one read takes, and the end of the stream right behind it.
    let messages = 20_000;
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    kill(worker(&service), Signal::SIGSTOP).expect("a worker");
    raw.send(&frame(0x81, b"hello").repeat(messages)).await;
    raw.stream.shutdown().await.expect("connected");
    kill(worker(&service), Signal::SIGCONT).expect("a worker");
    let mut last = Vec::new();
    while let Some((_, payload)) = raw.frame().await {
        last = payload;
    }
    assert_eq!(last, format!("{{\"count\":{messages}}}").into_bytes());
    wait_active(&service, 0.0).await;
    // The same of a client whose replies have to wait.
    let mut raw = narrow(&service, "/ws/chat/").await;
    send_until_stuck(&mut raw).await;
    raw.stream.shutdown().await.expect("connected");
    while raw.frame().await.is_some() {}
    wait_active(&service, 0.0).await;
}

#[tokio::test]
async fn slow_handshakes_are_ended_and_hold_up_nobody() {
    let service = Service::start(&[("--handshake-timeout", "1s")]);
    let begun = Instant::now();
    let slow = (0..50).map(|n| {
        let address = service.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let (mut reader, mut writer) = stream.split();
            let write = async {
                // Some say nothing at all.
                for byte in handshake("/ws/chat/").as_bytes().iter().cycle().take(n * 1000) {
                    let byte = if *byte == b'\n' { b'x' } else { *byte };
                    writer.write_all(&[byte]).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                std::future::pending::<std::io::Result<()>>().await
            };
            let mut answer = Vec::new();
            tokio::select! {
                _ = reader.read_to_end(&mut answer) => {}
                _ = write => {}
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    let mut served = 0;
    while slow.iter().any(|client| !client.is_finished()) {
        let mut witness = Witness::of(&service).await;
        witness.is_served().await;
        served += 1;
        assert!(begun.elapsed() < Duration::from_secs(20), "slow handshakes are not ended");
    }
    eprintln!("{served} clients served meanwhile; the last slow one ended after {:?}", begun.elapsed());
    eventually_async("the end of HTTP connections", async || {
        // That of the scrape itself is one.
        (service.metric("http_connections_active") <= 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn thousands_of_half_open_connections_are_pushed_out() {
    raise_descriptor_limit();
    let service = Service::start(&[("--max-handshakes", "200")]);
    let mut witness = Witness::of(&service).await;
    let workers = service.worker_pids();
    let before: Vec<u64> = workers.iter().map(|pid| procfs::rss(*pid)).collect();
    let mut crowd = Vec::new();
    for n in 0..3000 {
        let mut stream = soon(TcpStream::connect(service.address)).await.expect("a queue with room");
        if n % 2 == 0 {
            stream.write_all(b"GET /ws/chat/ HTTP/1.1\r\nHost: te").await.expect("connected");
        }
        crowd.push(stream);
    }
    witness.is_served().await;
    let begun = Instant::now();
    Witness::of(&service).await.is_served().await;
    eprintln!("a new client was served after {:?}", begun.elapsed());
    service.wait_log("too many HTTP connections at once");
    for (pid, before) in workers.iter().zip(before) {
        let grown = procfs::rss(*pid).saturating_sub(before);
        assert!(grown < WIDE, "a worker has grown by {} KiB", grown / 1024);
    }
    drop(crowd);
    // Said as soon as there is somebody to let in.
    eventually_async("the end of the crowd", async || {
        Witness::of(&service).await.is_served().await;
        service.log().contains("the crowd of HTTP connections is over").then_some(())
    })
    .await;
    assert!(service.metric("websocket_refused_total{reason=\"handshake_limit\"}") > 0.0);
    witness.is_served().await;
}

#[tokio::test]
async fn a_message_that_is_too_big_is_refused_by_its_header() {
    let service = one_worker().start();
    let mut witness = Witness::of(&service).await;
    let before = procfs::rss(worker(&service));
    // Twenty mebibytes announced, none sent.
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&frame(0x81, &vec![b'x'; 20 * MIB])[..14]).await;
    assert_eq!(raw.close().await.0, 1009);
    // All of them sent, whatever the server says.
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    let whole = frame(0x82, &vec![b'x'; 20 * MIB]);
    let (mut reader, mut writer) = raw.stream.split();
    let (_, answer) = tokio::join!(writer.write_all(&whole), async {
        let mut answer = [0; 4];
        soon(reader.read_exact(&mut answer)).await.expect("a close");
        answer
    });
    assert_eq!((answer[0], u16::from_be_bytes([answer[2], answer[3]])), (0x88, 1009));
    // In pieces none of which is too big.
    let mut raw = Raw::connect(service.address, "/ws/chat/", &frame(0x01, b"begins")).await;
    for _ in 0..17 {
        raw.send(&frame(0x00, &[b'x'; 64 * KIB])).await;
    }
    assert_eq!(raw.close().await.0, 1009);
    let grown = procfs::rss(worker(&service)).saturating_sub(before);
    assert!(grown < 20 * MIB as u64, "{} KiB", grown / 1024);
    assert_eq!(service.metric("websocket_errors_total{type=\"too_big\"}"), 3.0);
    witness.is_served().await;
}

#[tokio::test]
async fn endless_heads_are_refused() {
    let service = one_worker().start();
    let mut witness = Witness::of(&service).await;
    let before = procfs::rss(worker(&service));
    for _ in 0..20 {
        let mut stream = TcpStream::connect(service.address).await.expect("a connection");
        let mut sent = 0;
        let chunk = [b'x'; 64 * KIB];
        stream.write_all(b"GET /ws/chat/ HTTP/1.1\r\nHost: test\r\nX-Endless: ").await.expect("connected");
        while sent < 64 * MIB && soon(stream.write_all(&chunk)).await.is_ok() {
            sent += chunk.len();
        }
        assert!(sent < 64 * MIB, "it is read for ever");
    }
    let fields: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    match http::request(service.address, &request) {
        Ok(answer) => assert_eq!(answer.status, 431),
        // It was closed with most of it unread.
        Err(error) => eprintln!("no answer: {error}"),
    }
    let request = format!("GET /healthz HTTP/1.1\r\nHost: test\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(http::request(service.address, &request).expect("an answer").status, 431);
    let grown = procfs::rss(worker(&service)).saturating_sub(before);
    eprintln!("the worker has grown by {} KiB", grown / 1024);
    assert!(grown < WIDE);
    witness.is_served().await;
}

#[tokio::test]
async fn a_flood_of_pings_is_bounded_by_the_rate() {
    let service = Builder::new().with("--workers", "1").with("--max-message-rate", "100").start();
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&frame(0x89, b"one")).await;
    assert_eq!(raw.frame().await, Some((0x8a, b"one".to_vec())));
    // Of whatever second: more than two seconds allow.
    raw.send(&frame(0x89, b"many").repeat(500)).await;
    let mut pongs = 0;
    let close = loop {
        match raw.frame().await.expect("a close before the end") {
            (0x8a, _) => pongs += 1,
            (0x88, close) => break close,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(close[..2], 1008_u16.to_be_bytes());
    assert!((99..=200).contains(&pongs), "{pongs}");
    wait_error(&service, "rate_limit", 1.0).await;
    // Pongs that nobody asked for count as well.
    let mut raw = Raw::connect(service.address, "/ws/chat/", &frame(0x8a, b"").repeat(500)).await;
    assert_eq!(raw.close().await.0, 1008);
}

#[tokio::test]
async fn a_close_in_the_same_packet_as_what_is_refused_is_seen() {
    // So long that only an answer ends the connection.
    let service = one_worker().with("--close-timeout", "10m").start();
    let refused = [frame(0x82, b"binary"), frame(0x81, b"text"), frame(0x88, &1000_u16.to_be_bytes())].concat();
    let mut raw = Raw::connect(service.address, "/ws/chat/", &refused).await;
    assert_eq!(raw.close().await.0, 1003);
    assert_eq!(raw.frame().await, None);
    // A second packet is read from where the first ended.
    let mut raw = Raw::connect(service.address, "/ws/chat/", &refused[..20]).await;
    assert_eq!(raw.close().await.0, 1003);
    raw.send(&refused[20..]).await;
    assert_eq!(raw.frame().await, None);
    wait_active(&service, 0.0).await;
}

#[tokio::test]
async fn who_sends_on_after_the_close_is_cut_off() {
    let service = one_worker().with("--close-timeout", "1s").start();
    let mut witness = Witness::of(&service).await;
    let garbage = vec![0xff; 64 * KIB];
    // After a close of its own, and after one that it was given for breaking the protocol.
    for (first, code) in [(frame(0x88, &1000_u16.to_be_bytes()), 1000_u16), (frame(0x83, b""), 1002)] {
        let mut raw = Raw::connect(service.address, "/ws/chat/", &first).await;
        let begun = Instant::now();
        let (mut reader, mut writer) = raw.stream.split();
        let send = async { while writer.write_all(&garbage).await.is_ok() {} };
        let read = async {
            let mut head = [0; 4];
            soon(reader.read_exact(&mut head)).await.map(|_| head)
        };
        let (_, head) = soon(async { tokio::join!(send, read) }).await;
        eprintln!("cut off after {:?}: {head:?}", begun.elapsed());
        // The reset that cuts it off may take the close with it, if it was not read before.
        if let Ok(head) = head {
            assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, code));
        }
        wait_active(&service, 1.0).await;
    }
    witness.is_served().await;
}
