//! Pages of a service: what it answers to a GET, and which generation that was.

use std::io::{Read, Write};

use serde_json::Value;

use super::stream::{Stream, describe};

/// Many times what any page has with 64 workers.
const MAX_ANSWER: u64 = 1 << 20;

/// The body of the page at this path, which must be there.
pub(super) fn get(mut stream: Stream, path: &str) -> Result<String, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.take(MAX_ANSWER).read_to_end(&mut answer))
        .map_err(|error| describe(&error))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("was closed before {path} had answered"))?;
    match head.split(' ').nth(1).unwrap_or_default() {
        "200" => Ok(body.to_owned()),
        status => Err(format!("is answered with {status:?} instead of 200 by {path}")),
    }
}

/// `/status` must be there, and name this supervisor.
pub(super) fn served_by(stream: Stream, pid: u32) -> Result<(), String> {
    let body = get(stream, "/status")?;
    let page: Value = serde_json::from_str(&body).map_err(|error| format!("gets no JSON from /status: {error}"))?;
    match page["supervisor_pid"].as_u64() {
        Some(found) if found == u64::from(pid) => Ok(()),
        Some(other) => Err(format!("is served by the supervisor with pid {other} instead of {pid}")),
        None => Err("is served by a version that does not tell its supervisor_pid in /status".to_owned()),
    }
}
