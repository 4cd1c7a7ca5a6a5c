//! From an HTTP request to a WebSocket: who gets one, under which session, and who does not.

use crate::harness::http::{Answer, Http};
use crate::harness::{Client, Service, eventually};

/// The answer to a handshake with these fields beside the usual ones; refusals come with their body.
fn upgrade(service: &Service, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut http = Http::connect(service.address);
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    http.send(request);
    let head = http.head();
    if head.status == 101 {
        return head;
    }
    let length = head.header("content-length").expect("a length").parse().expect("a number");
    Answer { body: http.body(length), ..head }
}

/// The usual spelling of a random UUID (RFC 9562 sections 4 and 5.4).
fn is_uuid_v4(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if matches!(c, '0'..='9' | 'a'..='f') { 'x' } else { c }).collect();
    let (version, variant) = (text.as_bytes().get(14), text.as_bytes().get(19));
    shape == "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
        && version == Some(&b'4')
        && variant.is_some_and(|c| b"89ab".contains(c))
}

#[test]
fn the_answer_is_that_of_the_rfc() {
    let service = Service::start(&[("--workers", "1")]);
    let answer = upgrade(&service, "/ws/chat/", &[]);
    // The key and its answer are those of RFC 6455 section 1.3.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(answer.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")), "{answer:?}");
    assert!(answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{answer:?}");
    // What is offered and not taken up is not mentioned.
    let offers = [("Sec-WebSocket-Extensions", "permessage-deflate"), ("Sec-WebSocket-Protocol", "chat")];
    let answer = upgrade(&service, "/ws/chat/", &offers);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    // Fields are case-insensitive, and Connection is a list (RFC 9110 section 7.6.1).
    let mut http = Http::connect(service.address);
    http.send(
        "GET /ws/chat/ HTTP/1.1\r\nhost: test\r\nUPGRADE: WebSocket\r\nconnection: keep-alive, Upgrade\r\n\
         sec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
    );
    assert_eq!(http.head().status, 101);
}

#[test]
fn a_token_is_kept_as_it_came() {
    let service = Service::start(&[("--workers", "1")]);
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let longest = "x".repeat(64);
    for token in [uuid, &uuid.to_uppercase(), "abc123", "A", "0", "-._", "...", longest.as_str()] {
        let answer = upgrade(&service, &format!("/ws/chat/?session_uuid={token}"), &[]);
        assert_eq!((answer.status, answer.header("x-session-uuid")), (101, Some(token)));
        let among = format!("/ws/chat/?a=b&session_uuid={token}&session_uuidx=c&=&");
        assert_eq!(upgrade(&service, &among, &[]).header("x-session-uuid"), Some(token));
    }
}

#[test]
fn without_a_token_the_server_makes_a_uuid_v4() {
    let service = Service::start(&[("--workers", "1")]);
    let made = |path| {
        let answer = upgrade(&service, path, &[]);
        let token = answer.header("x-session-uuid").expect("a session").to_owned();
        assert!(is_uuid_v4(&token), "{token}");
        token
    };
    assert_ne!(made("/ws/chat/"), made("/ws/chat/?other=1"));
}

#[test]
fn what_is_no_token_is_refused_before_the_upgrade() {
    let service = Service::start(&[("--workers", "1")]);
    let queries = [
        format!("session_uuid={}", "x".repeat(65)),
        "session_uuid=".into(),
        "session_uuid".into(),
        "session_uuid=a%62c".into(),
        "session_uuid=a+b".into(),
        "session_uuid=a/b".into(),
        "session_uuid=a=b".into(),
        "session_uuid=a:b".into(),
        "session_uuid=é".into(),
        "session_uuid=abc&session_uuid=abc".into(),
        "session_uuid=abc&session_uuid".into(),
    ];
    for query in &queries {
        let answer = upgrade(&service, &format!("/ws/chat/?{query}"), &[]);
        answer.assert_error(400, "invalid_session_uuid");
        assert_eq!(answer.header("x-session-uuid"), None);
    }
    assert_eq!(service.metric(r#"websocket_refused_total{reason="bad_session"}"#), queries.len() as f64);
    assert_eq!(service.metric("websocket_connections_opened_total"), 0.0);
}

#[test]
fn a_session_is_not_named_by_mistake() {
    let service = Service::start(&[("--workers", "1")]);
    let mistakes = ["null", "undefined", "NaN", "None", "nil", "NULL", ".", ".."];
    for token in mistakes {
        let answer = upgrade(&service, &format!("/ws/chat/?session_uuid={token}"), &[]);
        answer.assert_error(400, "invalid_session_uuid");
        assert!(answer.body.to_lowercase().contains(&token.to_lowercase()), "{token}: {}", answer.body);
        assert_eq!(answer.header("x-session-uuid"), None);
        // A request may be called so: nobody shares anything by that.
        let answer = upgrade(&service, "/ws/chat/?session_uuid=fine", &[("X-Request-ID", token)]);
        assert_eq!((answer.status, answer.header("x-request-id")), (101, Some(token)));
    }
    assert_eq!(service.metric(r#"websocket_refused_total{reason="bad_session"}"#), mistakes.len() as f64);
}

#[test]
fn a_valid_request_id_is_kept_and_another_replaced() {
    let service = Service::start(&[("--workers", "1")]);
    let id_for = |given: Option<&str>| {
        let fields: Vec<_> = given.map(|given| ("X-Request-ID", given)).into_iter().collect();
        let answer = upgrade(&service, "/ws/chat/", &fields);
        assert_eq!(answer.status, 101, "{given:?}");
        answer.header("x-request-id").expect("a request id").to_owned()
    };
    let longest = "x".repeat(64);
    for kept in ["req-1", "a", longest.as_str(), "67e55044-10b1-426f-9247-bb680e5fe0c8"] {
        assert_eq!(id_for(Some(kept)), kept);
    }
    let too_long = "x".repeat(65);
    for replaced in [None, Some(""), Some("a b"), Some("a\"b"), Some("a{b"), Some("é"), Some(&*too_long)] {
        let id = id_for(replaced);
        assert!(is_uuid_v4(&id), "{replaced:?}: {id}");
    }
    // It ties the answer to the log.
    let line = service.wait_log("connection opened");
    assert_eq!(line["request_id"], "req-1", "{line}");
}

#[test]
fn only_allowed_origins_may_connect() {
    let service = Service::start(&[("--workers", "1"), ("--allowed-origins", "https://example.org")]);
    let status = |fields: &[(&str, &str)]| upgrade(&service, "/ws/chat/", fields).status;
    assert_eq!(status(&[("Origin", "https://example.org")]), 101);
    // Programs that are no browsers send none.
    assert_eq!(status(&[]), 101);
    let refused = [
        "https://example.com",
        "http://example.org",
        "https://example.org:8443",
        "https://example.org.evil.com",
        "null",
    ];
    for origin in refused {
        upgrade(&service, "/ws/chat/", &[("Origin", origin)]).assert_error(403, "origin_not_allowed");
    }
    assert_eq!(service.metric(r#"websocket_refused_total{reason="origin"}"#), refused.len() as f64);
    let open = Service::start(&[("--workers", "1")]);
    assert_eq!(upgrade(&open, "/ws/chat/", &[("Origin", "https://anything.example")]).status, 101);
}

#[tokio::test]
async fn a_full_worker_says_503_and_serves_again_when_one_leaves() {
    let service = Service::start(&[("--workers", "1"), ("--max-connections", "2")]);
    let mut clients = [Client::connect(&service.url()).await, Client::connect(&service.url()).await];
    for client in &mut clients {
        client.send("here").await;
        assert_eq!(client.count().await, 1);
    }
    let refused = upgrade(&service, "/ws/chat/", &[]);
    refused.assert_error(503, "connection_limit");
    let retry: u64 = refused.header("retry-after").expect("when to come back").parse().expect("seconds");
    assert!((1..=60).contains(&retry), "{retry}");
    assert_eq!(service.metric(r#"websocket_refused_total{reason="connection_limit"}"#), 1.0);
    let mut http = Http::connect(service.address);
    let ready = http.ask("GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((ready.status, &ready.json()["reasons"]), (503, &serde_json::json!(["connection_limit"])));

    // Who is in is served on; who leaves makes room.
    let [mut stays, leaves] = clients;
    stays.send("still here").await;
    assert_eq!(stays.count().await, 2);
    leaves.leave().await;
    eventually("room", || Some(upgrade(&service, "/ws/chat/", &[])).filter(|answer| answer.status == 101));
}
