//! Which web pages may connect.

use crate::harness::Service;
use crate::harness::http::Http;
use crate::harness::service::Builder;

/// The status of a handshake with these fields beside the usual ones.
fn status(service: &Service, fields: &[&str]) -> u16 {
    let fields: String = fields.iter().map(|origin| format!("Origin: {origin}\r\n")).collect();
    let mut http = Http::connect(service.address);
    http.send(format!(
        "GET /ws/chat/ HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    ));
    http.head().status
}

#[test]
fn ports_stars_and_null_are_what_browsers_mean() {
    let allowed = ["https://example.org:443", "https://*.example.org", "http://localhost:3000", "null", "file://"];
    let builder = Builder::new().with("--workers", 1).env("BATON_ALLOWED_ORIGINS", allowed.join(","));
    let service = builder.start();
    for origin in ["https://example.org", "https://a.b.Example.org:443", "http://localhost:3000", "null", "file://"] {
        assert_eq!(status(&service, &[origin]), 101, "{origin}");
    }
    assert_eq!(status(&service, &[]), 101);
    for origin in ["http://example.org", "https://badexample.org", "https://a.example.org:8443", "http://localhost", ""]
    {
        assert_eq!(status(&service, &[origin]), 403, "{origin}");
    }
    // Of two the wrong one counts.
    assert_eq!(status(&service, &["null", "https://evil.com"]), 403);
    assert_eq!(service.metric(r#"websocket_refused_total{reason="origin"}"#), 6.0);
}
