//! Every way a connection closes: by the client, and by the server for each reason.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::{BEGIN_TEXT, BINARY, CLOSE, CONTINUE, CONTINUE_LAST, PING, TEXT, count};
use crate::harness::client::{Raw, frame, soon};
use crate::harness::{Client, Service};

/// Sends a counted message and then `bytes`, all at once; the answer, then the close: its code and reason.
async fn closed_by(service: &Service, bytes: &[u8]) -> (u16, String) {
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&[&frame(TEXT, b"before"), bytes].concat()).await;
    assert_eq!(raw.frame().await, count(1), "what came before is answered first");
    let close = raw.close().await;
    assert_eq!(raw.frame().await, None, "nothing behind the close");
    close
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// The header of a client's frame in the longest form, without its payload.
fn long_header(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat()
}

#[tokio::test]
async fn violations_close_1002() {
    let service = Service::start(&[]);
    let masked = frame(TEXT, b"hello");
    let unmasked = [TEXT, 5, b'h', b'e', b'l', b'l', b'o'];
    let violations: &[(&str, Vec<u8>)] = &[
        ("unmasked", unmasked.to_vec()),
        ("RSV1", [&[TEXT | 0x40], &masked[1..]].concat()),
        ("RSV2", [&[TEXT | 0x20], &masked[1..]].concat()),
        ("RSV3", [&[TEXT | 0x10], &masked[1..]].concat()),
        ("opcode 3", frame(0x83, b"")),
        ("opcode 7", frame(0x87, b"")),
        ("opcode 11", frame(0x8b, b"")),
        ("opcode 15", frame(0x8f, b"")),
        ("a continuation of nothing", frame(CONTINUE_LAST, b"x")),
        ("a continuation of nothing, not the last", frame(CONTINUE, b"x")),
        ("a message inside another", [frame(BEGIN_TEXT, b"x"), frame(TEXT, b"y")].concat()),
        ("a fragmented ping", frame(PING & 0x7f, b"x")),
        ("a fragmented close", frame(CLOSE & 0x7f, b"")),
        ("a ping of 126 bytes", frame(PING, &[b'x'; 126])),
        ("a close of one byte", frame(CLOSE, &[3])),
        ("close code 0", close(0, b"")),
        ("close code 999", close(999, b"")),
        ("close code 1004", close(1004, b"")),
        ("close code 1005", close(1005, b"")),
        ("close code 1006", close(1006, b"")),
        ("close code 1015", close(1015, b"")),
        ("close code 1016", close(1016, b"")),
        ("close code 2999", close(2999, b"")),
        ("close code 5000", close(5000, b"")),
        ("a length longer than needed", long_header(TEXT, 5)),
        ("a length with its highest bit", long_header(TEXT, 1 << 63)),
    ];
    for (what, bytes) in violations {
        let (code, reason) = closed_by(&service, bytes).await;
        assert_eq!(code, 1002, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
    }
    assert_eq!(service.metric(r#"websocket_errors_total{type="protocol"}"#), violations.len() as f64);
}

#[tokio::test]
async fn invalid_utf_8_closes_1007() {
    let service = Service::start(&[]);
    let invalid: &[(&str, Vec<u8>)] = &[
        ("a lone byte", frame(TEXT, &[b'x', 0xff])),
        ("a surrogate", frame(TEXT, &[0xed, 0xa0, 0x80])),
        ("an overlong form", frame(TEXT, &[0xc0, 0xaf])),
        ("beyond Unicode", frame(TEXT, &[0xf4, 0x90, 0x80, 0x80])),
        ("half a character at the end", frame(TEXT, &[b'x', 0xf0, 0x9f])),
        (
            "half a character at the end of the last fragment",
            [frame(BEGIN_TEXT, &[0xf0]), frame(CONTINUE_LAST, &[0x9f])].concat(),
        ),
        ("a close reason", close(1000, &[0xff])),
        // At once, without waiting for the rest of the message...
        ("in the first fragment", frame(BEGIN_TEXT, &[b'x', 0xff])),
        ("in a fragment between", [frame(BEGIN_TEXT, &[0xf0, 0x9f]), frame(CONTINUE, b"x")].concat()),
        // ...and without waiting for the rest of the frame.
        ("in a frame that is incomplete", frame(TEXT, &[b'x', 0xff, b'y', b'z'])[..8].to_vec()),
    ];
    for (what, bytes) in invalid {
        let (code, reason) = closed_by(&service, bytes).await;
        assert_eq!(code, 1007, "{what}: {reason}");
    }
    assert_eq!(service.metric(r#"websocket_errors_total{type="invalid_utf8"}"#), invalid.len() as f64);
}

#[tokio::test]
async fn a_message_over_the_limit_closes_1009() {
    let service = Service::start(&[("--max-message-size", "1KiB")]);
    let too_big: &[(&str, Vec<u8>)] = &[
        ("whole", frame(TEXT, &[b'x'; 1025])),
        ("in fragments", [frame(BEGIN_TEXT, &[b'x'; 1000]), frame(CONTINUE_LAST, &[b'x'; 25])].concat()),
        // The payload is not waited for.
        ("its header alone", long_header(TEXT, 1 << 40)),
        ("the header of its second fragment alone", [frame(BEGIN_TEXT, b"x"), long_header(CONTINUE, 1 << 40)].concat()),
        ("binary", long_header(BINARY, 1 << 40)),
    ];
    for (what, bytes) in too_big {
        let (code, reason) = closed_by(&service, bytes).await;
        assert_eq!((code, &*reason), (1009, "the message is larger than 1024 bytes"), "{what}");
    }
    assert_eq!(service.metric(r#"websocket_errors_total{type="too_big"}"#), too_big.len() as f64);

    // The limit itself is allowed, in one piece and in several.
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&frame(TEXT, &[b'x'; 1024])).await;
    assert_eq!(raw.frame().await, count(1));
    raw.send(&[frame(BEGIN_TEXT, &[b'x'; 1000]), frame(CONTINUE_LAST, &[b'x'; 24])].concat()).await;
    assert_eq!(raw.frame().await, count(2));
}

#[tokio::test]
async fn a_client_sees_the_close_of_a_message_that_it_is_still_sending() {
    let service = Service::start(&[]);
    let mut client = Client::connect(&service.url()).await;
    // Larger than what the sockets between the two hold, so it is refused while it is being written.
    let message = Message::text("x".repeat(20 << 20));
    let (mut sink, mut stream) = client.socket.split();
    let sending = tokio::spawn(async move { sink.send(message).await });
    let close = soon(stream.next()).await;
    let Some(Ok(Message::Close(Some(frame)))) = close else { panic!("{close:?}") };
    assert_eq!(u16::from(frame.code), 1009);
    sending.abort();
    client = Client::connect(&service.url()).await;
    client.send("the service goes on").await;
    assert_eq!(client.count().await, 1);
}

#[tokio::test]
async fn binary_messages_close_1003() {
    let service = Service::start(&[]);
    let mut client = Client::connect(&service.url()).await;
    client.send("text").await;
    assert_eq!(client.count().await, 1);
    let session = client.session();
    client.socket.send(Message::binary(vec![1, 2, 3])).await.expect("the connection is open");
    let close = client.close().await.expect("a close with a code");
    assert_eq!((u16::from(close.code), close.reason.as_str()), (1003, "only text messages are counted"));
    assert_eq!(service.metric(r#"websocket_errors_total{type="unsupported_data"}"#), 1.0);

    // Neither it nor what is behind it is counted.
    let path = format!("/ws/chat/?session_uuid={session}");
    let mut raw = Raw::connect(service.address, &path, b"").await;
    raw.send(&[frame(TEXT, b"2"), frame(BINARY, b""), frame(TEXT, b"never")].concat()).await;
    assert_eq!(raw.frame().await, count(2));
    assert_eq!(raw.close().await.0, 1003);
    let mut client = Client::connect(&service.session_url(&session)).await;
    client.send("3").await;
    assert_eq!(client.count().await, 3);
}

#[tokio::test]
async fn more_messages_a_second_than_allowed_close_1008() {
    let service = Service::start(&[("--max-message-rate", "20")]);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    // The second may turn once while they are read: 20 belong to each.
    let burst: Vec<u8> = (0..41).flat_map(|_| frame(TEXT, b"quick")).collect();
    raw.send(&burst).await;
    for n in 1..=20 {
        assert_eq!(raw.frame().await, count(n));
    }
    assert_eq!(raw.close().await, (1008, "more than 20 frames a second".to_owned()));
    assert_eq!(service.metric(r#"websocket_errors_total{type="rate_limit"}"#), 1.0);

    // Pings cost as much as messages.
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&(0..41).flat_map(|_| frame(PING, b"")).collect::<Vec<u8>>()).await;
    assert_eq!(raw.close().await.0, 1008);
}

#[tokio::test]
async fn each_fragment_counts_towards_the_rate() {
    let service = Service::start(&[("--max-message-rate", "100")]);
    // Eleven messages of nineteen frames, none with too many fragments, in one write: 209 frames, 100 for each of two
    // seconds.
    let message = [frame(BEGIN_TEXT, b""), frame(CONTINUE, b"").repeat(17), frame(CONTINUE_LAST, b"")].concat();
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&message.repeat(11)).await;
    let mut counted = 0;
    let close = loop {
        match raw.frame().await.expect("a close before the end") {
            (CLOSE, payload) => break payload,
            answer => {
                counted += 1;
                assert_eq!(Some(answer), count(counted));
            }
        }
    };
    assert_eq!(close, [&1008_u16.to_be_bytes()[..], b"more than 100 frames a second"].concat());
    assert!((5..=10).contains(&counted), "{counted} messages were counted");
    assert_eq!(service.metric(r#"websocket_errors_total{type="rate_limit"}"#), 1.0);
    // As many as are allowed are served.
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&message.repeat(5)).await;
    for n in 1..=5 {
        assert_eq!(raw.frame().await, count(n));
    }
}

#[tokio::test]
async fn a_message_in_too_many_fragments_closes_1008() {
    let service = Service::start(&[("--max-fragments", "8")]);
    let fragments = |n: usize| {
        let between = (0..n - 2).flat_map(|_| frame(CONTINUE, b"x"));
        [frame(BEGIN_TEXT, b"x"), between.collect(), frame(CONTINUE_LAST, b"x")].concat()
    };
    let (code, reason) = closed_by(&service, &fragments(9)).await;
    assert_eq!((code, &*reason), (1008, "the message has more than 8 fragments"));
    assert_eq!(service.metric(r#"websocket_errors_total{type="too_many_fragments"}"#), 1.0);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&fragments(8)).await;
    assert_eq!(raw.frame().await, count(1));
}

#[tokio::test]
async fn the_clients_close_is_answered_with_its_code() {
    let service = Service::start(&[]);
    let behind = frame(TEXT, b"behind the close");
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let (answer, _) = closed_by(&service, &[close(code, "été".as_bytes()), behind.clone()].concat()).await;
        assert_eq!(answer, code);
    }
    let longest = [b'x'; 123];
    assert_eq!(closed_by(&service, &close(1000, &longest)).await.0, 1000);

    // A close that says nothing is answered by one that says nothing (RFC 6455 section 5.5.1).
    let mut raw = Raw::connect(service.address, "/ws/chat/?session_uuid=leaver", b"").await;
    raw.send(&[frame(TEXT, b"1"), frame(CLOSE, b""), behind].concat()).await;
    assert_eq!(raw.frame().await, count(1));
    assert_eq!(raw.frame().await, Some((CLOSE, Vec::new())));
    assert_eq!(raw.frame().await, None);
    let mut raw = Raw::connect(service.address, "/ws/chat/?session_uuid=leaver", &frame(TEXT, b"2")).await;
    assert_eq!(raw.frame().await, count(2), "what was behind the close was not counted");
}
