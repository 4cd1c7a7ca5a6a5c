//! Heads that are no requests: they are answered as everything else is.

use std::collections::HashSet;

use super::request;
use crate::harness::Service;
use crate::harness::http::{Answer, Http};
use crate::harness::service::Builder;

/// The answer to bytes of which the server takes no more.
fn refusal(service: &Service, bytes: impl AsRef<[u8]>) -> Answer {
    let mut http = Http::connect(service.address);
    http.send(bytes);
    let answer = http.answer();
    assert_eq!(http.rest(), b"", "whoever sent this is not listened to any more");
    answer
}

fn head(fields: &str) -> String {
    format!("GET /healthz HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

fn big(bytes: usize) -> String {
    head(&format!("X-Big: {}\r\n", "x".repeat(bytes)))
}

#[test]
fn heads_beyond_the_limits_are_431_and_garbage_is_400() {
    let service = Service::start(&[("--workers", "1")]);
    for bytes in [
        big(20_000),
        // Much more than is read before it is refused.
        big(200_000),
        head(&"X-Many: x\r\n".repeat(100)),
        // Not even complete.
        big(17_000).trim_end().to_owned(),
        format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(20_000)),
    ] {
        refusal(&service, bytes).assert_error(431, "head_too_large");
    }
    // The limits themselves are allowed.
    let mut http = Http::connect(service.address);
    assert_eq!(http.ask(head(&"X-Many: x\r\n".repeat(99))).status, 200);
    assert_eq!(http.ask(big(16 * 1024 - big(0).len())).status, 200);

    let garbage: [&[u8]; 9] = [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: test\r\nX-Folded: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n",
        b"\x00\xff\xfe\r\n\r\n",
    ];
    for bytes in garbage {
        refusal(&service, bytes).assert_error(400, "bad_request");
    }
    assert_eq!(service.metric(r#"http_requests_total{status="4xx"}"#), 5.0 + 9.0);
}

#[test]
fn a_refusal_has_what_every_answer_has() {
    let service = Builder::new().with("--workers", "1").with("--log-level", "debug").start();
    let mut ids = HashSet::new();
    for (bytes, status) in [(big(20_000), 431), ("nonsense\r\n\r\n".to_owned(), 400)] {
        let answer = refusal(&service, bytes);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{answer:?}");
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let line = service.wait_log_line("request refused", |line| line["request_id"] == *id);
        assert_eq!(line["status"], status, "{line}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 2);
}

#[test]
fn what_came_before_garbage_is_answered_before_it() {
    let service = Service::start(&[("--workers", "1")]);
    let mut http = Http::connect(service.address);
    http.send(request("GET", "/healthz") + &request("GET", "/status") + "nonsense\r\n\r\n");
    for status in [200, 200, 400] {
        assert_eq!(http.answer().status, status);
    }
    assert_eq!(http.rest(), b"");
}

#[test]
fn the_size_of_a_head_is_a_setting() {
    for (size, limit) in [("2KiB", 2048), ("64KiB", 65_536)] {
        let service = Service::start(&[("--workers", "1"), ("--max-header-size", size)]);
        let room = limit - big(0).len();
        assert_eq!(Http::connect(service.address).ask(big(room)).status, 200, "{size}");
        let refused = refusal(&service, big(room + 1));
        refused.assert_error(431, "head_too_large");
        let detail = refused.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains(&limit.to_string()), "{detail}");
    }
}
