//! However the bytes are cut, the messages are the same.

use tokio::io::AsyncWriteExt;

use super::{BEGIN_TEXT, CONTINUE, CONTINUE_LAST, PING, PONG, TEXT, count};
use crate::harness::Service;
use crate::harness::client::{Raw, frame, handshake, soon};

#[tokio::test]
async fn byte_by_byte_fragments_with_pings_between() {
    let service = Service::start(&[]);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    // The cuts go through a character of four bytes, and through the JSON.
    let text = r#"{"said":"hé 💥"}"#.as_bytes();
    let mut sent = vec![frame(BEGIN_TEXT, b"")];
    for (n, byte) in text.iter().enumerate() {
        sent.push(frame(CONTINUE, &[*byte]));
        sent.push(frame(PING, format!("ping {n}").as_bytes()));
    }
    sent.push(frame(CONTINUE_LAST, b""));
    // TCP_NODELAY is set: each byte is a packet of its own, unless the kernel is behind.
    for byte in sent.concat() {
        raw.send(&[byte]).await;
    }
    for n in 0..text.len() {
        assert_eq!(raw.frame().await, Some((PONG, format!("ping {n}").into_bytes())));
    }
    assert_eq!(raw.frame().await, count(1));
    raw.send(&frame(TEXT, b"whole")).await;
    assert_eq!(raw.frame().await, count(2));
}

#[tokio::test]
async fn a_ping_of_any_length_comes_back_as_it_was() {
    let service = Service::start(&[]);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    for length in [0, 1, 124, 125] {
        let payload: Vec<u8> = (0..length).map(|n| 255 - n).collect();
        raw.send(&frame(PING, &payload)).await;
        assert_eq!(raw.frame().await, Some((PONG, payload)));
    }
}

#[tokio::test]
async fn messages_of_every_length_of_header_count() {
    let service = Service::start(&[]);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    // Around the borders of RFC 6455 section 5.2, of the memory for reading, and the largest that may be.
    let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 200_000, 1 << 20];
    for (length, n) in lengths.into_iter().zip(1..) {
        raw.send(&frame(TEXT, &vec![b'x'; length])).await;
        assert_eq!(raw.frame().await, count(n), "{length} bytes");
    }
}

#[tokio::test]
async fn a_message_in_the_packet_of_the_handshake_is_answered() {
    let service = Service::start(&[]);
    let early = [frame(TEXT, b"early"), frame(PING, b"!"), frame(TEXT, b"too")].concat();
    let mut raw = Raw::connect(service.address, "/ws/chat/", &early).await;
    assert_eq!(raw.frame().await, count(1));
    assert_eq!(raw.frame().await, Some((PONG, b"!".to_vec())));
    assert_eq!(raw.frame().await, count(2));
    // The packet may also end inside a frame.
    let whole = frame(TEXT, b"cut");
    for cut in 1..whole.len() {
        let mut raw = Raw::connect(service.address, "/ws/chat/", &whole[..cut]).await;
        raw.send(&whole[cut..]).await;
        assert_eq!(raw.frame().await, count(1), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_handshake_byte_by_byte_is_a_handshake() {
    let service = Service::start(&[]);
    let mut stream = tokio::net::TcpStream::connect(service.address).await.expect("a connection");
    stream.set_nodelay(true).expect("TCP");
    for byte in handshake("/ws/chat/").into_bytes() {
        stream.write_all(&[byte]).await.expect("the connection is open");
    }
    let mut raw = Raw { stream };
    let head = soon(raw.head()).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    raw.send(&frame(TEXT, b"hello")).await;
    assert_eq!(raw.frame().await, count(1));
}

#[tokio::test]
async fn a_client_that_only_listens_any_more_gets_its_answers() {
    let service = Service::start(&[]);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    let burst: Vec<u8> = (0..100).flat_map(|_| frame(TEXT, b"last words")).collect();
    raw.send(&burst).await;
    raw.stream.shutdown().await.expect("a half close");
    for n in 1..=100 {
        assert_eq!(raw.frame().await, count(n));
    }
    assert_eq!(raw.frame().await, None, "then the server ends it too");
}
