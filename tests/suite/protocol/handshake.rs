//! The opening handshake, as clients and proxies spell it (RFC 6455 section 4.2.1).

use crate::harness::Service;
use crate::harness::http::{Answer, Http};

const HOST: &str = "Host: test";
const CONNECTION: &str = "Connection: Upgrade";
const UPGRADE: &str = "Upgrade: websocket";
const VERSION: &str = "Sec-WebSocket-Version: 13";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// The answer to a request with these fields; one that is not 101 with its body.
fn ask(service: &Service, version: &str, fields: &[&str]) -> Answer {
    let mut http = Http::connect(service.address);
    http.send(format!("GET /ws/chat/ HTTP/{version}\r\n{}\r\n\r\n", fields.join("\r\n")));
    let head = http.head();
    if head.status == 101 {
        return head;
    }
    let length = head.header("content-length").expect("a length").parse().expect("a number");
    Answer { body: http.body(length), ..head }
}

#[test]
fn connection_and_upgrade_are_lists() {
    let service = Service::start(&[("--workers", "1")]);
    for lists in [
        // Tcllib, and proxies that add a field of their own.
        &["Connection: keep-alive", CONNECTION, UPGRADE][..],
        &[CONNECTION, "Connection: keep-alive", UPGRADE],
        &["Connection: keep-alive,upgrade", UPGRADE],
        &["Connection:\t keep-alive ,\tUPGRADE\t,", UPGRADE],
        &["Connection: , Upgrade", "Connection:", UPGRADE],
        &[CONNECTION, "Upgrade: h2c, WebSocket"],
        &[CONNECTION, "Upgrade: h2c", "Upgrade: websocket"],
    ] {
        let answer = ask(&service, "1.1", &[&[HOST, VERSION, KEY], lists].concat());
        assert_eq!(answer.status, 101, "{lists:?}: {answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
    for lists in [
        &["Connection: keep-alive", UPGRADE][..],
        &["Connection: \"Upgrade\"", UPGRADE],
        &["Connection: Up", "Connection: grade", UPGRADE],
        &[CONNECTION, "Upgrade: h2c, websocket/13"],
        &[CONNECTION],
        &[UPGRADE],
    ] {
        ask(&service, "1.1", &[&[HOST, VERSION, KEY], lists].concat()).assert_error(426, "upgrade_required");
    }
}

#[test]
fn the_key_is_there_once_and_is_sixteen_bytes() {
    let service = Service::start(&[("--workers", "1")]);
    let usual = [HOST, CONNECTION, UPGRADE, VERSION];
    let with = |more: &[&str]| ask(&service, "1.1", &[&usual, more].concat());
    // The bits that stand for nothing are set in that of RFC 6455 section 4.1.
    let spare = with(&["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="]);
    assert_eq!((spare.status, spare.header("sec-websocket-accept")), (101, Some("OfS0wDaT5NoxF2gqm7Zj2YtetzM=")));
    let refused =
        [&["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4P"][..], &[], &["Sec-WebSocket-Key:"], &[KEY, KEY], &[KEY, VERSION]];
    for more in refused {
        with(more).assert_error(400, "bad_request");
    }
    assert_eq!(service.metric(r#"websocket_refused_total{reason="bad_upgrade"}"#), refused.len() as f64);
}

#[test]
fn a_handshake_has_no_body() {
    let service = Service::start(&[("--workers", "1")]);
    let usual = [HOST, CONNECTION, UPGRADE, VERSION, KEY];
    let with = |field: &str| ask(&service, "1.1", &[&usual[..], &[field]].concat());
    // Java's own client says so.
    assert_eq!(with("Content-Length: 0").status, 101);
    for field in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        with(field).assert_error(400, "bad_request");
    }
}

#[test]
fn http_1_0_is_answered_with_the_line_that_nginx_needs() {
    let service = Service::start(&[("--workers", "1")]);
    // What nginx sends without proxy_http_version.
    for fields in [&[HOST, "Connection: close"][..], &[HOST, CONNECTION, UPGRADE, VERSION, KEY]] {
        let answer = ask(&service, "1.0", fields);
        answer.assert_error(426, "upgrade_required");
        let detail = answer.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains("proxy_http_version 1.1;"), "{detail}");
    }
}
