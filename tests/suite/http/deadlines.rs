//! How long an HTTP connection may last, and what the kernel holds for one whose client does not read.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::request;
use crate::harness::http::{Http, parse};
use crate::harness::{SOON, Service, eventually, procfs};

/// A client whose kernel takes little that it does not read.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    socket.connect(&address.into()).expect("a connection");
    socket.into()
}

#[test]
fn answers_that_nobody_reads_are_bounded_and_end() {
    const MOST: u64 = 1024 * 1024;
    let service = Service::start(&[("--workers", "1"), ("--write-timeout", "1s")]);
    // They all wait for requests, so that nothing else is served while the kernel's buffers are looked at.
    let clients: Vec<TcpStream> = (0..3).map(|_| narrow(service.address)).collect();
    for mut client in &clients {
        client.write_all(request("GET", "/metrics").repeat(1000).as_bytes()).expect("connected");
    }
    let held = |client: &TcpStream| procfs::unsent(service.address, client.local_addr().expect("an address"));
    let mut largest = 0;
    eventually("the end of what is not read", || {
        let held: Vec<u64> = clients.iter().filter_map(held).collect();
        largest = held.iter().copied().fold(largest, u64::max);
        // None of them was closed by its own end.
        (largest > 0 && held.is_empty()).then_some(())
    });
    eprintln!("at most {} KiB were held of one", largest / 1024);
    assert!(largest < MOST, "{largest}");
    for client in &clients {
        let failure = client.take_error().expect("a socket").map(|error| error.kind());
        assert_eq!(failure, Some(std::io::ErrorKind::ConnectionReset), "gracefully closed it would be held on");
    }
    eventually("no connection served", || (service.metric("http_connections_active") <= 1.0).then_some(()));
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    const REQUESTS: usize = 200;
    let timeout = Duration::from_secs(2);
    let service = Service::start(&[("--workers", "1"), ("--write-timeout", "2s")]);
    let mut client = narrow(service.address);
    client.set_read_timeout(Some(SOON)).expect("a socket");
    let last = "GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    client.write_all((request("GET", "/metrics").repeat(REQUESTS) + last).as_bytes()).expect("connected");
    let (begun, mut answers, mut buffer) = (Instant::now(), Vec::new(), [0; 32 * 1024]);
    loop {
        match client.read(&mut buffer).expect("no reset") {
            0 => break,
            n => answers.extend_from_slice(&buffer[..n]),
        }
        // It takes longer than one time in all, and is nowhere near it for any part.
        if begun.elapsed() < 2 * timeout {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let text = String::from_utf8(answers).expect("UTF-8");
    assert_eq!(text.matches("# EOF\n").count(), REQUESTS);
    assert!(text.ends_with(r#"{"status":"ok"}"#));
    assert!(begun.elapsed() > timeout, "it was not slow: {:?}", begun.elapsed());
}

#[test]
fn a_head_and_the_next_request_have_times_of_their_own() {
    let service =
        Service::start(&[("--workers", "1"), ("--handshake-timeout", "500ms"), ("--keep-alive-timeout", "10m")]);
    let mut asked = Http::connect(service.address);
    assert_eq!(asked.ask(request("GET", "/healthz")).status, 200);
    // The reading ends because the server does; it would fail after the client's own, much longer time.
    for _ in 0..2 {
        assert_eq!(Http::connect(service.address).rest(), b"", "nothing was asked");
    }
    assert_eq!(asked.ask(request("GET", "/healthz")).status, 200);
    // The time of a head begins with its first byte.
    asked.send("GET /heal");
    let late = asked.answer();
    late.assert_error(408, "timeout");
    assert_eq!((late.header("connection"), late.header("cache-control")), (Some("close"), Some("no-store")));
    assert_eq!(asked.rest(), b"");

    let service =
        Service::start(&[("--workers", "1"), ("--handshake-timeout", "10m"), ("--keep-alive-timeout", "500ms")]);
    let (mut half, mut asked) = (Http::connect(service.address), Http::connect(service.address));
    half.send("GET /healthz HTTP/1.1\r\n");
    assert_eq!(asked.ask(request("GET", "/healthz")).status, 200);
    assert_eq!(asked.rest(), b"");
    assert_eq!(half.ask("Host: test\r\n\r\n").status, 200);
    assert_eq!(half.rest(), b"");
    eventually("no connection held", || (service.metric("http_connections_active") <= 1.0).then_some(()));
}

#[test]
fn the_thousandth_answer_on_a_connection_is_the_last() {
    let service = Service::start(&[("--workers", "1")]);
    let answered = || service.metric(r#"http_requests_total{status="2xx"}"#);
    let before = answered();
    let mut client = TcpStream::connect(service.address).expect("a connection");
    client.set_read_timeout(Some(SOON)).expect("a socket");
    client.write_all(request("GET", "/healthz").repeat(1200).as_bytes()).expect("connected");
    let mut answers = String::new();
    // What is behind the last one is read and thrown away: a reset could overtake answers.
    client.read_to_string(&mut answers).expect("no reset");
    let answers: Vec<&str> = answers.split_inclusive(r#"{"status":"ok"}"#).collect();
    assert_eq!(answers.len(), 1000);
    let closes = |answer: &&str| parse(answer).expect("an answer").header("connection") == Some("close");
    assert_eq!(answers.iter().position(closes), Some(999));
    client.shutdown(Shutdown::Both).expect("connected");
    // One is the answer to the question before.
    assert_eq!(answered() - before, 1001.0);
}

#[test]
fn who_waits_for_another_request_makes_room_before_who_is_sending_one() {
    const EACH: usize = 4;
    let service = Service::start(&[("--workers", "1"), ("--max-handshakes", "9")]);
    let mut halves: Vec<Http> = (0..EACH).map(|_| Http::connect(service.address)).collect();
    for half in &mut halves {
        half.send("GET /healthz HTTP/1.1\r\n");
    }
    let mut idle: Vec<Http> = (0..EACH).map(|_| Http::connect(service.address)).collect();
    for client in &mut idle {
        assert_eq!(client.ask(request("GET", "/healthz")).status, 200);
    }
    // A worker has room for the next connection, so that eight are let in and the ninth makes one go. Nobody is pushed out
    // in the first second, the end of which nothing tells.
    std::thread::sleep(Duration::from_millis(1100));
    let mut more: Vec<Http> = (0..EACH).map(|_| Http::connect(service.address)).collect();
    for client in &mut more {
        assert_eq!(client.ask(request("GET", "/healthz")).status, 200);
    }
    for half in &mut halves {
        assert_eq!(half.ask("Host: test\r\n\r\n").status, 200);
    }
    for client in &mut idle {
        assert_eq!(client.rest(), b"");
    }
}
