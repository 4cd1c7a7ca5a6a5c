//! Messages that are begun and not finished: they have a deadline, and their senders a fair share of the memory.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{KIB, MIB, Witness, one_worker, wait_error};
use crate::harness::client::{QUIET, Raw, frame, soon};
use crate::harness::{Service, eventually_async};

const TEXT: u8 = 0x81;
const BEGIN_TEXT: u8 = 0x01;
const PING: u8 = 0x89;

async fn wait_buffered(service: &Service, is_so: impl Fn(f64) -> bool) {
    eventually_async("unfinished messages", async || is_so(service.metric("websocket_buffered_bytes")).then_some(()))
        .await;
}

/// Sends `first`, then `again` over and over, until the connection is closed: its close.
async fn sends_for_ever(service: &Service, first: &[u8], again: &[u8]) -> (u16, String) {
    let mut raw = Raw::connect(service.address, "/ws/chat/", first).await;
    loop {
        raw.send(again).await;
        // Pongs may come before it.
        match timeout(QUIET / 10, raw.frame()).await {
            Ok(Some((0x88, payload))) => {
                let (code, reason) = payload.split_first_chunk().expect("a code");
                return (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("UTF-8"));
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => panic!("ended without a close"),
        }
    }
}

#[tokio::test]
async fn a_message_that_is_not_finished_in_time_closes_1008() {
    let service = one_worker().with("--message-timeout", "1s").start();
    let mut witness = Witness::of(&service).await;
    let closed = (1008, "the message was not complete after 1s".to_owned());
    let message = frame(TEXT, &[b'x'; 100 * KIB]);
    // A byte of a header, a header, half a payload, a message without its last frame, half a frame behind a whole one.
    let begun = [
        &message[..1],
        &message[..14],
        &message[..50 * KIB],
        &frame(BEGIN_TEXT, b"begins"),
        &[frame(TEXT, b"whole"), frame(PING, b"half")[..3].to_vec()].concat(),
    ];
    let mut silent = Vec::new();
    for bytes in begun {
        silent.push(Raw::connect(service.address, "/ws/chat/", bytes).await);
    }
    // More of it, or a ping in it, extends nothing.
    let (fragment, pings) = (frame(BEGIN_TEXT, b"begins"), frame(PING, b""));
    let trickled = sends_for_ever(&service, &message[..14], &message[14..15]);
    let pinged = sends_for_ever(&service, &fragment, &pings);
    let both = soon(async { tokio::join!(trickled, pinged) }).await;
    assert_eq!(both, (closed.clone(), closed.clone()));
    for raw in &mut silent {
        assert_eq!(raw.close().await, closed);
    }
    assert_eq!(service.metric("websocket_errors_total{type=\"unfinished_message\"}"), 7.0);
    // One that rests is not late.
    witness.is_served().await;
    drop(silent);
    wait_buffered(&service, |bytes| bytes == 0.0).await;
}

#[tokio::test]
async fn a_message_gets_no_more_time_from_another_process() {
    let service = one_worker().with("--message-timeout", "3s").start();
    let mut raw = Raw::connect(service.address, "/ws/chat/", &frame(TEXT, b"never complete")[..9]).await;
    wait_buffered(&service, |bytes| bytes > 0.0).await;
    let mut closing = tokio::spawn(async move { raw.close().await });
    let mut restarts = 0;
    // Each worker has it for half of the time, which is enough to find it late.
    let close = loop {
        match timeout(Duration::from_millis(1500), &mut closing).await {
            Ok(close) => break close.expect("no panic"),
            Err(_) => assert!(service.ctl(&["restart", "0"]).status.success()),
        }
        restarts += 1;
        assert!(restarts < 8, "it is never closed");
    };
    assert_eq!(close, (1008, "the message was not complete after 3s".to_owned()));
    assert!(service.metric("handoff_taken_total") >= 1.0);
}

#[tokio::test]
async fn whoever_holds_most_and_longest_goes_not_whoever_asks_last() {
    const CROWD: usize = 62;
    const INNOCENTS: usize = 60;
    let service = one_worker().with("--max-buffer-memory", "1MiB").with("--max-message-size", "1MiB").start();
    let large = frame(TEXT, &[b'x'; 17_000]);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
        raw.send(&large[..16_000]).await;
        crowd.push(raw);
    }
    // All but 50 KB of the memory, for as long as they like.
    wait_buffered(&service, |bytes| bytes > 15_900.0 * CROWD as f64).await;
    assert_eq!(service.metric("websocket_errors_total{type=\"memory\"}"), 0.0);
    let small = frame(TEXT, &[b'y'; 2_000]);
    let mut innocents = Vec::new();
    for _ in 0..INNOCENTS {
        let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
        raw.send(&small[..1_000]).await;
        innocents.push(raw);
    }
    wait_error(&service, "memory", 1.0).await;
    wait_buffered(&service, |bytes| bytes < MIB as f64).await;
    for raw in &mut innocents {
        raw.send(&small[1_000..]).await;
        assert_eq!(raw.frame().await, Some((TEXT, br#"{"count":1}"#.to_vec())));
    }
    // The first of the crowd made room, no more than were needed, and each knows why.
    let gone = service.metric("websocket_errors_total{type=\"memory\"}") as usize;
    assert!((1..CROWD / 4).contains(&gone), "{gone} of {CROWD} were closed");
    let (gone, stay) = crowd.split_at_mut(gone);
    for raw in gone {
        let (code, reason) = raw.close().await;
        assert!(code == 1013 && reason.starts_with("retry_ms="), "{code} {reason}");
    }
    for raw in stay {
        raw.send(&large[16_000..]).await;
        assert_eq!(raw.frame().await, Some((TEXT, br#"{"count":1}"#.to_vec())));
    }
    wait_buffered(&service, |bytes| bytes == 0.0).await;
}

#[tokio::test]
async fn unfinished_messages_are_bounded_together() {
    let limits = [("--max-buffer-memory", "2MiB"), ("--max-message-size", "1MiB")];
    let service = limits.iter().fold(one_worker(), |builder, (flag, value)| builder.with(flag, value)).start();
    let mut witness = Witness::of(&service).await;
    let message = frame(0x81, &[b'x'; 200 * KIB]);
    let mut early = Raw::connect(service.address, "/ws/chat/", b"").await;
    early.send(&message[..100 * KIB]).await;
    eventually_async("the first half", async || {
        (service.metric("websocket_buffered_bytes") >= 100.0 * KIB as f64).then_some(())
    })
    .await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
        // It may be closed while it sends.
        let _ = raw.stream.write_all(&message[..150 * KIB]).await;
        crowd.push(raw);
    }
    wait_error(&service, "memory", 1.0).await;
    let buffered = service.metric("websocket_buffered_bytes");
    eprintln!("{} KiB are held", buffered as usize / KIB);
    assert!(buffered < 3.0 * MIB as f64, "{buffered}");
    witness.is_served().await;
    let mut refused = 0;
    for raw in &mut crowd {
        if let Ok(Some((0x88, close))) = timeout(QUIET / 10, raw.frame()).await {
            assert_eq!(close[..2], 1013_u16.to_be_bytes());
            assert!(close[2..].starts_with(b"retry_ms="));
            refused += 1;
        }
    }
    eprintln!("{refused} of 40 were told to come back");
    assert!((20..40).contains(&refused), "{refused}");
    drop(crowd);
    // Whoever holds less than a fair share is unaffected.
    eventually_async("the end of the crowd", async || {
        (service.metric("websocket_buffered_bytes") < 110.0 * KIB as f64).then_some(())
    })
    .await;
    early.send(&message[100 * KIB..]).await;
    assert_eq!(early.frame().await.expect("an answer").1, br#"{"count":1}"#);
    eventually_async("the end of all that was buffered", async || {
        (service.metric("websocket_buffered_bytes") == 0.0).then_some(())
    })
    .await;
    witness.is_served().await;
}
