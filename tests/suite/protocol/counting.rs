//! Messages are answered with their number; what is no valid JSON although it says so is not counted.

use std::collections::BTreeSet;

use super::{PING, PONG, TEXT, count};
use crate::harness::client::{Raw, frame};
use crate::harness::{Client, Service};

#[tokio::test]
async fn each_text_message_is_answered_with_its_number() {
    let service = Service::start(&[]);
    let mut client = Client::connect(&service.url()).await;
    for n in 1..=10 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
}

#[tokio::test]
async fn text_is_text_unless_it_announces_json() {
    let service = Service::start(&[("--workers", "1")]);
    let mut client = Client::connect(&service.url()).await;
    let counted = [r#"{"a":[1,{"b":null}]}"#, "{}", "", "[1", "\"", " {no", "\u{feff}{no", "null", "né 💥", "{}\n"];
    for (text, n) in counted.into_iter().zip(1..) {
        client.send(text).await;
        assert_eq!(client.count().await, n, "{text:?}");
    }
    let refused = ["{", "{no", "{}{}", r#"{"a":1,}"#, "{\"a\":\u{1}}", r#"{"a":"#];
    for text in refused {
        client.send(text).await;
        let answer = client.json().await;
        assert_eq!(answer["error"], "invalid_json", "{text:?}: {answer}");
        let detail = answer["detail"].as_str().unwrap_or_else(|| panic!("{text:?}: {answer}"));
        assert!(detail.contains("line 1 column"), "{text:?}: {detail}");
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(2), "{text:?}: {answer}");
    }
    client.send("on").await;
    let n = counted.len() as u64 + 1;
    assert_eq!(client.count().await, n);
    assert_eq!(service.metric(r#"websocket_errors_total{type="invalid_json"}"#), refused.len() as f64);
    assert_eq!(service.metric("backplane_increments_total"), n as f64);
    let received = service.metric(r#"websocket_messages_total{type="received"}"#);
    assert_eq!(received, (n + refused.len() as u64) as f64);
}

#[tokio::test]
async fn a_thousand_messages_in_one_write_are_answered_in_order() {
    let service = Service::start(&[]);
    let burst: Vec<u8> = (0..1000).flat_map(|n| frame(TEXT, format!("message {n}").as_bytes())).collect();
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    raw.send(&burst).await;
    for n in 1..=1000 {
        assert_eq!(raw.frame().await, count(n));
    }
}

#[tokio::test]
async fn counts_errors_and_pongs_keep_the_order_of_what_they_answer() {
    let service = Service::start(&[]);
    let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
    let burst = [
        frame(TEXT, b"a"),
        frame(PING, b"first"),
        frame(TEXT, b"{broken"),
        frame(TEXT, b"b"),
        frame(TEXT, b"c"),
        frame(PONG, b"nobody asked"),
        frame(PING, b""),
        frame(TEXT, b"d"),
    ];
    raw.send(&burst.concat()).await;
    assert_eq!(raw.frame().await, count(1));
    assert_eq!(raw.frame().await, Some((PONG, b"first".to_vec())));
    let (first, error) = raw.frame().await.expect("the error");
    assert!(first == TEXT && error.starts_with(br#"{"error":"invalid_json""#), "{}", String::from_utf8_lossy(&error));
    assert_eq!(raw.frame().await, count(2));
    assert_eq!(raw.frame().await, count(3));
    assert_eq!(raw.frame().await, Some((PONG, Vec::new())));
    assert_eq!(raw.frame().await, count(4));
}

#[tokio::test]
async fn a_session_goes_on_across_connections_and_workers() {
    let service = Service::start(&[]);
    let mut client = Client::connect(&service.url()).await;
    let session = client.session();
    client.send("first").await;
    assert_eq!(client.count().await, 1);
    let mut slots = BTreeSet::from([service.slot_of(&session)]);
    client.leave().await;
    // As often as it takes to meet another worker, and never only once.
    let mut n = 1;
    while slots.len() < 2 || n < 10 {
        assert!(n < 200, "every connection went to the same worker");
        let mut client = Client::connect(&service.session_url(&session)).await;
        assert_eq!(client.session(), session);
        n += 1;
        client.send("again").await;
        assert_eq!(client.count().await, n);
        slots.insert(service.slot_of(&session));
        client.leave().await;
    }
    let mut other = Client::connect(&service.url()).await;
    other.send("of another session").await;
    assert_eq!(other.count().await, 1);
}

#[tokio::test]
async fn connections_of_one_session_never_see_the_same_count() {
    const EACH: usize = 250;
    let service = Service::start(&[]);
    let url = service.session_url("shared");
    let share = async || {
        let mut client = Client::connect(&url).await;
        let mut counts = Vec::with_capacity(EACH);
        for _ in 0..EACH {
            client.send("one more").await;
            counts.push(client.count().await);
        }
        assert!(counts.is_sorted(), "{counts:?}");
        counts
    };
    let (one, two) = tokio::join!(share(), share());
    let all: BTreeSet<u64> = one.into_iter().chain(two).collect();
    assert_eq!(all, (1..=2 * EACH as u64).collect());
}
