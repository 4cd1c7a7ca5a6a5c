//! Clients in the middle of something, which they go on with in another generation.

use std::io::ErrorKind;
use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Succession, assert_complete};
use crate::harness::client::{Raw, frame, handshake, read_frame, soon};
use crate::harness::http::Http;
use crate::harness::service::Builder;
use crate::harness::{eventually, eventually_async};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// Clients and workers do not think of time here.
fn begin() -> Succession {
    Succession::begin(Builder::new().with("--workers", 2).with("--max-message-rate", "none"))
}

/// The next frame is this count.
async fn assert_count(raw: &mut Raw, count: u64) {
    let (first, payload) = raw.frame().await.expect("a frame");
    let json: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!((first, json["count"].as_u64()), (TEXT, Some(count)), "{json}");
}

/// Waits until the service has so many HTTP connections, beside the one that asks. One that has asked a moment ago may be
/// among them; who is not accepted yet waits in the queue, which must not matter either.
#[track_caller]
fn wait_http(generations: &Succession, connections: usize) {
    eventually("the HTTP connections", || {
        let active = generations.serving.metric("http_connections_active");
        (active >= (connections + 1) as f64).then_some(())
    });
}

#[tokio::test]
async fn half_a_request_goes_on_in_the_next_generation_and_in_the_one_after_it() {
    let mut generations = begin();
    let request = handshake("/ws/chat/");
    let cuts = [1, 4, 17, 40, 100, request.len() - 2, request.len() - 1];
    let mut clients = Vec::new();
    for cut in cuts {
        let mut raw = Raw { stream: TcpStream::connect(generations.serving.address).await.expect("a connection") };
        raw.send(&request.as_bytes()[..cut]).await;
        clients.push((raw, cut));
    }
    wait_http(&generations, cuts.len());
    assert_complete(&generations.advance(|builder| builder));
    // One more byte in between, for those that have more than one left.
    for (raw, cut) in &mut clients {
        if *cut + 1 < request.len() {
            raw.send(&request.as_bytes()[*cut..=*cut]).await;
            *cut += 1;
        }
    }
    wait_http(&generations, cuts.len());
    assert_complete(&generations.advance(|builder| builder));
    for (mut raw, cut) in clients {
        raw.send(&request.as_bytes()[cut..]).await;
        let head = soon(raw.head()).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101 "), "cut at {cut}: {head}");
        raw.send(&frame(TEXT, b"hello")).await;
        assert_count(&mut raw, 1).await;
    }
}

#[test]
fn a_connection_that_is_kept_alive_is_answered_by_the_next_generation() {
    let mut generations = begin();
    let address = generations.serving.address;
    let status = format!("GET /status HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut clients: Vec<Http> = (0..10).map(|_| Http::connect(address)).collect();
    let mut all_are_answered_by = |pid: i32| {
        for client in &mut clients {
            let answer = client.ask(&status);
            assert_eq!((answer.status, answer.json()["supervisor_pid"].as_i64()), (200, Some(i64::from(pid))));
        }
    };
    all_are_answered_by(generations.serving.pid().as_raw());
    for _ in 0..2 {
        assert_complete(&generations.advance(|builder| builder));
        all_are_answered_by(generations.serving.pid().as_raw());
    }
}

#[tokio::test]
async fn a_close_of_the_server_is_answered_in_the_next_generation() {
    let mut generations = Succession::begin(Builder::new().with("--workers", 2).with("--close-timeout", "1m"));
    let mut raw = Raw::connect(generations.serving.address, "/ws/chat/?session_uuid=leaving", b"").await;
    assert!(generations.serving.ctl(&["disconnect", "leaving"]).status.success());
    let close = raw.close().await;
    let receipt = generations.advance(|builder| builder);
    assert_complete(&receipt);
    assert_eq!(receipt.handed, 1);
    // It is still waited for.
    let waits = raw.stream.try_read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(waits, Err(ErrorKind::WouldBlock));
    raw.send(&frame(CLOSE, &close.0.to_be_bytes())).await;
    let end = soon(raw.stream.read(&mut [0])).await.expect("no reset");
    assert_eq!(end, 0, "nothing comes behind a close");
    eventually("it is gone", || generations.serving.connections().is_empty().then_some(()));
}

/// A client whose buffers are soon full: its segments are small as well, or the loopback interface would hold megabytes.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket");
    socket.set_tcp_mss(536).expect("a socket");
    socket.connect(&address.into()).expect("a connection");
    socket.set_nonblocking(true).expect("a socket");
    TcpStream::from_std(socket.into()).expect("a runtime")
}

#[tokio::test]
async fn what_a_client_has_not_read_is_there_two_generations_later() {
    // More than the kernel takes for it: twice `max-output`, and what the client's kernel takes.
    const PINGS: u32 = 10_000;
    let mut generations = begin();
    let mut raw = Raw { stream: narrow(generations.serving.address) };
    raw.send(handshake("/ws/chat/").as_bytes()).await;
    let head = soon(raw.head()).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let payload = |number: u32| [&number.to_be_bytes()[..], &[b'.'; 100]].concat();
    let pings: Vec<u8> = (0..PINGS).flat_map(|number| frame(PING, &payload(number))).collect();
    // The server does not read from a client that does not; what it has not read travels in the socket.
    let (mut reader, mut writer) = raw.stream.into_split();
    let writing = tokio::spawn(async move {
        writer.write_all(&pings).await.expect("the connection is open");
        writer.write_all(&frame(TEXT, b"hello")).await.expect("the connection is open");
        writer
    });
    let queued = |generations: &Succession| generations.serving.connections().first().map_or(0, |row| row.queued_bytes);
    eventually_async("unsent output", async || (queued(&generations) > 0).then_some(())).await;
    for _ in 0..2 {
        assert_complete(&generations.advance(|builder| builder));
        assert!(queued(&generations) > 0);
    }
    for number in 0..PINGS {
        let pong = soon(read_frame(&mut reader)).await;
        assert_eq!(pong, Some((PONG, payload(number))));
    }
    let (first, count) = soon(read_frame(&mut reader)).await.expect("a count");
    assert_eq!((first, serde_json::from_slice(&count).ok()), (TEXT, Some(json!({ "count": 1 }))));
    drop(writing.await.expect("no panic"));
}

/// Waits until the service has nearly so many bytes of unfinished messages: all but their heads.
#[track_caller]
fn wait_held(generations: &Succession, bytes: f64) {
    eventually("the unfinished messages", || {
        (generations.serving.metric("websocket_buffered_bytes") >= bytes * 0.99).then_some(())
    });
}

#[tokio::test]
async fn a_large_message_is_completed_in_the_next_generation() {
    let mut generations = begin();
    let address = generations.serving.address;
    let text = frame(TEXT, "x".repeat(900_000).as_bytes());
    let mut clients = join_all((0..4).map(|_| Raw::connect(address, "/ws/chat/", b""))).await;
    for raw in &mut clients {
        raw.send(&frame(TEXT, b"first")).await;
        assert_count(raw, 1).await;
        raw.send(&text[..text.len() / 2]).await;
    }
    let halves = (text.len() / 2 * clients.len()) as f64;
    wait_held(&generations, halves);
    let receipt = generations.advance(|builder| builder);
    assert_complete(&receipt);
    assert_eq!(receipt.handed, clients.len() as u64);
    wait_held(&generations, halves);
    for raw in &mut clients {
        raw.send(&text[text.len() / 2..]).await;
        assert_count(raw, 2).await;
    }
}
