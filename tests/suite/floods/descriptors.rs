//! A worker that runs out of descriptors refuses WebSockets, and still answers whoever asks how it is.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::{Witness, one_worker, worker};
use crate::harness::client::{Raw, Refused, soon};
use crate::harness::http::Http;
use crate::harness::service::{Builder, baton};
use crate::harness::{Service, eventually_async, executable, http, procfs};

/// Descriptors of the worker, of which it keeps 64 for itself and 64 for HTTP.
const LIMIT: usize = 200;

/// WebSockets that it may have.
const WEBSOCKETS: usize = LIMIT - 64 - 64;

/// The command, with this many descriptors for each of its processes.
fn with_descriptors(builder: Builder, count: usize) -> Builder {
    let script = builder.dir().join("baton");
    let text = format!("#!/bin/sh\nulimit -n {count}\nexec {} \"$@\"\n", baton().display());
    executable::script(&script, &text);
    builder.program(script)
}

/// Connects until a WebSocket is refused: those that were not, and the refusal's head.
async fn fill(service: &Service) -> (Vec<Raw>, String) {
    let mut clients = Vec::new();
    loop {
        match Raw::try_connect(service.address, "/ws/chat/", b"").await {
            Ok(raw) => clients.push(raw),
            Err(Refused::Http(head)) => return (clients, head),
            Err(refused) => panic!("{refused}"),
        }
        assert!(clients.len() <= WEBSOCKETS, "the limit does not hold");
    }
}

fn assert_probes_are_answered(service: &Service) {
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 200), ("/status", 200)] {
        let answer = http::get(service.address, path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn at_the_limit_of_descriptors_websockets_are_refused_and_probes_answered() {
    let service = with_descriptors(one_worker(), LIMIT).start();
    let mut witness = Witness::of(&service).await;
    let before = service.metric("websocket_connections_active") as usize;
    assert_eq!(service.metric("websocket_connections_limit") as usize, WEBSOCKETS);
    let (mut clients, refusal) = fill(&service).await;
    assert_eq!(clients.len() + before, WEBSOCKETS);
    let refusal = refusal.to_ascii_lowercase();
    assert!(refusal.starts_with("http/1.1 503") && refusal.contains("\r\nretry-after: "), "{refusal}");
    assert!(refusal.contains("\r\nconnection: close\r\n"), "{refusal}");
    assert!(service.metric(r#"websocket_refused_total{reason="connection_limit"}"#) >= 1.0);
    assert_probes_are_answered(&service);
    // A connection ends after its answer, though its client would keep it.
    let mut kept = Http::connect(service.address);
    let answer = kept.ask("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert_eq!(kept.rest(), b"");
    assert_eq!(service.wait_log("refusing WebSockets")["level"], "WARN");
    // A crowd that says nothing cannot hold what is kept for probes.
    let mut crowd = Vec::new();
    for _ in 0..3 * 64 {
        crowd.push(soon(TcpStream::connect(service.address)).await.expect("a connection"));
    }
    let (pid, spent) = (worker(&service), procfs::cpu_time(worker(&service)));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_probes_are_answered(&service);
        witness.is_served().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (spent, took) = (procfs::cpu_time(pid) - spent, begun.elapsed());
    assert!(spent < took / 2, "it spins: {spent:?} of {took:?}");
    drop(crowd);
    // Who leaves makes room.
    clients.truncate(WEBSOCKETS / 2);
    let again = eventually_async("room", async || Raw::try_connect(service.address, "/ws/chat/", b"").await.ok());
    drop(again.await);
    service.wait_log("accepting WebSockets again");
    witness.is_served().await;
    eventually_async("the gauge", async || (service.metric("accept_paused") == 0.0).then_some(())).await;
    assert!(service.metric("accept_pauses_total") >= 1.0);
}
