//! `GET /`, and paths that are nearly right.

use serde_json::json;

use super::request;
use crate::harness::Service;
use crate::harness::http::Http;

fn from_browser(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\n\r\n")
}

#[test]
fn the_root_says_where_to_look() {
    let service = Service::start(&[("--workers", "1")]);
    let mut http = Http::connect(service.address);
    let mut index = http.ask(request("GET", "/")).json();
    assert_eq!(index["service"].take(), json!("baton"));
    assert_eq!(index["version"].take(), json!(env!("CARGO_PKG_VERSION")));
    // No `SECRET_KEY`.
    assert_eq!(index["admin"], json!(null));
    let paths: Vec<_> = index.as_object().expect("an object").values().filter_map(|path| path.as_str()).collect();
    assert_eq!(paths.len(), 6, "{paths:?}");
    for path in paths {
        let expected = if path == "/ws/chat/" { 426 } else { 200 };
        assert_eq!(http.ask(request("GET", path)).status, expected, "{path}");
    }
    assert_eq!(http.ask(from_browser("/")).status, 200);
    assert_eq!(http.ask(request("GET", "/?probe=1")).status, 200);
    let refused = http.ask(request("POST", "/"));
    refused.assert_error(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    http.send(request("HEAD", "/"));
    assert_eq!(http.head().status, 200);
}

#[test]
fn a_path_with_a_wrong_slash_is_said_to_have_one() {
    let service = Service::start(&[("--workers", "1")]);
    let mut http = Http::connect(service.address);
    for (path, right) in [
        ("/ws/chat", "/ws/chat/, with"),
        ("/ws/chat?session_uuid=a", "/ws/chat/, with"),
        ("/healthz/", "/healthz, without"),
    ] {
        let answer = http.ask(request("GET", path));
        answer.assert_error(404, "not_found");
        let detail = answer.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains(right), "{path}: {detail}");
    }
}
